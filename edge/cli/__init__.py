"""The command `edge`: one module for each command."""

"""Where objects come from: a folder of files."""

"""The controller process: from objects to a published version."""

"""Raw objects as last seen, and the kinds that we read."""

"""The model with a version, stable slots and digests. Pure."""

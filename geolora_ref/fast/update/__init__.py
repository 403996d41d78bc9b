"""The step of all layers at once."""

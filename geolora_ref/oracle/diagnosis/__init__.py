"""The diagnosis of a backend that fails: the line, the block or the argument that explains it."""

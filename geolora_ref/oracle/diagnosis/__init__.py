"""The diagnosis of a backend that fails: the broken step, the block or the argument that explains it."""

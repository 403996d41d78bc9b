"""The fused adapter function."""

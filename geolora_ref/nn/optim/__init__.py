"""Optimizers of adapted models."""

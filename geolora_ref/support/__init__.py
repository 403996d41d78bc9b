"""Helpers that all subpackages use: files, terminals, options, messages about missing libraries."""

"""The pages that show what was measured."""

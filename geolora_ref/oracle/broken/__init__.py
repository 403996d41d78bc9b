"""Broken steps: the algorithm stage by stage, and mutants that are wrong in one line or in one place."""

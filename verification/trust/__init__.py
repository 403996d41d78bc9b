"""Reasons to trust the checks: mutants of the code, branch coverage, long runs, faults, kills."""

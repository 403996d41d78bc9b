"""How far the checks can be trusted: proofs by ball arithmetic, the precision ladder, long runs,
faults, and mutants.
"""

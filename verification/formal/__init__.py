"""Machine-checked proofs: one .v file for each group of theorems, and which theorem proves which
box of the theory pages.
"""

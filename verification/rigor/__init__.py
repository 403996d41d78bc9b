"""Proofs by ball arithmetic, the precision ladder and long runs: right where floating point is not."""

"""Proofs about returned numbers: ball arithmetic with an independent checker, and the precision ladder."""

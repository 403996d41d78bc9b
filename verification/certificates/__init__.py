"""Proofs about returned numbers: ball arithmetic, and an independent checker."""

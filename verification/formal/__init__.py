"""Machine-checked proofs: one .v file a group of theorems; which box of the theory pages each of them proves."""

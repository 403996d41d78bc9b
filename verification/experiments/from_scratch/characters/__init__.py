"""A character model trained at low rank from scratch: ``python -m verification.experiments.from_scratch.characters``."""

"""Networks trained at low rank from scratch, and under attack: ``python -m verification.experiments.from_scratch``."""

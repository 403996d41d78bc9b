"""GeoLoRA and its relatives on a real task: ``python -m verification.experiments.finetuning``."""

"""Time of a training step, and of the update alone: GeoLoRA next to LoRA, AdaLoRA, full fine-tuning
and the frozen model.
"""

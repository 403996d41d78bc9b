"""What a training step costs, and the update alone: GeoLoRA next to LoRA, AdaLoRA, full fine-tuning
and the frozen model.
"""

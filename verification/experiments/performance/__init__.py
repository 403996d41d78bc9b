"""What a training step costs, and the update alone: GeoLoRA beside LoRA, AdaLoRA, full fine-tuning
and the frozen model.
"""

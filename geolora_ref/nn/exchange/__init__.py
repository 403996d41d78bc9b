"""Adapters for other libraries: plain LoRA checkpoints, a method of PEFT."""

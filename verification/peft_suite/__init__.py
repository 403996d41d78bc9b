"""PEFT's own checks, run against our method: ``python -m verification.peft_suite``."""

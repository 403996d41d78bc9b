"""A rehearsal of PEFT's ``method_comparison`` on the CPU: ``python -m verification.peft_suite.rehearsal``."""

"""Fine-tuning of a pretrained transformer on labelled text: ``geolora-ref finetune``.  Needs the extra ``finetune``."""

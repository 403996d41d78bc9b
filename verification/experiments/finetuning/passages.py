"""A plain text for a language model: blocks of tokens in the place of examples."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from geolora_ref.finetune.batches import Examples
from geolora_ref.finetune.causal_lm import Likelihood, Text, encode_passages, passages, read_texts
from geolora_ref.finetune.model import Decoder

__all__ = ["Tokens", "pretrained", "read_passages"]

LENGTH = 128
"""Tokens of a block."""
SPLIT = (("train", 0.0, 0.9), ("dev", 0.9, 0.95), ("test", 0.95, 1.0))
"""Where each part of the text begins and ends."""


@dataclass(frozen=True)
class Tokens(Likelihood):
    """The meaning of the outputs, with what the pretrained model has: nats a token of the
    development blocks.
    """

    baseline: float


def read_passages(path: Path, tokenizer: Any, limits: Mapping[str, int]) -> tuple[dict[str, Examples], dict[str, str]]:
    """The blocks of each part whose SHA-256 are smallest, and a digest of each part; ``ValueError``
    that names a file without text.
    """
    (text,) = read_texts(path)
    examples, digests = {}, {}
    for part, begin, end in SPLIT:
        words = text.completion[int(begin * len(text.completion)) : int(end * len(text.completion))]
        blocks = {
            hashlib.sha256(repr(one.ids).encode()).digest(): one
            for one in passages(Text(path, 0, "", words), tokenizer, LENGTH)
            if len(one.ids) == LENGTH
        }
        if not blocks:
            raise ValueError(f"{path}: expected a text of more than {LENGTH} tokens in each part, found fewer in {part}")
        chosen = sorted(blocks)[: limits[part]]
        examples[part] = encode_passages([blocks[key] for key in chosen], tokenizer)
        digests[part] = hashlib.sha256(b"".join(chosen)).hexdigest()
    return examples, digests


def pretrained(model: Any, dev: Examples) -> Tokens:
    """The meaning of the outputs of this model."""
    nats = 0.0
    with torch.no_grad():
        for index in range(len(dev)):
            inputs, _ = dev.batch([index], torch.device("cpu"))
            nats += float(Decoder(model.eval())(**inputs))
    baseline = nats / float(dev.targets.sum())
    if not math.isfinite(baseline):
        raise ValueError(f"model: expected finite losses of the pretrained model, found {baseline}")
    return Tokens(baseline)

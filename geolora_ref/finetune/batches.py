"""Batches of sentences of like length, padded to the longest of the batch and no further."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence

from geolora_ref.finetune.data import Row
from geolora_ref.finetune.labels import Labels

__all__ = ["Examples", "Tokens", "by_length", "encode", "encode_texts", "training_order"]

POOL = 50
"""The number of batches whose examples are sorted by length together: lengths in a batch agree,
epochs still differ.
"""


@dataclass(frozen=True)
class Tokens:
    """Tokenised texts: for each input of the model one tensor per text, of any length, and the
    value that pads this input.
    """

    inputs: Mapping[str, Sequence[torch.Tensor]]
    padding: Mapping[str, int]

    @property
    def lengths(self) -> np.ndarray[Any, Any]:
        """Tokens of every text."""
        return np.array([len(ids) for ids in self.inputs["input_ids"]])

    def batch(self, indices: Sequence[int], device: torch.device) -> dict[str, torch.Tensor]:
        """The inputs (batch x longest) of some texts."""
        return {
            name: pad_sequence(
                [values[i] for i in indices], batch_first=True, padding_value=self.padding[name]
            ).to(device)
            for name, values in self.inputs.items()
        }


@dataclass(frozen=True)
class Examples:
    """Tokenised texts and their targets, a tensor (N,): class indices, or numbers in the units of
    the labels.
    """

    tokens: Tokens
    targets: torch.Tensor

    def __len__(self) -> int:
        return len(self.targets)

    @property
    def lengths(self) -> np.ndarray[Any, Any]:
        """Tokens of every example."""
        return self.tokens.lengths

    def batch(
        self, indices: Sequence[int], device: torch.device
    ) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        """The inputs (batch x longest) and targets of some examples."""
        return self.tokens.batch(indices, device), self.targets[torch.tensor(indices)].to(device)


def encode(rows: Sequence[Row], tokenizer: Any, labels: Labels, max_length: int) -> Examples:
    """Tokens of every row (cut at ``max_length``) and its target; ``ValueError`` with the line of a
    row without tokens.
    """
    pairs = [row.pair for row in rows if row.pair is not None]
    tokens = encode_texts(
        [row.text for row in rows],
        pairs or None,
        tokenizer,
        max_length,
        [row.place for row in rows],
    )
    return Examples(tokens, labels.encode(rows))


def encode_texts(
    texts: Sequence[str],
    pairs: Sequence[str] | None,
    tokenizer: Any,
    max_length: int,
    places: Sequence[str] | None = None,
) -> Tokens:
    """Tokens of texts or pairs of texts, cut at ``max_length``.

    Raises ``ValueError`` that names the place of a text without tokens: a mean over its tokens does
    not exist.
    """
    second = None if pairs is None else list(pairs)
    tokens = tokenizer(
        list(texts), second, truncation=True, max_length=max_length, return_attention_mask=True
    )
    empty = [i for i, ids in enumerate(tokens["input_ids"]) if not ids]
    if empty:
        place = f"texts[{empty[0]}]" if places is None else places[empty[0]]
        raise ValueError(
            f"{place}: expected a text that has tokens for this model, found none in {texts[empty[0]]!r}"
        )
    fill = {"input_ids": tokenizer.pad_token_id or 0, "token_type_ids": tokenizer.pad_token_type_id}
    return Tokens(
        inputs={name: [torch.tensor(ids) for ids in values] for name, values in tokens.items()},
        padding={name: fill.get(name, 0) for name in tokens},
    )


def training_order(
    lengths: np.ndarray[Any, Any], batch_size: int, seed: int, epoch: int
) -> list[list[int]]:
    """The batches of one epoch, a function of seed and epoch alone: shuffled, sorted by length in
    pools, shuffled again.
    """
    rng = np.random.default_rng((seed, epoch))
    order = rng.permutation(len(lengths))
    batches = []
    for start in range(0, len(order), POOL * batch_size):
        pool = order[start : start + POOL * batch_size]
        pool = pool[np.argsort(lengths[pool], kind="stable")]
        batches += [pool[i : i + batch_size].tolist() for i in range(0, len(pool), batch_size)]
    return [batches[i] for i in rng.permutation(len(batches))]


def by_length(
    lengths: np.ndarray[Any, Any], batch_size: int, results: Callable[[list[int]], torch.Tensor]
) -> torch.Tensor:
    """``results`` of all N examples, (N,) or (N, k), in the order of the examples; they are
    computed in order of length.
    """
    order = np.argsort(lengths, kind="stable")
    rows = torch.cat(
        [results(order[i : i + batch_size].tolist()) for i in range(0, len(order), batch_size)]
    )
    return rows[torch.from_numpy(np.argsort(order))]

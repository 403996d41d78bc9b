"""What a rule remembers of many layers: layers of one shape, rank and age are asked together, as stacks."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from geolora_ref.optimizers import Moments, Optimizer, Triple

__all__ = ["LayerMemory"]


class _Stack(NamedTuple):
    """The memory of some layers, as stacks and layer by layer: views of the stacks."""

    whole: Moments
    parts: list[Moments]


class LayerMemory:
    """Asks a rule for many layers at once.

    What it answered last is kept as stacks, and taken again for layers whose memory is these views; otherwise their memory is
    put together anew.  Nothing that was given or returned is written to.
    """

    def __init__(self) -> None:
        self._kept: dict[tuple[int, ...], _Stack] = {}

    def directions(
        self, rule: Optimizer, gradients: Sequence[Triple], moments: Sequence[Moments]
    ) -> tuple[list[Triple], list[Moments]]:
        """``rule.direction`` of every layer: (m, r), (n, r), (r, r) each, and the new memory in the old bases."""
        found: dict[int, Triple] = {}
        keys = [(_shapes(G), one.step, _shapes(one.second)) for G, one in zip(gradients, moments, strict=True)]
        memories: dict[int, Moments] = {}
        kept: dict[tuple[int, ...], _Stack] = {}
        for layers in _alike(keys):
            given = Triple(*(torch.stack([X.mT for X in Xs]).mT for Xs in zip(*(gradients[i] for i in layers), strict=True)))
            D, memory = rule.direction(given, self._whole(layers, moments))
            found |= zip(layers, (Triple(*Xs) for Xs in zip(*(X.unbind() for X in D), strict=True)), strict=True)
            kept[layers] = _Stack(memory, _apart(memory, len(layers)))
            memories |= zip(layers, kept[layers].parts, strict=True)
        self._kept = kept
        return [found[i] for i in range(len(gradients))], [memories[i] for i in range(len(gradients))]

    def transported(self, rule: Optimizer, moments: Sequence[Moments], turns: Sequence[tuple[Tensor, Tensor]]) -> list[Moments]:
        """``rule.transport`` of every layer, from A = UᵀU₁ and B = VᵀV₁, (r, r₁) each."""
        keys = [(_shapes(one.first), one.step, _shapes(one.second), A.shape) for one, (A, _) in zip(moments, turns, strict=True)]
        memories: dict[int, Moments] = {}
        kept: dict[tuple[int, ...], _Stack] = {}
        for layers in _alike(keys):
            A, B = (torch.stack([turns[i][side] for i in layers]) for side in (0, 1))
            moved = rule.transport(self._whole(layers, moments), A, B)
            kept[layers] = _Stack(moved, _apart(moved, len(layers)))
            memories |= zip(layers, kept[layers].parts, strict=True)
        self._kept = kept
        return [memories[i] for i in range(len(moments))]

    def _whole(self, layers: tuple[int, ...], moments: Sequence[Moments]) -> Moments:
        """The memory of layers of one age as stacks: those that are kept, if the layers' own are views of them."""
        given, kept = [moments[i] for i in layers], self._kept.get(layers)
        if kept is not None and all(map(_is_the_same, kept.parts, given)):
            return kept.whole
        return Moments(given[0].step, _stacked([one.first for one in given]), _stacked([one.second for one in given]))


def _is_the_same(one: Moments, other: Moments) -> bool:
    """Whether these are the same tensors, of one age."""
    pairs = zip((one.first or (), one.second or ()), (other.first or (), other.second or ()), strict=True)
    same = (len(a) == len(b) and all(X is Y for X, Y in zip(a, b, strict=True)) for a, b in pairs)
    return one.step == other.step and all(same)


def _alike(keys: Sequence[Hashable]) -> Iterator[tuple[int, ...]]:
    """The numbers of those that have one key."""
    found: dict[Hashable, list[int]] = {}
    for i, key in enumerate(keys):
        found.setdefault(key, []).append(i)
    return map(tuple, found.values())


def _shapes(triple: Triple | None) -> Any:
    """Of its three arrays."""
    return triple and tuple(tuple(X.shape) for X in triple)


def _stacked(triples: Sequence[Triple | None]) -> Triple | None:
    """(N, m, r), (N, n, r), (N, r, r), or (N,) of scalars; column by column, as the matrices lie in memory."""
    known = [triple for triple in triples if triple is not None]
    if not known:
        return None
    return Triple(*(torch.stack([X.mT for X in Xs]).mT if Xs[0].ndim else torch.stack(Xs) for Xs in zip(*known, strict=True)))


def _apart(stacks: Moments, count: int) -> list[Moments]:
    """The memory layer by layer, views."""
    both = [
        [None] * count if triple is None else [Triple(*Xs) for Xs in zip(*(X.unbind() for X in triple), strict=True)]
        for triple in (stacks.first, stacks.second)
    ]
    return [Moments(stacks.step, first, second) for first, second in zip(*both, strict=True)]

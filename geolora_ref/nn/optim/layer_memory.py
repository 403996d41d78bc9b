"""What a rule remembers of many layers: layers of one shape, rank and age are asked together, as stacks."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from geolora_ref.optimizers import Moments, Optimizer, Triple

__all__ = ["directions", "transported"]


def directions(rule: Optimizer, gradients: Sequence[Triple], moments: Sequence[Moments]) -> tuple[list[Triple], list[Moments]]:
    """``rule.direction`` of every layer: (m, r), (n, r), (r, r) each, and the new memory in the old bases."""
    found: dict[int, tuple[Triple, Moments]] = {}
    keys = [(_shapes(G), one.step, _shapes(one.second)) for G, one in zip(gradients, moments, strict=True)]
    for layers in _alike(keys):
        given = Triple(*(torch.stack([X.mT for X in Xs]).mT for Xs in zip(*(gradients[i] for i in layers), strict=True)))
        D, memory = rule.direction(given, _memory([moments[i] for i in layers]))
        apart = [Triple(*Xs) for Xs in zip(*(X.unbind() for X in D), strict=True)]
        found |= zip(layers, zip(apart, _memories(memory, len(layers)), strict=True), strict=True)
    return [found[i][0] for i in range(len(gradients))], [found[i][1] for i in range(len(gradients))]


def transported(rule: Optimizer, moments: Sequence[Moments], turns: Sequence[tuple[Tensor, Tensor]]) -> list[Moments]:
    """``rule.transport`` of every layer, from A = UᵀU₁ and B = VᵀV₁, (r, r₁) each."""
    found: dict[int, Moments] = {}
    keys = [(_shapes(one.first), one.step, _shapes(one.second), A.shape) for one, (A, _) in zip(moments, turns, strict=True)]
    for layers in _alike(keys):
        A, B = (torch.stack([turns[i][side] for i in layers]) for side in (0, 1))
        moved = rule.transport(_memory([moments[i] for i in layers]), A, B)
        found |= zip(layers, _memories(moved, len(layers)), strict=True)
    return [found[i] for i in range(len(moments))]


def _alike(keys: Sequence[Hashable]) -> Iterator[list[int]]:
    """The numbers of those that have one key."""
    found: dict[Hashable, list[int]] = {}
    for i, key in enumerate(keys):
        found.setdefault(key, []).append(i)
    return iter(found.values())


def _shapes(triple: Triple | None) -> Any:
    """Of its three arrays."""
    return triple and tuple(tuple(X.shape) for X in triple)


def _stacked(triples: Sequence[Triple | None]) -> Triple | None:
    """(N, m, r), (N, n, r), (N, r, r), or (N,) of scalars; column by column, as the matrices lie in memory."""
    known = [triple for triple in triples if triple is not None]
    if not known:
        return None
    return Triple(*(torch.stack([X.mT for X in Xs]).mT if Xs[0].ndim else torch.stack(Xs) for Xs in zip(*known, strict=True)))


def _apart(stacks: Triple | None, count: int) -> list[Triple] | list[None]:
    """One triple for each layer."""
    return [None] * count if stacks is None else [Triple(*Xs) for Xs in zip(*(X.unbind() for X in stacks), strict=True)]


def _memory(moments: Sequence[Moments]) -> Moments:
    """That of layers of one age, as stacks."""
    return Moments(moments[0].step, _stacked([one.first for one in moments]), _stacked([one.second for one in moments]))


def _memories(stacks: Moments, count: int) -> list[Moments]:
    """The same layer by layer."""
    both = zip(_apart(stacks.first, count), _apart(stacks.second, count), strict=True)
    return [Moments(stacks.step, first, second) for first, second in both]

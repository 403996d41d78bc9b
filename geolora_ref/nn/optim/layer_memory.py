"""Call a rule for many layers: layers of one shape, rank and age go into one call, as stacks.

The stacks are copied in every step from the matrices of the layers.  So the result depends, to
the last bit, on the numbers alone and not on their place in memory, which differs after a
resumption.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from geolora_ref.optimizers import Bases, Moments, Optimizer, Triple, core_alone, price

__all__ = ["directions", "prices", "tangent_at", "transported"]


def directions(
    rule: Optimizer, bases: Sequence[Bases], gradients: Sequence[Triple], moments: Sequence[Moments]
) -> tuple[list[Triple], list[Moments]]:
    """``rule.direction`` of every layer: (m, r), (n, r), (r, r) each, and the new memory in the old
    bases.
    """
    found: dict[int, tuple[Triple, Moments]] = {}
    keys = [(_shapes(G), _kind(one)) for G, one in zip(gradients, moments, strict=True)]
    for layers in _alike(keys):
        where, given = Bases(*_of(layers, bases)), Triple(*_of(layers, gradients))
        D, memory = rule.direction(where, given, _whole(layers, moments))
        apart = (Triple(*Xs) for Xs in zip(*(X.unbind() for X in D), strict=True))
        found |= zip(layers, zip(apart, _apart(memory, len(layers)), strict=True), strict=True)
    return [found[i][0] for i in range(len(gradients))], [
        found[i][1] for i in range(len(gradients))
    ]


def prices(memories: Sequence[Triple], found: Sequence[Triple], *, augments: bool) -> list[float]:
    """:func:`geolora_ref.optimizers.price` of every layer, or without ``augments`` of S alone: one
    synchronisation.
    """
    known: dict[int, Tensor] = {}
    for layers in _alike([_shapes(M) for M in memories]):
        M, D = (Triple(*_of(layers, given)) for given in (memories, found))
        each = price(M, D) if augments else price(core_alone(M), core_alone(D))
        known |= zip(layers, each.double().unbind(), strict=True)
    return [float(one) for one in torch.stack([known[i] for i in range(len(memories))]).tolist()]


def transported(
    rule: Optimizer, old: Sequence[Bases], moments: Sequence[Moments], new: Sequence[Bases]
) -> list[Moments]:
    """``rule.transport`` of every layer."""
    found: dict[int, Moments] = {}
    keys = [
        (_shapes(a), _shapes(b), _kind(one)) for a, one, b in zip(old, moments, new, strict=True)
    ]
    for layers in _alike(keys):
        before, after = (Bases(*_of(layers, bases)) for bases in (old, new))
        moved = rule.transport(before, _whole(layers, moments), after)
        found |= zip(layers, _apart(moved, len(layers)), strict=True)
    return [found[i] for i in range(len(moments))]


def tangent_at(bases: Bases, M: Triple) -> Tensor:
    """Return whether M (m, r), (n, r), (r, r) is one tangent vector seen from these bases:
    M_S = UᴴM_K = (VᴴM_L)ᴴ, as a tensor with one bool.

    Of a memory that belongs to the bases both sides differ by the rounding of gradients and bases,
    which is 1e-2 of their size for bfloat16; of one that belongs to others by about their size.
    """
    defect = torch.stack(
        [(bases.U.mT @ M.K - M.S).abs().max(), (bases.V.mT @ M.L - M.S.mT).abs().max()]
    )
    size = torch.stack([M.K.abs().max(), M.L.abs().max()])
    rounding = torch.finfo(size.dtype).tiny  # below the normal numbers it is absolute
    outside: Tensor = defect > 0.05 * size + rounding  # not where there is NaN: others tell
    return ~outside.any()


def _whole(layers: Sequence[int], moments: Sequence[Moments]) -> Moments:
    """The memories of layers of one age, as one memory of stacks."""
    given = [moments[i] for i in layers]
    return Moments(
        given[0].step,
        _stacked([one.first for one in given]),
        _stacked([one.second for one in given]),
    )


def _alike(keys: Sequence[Hashable]) -> Iterator[tuple[int, ...]]:
    """The indices of the layers, grouped by a common key."""
    found: dict[Hashable, list[int]] = {}
    for i, key in enumerate(keys):
        found.setdefault(key, []).append(i)
    return map(tuple, found.values())


def _of(layers: Sequence[int], given: Sequence[tuple[Tensor, ...]]) -> Iterator[Tensor]:
    """Matrices of some layers as stacks in column-major order, like the matrices themselves."""
    for Xs in zip(*(given[i] for i in layers), strict=True):
        yield torch.stack([X.mT for X in Xs]).mT if Xs[0].ndim > 1 else torch.stack(Xs)


def _kind(one: Moments) -> Hashable:
    """A key of a layer's memory, its age and its parts: layers with and without a memory are in
    different stacks.
    """
    return one.step, one.first is None, _shapes(one.second)


def _shapes(triple: tuple[Tensor, ...] | None) -> Any:
    """The shapes of a triple's arrays, or None."""
    return triple and tuple(tuple(X.shape) for X in triple)


def _stacked(triples: Sequence[Triple | None]) -> Triple | None:
    """One triple of stacks, or None if no layer has a triple."""
    known = [triple for triple in triples if triple is not None]
    return Triple(*_of(range(len(known)), known)) if known else None


def _apart(stacks: Moments, count: int) -> list[Moments]:
    """A memory of stacks as one memory for each layer, in views."""
    both = [
        [None] * count
        if triple is None
        else [Triple(*Xs) for Xs in zip(*(X.unbind() for X in triple), strict=True)]
        for triple in (stacks.first, stacks.second)
    ]
    return [Moments(stacks.step, first, second) for first, second in zip(*both, strict=True)]

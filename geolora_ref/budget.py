"""One rank budget for several layers: which singular values to keep when all layers compete for the same total."""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, Protocol, runtime_checkable

from geolora_ref import checks
from geolora_ref.algorithm import RankRule, Truncation, truncation
from geolora_ref.arrays import Array, namespace, to_numpy

__all__ = ["RankAllocation", "allocate_ranks", "parameter_count", "truncate_to_budget"]

Unit = Literal["ranks", "parameters"]


@runtime_checkable
class Augmented(Protocol):
    """A layer before its truncation, Ŵ = Û Ŝ V̂ᴴ (an ``AugmentedStep`` is one)."""

    @property
    def S_hat(self) -> Array: ...
    @property
    def U_hat(self) -> Array: ...
    @property
    def V_hat(self) -> Array: ...


@dataclass(frozen=True)
class RankAllocation:
    """The rank of every layer, what they cost in the unit of the budget, and the norm of everything that is discarded."""

    ranks: tuple[int, ...]
    cost: int
    discarded: float


def parameter_count(rank: int, shape: tuple[int, int]) -> int:
    """r(m + n + r): the numbers stored for U, V and S."""
    m, n = shape
    return rank * (m + n + rank)


def allocate_ranks(
    spectra: Sequence[Array],
    shapes: Sequence[tuple[int, int]],
    budget: int,
    *,
    unit: Unit = "ranks",
    min_rank: int = 1,
    max_rank: int | Sequence[int] | None = None,
) -> RankAllocation:
    """Keep the singular values that are worth most, over all layers, within a total budget.

    ``spectra`` are the sorted singular values of every layer's Ŝ, ``shapes`` the (m, n) of every layer, ``max_rank`` one limit
    for all layers or one for each.  Every layer gets
    ``min_rank`` (or all it has) first.  Then the next singular value of some layer is kept, always the one with the largest
    σ² per unit of cost, until none fits.  With ``unit="ranks"`` these are the largest singular values of all layers and the
    discarded norm is the least possible.  With ``unit="parameters"`` a step from r − 1 to r costs m + n + 2r − 1; what is
    kept is then within the σ² of one singular value of the optimum (the greedy bound of the knapsack problem).

    Raises ``ValueError`` if the lists differ in length, if a spectrum is not sorted and nonnegative, or if the budget is no
    integer or does not even cover the minimum ranks.
    """
    if unit not in ("ranks", "parameters"):
        raise ValueError(f"unit: expected 'ranks' or 'parameters', found {unit!r}")
    if len(spectra) != len(shapes) or not spectra:
        raise ValueError(f"shapes: expected one shape for each of {len(spectra)} spectra, found {len(shapes)}")
    checks.integer("budget", budget, 1)
    limits = list(max_rank) if isinstance(max_rank, Sequence) else [max_rank] * len(spectra)
    if len(limits) != len(spectra):
        raise ValueError(f"max_rank: expected one limit for each of {len(spectra)} layers, found {len(limits)}")
    sigmas = [to_numpy(spectrum).tolist() for spectrum in spectra]
    for layer, sigma in enumerate(sigmas):
        checks.ranks(min_rank, limits[layer], shapes[layer])
        if not sigma or not all(map(math.isfinite, sigma)) or sorted(sigma, reverse=True) != sigma or sigma[-1] < 0.0:
            raise ValueError(f"spectra[{layer}]: expected sorted, nonnegative singular values, found {sigma}")

    def cost_of(layer: int, rank: int) -> int:
        return rank if unit == "ranks" else parameter_count(rank, shapes[layer])

    ranks = [min(min_rank, len(sigma)) for sigma in sigmas]
    spent = sum(cost_of(layer, rank) for layer, rank in enumerate(ranks))
    if spent > budget:
        raise ValueError(f"budget: expected at least {spent} {unit} for min_rank = {min_rank} in every layer, found {budget}")

    def offer(layer: int) -> tuple[float, int]:
        """The worth of a layer's next singular value, its root: σ² would underflow or overflow.

        A heap pops the smallest, hence the sign.  Ties go to the first layer.
        """
        rank = ranks[layer]
        return -sigmas[layer][rank] / math.sqrt(cost_of(layer, rank + 1) - cost_of(layer, rank)), layer

    caps = [len(sigma) if limit is None else min(limit, len(sigma)) for sigma, limit in zip(sigmas, limits, strict=True)]
    heap = [offer(layer) for layer in range(len(sigmas)) if ranks[layer] < caps[layer]]
    heapq.heapify(heap)
    while heap:
        _, layer = heapq.heappop(heap)
        price = cost_of(layer, ranks[layer] + 1) - cost_of(layer, ranks[layer])
        if spent + price > budget:
            continue
        spent, ranks[layer] = spent + price, ranks[layer] + 1
        if ranks[layer] < caps[layer]:
            heapq.heappush(heap, offer(layer))
    discarded = math.hypot(*(value for sigma, rank in zip(sigmas, ranks, strict=True) for value in sigma[rank:]))
    return RankAllocation(tuple(ranks), spent, discarded)


def truncate_to_budget(
    steps: Sequence[Augmented],
    budget: int,
    *,
    unit: Unit = "ranks",
    min_rank: int = 1,
    max_rank: int | Sequence[int] | None = None,
) -> list[Truncation]:
    """Line 6 of Algorithm 1 for all layers at once, with the ranks of :func:`allocate_ranks`."""
    spectra = [namespace(step.S_hat).linalg.svdvals(step.S_hat) for step in steps]
    shapes = [(step.U_hat.shape[0], step.V_hat.shape[0]) for step in steps]
    ranks = allocate_ranks(spectra, shapes, budget, unit=unit, min_rank=min_rank, max_rank=max_rank).ranks
    cuts = [
        truncation(step.S_hat, step.U_hat, step.V_hat, theta=0.0, min_rank=rank, max_rank=rank)
        for step, rank in zip(steps, ranks, strict=True)
    ]
    return [replace(cut, rank_rule=RankRule.BUDGET) for cut in cuts]

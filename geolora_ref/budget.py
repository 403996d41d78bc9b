"""One rank budget for several layers: which singular values to keep when all layers compete for the
same total.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, Protocol, get_args, runtime_checkable

from geolora_ref import checks
from geolora_ref.algorithm import RankRule, Truncation, truncation
from geolora_ref.arrays import Array, namespace, to_numpy

__all__ = [
    "RankAllocation",
    "Unit",
    "allocate_ranks",
    "cost",
    "factor_entries",
    "truncate_to_budget",
]

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
    """The rank of every layer, their total cost in the unit of the budget, and the norm of
    everything that is discarded.
    """

    ranks: tuple[int, ...]
    cost: int
    discarded: float


def factor_entries(rank: int, shape: tuple[int, int]) -> int:
    """r(m + n + r): the numbers stored for U, V and S."""
    m, n = shape
    return rank * (m + n + rank)


def cost(rank: int, shape: tuple[int, int], unit: Unit) -> int:
    """The cost of a layer of this rank and shape (m, n): r or r(m + n + r); ``ValueError`` for
    another ``unit``.
    """
    checks.one_of("unit", unit, get_args(Unit))
    return rank if unit == "ranks" else factor_entries(rank, shape)


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

    ``spectra`` : the sorted singular values of every layer's Ŝ.
    ``shapes`` : (m, n) of every layer.
    ``max_rank`` : one limit for all layers or one for each.

    Every layer gets ``min_rank``, or all it has, first. Then the positive singular value with the
    largest σ² per unit of cost is kept, until none fits. With ``unit="ranks"`` the discarded norm
    is the least possible. With ``unit="parameters"`` a step from r − 1 to r costs m + n + 2r − 1,
    and the kept sum of σ² is within the σ² of one singular value of the optimum (the greedy bound
    of the knapsack problem).

    Raises ``ValueError`` if the lists differ in length, if a spectrum is not sorted and
    nonnegative, or if the budget is no integer or does not even cover the minimum ranks.
    """
    checks.one_of("unit", unit, get_args(Unit))
    if not spectra:
        raise ValueError("spectra: expected at least one layer, found none")
    if len(spectra) != len(shapes):
        raise ValueError(
            f"shapes: expected one shape for each of {len(spectra)} spectra, found {len(shapes)}"
        )
    budget = checks.integer("budget", budget, 1)
    limits = checks.each("max_rank", max_rank, len(spectra))
    sigmas = [to_numpy(spectrum).tolist() for spectrum in spectra]
    for layer, sigma in enumerate(sigmas):
        min_rank, limits[layer] = checks.ranks(min_rank, limits[layer], shapes[layer])
        if (
            not sigma
            or not all(map(math.isfinite, sigma))
            or sorted(sigma, reverse=True) != sigma
            or sigma[-1] < 0.0
        ):
            raise ValueError(
                f"spectra[{layer}]: expected sorted, nonnegative singular values, found {sigma}"
            )
    least = [min(min_rank, len(sigma)) for sigma in sigmas]
    # a singular value of 0 is not kept for its own sake: its directions are arbitrary
    positive = [sum(value > 0.0 for value in sigma) for sigma in sigmas]
    most = [
        count if limit is None else min(limit, count)
        for count, limit in zip(positive, limits, strict=True)
    ]
    spent = sum(cost(rank, shape, unit) for rank, shape in zip(least, shapes, strict=True))
    if spent > budget:
        raise ValueError(
            f"budget: expected at least {spent} {unit} for min_rank = {min_rank} in every layer, found {budget}"
        )
    prices = [
        [cost(rank + 1, shape, unit) - cost(rank, shape, unit) for rank in range(len(sigma))]
        for sigma, shape in zip(sigmas, shapes, strict=True)
    ]
    ranks, left = _greedy(sigmas, prices, least, most, budget - spent)
    discarded = math.hypot(
        *(value for sigma, rank in zip(sigmas, ranks, strict=True) for value in sigma[rank:])
    )
    return RankAllocation(tuple(ranks), budget - left, discarded)


def _greedy(
    sigmas: Sequence[Sequence[float]],
    prices: Sequence[Sequence[int]],
    least: Sequence[int],
    most: Sequence[int],
    left: int,
) -> tuple[list[int], int]:
    """Raise the ranks from ``least`` towards ``most`` by the best offers within the budget
    ``left``: the ranks, and the rest.

    Worth is the root of σ² per cost, because σ² would underflow or overflow.  The worth never rises
    within a layer, so sorting keeps the order of each layer's values.  Once a value does not fit,
    no later value of its layer is considered.  Ties go to the first layer.
    """
    offers = sorted(
        (-sigmas[layer][rank] / math.sqrt(prices[layer][rank]), layer, rank)
        for layer in range(len(sigmas))
        for rank in range(least[layer], most[layer])
    )
    ranks = list(least)
    for _, layer, rank in offers:
        if (
            rank == ranks[layer] and prices[layer][rank] <= left
        ):  # rank > ranks[layer]: an earlier value did not fit
            ranks[layer], left = rank + 1, left - prices[layer][rank]
    return ranks, left


def truncate_to_budget(
    steps: Sequence[Augmented],
    budget: int,
    *,
    unit: Unit = "ranks",
    min_rank: int = 1,
    max_rank: int | Sequence[int] | None = None,
) -> list[Truncation]:
    """Line 6 of Algorithm 1 for all layers at once, with the ranks of :func:`allocate_ranks`.

    Raises ``ValueError`` like :func:`allocate_ranks`.
    """
    spectra = [namespace(step.S_hat).linalg.svdvals(step.S_hat) for step in steps]
    shapes = [(step.U_hat.shape[0], step.V_hat.shape[0]) for step in steps]
    ranks = allocate_ranks(
        spectra, shapes, budget, unit=unit, min_rank=min_rank, max_rank=max_rank
    ).ranks
    cuts = [
        truncation(step.S_hat, step.U_hat, step.V_hat, theta=0.0, min_rank=rank, max_rank=rank)
        for step, rank in zip(steps, ranks, strict=True)
    ]
    return [replace(cut, rank_rule=RankRule.BUDGET) for cut in cuts]

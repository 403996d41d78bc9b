"""The rank budget over several layers, against brute force over all allocations."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from geolora_ref import LowRank, ProjectedGradients, augmented_step
from geolora_ref.algorithm import AugmentedStep
from geolora_ref.budget import (
    RankAllocation,
    Unit,
    allocate_ranks,
    factor_entries,
    truncate_to_budget,
)
from geolora_ref.oracle.judges.criteria import FAIL
from tests.libraries import NUMPY, Dtype, Library
from tests.steps import dense, ratio

EPS = float(np.finfo(np.float64).eps)
Layers = list[tuple[list[float], tuple[int, int]]]

spectra = st.lists(
    st.sampled_from([0.0, 1e-3, 0.5, 1.0, 2.0]) | st.floats(0.0, 3.0), min_size=1, max_size=4
)
layers = st.lists(
    st.tuples(spectra.map(lambda s: sorted(s, reverse=True)), st.tuples(*[st.integers(4, 9)] * 2)),
    min_size=1,
    max_size=3,
)


def _cost(rank: int, shape: tuple[int, int], unit: Unit) -> int:
    m, n = shape
    return rank if unit == "ranks" else rank * (m + n + rank)


def _bounds(sigma: Sequence[float], min_rank: int, max_rank: int | None) -> tuple[int, int]:
    """The least and the largest rank that a layer may have."""
    return min(min_rank, len(sigma)), len(sigma) if max_rank is None else min(max_rank, len(sigma))


def _allocations(
    drawn: Layers, budget: int, unit: Unit, min_rank: int, max_rank: int | None
) -> Iterator[tuple[int, ...]]:
    """Every admissible allocation within the budget."""
    choices = [
        range(low, high + 1) for low, high in (_bounds(s, min_rank, max_rank) for s, _ in drawn)
    ]
    for ranks in itertools.product(*choices):
        if (
            sum(_cost(rank, shape, unit) for rank, (_, shape) in zip(ranks, drawn, strict=True))
            <= budget
        ):
            yield ranks


def _discarded(drawn: Layers, ranks: Sequence[int]) -> float:
    return math.hypot(
        *(value for (sigma, _), rank in zip(drawn, ranks, strict=True) for value in sigma[rank:])
    )


def _allocate(drawn: Layers, budget: int, **options: Any) -> RankAllocation:
    return allocate_ranks(
        [np.array(sigma) for sigma, _ in drawn], [shape for _, shape in drawn], budget, **options
    )


def _least(drawn: Layers, unit: Unit, min_rank: int) -> int:
    """The cost of the minimum ranks."""
    return sum(_cost(min(min_rank, len(sigma)), shape, unit) for sigma, shape in drawn)


@given(
    drawn=layers,
    spare=st.integers(0, 12),
    min_rank=st.integers(1, 3),
    room=st.none() | st.integers(0, 2),
)
def test_in_ranks_the_discarded_norm_is_the_least_possible(
    drawn: Layers, spare: int, min_rank: int, room: int | None
) -> None:
    max_rank = None if room is None else min_rank + room
    budget = _least(drawn, "ranks", min_rank) + spare
    found = _allocate(drawn, budget, min_rank=min_rank, max_rank=max_rank)
    allowed = list(_allocations(drawn, budget, "ranks", min_rank, max_rank))
    assert found.ranks in allowed
    assert found.cost == sum(found.ranks)
    best = min(_discarded(drawn, ranks) for ranks in allowed)
    rounding = 20 * EPS * max(1.0, best)  # up to 12 squares, their sum and the root
    assert _discarded(drawn, found.ranks) <= best + rounding
    assert abs(found.discarded - _discarded(drawn, found.ranks)) <= rounding


def test_ties_go_to_the_first_layer() -> None:
    drawn: Layers = [([1.0, 1.0, 1.0], (6, 6))] * 3
    assert [_allocate(drawn, budget).ranks for budget in (3, 4, 5, 6)] == [
        (1, 1, 1),
        (2, 1, 1),
        (3, 1, 1),
        (3, 2, 1),
    ]
    assert _allocate(drawn, 5) == _allocate(drawn, 5)


def test_minimum_and_maximum_ranks_are_kept() -> None:
    drawn: Layers = [([9.0, 8.0, 7.0, 6.0], (6, 6)), ([1e-3, 1e-4], (6, 6)), ([0.0], (6, 6))]
    assert _allocate(drawn, 6, min_rank=2).ranks == (3, 2, 1), (
        "a layer with one singular value has no second"
    )
    assert _allocate(drawn, 99, max_rank=2).ranks == (2, 2, 1)
    assert _allocate(drawn, 5, min_rank=2, max_rank=2) == RankAllocation(
        (2, 2, 1), 5, math.hypot(7.0, 6.0)
    )


@pytest.mark.parametrize("unit", ["ranks", "parameters"])
@pytest.mark.parametrize("size", [1e-320, 1e-170, 1.0, 1e200, 8e307])
def test_the_size_of_the_layers_does_not_matter(size: float, unit: Unit) -> None:
    """Squares of singular values would underflow or overflow."""
    drawn: Layers = [([size, 0.1 * size], (4, 4)), ([2.0 * size, 1.5 * size], (4, 4))]
    found = _allocate(
        drawn, _least(drawn, unit, 1) + (11 if unit == "parameters" else 1), unit=unit
    )
    assert found.ranks == (1, 2)
    assert found.discarded == 0.1 * size


# --- truncating several layers --------------------------------------------------------------------


def _augmented(library: Library, dtype: Dtype, shape: tuple[int, int], seed: int) -> AugmentedStep:
    rng = np.random.default_rng(seed)
    Y = LowRank(
        *(library.array(X.astype(dtype.name)) for X in LowRank.random(shape, [1.0, 0.3], rng))
    )
    G = library.array(rng.standard_normal(shape).astype(dtype.name))
    return augmented_step(Y, ProjectedGradients.from_dense(Y, G), learning_rate=0.1)


def test_layers_are_truncated_as_allocated(library: Library, dtype: Dtype) -> None:
    shapes = [(7, 5), (5, 9), (4, 4)]
    steps = [_augmented(library, dtype, shape, seed) for seed, shape in enumerate(shapes)]
    sigma = [np.linalg.svd(dense(step.S_hat), compute_uv=False) for step in steps]
    expected = allocate_ranks(sigma, shapes, 7)
    cuts = truncate_to_budget(steps, 7)
    assert tuple(cut.Y.rank for cut in cuts) == expected.ranks
    assert sum(expected.ranks) == 7
    for step, cut in zip(steps, cuts, strict=True):
        error = float(np.linalg.norm(dense(step.full()) - dense(cut.Y.full())))
        assert ratio(abs(error - cut.discarded), 1.0, cut.Y.shape, dtype.eps) <= FAIL
        assert cut.Y.S.dtype == step.S_hat.dtype
    total = math.hypot(*(cut.discarded for cut in cuts))
    assert ratio(abs(total - expected.discarded), 1.0, (9, 9), dtype.eps) <= FAIL


def test_layers_are_truncated_within_their_parameters(library: Library) -> None:
    steps = [
        _augmented(library, Dtype("float64", np.float64, False), shape, 1)
        for shape in ((7, 5), (5, 9))
    ]
    cuts = truncate_to_budget(steps, 70, unit="parameters", min_rank=1, max_rank=3)
    assert sum(factor_entries(cut.Y.rank, cut.Y.shape) for cut in cuts) <= 70
    assert all(1 <= cut.Y.rank <= 3 for cut in cuts)


def test_a_budget_stops_at_zero() -> None:
    """Directions of singular values that are 0 are arbitrary: they are kept for the minimum rank alone."""
    assert _allocate([([1.0, 0.0, 0.0], (4, 4)), ([1.0, 0.0], (4, 4))], 5).ranks == (1, 1)
    still = replace(
        _augmented(NUMPY, Dtype("float64", np.float64, False), (7, 5), 1), S_hat=np.zeros((4, 4))
    )
    (cut,) = truncate_to_budget([still], 3, min_rank=2)
    assert (cut.Y.rank, cut.theta, cut.discarded) == (2, 0.0, 0.0)

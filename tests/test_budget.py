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

from geolora_ref import LowRank, ProjectedGradients, RankRule, augmented_step
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


def _kept(drawn: Layers, ranks: Sequence[int]) -> float:
    return math.fsum(
        value**2 for (sigma, _), rank in zip(drawn, ranks, strict=True) for value in sigma[:rank]
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


@given(
    drawn=layers,
    spare=st.integers(0, 80),
    min_rank=st.integers(1, 3),
    room=st.none() | st.integers(0, 2),
)
def test_in_parameters_less_than_one_singular_value_is_lost(
    drawn: Layers, spare: int, min_rank: int, room: int | None
) -> None:
    """The greedy bound of the knapsack problem: worth per cost falls within every layer, so up to
    the first singular value that does not fit the greedy choice is the best for what it spent, and
    all that is lost is what that one would add."""
    max_rank = None if room is None else min_rank + room
    budget = _least(drawn, "parameters", min_rank) + spare
    found = _allocate(drawn, budget, unit="parameters", min_rank=min_rank, max_rank=max_rank)
    allowed = list(_allocations(drawn, budget, "parameters", min_rank, max_rank))
    assert found.ranks in allowed
    assert found.cost == sum(
        _cost(rank, shape, "parameters")
        for rank, (_, shape) in zip(found.ranks, drawn, strict=True)
    )
    best = max(_kept(drawn, ranks) for ranks in allowed)
    unfit = [
        s[r] ** 2
        for (s, _), r in zip(drawn, found.ranks, strict=True)
        if r < _bounds(s, min_rank, max_rank)[1]
    ]
    assert _kept(drawn, found.ranks) >= best - max(unfit, default=0.0) - 20 * EPS * max(1.0, best)


@given(drawn=layers, spare=st.integers(0, 60), unit=st.sampled_from(["ranks", "parameters"]))
def test_nothing_more_would_fit(drawn: Layers, spare: int, unit: Unit) -> None:
    """Whatever is left of the budget is less than the next positive singular value of any layer costs."""
    budget = _least(drawn, unit, 1) + spare
    found = _allocate(drawn, budget, unit=unit)
    for (sigma, shape), rank in zip(drawn, found.ranks, strict=True):
        price = _cost(rank + 1, shape, unit) - _cost(rank, shape, unit)
        assert rank == len(sigma) or sigma[rank] == 0.0 or found.cost + price > budget


def test_the_greedy_choice_can_miss_the_optimum() -> None:
    """A negative control: 35 parameters buy either σ = 3 of the small layer or σ = 5 of the large
    one; the small one is worth more per parameter (9/12 against 25/34), and after it the large one
    does not fit.  16 are lost, 25·23/34 could be."""
    drawn: Layers = [([10.0, 3.0], (4, 5)), ([10.0, 5.0], (15, 16))]
    found = _allocate(drawn, 10 + 32 + 35, unit="parameters")
    assert found.ranks == (2, 1)
    assert max(_kept(drawn, r) for r in _allocations(drawn, 77, "parameters", 1, None)) == _kept(
        drawn, (1, 2)
    )


def test_a_step_that_does_not_fit_does_not_stop_the_others() -> None:
    """σ = 9 of the large layer is worth most per parameter but costs 34 of the 12 that are left;
    σ = 3 costs 12.
    """
    drawn: Layers = [([10.0, 3.0], (4, 5)), ([10.0, 9.0], (15, 16))]
    assert _allocate(drawn, 10 + 32 + 12, unit="parameters") == RankAllocation((2, 1), 54, 9.0)


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


def test_worth_is_the_square_per_parameter() -> None:
    """σ = 2 costs 12 parameters, σ = 5 costs 34: 4/12 < 25/34, although 2/12 > 5/34."""
    drawn: Layers = [([10.0, 2.0], (4, 5)), ([10.0, 5.0], (15, 16))]
    assert _allocate(drawn, 10 + 32 + 34, unit="parameters").ranks == (1, 2)


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


def test_every_layer_can_have_its_own_limit() -> None:
    spectra = [np.array([9.0, 8.0, 7.0]), np.array([6.0, 5.0, 4.0])]
    assert allocate_ranks(spectra, [(5, 5)] * 2, 6, max_rank=[1, 3]).ranks == (1, 3)
    with pytest.raises(
        ValueError, match=r"^max_rank: expected one number, or one for each of 2 layers, found 1$"
    ):
        allocate_ranks(spectra, [(5, 5)] * 2, 6, max_rank=[2])


@pytest.mark.parametrize(
    ("rank", "shape", "count"), [(1, (1, 1), 3), (3, (7, 5), 45), (2, (5, 7), 28)]
)
def test_parameter_count(rank: int, shape: tuple[int, int], count: int) -> None:
    """The entries of U, S and V."""
    assert (
        factor_entries(rank, shape)
        == count
        == sum(X.size for X in LowRank.random(shape, [1.0] * rank, np.random.default_rng(0)))
    )


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


def test_limits_reach_every_layer() -> None:
    """The minimum goes to the layer whose singular values are worth least, the maximum binds the
    other one.
    """
    double = Dtype("float64", np.float64, False)
    large, small = _augmented(NUMPY, double, (7, 5), 1), _augmented(NUMPY, double, (5, 9), 1)
    small = replace(small, S_hat=1e-6 * small.S_hat)
    assert [cut.Y.rank for cut in truncate_to_budget([large, small], 5)] == [4, 1]
    assert [cut.Y.rank for cut in truncate_to_budget([large, small], 5, min_rank=2)] == [3, 2]
    assert [cut.Y.rank for cut in truncate_to_budget([large, small], 9, max_rank=[2, 3])] == [2, 3]
    assert all(cut.rank_rule is RankRule.BUDGET for cut in truncate_to_budget([large, small], 5))


def test_a_budget_stops_at_zero() -> None:
    """Directions of singular values that are 0 are arbitrary: they are kept for the minimum rank alone."""
    assert _allocate([([1.0, 0.0, 0.0], (4, 4)), ([1.0, 0.0], (4, 4))], 5).ranks == (1, 1)
    still = replace(
        _augmented(NUMPY, Dtype("float64", np.float64, False), (7, 5), 1), S_hat=np.zeros((4, 4))
    )
    (cut,) = truncate_to_budget([still], 3, min_rank=2)
    assert (cut.Y.rank, cut.theta, cut.discarded) == (2, 0.0, 0.0)

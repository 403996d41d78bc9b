"""The iteration of several layers: schedule, budget, capacity, weight decay; each against the plain step or the dense one."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from geolora_ref import FactorGradients, LowRank, ProjectedGradients, RankRule, geolora_step
from geolora_ref.budget import parameter_count
from geolora_ref.optimizers import HeavyBall, Moments
from geolora_ref.training import Layer, LayerStep, Settings, training_step
from tests.steps import Matrix, ratio

SHAPE = (14, 11)
EPS = float(np.finfo(float).eps)


def layer(seed: int = 0, *, rank: int = 3, capacity: int = 11, shape: tuple[int, int] = SHAPE) -> tuple[Layer, Matrix]:
    """A layer with the gradient of a dense matrix, and that matrix."""
    rng = np.random.default_rng(seed)
    Y = LowRank.random(shape, [1.0, 0.5, 0.2, 0.1, 0.05][:rank], rng)
    G = rng.standard_normal(shape)
    return Layer(Y, ProjectedGradients.from_dense(Y, G), Moments(), capacity), G


def close(found: Matrix, expected: Matrix) -> bool:
    return ratio(np.linalg.norm(found - expected), np.linalg.norm(expected), SHAPE, EPS) < 30


def run(one: Layer, settings: Settings, iteration: int = 0) -> LayerStep:
    (step,) = training_step([one], settings, iteration)
    return step


def test_the_plain_case_is_the_plain_step() -> None:
    one, _ = layer()
    step = run(one, Settings(learning_rate=0.1, tau=0.2, max_rank=5))
    expected = geolora_step(one.Y, one.gradients, learning_rate=0.1, tau=0.2, max_rank=5)
    assert step.cut is not None
    assert (step.cut.rank_rule, step.Y.rank) == (expected.rank_rule, expected.Y.rank)
    assert close(step.Y.full(), expected.Y.full())


def test_factor_gradients_are_converted() -> None:
    one, G = layer()
    published = Layer(one.Y, FactorGradients.from_dense(one.Y, G), one.moments, one.capacity)
    settings = Settings(learning_rate=0.1, tau=0.0)
    assert close(run(published, settings).Y.full(), run(one, settings).Y.full())


def test_coefficient_steps_move_S_alone() -> None:
    """Iterations 1 and 2 of a cycle of 3: W − λ UUᵀ G VVᵀ, in the bases as they are, no truncation."""
    one, G = layer()
    settings = Settings(learning_rate=0.1, tau=0.5, coefficient_steps=2)
    for iteration in (1, 2, 4, 5):
        step = run(one, settings, iteration)
        assert step.cut is None
        U, _, V = one.Y
        assert close(step.Y.full(), one.Y.full() - 0.1 * U @ U.T @ G @ V @ V.T)
        assert step.Y.U is one.Y.U
    assert all(run(one, settings, iteration).cut is not None for iteration in (0, 3, 6))


def test_truncation_after_the_cycle_keeps_the_augmented_core_in_between() -> None:
    one, G = layer()
    settings = Settings(learning_rate=0.1, tau=0.3, coefficient_steps=1, truncate="after the cycle")
    augmented = run(one, settings, 0)
    assert augmented.Y.rank == 6
    assert augmented.cut is not None
    assert augmented.cut.discarded < 1e-13
    assert close(augmented.Y.full(), one.Y.full() - 0.1 * one.Y.tangent_projection(G))
    second = Layer(augmented.Y, ProjectedGradients.from_dense(augmented.Y, G), augmented.moments, 11)
    step = run(second, settings, 1)
    U, _, V = augmented.Y
    assert step.cut is not None
    assert step.cut.rank_rule == RankRule.THRESHOLD
    dense = augmented.Y.full() - 0.1 * U @ U.T @ G @ V @ V.T
    assert close(step.Y.full(), LowRank.from_dense(dense, step.Y.rank).full())
    assert step.Y.rank < 6


def test_without_coefficient_steps_both_schedules_are_the_same() -> None:
    one, _ = layer()
    a, b = (run(one, Settings(learning_rate=0.1, tau=0.3, truncate=when)) for when in ("at once", "after the cycle"))
    assert np.array_equal(a.Y.full(), b.Y.full())


@pytest.mark.parametrize("truncate", ["at once", "after the cycle"])
def test_the_capacity_is_kept_and_reported(truncate: Any) -> None:
    one, _ = layer(capacity=4)
    step = run(one, Settings(learning_rate=0.1, tau=0.0, coefficient_steps=1, truncate=truncate))
    assert step.cut is not None
    assert (step.Y.rank, step.cut.rank_rule) == (4, RankRule.MAX_RANK)
    assert step.cut.discarded > 0.0


@pytest.mark.parametrize("unit", ["ranks", "parameters"])
def test_a_budget_is_shared_by_all_layers(unit: Any) -> None:
    shapes = [(14, 11), (9, 20), (6, 7)]
    layers = [layer(seed, shape=shape, capacity=min(shape))[0] for seed, shape in enumerate(shapes)]
    budget = 8 if unit == "ranks" else 250
    steps = training_step(layers, Settings(learning_rate=0.1, budget=budget, unit=unit), 0)
    ranks = [step.Y.rank for step in steps]
    cost = sum(ranks) if unit == "ranks" else sum(parameter_count(r, shape) for r, shape in zip(ranks, shapes, strict=True))
    assert cost <= budget
    assert sum(ranks) >= 7
    assert all(step.cut is not None and step.cut.rank_rule == RankRule.BUDGET for step in steps)


def test_a_budget_keeps_to_the_capacity_of_each_layer() -> None:
    layers = [layer(0, capacity=5)[0], layer(1, capacity=3)[0]]
    steps = training_step(layers, Settings(learning_rate=0.1, budget=100), 0)
    assert [step.Y.rank for step in steps] == [5, 3]


def test_weight_decay_shrinks_S_and_leaves_the_bases_orthonormal() -> None:
    """W − λ·decay·W for a zero gradient: decoupled from the direction."""
    one, _ = layer()
    still = Layer(one.Y, ProjectedGradients.from_dense(one.Y, np.zeros(SHAPE)), Moments(), 11)
    for iteration in (0, 1):
        step = run(still, Settings(learning_rate=0.1, tau=0.0, weight_decay=0.5, coefficient_steps=1), iteration)
        assert close(step.Y.full(), 0.95 * one.Y.full())
        assert np.linalg.norm(step.Y.U.T @ step.Y.U - np.eye(step.Y.rank)) < 1e-14


def test_nothing_given_is_changed() -> None:
    one, _ = layer()
    before = [X.copy() for X in (*one.Y, one.gradients.dS)]
    run(one, Settings(learning_rate=0.1, tau=0.1, weight_decay=0.1, optimizer=HeavyBall()))
    assert all(np.array_equal(X, Y) for X, Y in zip(before, (*one.Y, one.gradients.dS), strict=True))


def test_a_step_repairs_bases_that_have_drifted() -> None:
    """A defect δ = 1e-4 in single precision, as many steps leave it: ¾δ² is below rounding.  The plain step keeps it."""
    rng = np.random.default_rng(0)
    U, S, V = LowRank.random((40, 30), [1.0, 0.5, 0.2], rng)
    drifted = LowRank(*(X.astype(np.float32) for X in (U * (1.0 + 3e-5), S, V * (1.0 - 3e-5))))
    G = rng.standard_normal((40, 30)).astype(np.float32)
    gradients = ProjectedGradients.from_dense(drifted, G)
    unit = 4.0 * np.sqrt(70) * float(np.finfo(np.float32).eps)

    def defect(Y: LowRank) -> float:
        return max(float(np.linalg.norm(B.T.astype(float) @ B - np.eye(Y.rank))) for B in (Y.U, Y.V))

    step = run(Layer(drifted, gradients, Moments(), 11), Settings(learning_rate=0.01, tau=0.0, max_rank=3))
    assert defect(step.Y) < unit
    assert defect(geolora_step(drifted, gradients, learning_rate=0.01, tau=0.0, max_rank=3).Y) > 10 * unit


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"learning_rate": -1.0, "tau": 0.1}, "learning_rate"),
        ({"learning_rate": 1.0}, "exactly one of the two thresholds"),
        ({"learning_rate": 1.0, "tau": 0.1, "theta": 0.1}, "exactly one of the two thresholds"),
        ({"learning_rate": 1.0, "tau": 0.1, "budget": 3}, "no threshold beside it"),
        ({"learning_rate": 1.0, "tau": 0.1, "weight_decay": float("nan")}, "weight_decay"),
        ({"learning_rate": 1.0, "tau": 0.1, "coefficient_steps": -1}, "coefficient_steps"),
        ({"learning_rate": 1.0, "tau": 0.1, "truncate": "never"}, "'at once' or 'after the cycle'"),
    ],
)
def test_settings_out_of_range_are_refused(options: dict[str, Any], message: str, unchecked: None) -> None:
    with pytest.raises(ValueError, match=message):
        Settings(**options)


def test_gradients_of_another_shape_are_refused() -> None:
    one, _ = layer()
    other, _ = layer(rank=2)
    with pytest.raises(ValueError, match="dK: expected shape"):
        run(Layer(one.Y, other.gradients, Moments(), 11), Settings(learning_rate=0.1, tau=0.1))

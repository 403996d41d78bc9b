"""The iteration of several layers: schedule, budget, capacity, weight decay; each against the plain
step or the dense one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest

from geolora_ref import FactorGradients, LowRank, ProjectedGradients, RankRule, geolora_step
from geolora_ref.budget import factor_entries
from geolora_ref.optimizers import (
    Adam,
    Bases,
    HeavyBall,
    Moments,
    Sgd,
    Spectral,
    Triple,
)
from geolora_ref.training import Layer, LayerStep, Settings, training_step
from tests.steps import Matrix, ratio
from verification.instruments.directions import dense, seen

SHAPE = (14, 11)
EPS = float(np.finfo(float).eps)


def layer(
    seed: int = 0, *, rank: int = 3, capacity: int = 11, shape: tuple[int, int] = SHAPE
) -> tuple[Layer, Matrix]:
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


@pytest.mark.parametrize("rule", [Sgd(), Spectral(0.9, 0.5)])
def test_a_share_is_a_threshold_in_units_of_the_decrease(rule: Any) -> None:
    """ϑ = share·λ⟨M, D⟩/‖M‖ of dense matrices, M the gradient; the memory of a first step is the gradient."""
    one, G = layer()
    bases = Bases(one.Y.U, one.Y.V)
    M, D = (
        dense(seen(G, bases), bases),
        dense(rule.direction(bases, seen(G, bases), Moments())[0], bases),
    )
    step = run(one, Settings(learning_rate=0.1, share=0.6, optimizer=rule))
    assert step.cut is not None
    assert step.cut.theta == pytest.approx(0.6 * 0.1 * np.sum(M * D) / np.linalg.norm(M), rel=1e-12)


def test_an_edge_keeps_what_exceeds_it_however_much_is_left() -> None:
    """Four values of 0.8 steps each are cut, though their norm is 1.6 steps; with 1.2 they are kept."""
    one, _ = layer(rank=1)
    U, V = (
        np.linalg.qr(np.random.default_rng(seed).standard_normal((size, 5))).Q
        for seed, size in ((0, 14), (1, 11))
    )
    for value, rank in ((0.8, 1), (1.2, 5)):
        Y = LowRank(U, np.diag([3.0, *(value * 0.1,) * 4]), V)
        still = replace(one, Y=Y, gradients=ProjectedGradients.from_dense(Y, np.zeros((14, 11))))
        step = run(still, Settings(0.1, edge=0.999, spare=False))
        assert step.cut is not None
        assert (step.Y.rank, step.cut.rank_rule, step.cut.theta) == (
            rank,
            RankRule.THRESHOLD,
            0.0999,
        )
        assert step.cut.discarded == pytest.approx(value * 0.2 if rank == 1 else 0.0)
        assert run(still, Settings(0.1, edge=0.999)).Y.rank == rank + 1


@pytest.mark.parametrize("max_rank", [None, 2])
def test_a_spare_direction_changes_the_bases_alone(max_rank: int | None) -> None:
    one, _ = layer()
    settings = Settings(learning_rate=0.1, share=0.9, max_rank=max_rank, spare=False)
    plain, spared = run(one, settings), run(one, replace(settings, spare=True))
    assert plain.cut is not None
    assert plain.Y.rank <= 2
    assert close(spared.Y.full(), plain.Y.full())
    assert spared.Y.rank == min(plain.Y.rank + 1, max_rank or 6)
    assert spared.cut is not None
    assert (spared.cut.discarded, spared.cut.rank_rule) == (
        plain.cut.discarded,
        plain.cut.rank_rule,
    )
    if max_rank is None:
        assert np.linalg.svd(spared.Y.S, compute_uv=False)[-1] == 0.0


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
    second = Layer(
        augmented.Y, ProjectedGradients.from_dense(augmented.Y, G), augmented.moments, 11
    )
    step = run(second, settings, 1)
    U, _, V = augmented.Y
    assert step.cut is not None
    assert step.cut.rank_rule == RankRule.THRESHOLD
    dense = augmented.Y.full() - 0.1 * U @ U.T @ G @ V @ V.T
    assert close(step.Y.full(), LowRank.from_dense(dense, step.Y.rank).full())
    assert step.Y.rank < 6


NUMBERS: dict[str, Callable[[Callable[[float], float]], Settings]] = {
    "rate": lambda n: Settings(n(0.1), tau=n(0.1), weight_decay=n(0.1), coefficient_steps=1),
    "theta": lambda n: Settings(0.1, theta=n(0.1)),
    "heavy ball": lambda n: Settings(0.1, tau=0.1, optimizer=HeavyBall(n(0.9))),
    "adam": lambda n: Settings(0.1, tau=0.1, optimizer=Adam((n(0.9), n(0.99)), n(1e-8))),
    "spectral": lambda n: Settings(0.1, tau=0.1, optimizer=Spectral(n(0.9), n(0.5))),
}


@pytest.mark.parametrize("unit", ["ranks", "parameters"])
def test_a_budget_is_shared_by_all_layers(unit: Any) -> None:
    shapes = [(14, 11), (9, 20), (6, 7)]
    layers = [layer(seed, shape=shape, capacity=min(shape))[0] for seed, shape in enumerate(shapes)]
    budget = 8 if unit == "ranks" else 250
    steps = training_step(layers, Settings(learning_rate=0.1, budget=budget, unit=unit), 0)
    ranks = [step.Y.rank for step in steps]
    cost = (
        sum(ranks)
        if unit == "ranks"
        else sum(factor_entries(r, shape) for r, shape in zip(ranks, shapes, strict=True))
    )
    assert cost <= budget
    assert sum(ranks) >= 7
    assert all(step.cut is not None and step.cut.rank_rule == RankRule.BUDGET for step in steps)


def test_weight_decay_shrinks_S_and_leaves_the_bases_orthonormal() -> None:
    """W − λ·decay·W for a zero gradient: decoupled from the direction."""
    one, _ = layer()
    still = Layer(one.Y, ProjectedGradients.from_dense(one.Y, np.zeros(SHAPE)), Moments(), 11)
    for iteration in (0, 1):
        step = run(
            still,
            Settings(learning_rate=0.1, tau=0.0, weight_decay=0.5, coefficient_steps=1),
            iteration,
        )
        assert close(step.Y.full(), 0.95 * one.Y.full())
        assert np.linalg.norm(step.Y.U.T @ step.Y.U - np.eye(step.Y.rank)) < 1e-14


def test_nothing_given_is_changed() -> None:
    one, _ = layer()
    before = [X.copy() for X in (*one.Y, one.gradients.dS)]
    run(one, Settings(learning_rate=0.1, tau=0.1, weight_decay=0.1, optimizer=HeavyBall()))
    assert all(
        np.array_equal(X, Y) for X, Y in zip(before, (*one.Y, one.gradients.dS), strict=True)
    )


def test_a_step_repairs_bases_that_have_drifted() -> None:
    """A defect δ = 1e-4 in single precision, as many steps leave it: ¾δ² is below rounding.  The
    plain step keeps it.
    """
    rng = np.random.default_rng(0)
    U, S, V = LowRank.random((40, 30), [1.0, 0.5, 0.2], rng)
    drifted = LowRank(*(X.astype(np.float32) for X in (U * (1.0 + 3e-5), S, V * (1.0 - 3e-5))))
    G = rng.standard_normal((40, 30)).astype(np.float32)
    gradients = ProjectedGradients.from_dense(drifted, G)
    unit = 4.0 * np.sqrt(70) * float(np.finfo(np.float32).eps)

    def defect(Y: LowRank) -> float:
        return max(
            float(np.linalg.norm(B.T.astype(float) @ B - np.eye(Y.rank))) for B in (Y.U, Y.V)
        )

    step = run(
        Layer(drifted, gradients, Moments(), 11), Settings(learning_rate=0.01, tau=0.0, max_rank=3)
    )
    assert defect(step.Y) < unit
    assert (
        defect(geolora_step(drifted, gradients, learning_rate=0.01, tau=0.0, max_rank=3).Y)
        > 10 * unit
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"learning_rate": -1.0, "tau": 0.1},
            r"^learning_rate: expected a finite number >= 0, found -1\.0$",
        ),
        (
            {"learning_rate": 1.0},
            "^tau, theta, share, edge, budget: expected exactly one of them, found none$",
        ),
        (
            {"learning_rate": 1.0, "tau": 0.1, "theta": 0.1},
            r"exactly one of them, found \{'tau': 0\.1, 'theta': 0\.1\}$",
        ),
        (
            {"learning_rate": 1.0, "tau": 0.1, "budget": 3},
            r"expected exactly one of them, found \{'tau': 0\.1, 'budget': 3\}$",
        ),
        ({"learning_rate": 1.0, "share": 1.0}, "^share: expected 0 <= share < 1, found 1.0$"),
        (
            {"learning_rate": 1.0, "tau": 0.1, "weight_decay": float("nan")},
            "^weight_decay: expected a finite number >= 0, found nan$",
        ),
        (
            {"learning_rate": 1.0, "tau": 0.1, "coefficient_steps": -1},
            "^coefficient_steps: expected an integer >= 0, found -1$",
        ),
        (
            {"learning_rate": 1.0, "tau": 0.1, "truncate": "never"},
            "^truncate: expected 'at once' or 'after the cycle', found 'never'$",
        ),
        (
            {"learning_rate": 1.0, "tau": 0.1, "coefficient_steps": 0.5},
            "^coefficient_steps: expected an integer >= 0, found 0.5$",
        ),
        (
            {"learning_rate": 1.0, "tau": 0.1, "min_rank": 0},
            "^min_rank: expected an integer >= 1, found 0$",
        ),
        (
            {"learning_rate": 1.0, "tau": 0.1, "min_rank": 3, "max_rank": 2},
            "^max_rank: expected at least min_rank = 3, found 2$",
        ),
        ({"learning_rate": 1.0, "budget": 2.5}, r"^budget: expected an integer >= 1, found 2\.5$"),
        (
            {"learning_rate": 1.0, "budget": 9, "unit": "bytes"},
            "^unit: expected 'ranks' or 'parameters', found 'bytes'$",
        ),
        (
            {"learning_rate": 1.0, "tau": 0.1, "optimizer": Adam},
            r"^optimizer: expected an .* Sgd\(\), found the class Adam$",
        ),
    ],
)
def test_settings_out_of_range_are_refused(
    options: dict[str, Any], message: str, unchecked: None
) -> None:
    with pytest.raises(ValueError, match=message):
        Settings(**options)


def test_a_layer_without_gradients_is_named(unchecked: None) -> None:
    one, dense = layer()
    gradients: Any = dense
    with pytest.raises(
        ValueError,
        match=r"^dense: gradients: expected ProjectedGradients or .*, found ndarray of shape \(14, 11\)$",
    ):
        run(replace(one, gradients=gradients, name="dense"), Settings(learning_rate=0.1, tau=0.1))


@dataclass(frozen=True)
class Foreign:
    """A rule from elsewhere: heavy ball, which works in place, and what it does to its directions
    at the end.
    """

    at_the_end: Callable[[Triple], Triple] = lambda directions: directions

    def direction(
        self, bases: Bases, gradients: Triple, moments: Moments
    ) -> tuple[Triple, Moments]:
        first = gradients if moments.first is None else moments.first
        for M, G in zip(first, gradients, strict=True):
            M *= 0.9
            M += G
            G *= 2.0
        for v in moments.second or ():
            v *= 0.0
        return self.at_the_end(first), Moments(moments.step + 1, first)

    def transport(self, old: Bases, moments: Moments, new: Bases) -> Moments:
        return HeavyBall().transport(old, moments, new)


def test_an_optimizer_may_work_in_place() -> None:
    """Neither the gradients nor the memory that the caller holds are changed by it."""
    one, _ = layer()
    first = run(one, Settings(learning_rate=0.1, tau=0.0, max_rank=3, optimizer=HeavyBall()))
    assert first.moments.first is not None
    moments = replace(first.moments, second=Triple(*(np.abs(M) for M in first.moments.first)))
    second = Layer(first.Y, ProjectedGradients.from_dense(first.Y, layer(seed=1)[1]), moments, 11)
    held = [
        *second.gradients.projected(second.Y).__dict__.values(),
        *(moments.first or ()),
        *(moments.second or ()),
    ]
    before = [X.copy() for X in held]
    run(second, Settings(learning_rate=0.1, tau=0.0, optimizer=Foreign()))
    assert all(np.array_equal(X, Z) for X, Z in zip(held, before, strict=True))


@pytest.mark.parametrize(
    ("at_the_end", "message"),
    [
        (
            lambda D: D._replace(S=D.S[:1]),
            r"direction of S: expected shape \(3, 3\) \(that of its gradient\), found \(1, 3\)$",
        ),
        (
            lambda D: D._replace(K=D.K[:, :1]),
            r"direction of K: expected shape \(14, 3\) .*, found \(14, 1\)$",
        ),
        (
            lambda D: D._replace(L=D.L.astype(np.float32)),
            r"direction of L: expected the dtype of gradient of L \(float64\), ",
        ),
        (
            lambda D: D._replace(K=D.K.tolist()),
            r"direction of K: expected an array .*, found list$",
        ),
    ],
)
def test_directions_unlike_the_gradients_are_refused(
    at_the_end: Callable[[Triple], Triple], message: str
) -> None:
    """One row of a core would be broadcast to all of them."""
    one, _ = layer()
    with pytest.raises(ValueError, match="^first: " + message):
        run(
            replace(one, name="first"),
            Settings(learning_rate=0.1, tau=0.1, optimizer=Foreign(at_the_end)),
        )


def test_errors_name_the_layer_that_has_a_name() -> None:
    """The second of two layers overflows."""
    (first, _), (second, _) = layer(), layer(seed=1)
    given = second.gradients.projected(second.Y)
    gradients = ProjectedGradients(dK=1e300 * given.dK, dL=given.dL, dS=given.dS)
    huge = Layer(second.Y, gradients, Moments(), 11, "second")
    with (
        np.errstate(over="ignore"),
        pytest.raises(FloatingPointError, match=r"^second: line 3: K_new overflowed the range"),
    ):
        training_step([first, huge], Settings(learning_rate=1e300, tau=0.1), 0)


def test_a_coefficient_step_remembers() -> None:
    """Momentum of S grows while the bases stay: (1 + β)∇_S after two steps, and their number is counted."""
    one, _ = layer()
    settings = Settings(learning_rate=0.0, tau=0.0, coefficient_steps=2, optimizer=HeavyBall(0.5))
    first = run(one, settings, 1)
    second = run(Layer(first.Y, one.gradients, first.moments, 11), settings, 2)
    assert second.moments.step == 2
    assert second.moments.first is not None
    assert np.array_equal(second.moments.first.S, 1.5 * one.gradients.dS)


@pytest.mark.parametrize("name", ["dK", "dL", "dS"])
def test_a_direction_that_overflows_is_named(name: str) -> None:
    one, _ = layer()
    size = {"dK": (14, 3), "dL": (11, 3), "dS": (3, 3)}
    huge = ProjectedGradients(**{g: np.zeros(shape) for g, shape in size.items()})
    getattr(huge, name)[0, 0] = 1.5e308
    settings = Settings(learning_rate=0.1, tau=0.1, optimizer=HeavyBall(0.9))
    first = Layer(
        one.Y,
        huge,
        HeavyBall(0.9).direction(
            Bases(one.Y.U, one.Y.V), Triple(huge.dK, huge.dL, huge.dS), Moments()
        )[1],
        11,
    )
    with (
        np.errstate(over="ignore"),
        pytest.raises(
            FloatingPointError, match=f"^optimizer: {name} overflowed the range of float64"
        ),
    ):
        run(first, settings)

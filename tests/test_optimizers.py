"""Optimizers with memory: what is independent of the gauge is so, and what is transported arrives."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest

from geolora_ref import LowRank, ProjectedGradients
from geolora_ref.optimizers import Adam, HeavyBall, Moments, NormalisedHeavyBall, Optimizer, Sgd, Triple
from geolora_ref.problems import Quadratic
from geolora_ref.training import Layer, Settings, training_step
from tests.steps import Matrix, ratio

RULES: dict[str, Optimizer] = {"sgd": Sgd(), "heavy ball": HeavyBall(0.8), "normalised": NormalisedHeavyBall(), "adam": Adam()}
SHAPE = (14, 11)
EPS = float(np.finfo(float).eps)


class Forgetful(HeavyBall):
    """Keeps its memory in the coordinates of the old bases, as published code does."""

    def transport(self, moments: Moments, A: Matrix, B: Matrix) -> Moments:
        """Nothing is done."""
        return moments


def unitary(size: int, rng: np.random.Generator) -> Matrix:
    return np.asarray(np.linalg.qr(rng.standard_normal((size, size))).Q)


def overlap(size: int, old: int, new: int, rng: np.random.Generator) -> Matrix:
    """BᵀB₁ of two random bases with ``old`` and ``new`` columns of this length."""
    return unitary(size, rng)[:, :old].T @ unitary(size, rng)[:, :new]


def in_gauge(Y: LowRank, moments: Moments, rng: np.random.Generator) -> tuple[LowRank, Moments]:
    """The same state and the same memory in other coordinates."""
    Q1, Q2 = unitary(Y.rank, rng), unitary(Y.rank, rng)
    first = moments.first and Triple(moments.first.K @ Q2, moments.first.L @ Q1, Q1.T @ moments.first.S @ Q2)
    return Y.change_gauge(Q1, Q2), replace(moments, first=first)


def trajectory(rule: Optimizer, steps: int, seed: int, *, regauge: bool) -> list[Matrix]:
    """W of every step on a quadratic; at rank 4 always, so that no rank decision can differ."""
    rng = np.random.default_rng(seed)
    problem = Quadratic.random(SHAPE, spectrum=[1.0, 0.7, 0.5, 0.4, 0.2], rng=rng)
    Y, moments = LowRank.random(SHAPE, [1.0, 0.9, 0.3, 0.2], rng), Moments()
    settings = Settings(learning_rate=0.05, tau=0.0, max_rank=4, optimizer=rule)
    dense = []
    for k in range(steps):
        if regauge:
            Y, moments = in_gauge(Y, moments, rng)
        gradients = ProjectedGradients.from_dense(Y, problem.gradient(Y.full()))
        (step,) = training_step([Layer(Y, gradients, moments, 4)], settings, k)
        Y, moments = step.Y, step.moments
        dense.append(Y.full())
    return dense


@pytest.mark.parametrize("seed", range(5))
def test_gauge_independence(seed: int) -> None:
    """Heavy ball and its normalised form; errors of 12 steps, each amplified by the gap of the truncation at most 1/gap."""
    for name in ("sgd", "heavy ball", "normalised"):
        plain, turned = (trajectory(RULES[name], 12, seed, regauge=regauge) for regauge in (False, True))
        worst = max(float(np.linalg.norm(a - b)) for a, b in zip(plain, turned, strict=True))
        assert worst < 1e-9, name


def test_adam_depends_on_the_gauge() -> None:
    """The negative control of the test above, and a fact that the documentation states."""
    plain, turned = (trajectory(RULES["adam"], 12, 3, regauge=regauge) for regauge in (False, True))
    assert float(np.linalg.norm(plain[-1] - turned[-1])) > 1e-3


def test_a_memory_that_is_not_transported_is_caught_by_a_change_of_gauge() -> None:
    plain, turned = (trajectory(Forgetful(0.8), 12, 3, regauge=regauge) for regauge in (False, True))
    # The change of gauge moves the memory along by hand; what the rule itself forgot shows against the transported one.
    right = trajectory(HeavyBall(0.8), 12, 3, regauge=False)
    assert float(np.linalg.norm(plain[-1] - right[-1])) > 1e-2
    assert float(np.linalg.norm(turned[-1] - right[-1])) > 1e-2


@pytest.mark.parametrize(("rule", "passes"), [(HeavyBall(0.8), True), (Forgetful(0.8), False)])
def test_the_ambient_moment_is_projected_on_the_new_bases(rule: Optimizer, passes: bool) -> None:
    """M_K Vᴴ before and after: after the step it is M_K Vᴴ V₁ V₁ᴴ, and unchanged where range(V₁) contains range(V)."""
    rng = np.random.default_rng(0)
    Y = LowRank.random(SHAPE, [1.0, 0.5, 0.2], rng)
    gradients = ProjectedGradients.from_dense(Y, rng.standard_normal(SHAPE))
    settings = Settings(learning_rate=0.1, tau=0.0, optimizer=rule)
    (step,) = training_step([Layer(Y, gradients, Moments(), 6)], settings, 0)
    assert step.Y.rank == 6
    first = step.moments.first
    assert first is not None
    agree = []
    for moved, old, bases in ((first.K, gradients.dK, (step.Y.V, Y.V)), (first.L, gradients.dL, (step.Y.U, Y.U))):
        if moved.shape[1] != bases[0].shape[1]:
            agree.append(False)
            continue
        agree.append(ratio(np.linalg.norm(moved @ bases[0].T - old @ bases[1].T), np.linalg.norm(old), SHAPE, EPS) < 30)
    assert agree == [passes, passes]


def test_a_zero_gradient_step_moves_along_the_remembered_direction_only() -> None:
    """After one step and with a zero gradient, heavy ball moves W by −λβ P(W)M with the ambient M of the step before."""
    rng = np.random.default_rng(1)
    Y, rule, rate = LowRank.random(SHAPE, [1.0, 0.5, 0.2], rng), HeavyBall(0.8), 0.1
    G = rng.standard_normal(SHAPE)
    settings = Settings(learning_rate=rate, tau=0.0, optimizer=rule)
    (step,) = training_step([Layer(Y, ProjectedGradients.from_dense(Y, G), Moments(), 6)], settings, 0)
    zero = ProjectedGradients.from_dense(step.Y, np.zeros(SHAPE))
    (second,) = training_step([Layer(step.Y, zero, step.moments, 11)], settings, 1)
    P_U, P_V, in_U, in_V = (B @ B.T for B in (step.Y.U, step.Y.V, Y.U, Y.V))
    moved = P_U @ in_U @ G @ in_V @ P_V + (np.eye(14) - P_U) @ G @ in_V @ P_V + P_U @ in_U @ G @ (np.eye(11) - P_V)
    expected = step.Y.full() - rate * 0.8 * moved
    assert ratio(np.linalg.norm(second.Y.full() - expected), np.linalg.norm(expected), SHAPE, EPS) < 30


@pytest.mark.parametrize("name", RULES)
def test_every_rule_descends(name: str) -> None:
    rng = np.random.default_rng(5)
    problem = Quadratic.random(SHAPE, spectrum=[1.0, 0.7, 0.5], rng=rng)
    Y, moments = LowRank.random(SHAPE, [0.0, 0.0, 0.0], rng), Moments()
    settings = Settings(learning_rate=0.05, tau=0.02, max_rank=6, optimizer=RULES[name])
    before = problem.loss(Y.full())
    for k in range(60):
        gradients = ProjectedGradients.from_dense(Y, problem.gradient(Y.full()))
        (step,) = training_step([Layer(Y, gradients, moments, 6)], settings, k)
        Y, moments = step.Y, step.moments
    assert problem.loss(Y.full()) < 0.2 * before
    assert moments.step == 60


def test_adam_is_adam() -> None:
    """Against the recursion written out for one entry."""
    rng = np.random.default_rng(0)
    rule, moments = Adam((0.8, 0.95), 1e-6), Moments()
    m = v = 0.0
    for t in range(1, 5):
        g = Triple(rng.standard_normal((4, 2)), rng.standard_normal((3, 2)), rng.standard_normal((2, 2)))
        direction, moments = rule.direction(g, moments)
        x = float(g.K[1, 0])
        m, v = 0.8 * m + 0.2 * x, 0.95 * v + 0.05 * x * x
        expected = m / (1 - 0.8**t) / ((v / (1 - 0.95**t)) ** 0.5 + 1e-6)
        assert float(direction.K[1, 0]) == pytest.approx(expected, rel=1e-13)


@pytest.mark.parametrize("complex_data", [False, True])
def test_normalised_is_normalised(complex_data: bool) -> None:
    """Against the recursion written out: one second moment a factor, the mean of |x|² over its entries."""
    rng = np.random.default_rng(0)

    def drawn(*shape: int) -> Any:
        return rng.standard_normal(shape) + (1j * rng.standard_normal(shape) if complex_data else 0.0)

    rule, moments = NormalisedHeavyBall((0.8, 0.95), 1e-6), Moments()
    m: Any = np.zeros((4, 2))
    v = 0.0
    for t in range(1, 5):
        g = Triple(drawn(4, 2), drawn(3, 2), drawn(2, 2))
        direction, moments = rule.direction(g, moments)
        m, v = 0.8 * m + 0.2 * g.K, 0.95 * v + 0.05 * float(np.mean(np.abs(g.K) ** 2))
        expected = m / (1 - 0.8**t) / ((v / (1 - 0.95**t)) ** 0.5 + 1e-6)
        np.testing.assert_allclose(direction.K, expected, rtol=1e-13)


NORMALISED: tuple[Any, ...] = (Adam, NormalisedHeavyBall)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: HeavyBall(-0.1), r"^momentum: expected a finite number >= 0, found -0\.1$"),
        (lambda: HeavyBall(float("nan")), "^momentum: expected a finite number >= 0, found nan$"),
        *[(partial(rule, betas=(0.9, 1.0)), "^betas: expected two numbers >= 0 and < 1") for rule in NORMALISED],
        *[(partial(rule, betas=(-0.1, 0.9)), "^betas: expected two numbers") for rule in NORMALISED],
        *[(partial(rule, betas=0.9), "^betas: expected two numbers") for rule in NORMALISED],
        *[(partial(rule, betas=(0.9,)), "^betas: expected two numbers") for rule in NORMALISED],
        *[(partial(rule, eps=-1e-8), "^eps: expected a finite number >= 0") for rule in NORMALISED],
    ],
)
def test_rules_out_of_range_are_refused(make: Callable[[], object], message: str, unchecked: None) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_numbers_are_kept_as_floats() -> None:
    """Scalars of NumPy would promote arrays of single precision."""
    half = np.float64(0.5)
    rules = HeavyBall(half), Adam((half, half), half), NormalisedHeavyBall((half, half), half)
    kept = [rules[0].momentum, *(x for rule in rules[1:] for x in (*rule.betas, rule.eps))]
    assert {type(x) for x in kept} == {float}


def test_the_defaults_are_those_of_the_literature() -> None:
    assert HeavyBall() == HeavyBall(momentum=0.9)
    assert Adam() == Adam(betas=(0.9, 0.999), eps=1e-8)
    assert NormalisedHeavyBall() == NormalisedHeavyBall(betas=(0.9, 0.999), eps=1e-8)


@pytest.mark.parametrize("rule", [Adam(), NormalisedHeavyBall(), HeavyBall(), Sgd()], ids=lambda rule: type(rule).__name__)
def test_transport_by_its_formula(rule: Optimizer) -> None:
    """First moments by A and B, second moments of Adam by weights that sum to 1, one number for each factor stays."""
    rng = np.random.default_rng(2)
    A, B = (overlap(5, 2, 3, rng) for _ in "AB")
    gradients = Triple(rng.standard_normal((5, 2)), rng.standard_normal((4, 2)), rng.standard_normal((2, 2)))
    _, moments = rule.direction(gradients, Moments())
    moved = rule.transport(moments, A, B)
    assert moved.step == moments.step == 1
    weights_A, weights_B = (X**2 + (1.0 - np.sum(X**2, axis=0)) / 2 for X in (A, B))
    for name, P, Q in (("first", A, B), ("second", weights_A, weights_B)):
        old, new = getattr(moments, name), getattr(moved, name)
        if old is None or np.ndim(old.S) == 0:
            assert new is old
            continue
        for found, expected in zip(new, (old.K @ Q, old.L @ P, P.T @ old.S @ Q), strict=True):
            np.testing.assert_allclose(found, expected, rtol=1e-14, atol=1e-16, err_msg=name)


def test_layers_are_transported_each_by_its_own_bases() -> None:
    rng = np.random.default_rng(3)
    A, B = (np.stack([overlap(6, 2, 3, rng) for _ in range(4)]) for _ in "AB")
    gradients = Triple(*(rng.standard_normal((4, *shape)) for shape in ((5, 2), (6, 2), (2, 2))))
    moments = Adam().direction(gradients, Moments())[1]
    stacked = Adam().transport(moments, A, B)
    for layer in range(4):
        one = Moments(1, *(Triple(*(X[layer] for X in of)) for of in (moments.first, moments.second) if of))
        alone = Adam().transport(one, A[layer], B[layer])
        for found, expected in ((stacked.first, alone.first), (stacked.second, alone.second)):
            assert found
            assert expected
            for X, Y in zip(found, expected, strict=True):
                np.testing.assert_allclose(X[layer], Y, rtol=1e-14, atol=1e-16)


def test_rounding_makes_no_second_moment_negative() -> None:
    """Columns of UᵀU₁ may be longer than 1 by a rounding error, of which nothing may arrive at the other directions."""
    one = Triple(np.array([[1.0, 0.0]]), np.array([[1.0, 0.0]]), np.diag([1.0, 0.0]))
    turned = (1.0 + 4.0 * EPS) * np.eye(2)
    second = Adam().transport(Moments(1, one, one), turned, turned).second
    assert second
    assert all(np.min(X) >= 0.0 for X in second)


class Leaking(Adam):
    """Second moments move by the squared entries alone: nothing stands for what lies outside the old bases."""

    def transport(self, moments: Moments, A: Matrix, B: Matrix) -> Moments:
        """Weights that sum to less than 1."""
        second = moments.second
        assert second is not None
        leaked = Triple(second.K @ B**2, second.L @ A**2, (A**2).T @ second.S @ B**2)
        return replace(super().transport(moments, A, B), second=leaked)


def length_of_steps(rule: Optimizer, turn: float) -> float:
    """Root mean square of the directions after 200 steps with gradients of entries ±1, the bases turning outwards each time."""
    rng, moments = np.random.default_rng(4), Moments()
    A = np.sqrt(1.0 - turn) * np.eye(3)
    for _ in range(200):
        signs = (rng.choice([-1.0, 1.0], shape) for shape in ((60, 3), (50, 3), (3, 3)))
        directions, moments = rule.direction(Triple(*signs), moments)
        moments = rule.transport(moments, A, A)
    return float(np.sqrt(np.mean(np.square(directions.K))))


@pytest.mark.parametrize(("rule", "passes"), [(Adam(), True), (Leaking(), False)])
def test_bases_that_turn_do_not_lengthen_the_steps(rule: Optimizer, passes: bool) -> None:
    """Where every direction is alike, v is the same in all coordinates; if a share d leaks away at each step, v is too small."""
    resting, turning = length_of_steps(rule, 0.0), length_of_steps(rule, 0.05)
    assert (turning <= 1.01 * resting) == passes
    # Leaking, v tends to (1 − β₂)/(1 − β₂(1 − d)) = 0.02 where 1 − β₂²⁰⁰ = 0.18 is expected; momentum loses less than that.
    assert passes or turning > 1.5 * resting


def test_equal_second_moments_stay_equal() -> None:
    """Also into more directions, into fewer, and into some that have nothing of the old ones; and never below zero."""
    rng = np.random.default_rng(6)
    for old, new in ((3, 5), (5, 3), (4, 4)):
        A, B = (overlap(12, old, new, rng) for _ in "AB")
        A[:, -1] = 0.0
        ones = Triple(np.ones((7, old)), np.ones((6, old)), np.ones((old, old)))
        second = Adam().transport(Moments(1, ones, ones), A, B).second
        assert second is not None
        for moved in second:
            np.testing.assert_allclose(moved, 1.0, rtol=1e-14)
    exact = unitary(4, rng)
    tiny = Triple(*(np.zeros((4, 4)) for _ in "KLS"))
    for X in tiny:
        X[:, 0] = 1.0
    second = Adam().transport(Moments(1, tiny, tiny), exact, (1.0 + 1e-14) * exact).second
    assert second is not None
    assert all(np.all(X >= 0.0) for X in second)


def test_memory_without_second_moments_is_moved_as_it_is() -> None:
    """Before the first step nothing is remembered, and nothing is moved."""
    A = B = np.eye(2)
    assert all(
        rule.transport(Moments(), A, B) == Moments() or rule.transport(Moments(), A, B).step == 0 for rule in RULES.values()
    )


def remembering(rule: Optimizer, steps: int = 5) -> Moments:
    """What a rule knows after some random gradients."""
    rng, moments = np.random.default_rng(6), Moments()
    for _ in range(steps):
        _, moments = rule.direction(Triple(*(rng.standard_normal((size, 3)) for size in (5, 4, 3))), moments)
    return moments


@pytest.mark.parametrize("after", RULES)
@pytest.mark.parametrize("before", RULES)
def test_a_rule_begins_anew_from_the_memory_of_another(before: str, after: str) -> None:
    """Adam would take a sum of gradients for their mean, and divide it by what one gradient says of the squares of all."""
    gradients = Triple(*(np.random.default_rng(7).standard_normal((size, 3)) for size in (5, 4, 3)))
    found, memory = RULES[after].direction(gradients, remembering(RULES[before]))
    anew, expected = RULES[after].direction(gradients, Moments())
    same = all(np.array_equal(a, b) for a, b in zip(found, anew, strict=True))
    assert same == (before != after or after == "sgd")
    for kept, wanted in ((memory.first, expected.first), (memory.second, expected.second)):
        assert (kept is None) == (wanted is None)
        assert kept is None or wanted is None or [X.shape for X in kept] == [X.shape for X in wanted]


def test_a_rule_with_other_weights_goes_on() -> None:
    """A schedule of momentum is no other rule."""
    gradients = Triple(*(np.ones((size, 3)) for size in (5, 4, 3)))
    for before, after in ((Adam(), Adam((0.5, 0.9))), (HeavyBall(0.9), HeavyBall(0.5))):
        assert after.direction(gradients, remembering(before))[1].step == 6

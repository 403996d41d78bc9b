"""Every problem is what its text says, and every check of a problem can fail."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from typing import Any, cast

import numpy as np
import pytest
from numpy.linalg import norm

from geolora_ref import LowRank, tangent_projection
from geolora_ref.problems import (
    AllenCahn,
    GradientFlow,
    KochLubich,
    Lyapunov,
    MatrixCompletion,
    MatrixODE,
    MatrixSensing,
    Quadratic,
    RankPreservingLinear,
    RankPreservingRiccati,
    Riccati,
    RotatingExponential,
    Saddle,
    Schroedinger,
    SoftmaxRegression,
    TwoLayerLinear,
    VlasovPoisson,
)
from geolora_ref.problems.problem import Matrix
from geolora_ref.problems.self_test import (
    Check,
    check_gradient,
    check_minimum,
    check_solution,
    self_test,
)
from tests.nightly import NIGHTLY

pytestmark = pytest.mark.usefixtures("module_unchecked")

SPECTRUM = [1.0, 0.5, 0.1]


def _samples(rng: np.random.Generator) -> tuple[Matrix, Matrix]:
    """40 samples of 6 nonnegative features in 4 classes."""
    return np.abs(rng.standard_normal((40, 6))), rng.permutation(np.arange(40) % 4)


PROBLEMS: dict[str, Callable[[np.random.Generator], MatrixODE]] = {
    "quadratic": lambda rng: Quadratic.random((7, 5), SPECTRUM, rng),
    "ill-conditioned quadratic": lambda rng: Quadratic.random(
        (7, 5), SPECTRUM, rng, curvature=(1e-3, 1.0)
    ),
    "sensing": lambda rng: MatrixSensing.planted((5, 4), SPECTRUM, 60, rng),
    "sensing, too few measurements": lambda rng: MatrixSensing.planted((5, 4), SPECTRUM, 12, rng),
    "completion": lambda rng: MatrixCompletion.planted((7, 5), SPECTRUM, 0.6, rng),
    "completion of all entries": lambda rng: MatrixCompletion.planted((7, 5), SPECTRUM, 1.0, rng),
    "softmax": lambda rng: SoftmaxRegression(*_samples(rng)),
    "softmax with ridge": lambda rng: SoftmaxRegression(*_samples(rng), ridge=0.1),
    "Riccati": lambda rng: RankPreservingRiccati.random((7, 5), rng),
    "Riccati with a source": lambda rng: RankPreservingRiccati.random((7, 5), rng, epsilon=0.1),
    "linear": lambda rng: RankPreservingLinear.random((7, 5), rng),
    "saddle": lambda rng: Saddle([3.0, 2.0, 1.5, 1.0, 0.5, 0.2, 0.1], 5, rng),
    "rotating exponential": lambda rng: RotatingExponential.random(12, rng),
    "rotating exponential of rank 4": lambda rng: RotatingExponential.random(
        12, rng, base=10.0, rank=4
    ),
    "Koch–Lubich": lambda rng: KochLubich(14, 1e-1, rng),
    "Schrödinger": lambda rng: Schroedinger(12, rng),
    "Lyapunov": lambda rng: Lyapunov(12, [1.0, 0.1], rng),
    "optimal control": lambda rng: Riccati(20),
    "Allen–Cahn": lambda rng: AllenCahn(12),
    "Landau damping": lambda rng: VlasovPoisson.landau_damping(shape=(16, 24)),
    "two streams": lambda rng: VlasovPoisson.two_stream(shape=(16, 24)),
}


def _failed(problem: MatrixODE) -> set[str]:
    """The names of the checks that a problem fails."""
    return {
        check.name for check in self_test(problem, np.random.default_rng(1)) if not check.passed
    }


@pytest.mark.parametrize("make", PROBLEMS.values(), ids=PROBLEMS)
@pytest.mark.parametrize("seed", [0, 1] if NIGHTLY else [0])
def test_a_problem_is_what_its_text_says(
    make: Callable[[np.random.Generator], MatrixODE], seed: int
) -> None:
    rng = np.random.default_rng(seed)
    checks = self_test(make(rng), rng)
    assert all(check.passed for check in checks), checks


EXPECTED = {
    "quadratic": 11,
    "sensing": 11,
    "completion": 10,
    "softmax": 9,
    "saddle": 7,
    "Riccati": 4,
    "linear": 8,
    "Schrödinger": 10,
    "Lyapunov": 8,
    "optimal control": 4,
    "Allen–Cahn": 8,
    "Landau damping": 6,
    "rotating exponential": 9,
}


@pytest.mark.parametrize(("name", "count"), EXPECTED.items())
def test_every_check_that_applies_is_run(name: str, count: int) -> None:
    """Actions, solution, ℓ, μ and L* with that they are attained, invariants, gradient, starts,
    dtype, as far as there are.
    """
    rng = np.random.default_rng(0)
    checks = self_test(PROBLEMS[name](rng), rng)
    assert len({check.name for check in checks}) == len(checks) == count


def test_a_random_riccati_field_has_the_norms_that_its_text_says() -> None:
    problem = RankPreservingRiccati.random((5, 4), np.random.default_rng(0))
    norms = [np.linalg.norm(X, 2) for X in (problem.A, problem.B, problem.M)] + [
        np.linalg.norm(problem.C)
    ]
    assert norms == pytest.approx([1.0, 1.0, 0.5, 1.0], rel=1e-14)


def test_completion_is_the_mean_over_the_known_entries() -> None:
    """L(W) = ½ ‖Ω ∘ (W − M)‖² / |Ω| with |Ω| = 3 and errors 1, 2, 2, and one outside the mask."""
    problem = MatrixCompletion(np.zeros((2, 2)), np.array([[True, True], [True, False]]))
    W = np.array([[1.0, 2.0], [2.0, 5.0]])
    assert problem.loss(W) == pytest.approx(1.5, rel=1e-15)
    assert np.allclose(
        problem.gradient(W), np.array([[1.0, 2.0], [2.0, 0.0]]) / 3.0, rtol=1e-15, atol=0.0
    )


def test_as_many_measurements_as_entries_make_sensing_strongly_convex() -> None:
    """Each entry of a 2 x 2 matrix measured once: H = I/4; one less, and one direction is free."""
    measurements = np.eye(4).reshape(4, 2, 2)
    assert MatrixSensing(measurements, np.zeros(4)).strong_convexity == pytest.approx(
        0.25, rel=1e-15
    )
    assert MatrixSensing(measurements[1:], np.zeros(3)).strong_convexity == 0.0


def test_digits_name_the_extra_that_has_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'geolora-ref\[verify\]'"):
        SoftmaxRegression.digits()


def test_digits_are_what_they_should_be() -> None:
    pytest.importorskip(
        "sklearn", reason="the digits ship inside scikit-learn, which is not installed"
    )
    digits = SoftmaxRegression.digits()
    assert (digits.shape, digits.count) == ((10, 64), 1797)
    assert _failed(digits) == set()


class Rotation(MatrixODE):
    """Ẏ = JY, J a quarter turn of the first two rows."""

    lipschitz = 1.0
    one_sided_lipschitz = 0.0

    def __init__(self, m: int, n: int) -> None:
        self.shape, self.J = (m, n), np.zeros((m, m))
        self.J[0, 1], self.J[1, 0] = -1.0, 1.0

    def field(self, t: float, Y: Matrix) -> Matrix:
        return np.asarray(self.J @ Y)

    def invariants(self, Y: Matrix) -> dict[str, float]:
        return {"norm": float(np.sum(Y * Y))}


class Leak(Rotation):
    """Keeps its norm at t = 0 only."""

    def field(self, t: float, Y: Matrix) -> Matrix:
        return super().field(t, Y) - t * Y


class Growing(MatrixODE):
    """Ẏ = (1 + 9t)Y, whose ℓ and μ are 1 at t = 0 only."""

    shape, lipschitz, one_sided_lipschitz = (5, 4), 1.0, 1.0

    def field(self, t: float, Y: Matrix) -> Matrix:
        return np.asarray((1.0 + 9.0 * t) * Y)


class Steep(MatrixODE):
    """Ẏ = sY for a large |s|."""

    shape = (5, 4)

    def __init__(self, slope: float, one_sided: float) -> None:
        self.slope, self.lipschitz, self.one_sided_lipschitz = slope, abs(slope), one_sided

    def field(self, t: float, Y: Matrix) -> Matrix:
        return np.asarray(self.slope * Y)


class LinearLoss(GradientFlow):
    """L(W) = ⟨C, W⟩: ℓ = μ = 0, no minimum."""

    shape, lipschitz, one_sided_lipschitz, minimum = (5, 4), 0.0, 0.0, -np.inf
    C = np.random.default_rng(0).standard_normal((5, 4))

    def loss(self, W: Matrix) -> float:
        return float(np.sum(self.C * W))

    def gradient(self, W: Matrix) -> Matrix:
        return self.C


class WrongLinearGradient(LinearLoss):
    """Twice the gradient of its loss."""

    def gradient(self, W: Matrix) -> Matrix:
        return 2.0 * self.C


def test_small_problems_and_those_without_curvature_are_tested_too() -> None:
    for shape in ((2, 2), (2, 5), (5, 4)):
        assert _failed(Rotation(*shape)) == set()
    assert _failed(RotatingExponential.random(2, np.random.default_rng(0))) == set()
    assert _failed(LinearLoss()) == set()
    assert _failed(WrongLinearGradient()) == {"gradient: Taylor slope 2"}


@pytest.mark.parametrize("slope", [-1000.0, 1000.0])
def test_a_one_sided_constant_of_any_size_is_tested(slope: float) -> None:
    assert _failed(Steep(slope, slope)) == set()
    assert _failed(Steep(slope, slope - 20.0)) == {"one-sided constant: never violated"}
    assert _failed(Steep(slope, slope + 1500.0)) == {"one-sided constant: attained"}


def test_what_is_stated_for_every_time_is_not_tested_at_0_alone() -> None:
    assert _failed(Growing()) == {
        "one-sided constant: never violated",
        "Lipschitz constant: never violated",
    }
    assert _failed(Leak(5, 4)) == {"invariant: norm", "Lipschitz constant: never violated"}


# --- every check can fail -------------------------------------------------------------------------


class WrongGradient(Quadratic):
    """A gradient without the factor ½ of the loss: twice too large (the loss is as it was)."""

    def gradient(self, W: Matrix) -> Matrix:
        return 2.0 * super().gradient(W)

    def loss(self, W: Matrix) -> float:
        return super().loss(W) / 2.0


class TransposedGradient(Quadratic):
    """H₂ where H₁ belongs."""

    def gradient(self, W: Matrix) -> Matrix:
        return np.asarray(self.H2 @ (W - self.A) @ self.H1)

    def loss(self, W: Matrix) -> float:
        return 0.5 * float(np.sum((W - self.A) * (self.H1 @ (W - self.A) @ self.H2)))


class WrongSolution(Quadratic):
    """It relaxes 0.1 % too fast."""

    def solution(self, t: float, Y0: Matrix) -> Matrix:
        return super().solution(1.001 * t, Y0)


class WrongStart(Quadratic):
    """The flow from another initial value."""

    def solution(self, t: float, Y0: Matrix) -> Matrix:
        return super().solution(t + 1e-3, Y0)


class WrongLater(Quadratic):
    """A solution that stands still from 0.8 on."""

    def solution(self, t: float, Y0: Matrix) -> Matrix:
        return super().solution(min(t, 0.8), Y0)


class ConstantInvariant(Quadratic):
    """An invariant that says nothing."""

    def invariants(self, Y: Matrix) -> dict[str, float]:
        return {"one": 1.0}


class WrongInitial(Quadratic):
    """An initial value of rank 1, whatever is requested."""

    def initial(self, spectrum: Any, rng: np.random.Generator) -> LowRank:
        return LowRank.random(self.shape, spectrum[:1], rng)


class WrongCurvature(RankPreservingLinear):
    """A field with a quadratic term that its constants do not know."""

    def field(self, t: float, Y: Matrix) -> Matrix:
        return np.asarray(super().field(t, Y) + Y @ Y.T @ Y)


def _quadratic(kind: type[Quadratic] = Quadratic, **attributes: float) -> Quadratic:
    """A square quadratic problem, of another class or with other constants than the right ones."""
    problem = kind.random((5, 5), SPECTRUM, np.random.default_rng(0))
    for name, factor in attributes.items():
        setattr(problem, name, factor * getattr(problem, name))
    return problem


def test_the_right_quadratic_passes() -> None:
    assert _failed(_quadratic()) == set()


GRADIENT, SOLUTION, INITIAL = (
    "gradient: Taylor slope 2",
    "solution: residual in its own equation",
    "initial value: rank and spectrum",
)
NEVER_VIOLATED, ATTAINED, ONE_SIDED, MINIMUM, REACHED = (
    "Lipschitz constant: never violated",
    "Lipschitz constant: attained",
    "one-sided constant: never violated",
    "minimum: never undercut",
    "minimum: attained",
)


@pytest.mark.parametrize(
    ("problem", "failed"),
    [
        (lambda: _quadratic(TransposedGradient), {GRADIENT, SOLUTION}),
        (lambda: _quadratic(WrongSolution), {SOLUTION}),
        (lambda: _quadratic(WrongStart), {SOLUTION}),
        (lambda: _quadratic(WrongLater), {SOLUTION}),
        (lambda: _quadratic(ConstantInvariant), {"invariant: one"}),
        (lambda: _quadratic(WrongInitial), {INITIAL}),
        (lambda: _quadratic(lipschitz=0.5), {NEVER_VIOLATED}),
        (lambda: _quadratic(lipschitz=2.1), {ATTAINED}),
        (lambda: _quadratic(one_sided_lipschitz=2.2), {ONE_SIDED}),
        (lambda: _quadratic(one_sided_lipschitz=0.0), {"one-sided constant: attained"}),
    ],
    ids=[
        "gradient",
        "solution",
        "start",
        "later",
        "constant",
        "initial value",
        "small ℓ",
        "loose ℓ",
        "small μ",
        "large μ",
    ],
)
def test_a_wrong_problem_is_rejected(problem: Callable[[], Quadratic], failed: set[str]) -> None:
    assert _failed(problem()) >= failed
    assert _failed(problem()) <= failed | {MINIMUM, REACHED}, (
        "only a wrong step size may spoil the descent as well"
    )


def test_a_gradient_with_a_wrong_factor_is_rejected() -> None:
    """Then the remainder falls like h, not like h²: the slope is 1."""
    for seed in range(10):
        check = check_gradient(
            _quadratic(WrongGradient), *np.random.default_rng(seed).standard_normal((2, 5, 5))
        )
        assert check.measured > 0.2
        assert not check.passed


def test_a_minimum_that_is_too_high_is_rejected() -> None:
    rng = np.random.default_rng(0)
    sensing = MatrixSensing(rng.standard_normal((40, 5, 4)), rng.standard_normal(40))
    assert sensing.minimum > 0.1, "noise: the measurements contradict each other"
    W = rng.standard_normal(sensing.shape)
    assert all(check.passed for check in check_minimum(sensing, W))
    sensing.minimum *= 1.0 + 1e-6
    assert not all(check.passed for check in check_minimum(sensing, W))
    sensing.minimum *= 0.99
    assert not all(check.passed for check in check_minimum(sensing, W)), (
        "too low: nothing tends to it"
    )


def test_an_unstable_field_violates_its_constants() -> None:
    assert {NEVER_VIOLATED, ONE_SIDED} <= _failed(
        WrongCurvature.random((5, 5), np.random.default_rng(0))
    )


def test_a_measurement_that_is_not_a_number_fails() -> None:
    assert not Check("a", math.nan, 1.0).passed
    assert Check("a", math.nan, 1.0).ratio == math.inf
    assert Check("a", 1.0, 1.0).passed


def test_a_gradient_that_is_slightly_off_is_rejected() -> None:
    class SlightlyWrong(WrongGradient):
        def gradient(self, W: Matrix) -> Matrix:
            return 1.01 * Quadratic.gradient(self, W)

        def loss(self, W: Matrix) -> float:
            return Quadratic.loss(self, W) / 1.01

    checks = [
        check_gradient(
            _quadratic(SlightlyWrong), *np.random.default_rng(s).standard_normal((2, 5, 5))
        )
        for s in range(10)
    ]
    assert not any(check.passed for check in checks)


def test_a_right_gradient_is_never_rejected() -> None:
    problem = SoftmaxRegression(*_samples(np.random.default_rng(0)))
    pairs = (
        np.random.default_rng(seed).standard_normal((2, *problem.shape)) for seed in range(300)
    )
    assert all(check_gradient(problem, W, D).passed for W, D in pairs)


def test_an_understated_constant_is_rejected_where_random_pairs_do_not_reach_it() -> None:
    problem = SoftmaxRegression(*_samples(np.random.default_rng(0)))
    problem.lipschitz /= 3.0
    assert _failed(problem) & {NEVER_VIOLATED, ATTAINED}


def test_a_negative_minimum_is_compared_like_any_other() -> None:
    class Shifted(Quadratic):
        def loss(self, W: Matrix) -> float:
            return super().loss(W) - 5.0

    problem, W = _quadratic(Shifted), np.ones((5, 5))
    problem.minimum = -5.0
    assert all(check.passed for check in check_minimum(problem, W))
    problem.minimum = -4.0
    assert not all(check.passed for check in check_minimum(problem, W))


# --- solutions and minima -------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name in PROBLEMS if "softmax" not in name])
def test_the_closed_form_agrees_with_the_integrator(name: str) -> None:
    """DOP853 at tolerance 1e-12 over a time of order 1, with growth at most e^{2.5}: 1e-9 leaves
    two digits of room.
    """
    rng = np.random.default_rng(0)
    problem = PROBLEMS[name](rng)
    Y0 = problem.initial([0.5, 1e-2, 1e-6], rng).full()
    closed, reference = problem.solution(0.7, Y0), problem.reference(0.7, Y0)
    assert norm(closed - reference) <= 1e-9 * norm(reference)
    np.testing.assert_array_equal(problem.reference(0.0, Y0), Y0)


@pytest.mark.parametrize("name", ["Riccati", "linear"])
def test_rank_preserving_flows_keep_the_rank(name: str) -> None:
    rng = np.random.default_rng(0)
    problem = PROBLEMS[name](rng)
    sigma = np.linalg.svd(
        problem.solution(1.0, problem.initial([1.0, 0.1], rng).full()), compute_uv=False
    )
    assert sigma[1] > 1e-3
    assert sigma[2] <= 1e-13 * sigma[0]


def test_the_source_of_the_riccati_flow_has_full_rank_and_norm_1() -> None:
    problem = RankPreservingRiccati.random((7, 5), np.random.default_rng(0), epsilon=0.1)
    assert norm(problem.C) == pytest.approx(1.0, rel=1e-14)
    assert np.linalg.matrix_rank(problem.C) == 5


def test_the_quadratic_has_the_spectrum_and_the_curvature_it_is_given() -> None:
    problem = Quadratic.random((7, 5), SPECTRUM, np.random.default_rng(0), curvature=(0.25, 2.0))
    np.testing.assert_allclose(
        np.linalg.svd(problem.A, compute_uv=False), [*SPECTRUM, 0.0, 0.0], atol=1e-14
    )
    assert problem.lipschitz == pytest.approx(4.0, rel=1e-12)
    assert problem.strong_convexity == pytest.approx(0.0625, rel=1e-12)
    assert problem.loss(problem.A) == problem.minimum == 0.0


@pytest.mark.parametrize(
    "name", [name for name in PROBLEMS if "softmax" not in name and "completion" not in name]
)
def test_gradient_flow_constants_agree(name: str) -> None:
    """μ = −(strong convexity), never above ℓ."""
    problem = PROBLEMS[name](np.random.default_rng(0))
    if isinstance(problem, GradientFlow):
        np.testing.assert_equal(problem.one_sided_lipschitz, -problem.strong_convexity)
    assert math.isnan(problem.lipschitz) or problem.one_sided_lipschitz <= problem.lipschitz


def test_planted_measurements_are_solved_by_the_plant() -> None:
    rng = np.random.default_rng(0)
    sensing = MatrixSensing.planted((5, 4), SPECTRUM, 60, rng)
    assert sensing.minimum <= 1e-28
    plant = sensing.solution(1e3, np.zeros((5, 4)))
    np.testing.assert_allclose(np.linalg.svd(plant, compute_uv=False), [*SPECTRUM, 0.0], atol=1e-12)


def test_the_lower_bound_of_the_softmax_minimum_is_tight() -> None:
    """With ridge it is within rounding of a loss that is attained; without it is 0."""
    rng = np.random.default_rng(0)
    X, labels = _samples(rng)
    assert SoftmaxRegression(X, labels).minimum == 0.0
    problem = SoftmaxRegression(X, labels, ridge=0.1)
    W = np.zeros(problem.shape)
    for _ in range(2000):
        W = W - problem.gradient(W) / problem.lipschitz
    assert problem.minimum <= problem.loss(W) <= problem.minimum + 1e-12
    assert (
        norm(problem.minimiser - W)
        <= (norm(problem.gradient(W)) + norm(problem.gradient(problem.minimiser))) / 0.1
    )
    assert norm(problem.gradient(problem.minimiser)) <= 1e-7
    with pytest.raises(
        ValueError, match="minimiser: expected a problem with a ridge ρ > 0, found ρ = 0"
    ):
        _ = SoftmaxRegression(X, labels).minimiser


# --- stochastic gradients -------------------------------------------------------------------------


def test_batch_variance_by_brute_force() -> None:
    """ς² = mean over all samples of ‖P(g_i − ∇L)‖², divided by the batch size."""
    rng = np.random.default_rng(0)
    problem = SoftmaxRegression(*_samples(rng), ridge=0.1)
    Y = LowRank.random(problem.shape, [1.0, 0.5], rng)
    W = Y.full()
    noise = [
        problem.batch_gradient(W, np.array([i])) - problem.gradient(W) for i in range(problem.count)
    ]
    exact = float(np.mean([norm(tangent_projection(Y, g)) ** 2 for g in noise])) / 8
    assert problem.batch_variance(W, Y.U, Y.V, 8) == pytest.approx(exact, rel=1e-12)
    dense = float(np.mean([norm(g) ** 2 for g in noise])) / 8
    assert exact < 0.99 * dense, "the projection matters"


def test_batch_gradients_are_unbiased() -> None:
    rng = np.random.default_rng(0)
    problem = SoftmaxRegression(*_samples(rng), ridge=0.1)
    W = rng.standard_normal(problem.shape)
    mean = np.mean([problem.batch_gradient(W, np.array([i])) for i in range(problem.count)], axis=0)
    assert norm(mean - problem.gradient(W)) <= 1e-14 * norm(W)
    assert norm(problem.batch_gradient(W, np.arange(40)) - problem.gradient(W)) <= 1e-14 * norm(W)


# --- the two-layer network ------------------------------------------------------------------------

Layers = tuple[Matrix, Matrix]


def _network(seed: int = 0) -> tuple[TwoLayerLinear, np.random.Generator]:
    rng = np.random.default_rng(seed)
    return TwoLayerLinear.planted((6, 5, 4), [1.0, 0.5], 20, rng), rng


def _layers(problem: TwoLayerLinear, rng: np.random.Generator, size: float = 1.0) -> Layers:
    first, second = (size * rng.standard_normal(shape) for shape in problem.shapes)
    return first, second


def _moved(W: Layers, D: Layers, t: float) -> Layers:
    return W[0] + t * D[0], W[1] + t * D[1]


def _inner(A: Layers, B: Layers) -> float:
    return float(sum(np.sum(a * b) for a, b in zip(A, B, strict=True)))


def _slope(remainder: Callable[[float], float]) -> float:
    """The exponent of h in a remainder, between h = 1/16 and 1/32."""
    return math.log2(abs(remainder(2.0**-4)) / abs(remainder(2.0**-5)))


def test_the_gradient_of_the_network_by_taylor() -> None:
    """L(W + hD) − L(W) − h⟨∇L, D⟩ falls like h²; with a gradient that is 1 % off it falls like h."""
    problem, rng = _network()
    W, D = _layers(problem, rng), _layers(problem, rng, 0.1)
    L0, derivative = problem.loss(*W), _inner(problem.gradient(*W), D)
    assert _slope(lambda h: problem.loss(*_moved(W, D, h)) - L0 - h * derivative) == pytest.approx(
        2.0, abs=0.1
    )
    assert _slope(lambda h: problem.loss(*_moved(W, D, h)) - L0 - 1.2 * h * derivative) < 1.5


def test_each_layer_has_its_own_gradient() -> None:
    problem, rng = _network()
    W = _layers(problem, rng)
    for layer in (0, 1):
        D = tuple(X if i == layer else 0.0 * X for i, X in enumerate(_layers(problem, rng)))
        gradient = problem.gradient(*W)
        h = 1e-5
        change = (problem.loss(*_moved(W, D, h)) - problem.loss(*_moved(W, D, -h))) / (2.0 * h)  # type: ignore[arg-type]
        assert change == pytest.approx(float(np.sum(gradient[layer] * D[layer])), rel=1e-7)


def _attained(problem: TwoLayerLinear, W: Layers, rng: np.random.Generator) -> float:
    """The largest curvature at a point, by power iteration on differences of the gradient."""
    D, size = _layers(problem, rng), 0.0
    for _ in range(60):
        length = math.sqrt(_inner(D, D))
        D = (D[0] / length, D[1] / length)
        up, down = (problem.gradient(*_moved(W, D, h)) for h in (1e-5, -1e-5))
        D = ((up[0] - down[0]) / 2e-5, (up[1] - down[1]) / 2e-5)
        size = math.sqrt(_inner(D, D))
    return size


@pytest.mark.parametrize("size", [0.1, 1.0, 5.0])
@pytest.mark.parametrize("length", [1e-3, 1.0])
def test_the_lipschitz_constant_of_a_segment(size: float, length: float) -> None:
    """Never below the curvature at a point of the segment nor below a quotient of gradients, and at
    most 10 times it.
    """
    problem, rng = _network()
    for _ in range(10):
        start = _layers(problem, rng, size)
        end = _moved(start, _layers(problem, rng, size), length)
        bound = problem.lipschitz_on(start, end)
        between = [
            _moved(start, (end[0] - start[0], end[1] - start[1]), t) for t in (0.0, 0.3, 0.5, 1.0)
        ]
        curvature = max(_attained(problem, W, rng) for W in between)
        change = [
            b - a for a, b in zip(problem.gradient(*start), problem.gradient(*end), strict=True)
        ]
        step = [b - a for a, b in zip(start, end, strict=True)]
        quotient = math.sqrt(
            sum(float(np.sum(X**2)) for X in change) / sum(float(np.sum(X**2)) for X in step)
        )
        assert max(curvature, quotient) <= bound * (1.0 + 1e-6)
        assert bound <= 10.0 * curvature


def test_the_lipschitz_constant_of_a_segment_between_two_minima() -> None:
    """½(w₂w₁)² from (0, 1) to (1, 0): the residual is 0 at both ends and ¼ between them, R₁ = R₂ = 1."""
    problem = TwoLayerLinear(np.eye(1), np.zeros((1, 1)), 1)
    zero, one = np.zeros((1, 1)), np.ones((1, 1))
    assert problem.lipschitz_on((zero, one), (one, zero)) == 1.0 + 1.0 + 0.25
    assert problem.lipschitz_on((one, one), (zero, 2.0 * one)) == 1.0 + 4.0 + 1.0 + 0.25, (
        "R₂ = 2, |w₂w₁| = 1 at the start"
    )


def test_the_planted_network_has_no_loss() -> None:
    problem, rng = _network()
    assert problem.minimum == 0.0
    assert norm(problem.X, 2) == pytest.approx(1.0, rel=1e-14)
    first, second = problem.initial([1.0, 0.5], rng)
    assert (first.shape, second.shape) == ((5, 6), (4, 5))
    assert np.linalg.matrix_rank(problem.Y) == 2


# --- bad input ------------------------------------------------------------------------------------

EYE, RNG = np.eye(3), np.random.default_rng(0)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: Quadratic(np.ones((3, 2)), np.eye(2), np.eye(2)),
            "^H1: expected a symmetric 3 x 3 matrix",
        ),
        (lambda: Quadratic(np.ones((3, 2)), EYE, EYE), "^H2: expected a symmetric 2 x 2 matrix"),
        (
            lambda: Quadratic(EYE, np.triu(np.ones((3, 3))), EYE),
            r"^H1: .* symmetric 3 x 3 matrix, found ‖H1 − H1ᵀ‖ = 2\.449",
        ),
        (
            lambda: Quadratic(EYE, 2.0 * EYE + 0.1 + 1e-9 * np.tri(3), EYE),
            "^H1: expected a symmetric",
        ),
        (
            lambda: Quadratic(EYE, EYE, np.nan * EYE),
            "^H2: expected finite entries, found 9 of 9 not finite",
        ),
        (
            lambda: Quadratic(EYE, EYE, np.diag([1.0, 0.0, 2.0])),
            "^H2: expected positive eigenvalues, found 0",
        ),
        (lambda: Quadratic(EYE, -EYE, EYE), "^H1: expected positive eigenvalues, found -1"),
        (
            lambda: RankPreservingRiccati(EYE, np.eye(2), np.ones((3, 2)), np.ones((3, 2))),
            r"^M: expected shape \(2, 3\)",
        ),
        (
            lambda: RankPreservingRiccati(EYE, np.eye(2), np.ones((2, 3)), EYE),
            r"^C: expected shape \(3, 2\)",
        ),
        (
            lambda: RankPreservingRiccati(np.ones((3, 2)), EYE, EYE, EYE),
            r"^A: expected shape \(3, 3\)",
        ),
        (lambda: RankPreservingLinear(np.ones((3, 2)), EYE), "^A: expected a square matrix"),
        (
            lambda: RankPreservingLinear(*[EYE + 0j] * 2),
            "^A: expected a real matrix, found complex128",
        ),
        (
            lambda: RankPreservingRiccati(EYE + 0j, EYE + 0j, EYE + 0j, EYE + 0j),
            "^A: expected a real matrix, found complex128",
        ),
        (lambda: Quadratic(*[EYE + 0j] * 3), "^A: expected a real matrix, found complex128"),
        (
            lambda: RankPreservingRiccati(np.nan * EYE, EYE, EYE, EYE),
            "^A: expected finite entries, found 9 of 9 not finite",
        ),
        (
            lambda: RankPreservingRiccati(EYE, EYE, EYE, np.full((3, 3), np.inf)),
            "^C: expected finite entries, found 9 of 9 not finite",
        ),
        (
            lambda: RankPreservingRiccati(EYE, EYE, EYE, EYE, np.nan),
            "^epsilon: expected a finite number >= 0, found nan$",
        ),
        (
            lambda: RankPreservingLinear(EYE, np.nan * EYE),
            "^B: expected finite entries, found 9 of 9 not finite",
        ),
        (
            lambda: RankPreservingLinear(EYE, np.ones(3)),
            r"^B: expected a matrix \(2 dimensions\), found shape \(3,\)",
        ),
        (lambda: MatrixSensing(EYE, np.ones(3)), r"^measurements, b: expected shapes \(N, m, n\)"),
        (
            lambda: MatrixSensing(np.ones((4, 3, 3)), np.ones(3)),
            r"^measurements, b: expected shapes \(N, m, n\)",
        ),
        (
            lambda: MatrixSensing(np.full((4, 3, 3), np.nan), np.ones(4)),
            "^measurements: expected finite entries, found 36 of 36 not finite",
        ),
        (
            lambda: MatrixSensing(np.ones((4, 3, 3)), np.full(4, np.nan)),
            "^b: expected finite entries, found 4 of 4 not finite",
        ),
        (
            lambda: MatrixSensing(np.ones((0, 3, 3)), np.ones(0)),
            r"^measurements, b: .* at least one, found \(0, 3, 3\)",
        ),
        (
            lambda: MatrixSensing.planted((3, 3), SPECTRUM, 0, RNG),
            "^count: expected an integer >= 1, found 0$",
        ),
        (
            lambda: MatrixCompletion(np.nan * EYE, EYE > 0),
            "^M: expected finite entries, found 9 of 9 not finite",
        ),
        (
            lambda: MatrixCompletion.planted((3, 3), SPECTRUM, 2.0, RNG),
            r"^fraction: expected a number > 0 and <= 1, found 2\.0$",
        ),
        (
            lambda: MatrixCompletion.planted((3, 3), SPECTRUM, 0.0, RNG),
            r"^fraction: expected a number > 0 and <= 1, found 0\.0$",
        ),
        (
            lambda: MatrixCompletion(EYE, np.ones((3, 2), dtype=bool)),
            "^mask: expected a boolean mask",
        ),
        (lambda: MatrixCompletion(EYE, EYE), "^mask: expected a boolean mask.*float64"),
        (
            lambda: MatrixCompletion(EYE, np.zeros((3, 3), dtype=bool)),
            "^mask: .*with a known entry",
        ),
        (
            lambda: SoftmaxRegression(np.ones(3), np.ones(3, dtype=int)),
            r"^X, labels: expected \(N, features\)",
        ),
        (
            lambda: SoftmaxRegression(EYE, np.ones(2, dtype=int)),
            r"^X, labels: expected \(N, features\)",
        ),
        (lambda: SoftmaxRegression(EYE, np.ones(3)), "^X, labels: .*N integer labels.*float64"),
        (
            lambda: SoftmaxRegression(EYE, np.arange(3), ridge=-1.0),
            "^ridge: expected a finite number >= 0, found -1",
        ),
        (
            lambda: SoftmaxRegression(EYE, np.arange(3), ridge=np.nan),
            "^ridge: expected a finite number >= 0, found nan",
        ),
        (
            lambda: SoftmaxRegression(EYE, np.arange(3) - 1),
            "^labels: expected at least one, of classes from 0, found -1",
        ),
        (lambda: TwoLayerLinear(EYE, np.ones((2, 4)), 2), r"^X, Y: expected \(p, N\) and \(q, N\)"),
        (lambda: TwoLayerLinear(EYE, np.ones(3), 2), r"^X, Y: expected \(p, N\) and \(q, N\)"),
        (
            lambda: TwoLayerLinear(np.nan * EYE, EYE, 2),
            "^X: expected finite entries, found 9 of 9 not finite$",
        ),
        (
            lambda: TwoLayerLinear(EYE.astype(int), EYE, 2),
            "^X: expected a real or complex floating dtype .*, found int64$",
        ),
        (
            lambda: MatrixCompletion(EYE + 0j, EYE > 0),
            "^M: expected a real matrix, found complex128$",
        ),
        (
            lambda: MatrixSensing(np.ones((2, 3, 3)) + 0j, np.ones(2) + 0j),
            "^measurements: expected a real matrix, found complex128$",
        ),
        (
            lambda: SoftmaxRegression(EYE + 0j, np.arange(3)),
            "^X: expected a real matrix, found complex128$",
        ),
    ],
)
def test_bad_input_is_refused(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("make", "n"),
    [
        (AllenCahn, 30),
        (Riccati, 30),
        (lambda n: Lyapunov(n, [1.0], np.random.default_rng(0)), 126),
        (lambda n: Schroedinger(n, np.random.default_rng(0)), 100),
        (lambda n: Saddle([3.0, 2.0, 1.0], n - 98, np.random.default_rng(0)), 100),
        (lambda n: KochLubich(n, 0.1, np.random.default_rng(0)), 100),
    ],
    ids=["Allen–Cahn", "Riccati", "Lyapunov", "Schrödinger", "saddle", "Koch–Lubich"],
)
def test_integers_of_NumPy_do_not_overflow(make: Callable[[Any], MatrixODE], n: int) -> None:
    """A size of 8 bits, whose multiples and squares have more."""
    found, expected = make(np.int8(n)), make(n)
    Y = np.random.default_rng(1).standard_normal(expected.shape)
    np.testing.assert_array_equal(found.field(0.1, Y), expected.field(0.1, Y))


def test_an_integration_that_fails_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """A solution that leaves the range in finite time: Ẏ = Y² blows up at t = 1."""
    problem = RankPreservingRiccati(
        np.zeros((1, 1)), np.zeros((1, 1)), np.ones((1, 1)), np.ones((1, 1)), epsilon=1e-9
    )
    with (
        pytest.raises(RuntimeError, match=r"^RankPreservingRiccati\.reference\(t=2\.0\): "),
        np.errstate(all="ignore"),
    ):
        problem.reference(2.0, np.ones((1, 1)))


def test_a_closed_form_does_not_pass_a_blow_up() -> None:
    """Ẏ = Y² from 1 ends at t = 1, backwards it never does; two equations that blow up together
    leave det Q positive.
    """
    one = np.ones((1, 1))
    problem = RankPreservingRiccati(0.0 * one, 0.0 * one, one, one)
    assert problem.solution(0.999, one)[0, 0] == pytest.approx(1000.0, rel=1e-10)
    assert problem.solution(-9.0, one)[0, 0] == pytest.approx(0.1, rel=1e-13)
    with pytest.raises(
        ValueError,
        match=r"^t: expected a time up to which there is a solution, found 2\.0; it ends near 1$",
    ):
        problem.solution(2.0, one)
    for speed, end in ((0.01, "100"), (100.0, r"0\.01")):
        with pytest.raises(ValueError, match=rf"it ends near {end}$"):
            RankPreservingRiccati(0.0 * one, 0.0 * one, speed * one, one).solution(2.0 / speed, one)
    zero = np.zeros((2, 2))
    with pytest.raises(ValueError, match=r"found 2\.0; it ends near 1$"):
        RankPreservingRiccati(zero, zero, np.eye(2), np.eye(2)).solution(2.0, np.eye(2))
    with pytest.raises(ValueError, match=r"found -2\.0; it ends near -1$"):
        problem.solution(-2.0, -one)


def test_a_large_start_is_not_near_a_blow_up_if_the_quadratic_part_is_small() -> None:
    """Ẏ = Y, and Ẏ = Y − cY², whose solutions are bounded."""
    one = np.ones((1, 1))
    for c in (0.0, 1e-12):
        found = RankPreservingRiccati(one, 0.0 * one, -c * one, one).solution(1.0, 1e10 * one)[0, 0]
        assert found == pytest.approx(math.e * 1e10 / (1.0 + c * 1e10 * (math.e - 1.0)), rel=1e-12)


def test_problems_keep_no_arrays_of_others() -> None:
    """Who changes his matrix afterwards would change the field, and not its constants."""
    rng = np.random.default_rng(0)
    given: list[Any] = [rng.standard_normal((4, 3)), np.eye(4), np.eye(3)]
    square: list[Any] = [rng.standard_normal(shape) for shape in ((4, 4), (3, 3), (3, 4), (4, 3))]
    data: list[Any] = [rng.standard_normal((6, 3)), np.arange(6) % 4]
    known: list[Any] = [rng.standard_normal((4, 3)), np.ones((4, 3), dtype=bool)]
    measured: list[Any] = [rng.standard_normal((5, 4, 3)), rng.standard_normal(5)]
    kinds: list[tuple[Any, list[Any]]] = [
        (Quadratic, given),
        (RankPreservingRiccati, square),
        (RankPreservingLinear, square[:2]),
        (SoftmaxRegression, data),
        (MatrixCompletion, known),
        (MatrixSensing, measured),
    ]
    skew: list[Any] = [X - X.T for X in rng.standard_normal((2, 3, 3))]
    turning, A = RotatingExponential(*skew), np.eye(3)
    turned = turning.field(0.5, A)
    layers: list[Any] = [rng.standard_normal((3, 5)), rng.standard_normal((2, 5))]
    network, weights = (
        TwoLayerLinear(layers[0], layers[1], 4),
        (rng.standard_normal((4, 3)), rng.standard_normal((2, 4))),
    )
    loss = network.loss(*weights)
    values: list[Any] = [np.array([1.0, 0.5]), np.array([3.0, 2.0])]
    heat, saddle, wide = Lyapunov(6, values[0], rng), Saddle(values[1], 1, rng), np.eye(6)
    heated, bound = heat.field(0.0, wide), saddle.lipschitz_on(np.ones((2, 1)), np.zeros((2, 1)))
    for X in (*skew, *layers, *values):
        X[...] = 0
    np.testing.assert_array_equal(heat.field(0.0, wide), heated)
    assert saddle.lipschitz_on(np.ones((2, 1)), np.zeros((2, 1))) == bound
    np.testing.assert_array_equal(turning.field(0.5, A), turned)
    assert network.loss(*weights) == loss
    W = rng.standard_normal((4, 3))
    for kind, arrays in kinds:
        problem = kind(*arrays)
        before = problem.field(0.0, W)
        for X in arrays:
            X[...] = 0
        np.testing.assert_array_equal(problem.field(0.0, W), before)
    start = rng.standard_normal((4, 3))
    assert problem.reference(0.0, start) is not start


def test_lists_are_arrays() -> None:
    X, labels, mask, counts = (
        cast(Any, given) for given in ([[1.0, 0.0], [0.0, 1.0]], [0, 1], [[True, False]], [[1, 0]])
    )
    assert SoftmaxRegression(X, labels).shape == (2, 2)
    assert MatrixCompletion(np.ones((1, 2)), mask).lipschitz == 1.0
    with pytest.raises(
        ValueError,
        match=r"^mask: expected a boolean mask of shape \(1, 2\) with a known entry, found int64",
    ):
        MatrixCompletion(np.ones((1, 2)), counts)


def test_problems_do_not_change_their_arguments() -> None:
    rng = np.random.default_rng(0)
    for make in PROBLEMS.values():
        problem = make(rng)
        Y0 = rng.standard_normal(problem.shape)
        before = Y0.copy()
        problem.field(0.0, Y0)
        problem.solution(0.01, Y0)
        np.testing.assert_array_equal(Y0, before)


def test_checks_of_a_solution_see_a_wrong_start_alone() -> None:
    """The residual cannot: the flow from another point is a solution too."""
    check = check_solution(_quadratic(WrongStart), np.random.default_rng(0).standard_normal((5, 5)))
    assert check.measured > 1e-4
    assert not check.passed

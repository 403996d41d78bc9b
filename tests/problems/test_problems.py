"""Every problem is what its text says, and every check of a problem can fail."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.linalg import norm

from geolora_ref import LowRank, tangent_projection
from geolora_ref.problems import (
    AllenCahn,
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


def _quadratic(kind: type[Quadratic] = Quadratic, **attributes: float) -> Quadratic:
    """A square quadratic problem, of another class or with other constants than the right ones."""
    problem = kind.random((5, 5), SPECTRUM, np.random.default_rng(0))
    for name, factor in attributes.items():
        setattr(problem, name, factor * getattr(problem, name))
    return problem


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


def test_a_measurement_that_is_not_a_number_fails() -> None:
    assert not Check("a", math.nan, 1.0).passed
    assert Check("a", math.nan, 1.0).ratio == math.inf
    assert Check("a", 1.0, 1.0).passed


def test_an_understated_constant_is_rejected_where_random_pairs_do_not_reach_it() -> None:
    problem = SoftmaxRegression(*_samples(np.random.default_rng(0)))
    problem.lipschitz /= 3.0
    assert _failed(problem) & {NEVER_VIOLATED, ATTAINED}


# --- solutions and minima -------------------------------------------------------------------------


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


def test_checks_of_a_solution_see_a_wrong_start_alone() -> None:
    """The residual cannot: the flow from another point is a solution too."""
    check = check_solution(_quadratic(WrongStart), np.random.default_rng(0).standard_normal((5, 5)))
    assert check.measured > 1e-4
    assert not check.passed

"""The matrix equations are what their texts say, beyond what every problem checks of itself, and
their checks can fail.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import scipy.linalg
from numpy.linalg import norm

from geolora_ref import LowRank
from geolora_ref.problems import (
    AllenCahn,
    FactoredODE,
    KochLubich,
    Lyapunov,
    MatrixODE,
    Product,
    RankPreservingLinear,
    RankPreservingRiccati,
    Riccati,
    RotatingExponential,
    Saddle,
    Schroedinger,
    TwoLayerLinear,
    VlasovPoisson,
)
from geolora_ref.problems.problem import Matrix
from geolora_ref.problems.self_test import self_test
from verification.claims.physics import dispersion_root

pytestmark = pytest.mark.usefixtures("module_unchecked")

NAN, ZERO = float("nan"), np.zeros((3, 3))
NUMBER: Any = 7.5
WORD: Any = "2"


def _rng() -> np.random.Generator:
    return np.random.default_rng(0)


def _failed(problem: MatrixODE) -> set[str]:
    return {
        check.name for check in self_test(problem, np.random.default_rng(1)) if not check.passed
    }


ACTIONS, SOLUTION, START = (
    "actions on columns: those of the dense field",
    "solution: residual in its own equation",
    "start: rank and spectrum",
)
DTYPE = "initial values: dtype of the problem"
NORM, ENERGY = "invariant: norm", "invariant: energy"
ONE_SIDED, ONE_SIDED_ATTAINED, NEVER_VIOLATED, ATTAINED = (
    "one-sided constant: never violated",
    "one-sided constant: attained",
    "Lipschitz constant: never violated",
    "Lipschitz constant: attained",
)

# --- defects that published codes had, and relatives of theirs ------------------------------------


class Unconjugated(Schroedinger):
    """An unconjugated transpose in the factored form."""

    def factored(self, t: float, Y: Product) -> Product:
        F = super().factored(t, Y)
        return Product(F.left, F.right.conj())


class Dissipative(Schroedinger):
    """The factor i is forgotten: heat instead of waves."""

    def field(self, t: float, Y: Matrix) -> Matrix:
        return -self.hamiltonian(Y)

    def factored(self, t: float, Y: Product) -> Product:
        F = super().factored(t, Y)
        return Product(-1j * F.left, F.right)


class OverwrittenStart(Schroedinger):
    """An initial value of many terms that is of rank 1: `=` for `+=`."""

    def start(self, rank: int) -> LowRank:
        Y = super().start(rank)
        S = np.zeros_like(Y.S)
        S[-1, -1] = Y.S[-1, -1]
        return LowRank(Y.U, S, Y.V)


class RealStart(Schroedinger):
    """In float64, which no step can begin from."""

    def start(self, rank: int) -> LowRank:
        return LowRank.random(self.shape, self.start_spectrum(rank), _rng())


class RealInitial(Schroedinger):
    """Random ones in float64."""

    def initial(self, spectrum: Any, rng: np.random.Generator) -> LowRank:
        return LowRank.random(self.shape, spectrum, rng)


class WrongVariable(AllenCahn):
    """x for y in the initial function."""

    def start_dense(self) -> Matrix:
        x = self.x[:, None] + 0.0 * self.x
        with np.errstate(divide="ignore", over="ignore"):
            wall = 1.0 + 2.0 * np.exp(np.abs(1.0 / np.sin(-0.5 * x)))
            return np.asarray(2.0 * np.exp(-(np.tan(x) ** 2)) * np.sin(x) ** 2 / wall)

    def start_spectrum(self, rank: int) -> Any:
        return np.sort(np.abs(np.linalg.eigvalsh(AllenCahn.start_dense(self))))[::-1][:rank]


class WrongSource(Lyapunov):
    """The closed form with the source's sign wrong: X∞ for −X∞."""

    def solution(self, t: float, Y0: Matrix) -> Matrix:
        free = super().solution(t, Y0) - super().solution(t, 0.0 * Y0)
        return np.asarray(free - super().solution(t, 0.0 * Y0))


class NoTranspose(Riccati):
    """A Riccati solution of another equation: the quadratic term is forgotten."""

    def field(self, t: float, Y: Matrix) -> Matrix:
        return np.asarray(super().field(t, Y) + Y @ Y)


class WrongSkew(RotatingExponential):
    """Ω₂ for Ω₂ᵀ in the derivative."""

    def field(self, t: float, Y: Matrix) -> Matrix:
        A = self.curve(t)
        return np.asarray(self.Omega1 @ A + A + A @ self.Omega2)


class LeakyVelocity(VlasovPoisson):
    """One-sided differences in v: not skew, so the norm is lost."""

    def field(self, t: float, Y: Matrix) -> Matrix:
        return super().field(t, Y) - 0.1 * (Y - np.roll(Y, 1, axis=1))


class NoAdjointAction(Lyapunov):
    """No number."""

    def apply_left(self, t: float, Y: Product, U: Matrix) -> Matrix:
        return NAN * super().apply_left(t, Y, U)


class NoFieldLater(Schroedinger):
    """No number for t > 0."""

    def field(self, t: float, Y: Matrix) -> Matrix:
        return super().field(t, Y) * (NAN if t > 0.0 else 1.0)

    def factored(self, t: float, Y: Product) -> Product:
        F = super().factored(t, Y)
        return Product(F.left * (NAN if t > 0.0 else 1.0), F.right)


class NoSolutionAtZero(Lyapunov):
    """No number at the start."""

    def solution(self, t: float, Y0: Matrix) -> Matrix:
        return super().solution(t, Y0) * (NAN if t == 0.0 else 1.0)


class NoNormElsewhere(Schroedinger):
    """Invariants that are numbers at the first call only."""

    calls = 0

    def invariants(self, Y: Matrix) -> dict[str, float]:
        self.calls += 1
        return {
            name: value if self.calls <= 3 else NAN for name, value in super().invariants(Y).items()
        }


def _detuned(problem: MatrixODE, **factors: float) -> MatrixODE:
    for name, factor in factors.items():
        setattr(problem, name, factor * getattr(problem, name))
    return problem


@pytest.mark.parametrize(
    ("make", "failed"),
    [
        (lambda: Unconjugated(12, _rng()), {ACTIONS}),
        (lambda: Dissipative(12, _rng()), {NORM, ENERGY}),
        (lambda: OverwrittenStart(12, _rng()), {START}),
        (lambda: RealStart(12, _rng()), {DTYPE}),
        (lambda: RealInitial(12, _rng()), {DTYPE}),
        (lambda: WrongVariable(12), {START}),
        (lambda: WrongSource(12, [1.0, 0.1], _rng()), {SOLUTION}),
        (lambda: NoTranspose(12), {SOLUTION, ACTIONS}),
        (lambda: WrongSkew.random(12, _rng()), {SOLUTION, ACTIONS}),
        (lambda: LeakyVelocity.landau_damping(shape=(16, 24)), {ACTIONS, NORM}),
        (lambda: NoAdjointAction(12, [1.0], _rng()), {ACTIONS}),
        (
            lambda: NoFieldLater(12, _rng()),
            {ACTIONS, ONE_SIDED, NEVER_VIOLATED, ATTAINED, NORM, ENERGY},
        ),
        (lambda: NoSolutionAtZero(12, [1.0], _rng()), {SOLUTION}),
        (lambda: NoNormElsewhere(12, _rng()), {NORM, ENERGY}),
        (lambda: _detuned(Schroedinger(12, _rng()), lipschitz=0.5), {NEVER_VIOLATED}),
        (lambda: _detuned(Schroedinger(12, _rng()), lipschitz=2.5), {ATTAINED}),
        (lambda: _detuned(Lyapunov(12, [1.0], _rng()), lipschitz=0.9), {NEVER_VIOLATED}),
        (lambda: _detuned(AllenCahn(12), one_sided_lipschitz=-1.0), {ONE_SIDED}),
        (
            lambda: _detuned(Saddle([3.0, 2.0, 1.0, 0.5], 2, _rng()), one_sided_lipschitz=0.9),
            {ONE_SIDED},
        ),
        (
            lambda: _detuned(Saddle([3.0, 2.0, 1.0, 0.5], 2, _rng()), one_sided_lipschitz=2.5),
            {ONE_SIDED_ATTAINED},
        ),
    ],
    ids=[
        "unconjugated",
        "factor i",
        "= for +=",
        "real start",
        "real initial value",
        "x for y",
        "sign of the source",
        "quadratic term",
        "Ω for Ωᵀ",
        "not skew",
        "no action",
        "no field later",
        "no solution at 0",
        "no invariant elsewhere",
        "small ℓ",
        "loose ℓ",
        "small ℓ of the heat equation",
        "small μ",
        "small μ of the saddle",
        "loose μ of the saddle",
    ],
)
def test_a_wrong_problem_is_rejected(make: Callable[[], MatrixODE], failed: set[str]) -> None:
    assert _failed(make()) >= failed


@pytest.mark.parametrize(
    "make",
    [
        lambda: Riccati(10),
        lambda: RankPreservingRiccati.random((9, 7), _rng()),
        lambda: RankPreservingRiccati.random((9, 7), _rng(), epsilon=0.3),
        lambda: RankPreservingLinear.random((9, 7), _rng()),
        lambda: Lyapunov(12, [1.0, 0.1], _rng()),
        lambda: Saddle([3.0, 2.0, 1.0, 0.5, 0.25], 3, _rng()),
    ],
    ids=["optimal control", "Riccati", "Riccati with a source", "linear", "Lyapunov", "saddle"],
)
def test_the_factored_form_is_the_field_for_complex_states_too(
    make: Callable[[], FactoredODE],
) -> None:
    """Y = P Qᴴ, so that a transpose for the conjugate one shows: the equations are real, their
    states need not be.
    """
    problem = make()
    (m, n), rng = problem.shape, _rng()
    P, Q, U, V = (
        rng.standard_normal(s) + 1j * rng.standard_normal(s)
        for s in ((m, 3), (n, 3), (m, 2), (n, 2))
    )
    Y = Product(P, Q)
    F = problem.field(0.3, Y.full())
    assert norm(problem.apply_right(0.3, Y, V) - F @ V) <= 1e-13 * norm(F) * norm(V)
    assert norm(problem.apply_left(0.3, Y, U) - F.conj().T @ U) <= 1e-13 * norm(F) * norm(U)


# --- each problem's own text ----------------------------------------------------------------------


def test_koch_lubich_has_the_stated_matrices() -> None:
    problem = KochLubich(14, 1e-3, _rng())
    assert [problem.T1[1, 0], problem.T1[0, 1]] == [1.0, -1.0]
    assert [problem.T2[1, 0], problem.T2[0, 1], problem.T2[2, 0], problem.T2[0, 2]] == [
        0.5,
        -0.5,
        1.0,
        -1.0,
    ]
    assert norm(problem.T1 + problem.T1.T) == norm(problem.T2 + problem.T2.T) == 0.0
    for A in (problem.A1, problem.A2):
        block, rest = A[:10, :10], A.copy()
        rest[:10, :10] = 0.0
        assert np.all((np.diag(block) >= 1.0) & (np.diag(block) <= 1.5 + 1e-3))
        assert 0.0 <= rest.min() <= rest.max() <= 1e-3
    expected = (
        scipy.linalg.expm(0.4 * problem.T1)
        @ (problem.A1 + np.exp(0.4) * problem.A2)
        @ scipy.linalg.expm(0.4 * problem.T2.T)
    )
    assert norm(problem.curve(0.4) - expected) <= 1e-12 * norm(expected)

    assert norm(problem.A1 - problem.A2) > 1.0, "two draws"


def test_the_hamiltonian_is_the_stated_one() -> None:
    problem = Schroedinger(8, _rng())
    D = np.eye(8) - 0.5 * (np.eye(8, k=1) + np.eye(8, k=-1))
    V = np.diag(1.0 - np.cos(2.0 * np.pi * np.arange(-4, 4) / 8))
    Y = np.random.default_rng(1).standard_normal((8, 8)) + 1j
    assert norm(problem.hamiltonian(Y) - (D @ Y + Y @ D.T + V @ Y @ V.T)) <= 1e-14 * norm(Y)
    assert norm(problem.field(0.0, Y) + 1j * problem.hamiltonian(Y)) == 0.0
    start = problem.start(4)
    assert problem.energy(start) == pytest.approx(
        problem.invariants(start.full())["energy"], rel=1e-13
    )


def test_the_steady_state_of_the_heat_equation() -> None:
    """For t → ∞ X = −Z with AZ + ZAᵀ = C, by scipy's solver; and the factored solution is the dense one."""
    problem = Lyapunov(20, [1.0, 0.3], _rng())
    A, C = problem.A(np.eye(20)), (problem.G * problem.source) @ problem.G.T
    steady = -scipy.linalg.solve_continuous_lyapunov(A, C)
    assert norm(problem.solution(1e3, np.ones((20, 20))) - steady) <= 1e-12 * norm(steady)
    np.testing.assert_allclose(np.linalg.eigvalsh(A)[::-1], problem.eigenvalues, rtol=1e-12)
    np.testing.assert_allclose(np.linalg.svd(C, compute_uv=False)[:3], [1.0, 0.3, 0.0], atol=1e-14)
    Y0 = problem.smooth_initial([1.0, 1e-3], _rng())
    assert norm(problem.smooth_solution(0.7, Y0).full() - problem.solution(0.7, Y0.full())) <= 1e-13


def test_the_operator_of_the_riccati_equation() -> None:
    """A applied to sin πx approximates (α u')' − u with α = 2 + cos 2πx, with an error of O(h²)."""
    errors = []
    for m in (40, 80):
        x = np.arange(1, m + 1) / (m + 1)
        u, du, ddu = np.sin(np.pi * x), np.pi * np.cos(np.pi * x), -(np.pi**2) * np.sin(np.pi * x)
        exact = (2.0 + np.cos(2 * np.pi * x)) * ddu - 2 * np.pi * np.sin(2 * np.pi * x) * du - u
        errors.append(float(np.max(np.abs(Riccati(m).A @ u - exact))))
    assert np.log2(errors[0] / errors[1]) == pytest.approx(2.0, abs=0.1)


def test_the_riccati_equation_has_no_solution_after_its_end() -> None:
    """From X(0) = −5000 I it blows up at t = 2.0095e-4; so does what is integrated."""
    problem, start = Riccati(6), -5000.0 * np.eye(6)
    inside, outside = 2.00e-4, 2.02e-4
    reference = problem.reference(inside, start)
    assert norm(problem.solution(inside, start) - reference) <= 1e-8 * norm(reference)
    with pytest.raises(
        ValueError,
        match=r"^t: expected a time up to which there is a solution from this X\(0\), found 0\.000202$",
    ):
        problem.solution(outside, start)
    with pytest.raises(RuntimeError, match=r"^Riccati\.reference"), np.errstate(all="ignore"):
        problem.reference(outside, start)
    U = np.linalg.qr(np.random.default_rng(0).standard_normal((6, 6))).Q
    product = LowRank(U, -5000.0 * np.eye(6), U).full()
    assert not np.array_equal(product, product.T)
    with pytest.raises(ValueError, match=r"^t: expected a time up to which there is a solution"):
        problem.solution(outside, product)


def test_lyapunovs_operator_is_the_second_derivative() -> None:
    """ν times that of sin(kx/2 + kπ/2) is −ν(k/2)² times it, up to (k dx)²/48; ν = 1 unless another
    one is given.
    """
    once, thrice = (
        Lyapunov(199, [], _rng(), **given).eigenvalues[:3] for given in ({}, {"diffusion": 3.0})
    )
    k = np.arange(1.0, 4.0)
    assert np.all(np.abs(once / -((k / 2.0) ** 2) - 1.0) <= 1.01 * (k * np.pi / 100.0) ** 2 / 48.0)
    assert np.allclose(thrice, 3.0 * once, rtol=1e-15, atol=0.0)


def test_the_dispersion_relation_gives_the_textbook_numbers() -> None:
    """Landau damping for k = ½ and 0.4 (standard tables), and a stable pair of beams for large k."""
    assert dispersion_root(0.5, (0.0,), 1.4 - 0.15j) == pytest.approx(1.4156 - 0.1533j, abs=1e-4)
    assert dispersion_root(0.4, (0.0,), 1.3 - 0.07j) == pytest.approx(1.2851 - 0.0661j, abs=1e-4)
    assert dispersion_root(0.2, (-2.4, 2.4), 0.3j).imag == pytest.approx(0.2258, abs=1e-4)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: RotatingExponential(np.eye(3), ZERO),
            r"^Omega1: expected a skew 3 x 3 matrix, found ‖Omega1 \+ Omega1ᵀ‖ = 3\.464e\+00$",
        ),
        (
            lambda: RotatingExponential(ZERO, ZERO[:2, :2]),
            "^Omega2: expected a skew 3 x 3 matrix, found shape",
        ),
        (
            lambda: RotatingExponential(ZERO, NAN * ZERO),
            "^Omega2: expected finite entries, found 9 of 9 not finite",
        ),
        (
            lambda: RotatingExponential(1j * ZERO, 1j * ZERO),
            "^Omega1: expected a real matrix, found complex128",
        ),
        (
            lambda: RotatingExponential(ZERO, ZERO, base=1.0),
            "^base: expected a finite number > 1, found 1",
        ),
        (
            lambda: RotatingExponential(ZERO, ZERO, base=NAN),
            "^base: expected a finite number > 1, found nan",
        ),
        (
            lambda: RotatingExponential(ZERO, ZERO, base=WORD),
            "^base: expected a finite number > 1, found '2'$",
        ),
        (
            lambda: RotatingExponential(ZERO, ZERO).start(4),
            r"^rank: expected at most min\(m, n\) = 3, found 4$",
        ),
        (
            lambda: RotatingExponential(ZERO, ZERO).start(0),
            "^rank: expected an integer >= 1, found 0$",
        ),
        (
            lambda: RotatingExponential(ZERO, ZERO, rank=2).start(3),
            "^rank: expected at most 2, the rank of A, found 3$",
        ),
        (
            lambda: Schroedinger(4, _rng()).start(5),
            r"^rank: expected at most min\(m, n\) = 4, found 5$",
        ),
        (
            lambda: VlasovPoisson.landau_damping(shape=(4, 6)).start(5),
            r"^rank: expected at most min\(m, n\) = 4, found 5$",
        ),
        (
            lambda: RotatingExponential(ZERO, ZERO, rank=4),
            "^rank: expected between 1 and n = 3, found 4",
        ),
        (lambda: KochLubich(9, 0.1, _rng()), "^n: expected an integer >= 10, found 9"),
        (lambda: KochLubich(NUMBER, 0.1, _rng()), r"^n: expected an integer >= 10, found 7\.5"),
        (lambda: KochLubich(10, NAN, _rng()), "^epsilon: expected a finite number >= 0, found nan"),
        (lambda: Schroedinger(7, _rng()), "^n: expected an even number, found 7"),
        (lambda: Schroedinger(0, _rng()), "^n: expected an integer >= 2, found 0"),
        (lambda: Schroedinger(NUMBER, _rng()), r"^n: expected an integer >= 2, found 7\.5"),
        (
            lambda: RotatingExponential(ZERO, ZERO, rank=NUMBER),
            r"^rank: expected an integer >= 1, found 7\.5",
        ),
        (lambda: Lyapunov(NUMBER, [1.0], _rng()), r"^n: expected an integer >= 1, found 7\.5"),
        (
            lambda: Lyapunov(6, [1.0] * 3, _rng()),
            "^source: expected at most n - 4 = 2 values, found 3",
        ),
        (
            lambda: Lyapunov(9, [1.0], _rng(), diffusion=0.0),
            r"^diffusion: expected a finite number > 0, found 0\.0",
        ),
        (
            lambda: Lyapunov(9, [1.0], _rng(), diffusion=NAN),
            "^diffusion: expected a finite number > 0, found nan",
        ),
        (lambda: Riccati(4), "^m: expected an integer >= 5, found 4"),
        (lambda: Riccati(NUMBER), r"^m: expected an integer >= 5, found 7\.5"),
        (lambda: AllenCahn(NUMBER), r"^n: expected an integer >= 3, found 7\.5"),
        (lambda: AllenCahn(2), "^n: expected an integer >= 3, found 2"),
        (lambda: AllenCahn(4, -1.0), r"^diffusion: expected a finite number >= 0, found -1\.0"),
        (lambda: AllenCahn(4, NAN), "^diffusion: expected a finite number >= 0, found nan"),
        (
            lambda: VlasovPoisson.landau_damping(shape=(15, 24)),
            "^shape: expected even numbers of points",
        ),
        (
            lambda: VlasovPoisson((4, 6), -1.0, 6.0, 0.1, 2.0 * np.pi, (0.0,)),
            r"^length: expected a finite number > 0, found -1\.0$",
        ),
        (
            lambda: VlasovPoisson((4, 0), 1.0, 6.0, 0.1, 2.0 * np.pi, (0.0,)),
            r"^shape\[1\]: expected an integer >= 2, found 0$",
        ),
        (
            lambda: VlasovPoisson((4, 6), 1.0, 0.0, 0.1, 2.0 * np.pi, (0.0,)),
            r"^v_max: expected a finite number > 0, found 0\.0$",
        ),
        (
            lambda: VlasovPoisson((4, 6), 1.0, 6.0, 0.1, 2.0 * np.pi, ()),
            "^beams: expected at least one velocity, found none$",
        ),
        (
            lambda: VlasovPoisson((4, 6), 1.0, 6.0, 0.1, 0.5, (0.0,)),
            "^k: expected a whole number of waves in the length 1, found 0",
        ),
        (
            lambda: VlasovPoisson((4, 6), 1.0, 6.0, NAN, 0.5, (0.0,)),
            "^alpha: expected a finite number, found nan$",
        ),
        (
            lambda: VlasovPoisson((4, 6), 1.0, 6.0, 0.1, 0.5, (NAN,)),
            r"^beams\[0\]: expected a finite number, found nan$",
        ),
        (
            lambda: VlasovPoisson((0, 6), 1.0, 6.0, 0.1, 0.5, (0.0,)),
            r"^shape\[0\]: expected an integer >= 2, found 0$",
        ),
        (lambda: Saddle([np.inf, 1.0], 1, _rng()), "^b: expected decreasing positive numbers"),
        (lambda: Riccati(5).solution(NAN, np.eye(5)), "^t: expected a finite number, found nan$"),
        (
            lambda: Riccati(5).solution(0.1, np.ones((4, 5))),
            r"^Y0: expected the shape of the problem, \(5, 5\), found \(4, 5\)$",
        ),
        (
            lambda: AllenCahn(4).reference(0.1, np.ones(16)),
            r"^Y0: expected the shape of the problem, \(4, 4\), found \(16,\)$",
        ),
        (lambda: Saddle([1.0, 2.0], 1, _rng()), "^b: expected decreasing positive numbers"),
        (lambda: Saddle([1.0, 1.0], 1, _rng()), "^b: expected decreasing positive numbers"),
        (lambda: Lyapunov(9, [NAN], _rng()), r"^source: expected finite values, found \[nan\]"),
        (lambda: Saddle([2.0, 1.0], 2, _rng()), "^n: expected between 1 and m - 1 = 1, found 2"),
        (lambda: Saddle([2.0, 1.0], NUMBER, _rng()), r"^n: expected an integer >= 1, found 7\.5"),
        (
            lambda: TwoLayerLinear(ZERO, ZERO, NUMBER),
            r"^hidden: expected an integer >= 1, found 7\.5",
        ),
    ],
)
def test_bad_input_is_refused(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()

"""Check that a problem is what its text says: in published codes of this field it repeatedly was not.

Every check returns a :class:`Check` and prints nothing.  A ratio ≤ 1 passes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from geolora_ref.problems.field import Product
from geolora_ref.problems.problem import GradientFlow, Matrix, MatrixODE, StartedODE

__all__ = [
    "Check",
    "check_actions",
    "check_constants",
    "check_gradient",
    "check_invariants",
    "check_minimum",
    "check_solution",
    "check_start",
    "self_test",
]

ATTAINED = 0.5
"""The factor to which some pair must reach a stated constant: a bound that is far off says nothing."""
DENSE = 500
"""The most entries for which the derivative of a field is formed as a matrix; for more, power
iterations are used.
"""
TIMES = (0.0, 0.3, 1.0)
"""The times, in units of the problem's time scale, at which statements for all t are checked."""
PARTS = (np.real, np.imag)


@dataclass(frozen=True)
class Check:
    """``measured`` must not exceed ``allowed``."""

    name: str
    measured: float
    allowed: float

    @property
    def ratio(self) -> float:
        """Measured / allowed for allowed > 0 and measured ≥ 0; otherwise 0 if the check passes, and
        infinity if it fails.
        """
        if self.allowed > 0.0 and self.measured >= 0.0:
            return self.measured / self.allowed
        return 0.0 if self.measured <= self.allowed else math.inf

    @property
    def passed(self) -> bool:
        """Return whether measured ≤ allowed; False for NaN."""
        return self.measured <= self.allowed


def check_gradient(problem: GradientFlow, W: Matrix, direction: Matrix) -> Check:
    """Taylor's theorem for matrices: |L(W + hD) − L(W) − h⟨∇L(W), D⟩| falls like h², so halving h
    divides it by 4.

    Measured is the distance of the slope from 2 over h = 2⁻⁶, …, 2⁻¹², where the next term is below
    2⁻⁶ of the remainder and rounding is far below that.  If the remainder is only rounding for
    every h, the loss is linear and passes.  D is the unit ``direction`` plus the unit gradient: in
    a random direction alone a wrong gradient can be right by accident.
    """
    gradient = problem.gradient(W)
    D = direction / np.linalg.norm(direction) + gradient / np.linalg.norm(gradient)
    L0, derivative = problem.loss(W), float(np.sum(gradient * D))
    h = 2.0 ** -np.arange(6.0, 13.0)
    remainder = [abs(problem.loss(W + step * D) - L0 - step * derivative) for step in h]
    rounding = (
        10.0
        * float(np.finfo(float).eps)
        * (abs(L0) + float(np.linalg.norm(gradient) * np.linalg.norm(W)))
    )
    linear = _largest(remainder) <= rounding
    slope = 2.0 if linear else float(np.polyfit(np.log(h), np.log(remainder), 1)[0])
    return Check("gradient: Taylor slope 2", abs(slope - 2.0), 0.1)


def check_solution(problem: MatrixODE, Y0: Matrix) -> Check:
    """The residual of the stated solution from Y0 (m x n) in its own equation, by a central
    difference of order 4, over ‖F‖.

    The worse residual at the later two of ``TIMES`` counts, over the larger ‖F‖, because near a
    steady state F is only rounding.  With h = 1/(400 max(1, ℓ)) in units of the time scale the
    difference has an error of h⁴/30 ≈ 1e-12 times the fifth derivative, which may reach 1e4, and
    rounding adds eps/h ≈ 1e-13.
    """
    h = problem.time_scale / 400.0
    if not math.isnan(problem.lipschitz):
        h /= max(problem.lipschitz * problem.time_scale, 1.0)
    start = float(np.linalg.norm(problem.solution(0.0, Y0) - Y0) / np.linalg.norm(Y0))
    residuals, sizes = [], []
    for t in (time * problem.time_scale for time in TIMES[1:]):
        Y = {k: problem.solution(t + k * h, Y0) for k in (-2, -1, 0, 1, 2)}
        derivative = (Y[-2] - 8.0 * Y[-1] + 8.0 * Y[1] - Y[2]) / (12.0 * h)
        F = problem.field(t, Y[0])
        residuals.append(float(np.linalg.norm(derivative - F)))
        sizes.append(float(np.linalg.norm(F)))
    return Check(
        "solution: residual in its own equation",
        _largest((_largest(residuals) / _largest(sizes), start)),
        3e-8,
    )


def check_constants(
    problem: MatrixODE, rng: np.random.Generator, pairs: int = 30
) -> Iterator[Check]:
    """Check ℓ and μ: never violated by random pairs, and attained within ``ATTAINED`` at the
    sharpest point at some t.

    Because μ may be 0, a hundredth of the steepest slope is allowed in addition: a hundred power
    iterations are no closer.
    """
    ell, mu = problem.lipschitz, problem.one_sided_lipschitz
    quotients, one_sided = [], []
    for k in range(pairs):
        t = TIMES[k % len(TIMES)] * problem.time_scale
        X = _random(problem, rng)
        D = 10.0 ** rng.uniform(-3, 1) * _random(problem, rng)
        dF = problem.field(t, X + D) - problem.field(t, X)
        quotients.append(float(np.linalg.norm(dF) / np.linalg.norm(D)))
        one_sided.append(_inner(dF, D) / _inner(D, D))
    steepest, growth = map(
        _largest, zip(*(_extremes(problem, t, rng) for t in _distinct_times(problem)), strict=True)
    )
    if not math.isnan(mu):
        # μ may be 0 or negative: 1 is added to both sides, so that a ratio of 1 still means an
        # attained constant.
        scale = 1.0 if math.isnan(ell) else max(1.0, ell)
        yield Check(
            "one-sided constant: never violated",
            1.0 + (_largest((*one_sided, growth)) - mu) / scale,
            1.0 + 1e-9,
        )
        missing = ((1.0 - ATTAINED) * abs(mu) + 0.01 * steepest) / scale
        yield Check(
            "one-sided constant: attained", 1.0 + (mu - growth) / scale, 1.0 + missing + 1e-9
        )
    if math.isnan(ell):
        return
    yield Check(
        "Lipschitz constant: never violated", _largest((*quotients, steepest)), ell * (1.0 + 1e-6)
    )
    yield Check("Lipschitz constant: attained", ATTAINED * ell, steepest)


def _distinct_times(problem: MatrixODE) -> list[float]:
    """The time 0, and the members of ``TIMES`` at which the field differs from the field at 0."""
    X, later = problem.sharpest_point(), [t * problem.time_scale for t in TIMES[1:]]
    X = X + np.ones_like(X)
    return [
        0.0,
        *(t for t in later if not np.array_equal(problem.field(t, X), problem.field(0.0, X))),
    ]


def _extremes(problem: MatrixODE, t: float, rng: np.random.Generator) -> tuple[float, float]:
    """The largest ‖DF[D]‖/‖D‖ and Re⟨DF[D], D⟩/‖D‖² at t and the problem's sharpest point.

    Up to ``DENSE`` entries these are σ_max of DF and λ_max of ½(DF + DFᵀ) as real matrices.  For
    more entries they are the largest values in power iterations D ← DF[D] and D ← D + DF[D]/ℓ,
    which reach the two for symmetric or skew DF, and less if DF is not normal.  DF is formed by
    central differences with an error of the order of the square of 1e-4.
    """
    X = problem.sharpest_point()

    def derivative(D: Matrix) -> Matrix:
        return (problem.field(t, X + 1e-4 * D) - problem.field(t, X - 1e-4 * D)) / 2e-4

    units = (1.0, 1j) if np.issubdtype(problem.dtype, np.complexfloating) else (1.0,)
    if len(units) * X.size <= DENSE:
        basis = (unit * E.reshape(X.shape) for unit in units for E in np.eye(X.size))
        DF = np.stack(
            [
                np.concatenate([part(derivative(D)).ravel() for part in PARTS[: len(units)]])
                for D in basis
            ],
            axis=1,
        )
        if not np.all(np.isfinite(DF)):
            return math.nan, math.nan
        return float(np.linalg.norm(DF, 2)), float(np.linalg.eigvalsh(0.5 * (DF + DF.T))[-1])
    D, steepest = _random(problem, rng), 0.0
    for _ in range(100):
        D = D / np.linalg.norm(D)
        D = derivative(D)
        steepest = _largest((steepest, float(np.linalg.norm(D))))
        if not steepest > 0.0:  # both values are 0, or both NaN
            return steepest, steepest
    D, growth = _random(problem, rng), -math.inf
    for _ in range(100):
        D = D / np.linalg.norm(D)
        change = derivative(D)
        growth = _largest((growth, _inner(change, D)))
        D = D + change / steepest
        if not D.any():  # every direction shrinks at the rate ℓ
            break
    return steepest, growth


def check_actions(problem: MatrixODE, rng: np.random.Generator) -> Check:
    """Compare F(t, Y)V and F(t, Y)ᴴU, as the integrators call them, with the dense field, relative to ‖F‖.

    Both are sums of at most m + n products each; 100·(m + n)·eps is far below any wrong formula.
    """
    m, n = problem.shape
    Y = Product(_random(problem, rng, (m, 3)), _random(problem, rng, (n, 3)))
    U, V = _random(problem, rng, (m, 2)), _random(problem, rng, (n, 2))
    errors = list[float]()
    for t in (time * problem.time_scale for time in TIMES):
        F = problem.field(t, Y.full())
        right = np.linalg.norm(problem.apply_right(t, Y, V) - F @ V) / (
            np.linalg.norm(F) * np.linalg.norm(V)
        )
        left = np.linalg.norm(problem.apply_left(t, Y, U) - F.conj().T @ U) / (
            np.linalg.norm(F) * np.linalg.norm(U)
        )
        errors += [float(right), float(left)]
    return Check(
        "actions on columns: those of the dense field",
        _largest(errors),
        100.0 * (m + n) * float(np.finfo(float).eps),
    )


def check_invariants(problem: MatrixODE, rng: np.random.Generator) -> Iterator[Check]:
    """The derivative of each invariant along F is negligible against its derivative in random
    directions of the same size.

    Invariants are at most quadratic, so central differences are exact up to rounding.  A quantity
    that never changes in any direction fails, because it says nothing about the equation.
    """
    Y = _random(problem, rng)
    fields = [problem.field(t * problem.time_scale, Y) for t in TIMES]
    size = _largest([float(np.linalg.norm(F)) for F in fields])

    def derivative(name: str, D: Matrix) -> float:
        return abs(problem.invariants(Y + D)[name] - problem.invariants(Y - D)[name])

    for name in problem.invariants(Y):
        elsewhere = [_random(problem, rng) for _ in range(10)]
        usual = _largest([derivative(name, D * size / np.linalg.norm(D)) for D in elsewhere])
        along = _largest([derivative(name, F) for F in fields]) if usual > 0.0 else math.inf
        yield Check(f"invariant: {name}", along, 1e-10 * usual)


def check_start(problem: StartedODE, rank: int = 4) -> Check:
    """The problem's own initial value has the stated rank, at most min(m, n), and singular values,
    relative to the largest.
    """
    rank = min(rank, *problem.shape)
    sigma, stated = (
        np.linalg.svd(problem.start(rank).full(), compute_uv=False),
        np.zeros(min(problem.shape)),
    )
    stated[:rank] = problem.start_spectrum(rank)
    return Check(
        "start: rank and spectrum", float(np.max(np.abs(sigma - stated)) / stated[0]), 1e-13
    )


def check_minimum(problem: GradientFlow, W: Matrix, steps: int = 2000) -> Iterator[Check]:
    """Gradient descent from a matrix W never goes below the stated minimum, and tends to it if L is
    strongly convex (μ < 0).

    Steps have the size 1/ℓ, or 1 if ℓ = 0; without an ℓ they begin with 1 and are halved until they
    descend.  The remaining distance to the minimum may be four times the gain of the second half of
    the steps: it is less if it falls like k^{-1/3}.
    """
    rate, half = 1.0 / problem.lipschitz if problem.lipschitz > 0.0 else 1.0, math.nan
    for k in range(steps):
        half = problem.loss(W) if k == steps // 2 else half
        G = problem.gradient(W)
        while (
            math.isnan(problem.lipschitz)
            and rate > 1e-12
            and not problem.loss(W - rate * G) <= problem.loss(W)
        ):
            rate *= 0.5
        W = W - rate * G
    lowest = problem.loss(W)
    rounding = 1e-12 * (1.0 + abs(lowest))
    yield Check("minimum: never undercut", problem.minimum, lowest + rounding)
    if problem.one_sided_lipschitz < 0.0:
        yield Check("minimum: attained", lowest - problem.minimum, 4.0 * (half - lowest) + rounding)


def self_test(problem: MatrixODE, rng: np.random.Generator) -> list[Check]:
    """Every check that applies to this problem."""
    Y0, D = _random(problem, rng), _random(problem, rng)
    checks = [check_actions(problem, rng)]
    kind = type(problem)
    if kind.closed_form is not MatrixODE.closed_form or kind.solution is not MatrixODE.solution:
        checks.append(check_solution(problem, 0.1 * Y0))
    checks.extend(check_constants(problem, rng))
    checks.extend(check_invariants(problem, rng))
    if isinstance(problem, GradientFlow):
        checks += [check_gradient(problem, Y0, D), *check_minimum(problem, Y0)]
    if isinstance(problem, StartedODE):
        checks.append(check_start(problem))
    spectrum = np.array([1.0, 1e-3, 1e-7])[: min(problem.shape)]
    initial = problem.initial(spectrum, rng)
    starts = [initial, problem.start(1)] if isinstance(problem, StartedODE) else [initial]
    others = sum(Y.S.dtype != problem.dtype for Y in starts)
    checks.append(Check("initial values: dtype of the problem", float(others), 0.0))
    sigma = np.linalg.svd(initial.full(), compute_uv=False)[: len(spectrum)]
    checks.append(
        Check("initial value: rank and spectrum", float(np.max(np.abs(sigma - spectrum))), 1e-14)
    )
    return checks


def _largest(values: Sequence[float]) -> float:
    """The largest value, NaN if one is NaN: Python's ``max`` keeps or drops a NaN by its place."""
    return float(np.max(values))


def _random(
    problem: MatrixODE, rng: np.random.Generator, shape: tuple[int, int] | None = None
) -> Matrix:
    """A Gaussian matrix in the dtype of the problem."""
    X = rng.standard_normal(shape or problem.shape)
    if np.issubdtype(problem.dtype, np.complexfloating):
        X = X + 1j * rng.standard_normal(X.shape)
    return X


def _inner(X: Matrix, Y: Matrix) -> float:
    """Re⟨X, Y⟩."""
    return float(np.vdot(X, Y).real)

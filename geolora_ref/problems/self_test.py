"""Problems test themselves: in published codes of this field the coded problem was repeatedly not what its text said.

Every check returns a :class:`Check`, it prints nothing.  A ratio ≤ 1 passes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from geolora_ref.problems.problem import GradientFlow, Matrix, MatrixODE

__all__ = ["Check", "check_constants", "check_gradient", "check_minimum", "check_solution", "self_test"]

ATTAINED = 0.5
"""A stated constant must be reached to within this factor by some pair: a bound that is far off says nothing."""


@dataclass(frozen=True)
class Check:
    """``measured`` must not exceed ``allowed``."""

    name: str
    measured: float
    allowed: float

    @property
    def ratio(self) -> float:
        """Measured / allowed where that is positive, else 0 or infinity by the comparison itself."""
        if self.allowed > 0.0 and self.measured >= 0.0:
            return self.measured / self.allowed
        return 0.0 if self.measured <= self.allowed else math.inf

    @property
    def passed(self) -> bool:
        """Whether measured ≤ allowed; never for a number that is not one."""
        return self.measured <= self.allowed


def check_gradient(problem: GradientFlow, W: Matrix, direction: Matrix) -> Check:
    """Taylor's theorem: |L(W + hD) − L(W) − h⟨∇L(W), D⟩| falls like h², so halving h divides it by 4.

    Measured is the distance of the slope from 2 over h = 2⁻⁶, …, 2⁻¹², where the next term is below 2⁻⁶ of the remainder and
    rounding far below it.  D is the unit ``direction`` plus the unit gradient: in a random direction alone a wrong gradient can
    be right by accident.
    """
    gradient = problem.gradient(W)
    D = direction / np.linalg.norm(direction) + gradient / np.linalg.norm(gradient)
    L0, derivative = problem.loss(W), float(np.sum(gradient * D))
    h = 2.0 ** -np.arange(6.0, 13.0)
    remainder = [abs(problem.loss(W + step * D) - L0 - step * derivative) for step in h]
    slope = float(np.polyfit(np.log(h), np.log(remainder), 1)[0])
    return Check("gradient: Taylor slope 2", abs(slope - 2.0), 0.1)


def check_solution(problem: MatrixODE, Y0: Matrix, t: float = 0.5) -> Check:
    """The residual of the stated solution in its own equation, by a central difference of order 4, relative to ‖F‖.

    With h = 1e-2/max(1, ℓ) the difference's own error is h⁴/30 · |fifth derivative| ≈ 3e-10; allowed is 100 times that.
    """
    h = 1e-2 / (1.0 if math.isnan(problem.lipschitz) else max(1.0, problem.lipschitz))
    Y = {k: problem.solution(t + k * h, Y0) for k in (-2, -1, 1, 2)}
    derivative = (Y[-2] - 8.0 * Y[-1] + 8.0 * Y[1] - Y[2]) / (12.0 * h)
    F = problem.field(t, problem.solution(t, Y0))
    start = np.linalg.norm(problem.solution(0.0, Y0) - Y0) / np.linalg.norm(Y0)
    residual = np.linalg.norm(derivative - F) / np.linalg.norm(F)
    return Check("solution: residual in its own equation", float(max(residual, start)), 3e-8)


def check_constants(problem: MatrixODE, rng: np.random.Generator, pairs: int = 30) -> Iterator[Check]:
    """ℓ and μ against random pairs (never violated), and ℓ against a power iteration (attained within ``ATTAINED``)."""
    ell, mu = problem.lipschitz, problem.one_sided_lipschitz
    quotients, one_sided = [], []
    for _ in range(pairs):
        X = rng.standard_normal(problem.shape)
        D = 10.0 ** rng.uniform(-3, 1) * rng.standard_normal(problem.shape)
        dF = problem.field(0.0, X + D) - problem.field(0.0, X)
        quotients.append(float(np.linalg.norm(dF) / np.linalg.norm(D)))
        one_sided.append(float(np.sum(dF * D)) / float(np.sum(D * D)))
    X, D = problem.sharpest_point(), rng.standard_normal(problem.shape)
    attained = 0.0
    for _ in range(100):  # central differences: their error is of the order of the square of 1e-4
        D /= np.linalg.norm(D)
        D = (problem.field(0.0, X + 1e-4 * D) - problem.field(0.0, X - 1e-4 * D)) / 2e-4
        attained = max(attained, float(np.linalg.norm(D)))
    yield Check("Lipschitz constant: never violated", max(*quotients, attained), ell * (1.0 + 1e-6))
    yield Check("one-sided constant: never violated", math.exp(max(one_sided)), math.exp(mu + 1e-9 * max(1.0, ell)))
    yield Check("Lipschitz constant: attained", ATTAINED * ell, attained)


def check_minimum(problem: GradientFlow, W: Matrix, steps: int = 2000) -> Check:
    """Gradient descent never goes below the stated minimum."""
    for _ in range(steps):
        W = W - problem.gradient(W) / problem.lipschitz
    lowest = problem.loss(W)
    return Check("minimum: never undercut", problem.minimum, lowest + 1e-12 * (1.0 + abs(lowest)))


def self_test(problem: MatrixODE, rng: np.random.Generator) -> list[Check]:
    """Every check that applies to this problem."""
    Y0, D = rng.standard_normal(problem.shape), rng.standard_normal(problem.shape)
    checks = []
    if type(problem).solution is not MatrixODE.solution:
        checks.append(check_solution(problem, 0.1 * Y0))
    if not math.isnan(problem.lipschitz):
        checks.extend(check_constants(problem, rng))
    if isinstance(problem, GradientFlow):
        checks += [check_gradient(problem, Y0, D), check_minimum(problem, Y0)]
    spectrum = np.array([1.0, 1e-3, 1e-7])
    initial = problem.initial(spectrum, rng)
    sigma = np.linalg.svd(initial.full(), compute_uv=False)[:3]
    checks.append(Check("initial value: rank and spectrum", float(np.max(np.abs(sigma - spectrum))), 1e-14))
    return checks

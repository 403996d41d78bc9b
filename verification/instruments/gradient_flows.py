"""The gradient flows that the descent and convergence claims run on, by name, each with a start.

The constant β is 2.25 for the quadratics: where it is 1, β and 1/β are the same in every formula,
and a check shows nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from itertools import pairwise

import numpy as np

from geolora_ref import LowRank, checks
from geolora_ref.oracle.cases.spectra import geometric
from geolora_ref.problems import (
    MatrixCompletion,
    MatrixSensing,
    Quadratic,
    Saddle,
    SoftmaxRegression,
)
from geolora_ref.problems.problem import GradientFlow, Matrix

__all__ = ["FLOWS", "STARTS", "digits", "make", "smoothness", "start"]

STARTS = {
    "order one": (1.0, 0.8, 0.6, 0.5),
    "small singular value": (1.0, 0.1, 1e-6, 1e-12),
    "zero": (0.0, 0.0, 0.0, 0.0),
}
"""Singular values of the starts of rank 4; low-rank adapters start with S = 0."""


@lru_cache(maxsize=4)
def digits(ridge: float = 0.0) -> SoftmaxRegression:
    """The digits problem, loaded once in a process."""
    return SoftmaxRegression.digits(ridge)


FLOWS: dict[str, Callable[[np.random.Generator], GradientFlow]] = {
    "quadratic": lambda rng: Quadratic.random(
        (24, 20), geometric(20, 1e-4), rng, curvature=(0.5, 1.5)
    ),
    "ill-conditioned quadratic": lambda rng: Quadratic.random(
        (24, 20), geometric(20, 1e-4), rng, curvature=(1e-2, 1.5)
    ),
    "sensing": lambda rng: MatrixSensing.planted((14, 12), [1.0, 0.8, 0.6], 150, rng),
    "completion": lambda rng: MatrixCompletion.planted((20, 16), [1.0, 0.8, 0.6], 0.6, rng),
    "digits": lambda rng: digits(),
}
"""The flows with one constant β for all matrices; "saddle" has a constant on every segment only."""


def make(name: str, rng: np.random.Generator) -> GradientFlow:
    """The problem of this name."""
    checks.one_of("problem", name, (*FLOWS, "saddle"))
    return FLOWS[name](rng) if name in FLOWS else Saddle(np.linspace(2.0, 0.2, 12), 8, rng)


def smoothness(problem: GradientFlow, *points: Matrix) -> float:
    """The smoothness constant β for all matrices; for the saddle problem, β on the segments between
    these points.

    For the saddle problem without points: β for all matrices with ‖W‖₂² ≤ 2b_1.  Descent that
    starts in this set stays in it.
    """
    if not isinstance(problem, Saddle):
        return problem.lipschitz
    if not points:
        ball = np.diag(np.sqrt([2.0 * problem.b[0]]))
        return problem.lipschitz_on(ball, ball)
    return max(problem.lipschitz_on(start, end) for start, end in pairwise(points))


def start(problem: GradientFlow, kind: str, rng: np.random.Generator) -> LowRank:
    """A start of rank 4, of a kind of ``STARTS``."""
    return problem.initial(STARTS[kind], rng)

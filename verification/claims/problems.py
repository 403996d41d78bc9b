"""The problems are what their text says: exact solutions, gradients, constants, minima, initial values."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from geolora_ref.problems import (
    AllenCahn,
    KochLubich,
    Lyapunov,
    MatrixODE,
    Quadratic,
    RankPreservingLinear,
    RankPreservingRiccati,
    Riccati,
    RotatingExponential,
    Saddle,
    Schroedinger,
    VlasovPoisson,
)
from geolora_ref.problems.problem import Matrix
from geolora_ref.problems.self_test import self_test
from verification import gradient_flows
from verification.claim import Case, CaseResult, Claim, Control, Measurements, Plan

ZOO: dict[str, Callable[[np.random.Generator], MatrixODE]] = {
    "digits with ridge": lambda rng: gradient_flows.digits(1e-2),
    "saddle": lambda rng: Saddle(np.linspace(3.0, 0.1, 9), 6, rng),
    "Riccati": lambda rng: RankPreservingRiccati.random((12, 10), rng),
    "Riccati, general": lambda rng: RankPreservingRiccati.random((12, 10), rng, epsilon=0.3),
    "linear": lambda rng: RankPreservingLinear.random((12, 10), rng),
    "rotating exponential": lambda rng: RotatingExponential.random(100, rng),
    "rotating exponential, base 10": lambda rng: RotatingExponential.random(100, rng, base=10.0, rank=8),
    "Koch–Lubich": lambda rng: KochLubich(100, 1e-1, rng),
    "Koch–Lubich, ε = 1e-3": lambda rng: KochLubich(100, 1e-3, rng),
    "Schrödinger": lambda rng: Schroedinger(100, rng),
    "Lyapunov": lambda rng: Lyapunov(60, [1.0, 0.3, 0.1], rng),
    "optimal control": lambda rng: Riccati(50),
    "Allen–Cahn": lambda rng: AllenCahn(32),
    "Landau damping": lambda rng: VlasovPoisson.landau_damping(),
    "two streams": lambda rng: VlasovPoisson.two_stream(),
}
"""Besides the gradient flows of ``gradient_flows.py``."""


def cases(plan: Plan) -> Iterator[Case]:
    for name in (*gradient_flows.NAMES, *ZOO):
        for seed in range(plan.pick(1 if name.startswith("digits") else 2, 10)):
            yield Case(f"{name}-{seed}", {"problem": name, "seed": plan.seed + seed})


def make(name: str, rng: np.random.Generator) -> MatrixODE:
    """The problem of this name."""
    return ZOO[name](rng) if name in ZOO else gradient_flows.make(name, rng)


def check(case: Case, problem: MatrixODE | None = None) -> CaseResult:
    rng, out = np.random.default_rng([case["seed"], 5]), Measurements()
    for result in self_test(problem or make(case["problem"], rng), rng):
        out.ratio(result.name, result.ratio)
    return out.result(case)


class WrongGradient(Quadratic):
    """½ is forgotten in the loss, so the gradient is half of the loss's."""

    def loss(self, W: Matrix) -> float:
        """⟨W − A, H₁(W − A)H₂⟩ without the ½."""
        return 2.0 * super().loss(W)


class WrongSolution(Quadratic):
    """The flow runs at the wrong speed along one mode."""

    def solution(self, t: float, Y0: Matrix) -> Matrix:
        """The solution at 1.01 t."""
        return super().solution(1.01 * t, Y0)


def broken(kind: str) -> Any:
    """A check of a problem that is not what it says."""

    def run(case: Case) -> CaseResult:
        problem = {"gradient": WrongGradient, "solution": WrongSolution}.get(kind, Quadratic).random(
            (12, 10), np.ones(3), np.random.default_rng(5)
        )
        if kind == "constant":
            problem.lipschitz *= 0.5
        if kind == "minimum":
            problem.minimum = 1e-3
        return check(case, problem)

    return run


def control_cases(plan: Plan) -> Iterator[Case]:
    yield Case("broken", {"problem": "broken", "seed": plan.seed})


CLAIM = Claim(
    id="problems",
    title="The test problems are what they say",
    section="5",
    statement="each solution solves its equation, each gradient belongs to its loss, constants and invariants are kept",
    hypotheses=(),
    sources=("KL07", "LO14", "CL22", "CEKL24"),
    cases=cases,
    check=check,
    floor=150,
    controls=(
        Control("wrong gradient", "the loss without its ½", control_cases, broken("gradient")),
        Control("wrong solution", "a solution that runs 1 % too fast", control_cases, broken("solution")),
        Control("understated constant", "half of the Lipschitz constant", control_cases, broken("constant")),
        Control("overstated minimum", "a minimum that descent undercuts", control_cases, broken("minimum")),
    ),
)

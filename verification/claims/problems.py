"""The problems are what their text says: exact solutions, gradients, constants, minima, initial values."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from geolora_ref.problems import MatrixODE, Quadratic, RankPreservingLinear, RankPreservingRiccati
from geolora_ref.problems.problem import Matrix
from geolora_ref.problems.self_test import self_test
from verification import gradient_flows
from verification.claim import Case, CaseResult, Claim, Control, Measurements, Plan


def cases(plan: Plan) -> Iterator[Case]:
    names = (*gradient_flows.NAMES, "digits with ridge", "Riccati", "Riccati, general", "linear")
    for name in names:
        for seed in range(plan.pick(1 if name.startswith("digits") else 3, 10)):
            yield Case(f"{name}-{seed}", {"problem": name, "seed": plan.seed + seed})


def make(name: str, rng: np.random.Generator) -> MatrixODE:
    """The problem of this name."""
    match name:
        case "digits with ridge":
            return gradient_flows.digits(1e-2)
        case "Riccati":
            return RankPreservingRiccati.random((12, 10), rng)
        case "Riccati, general":
            return RankPreservingRiccati.random((12, 10), rng, epsilon=0.3)
        case "linear":
            return RankPreservingLinear.random((12, 10), rng)
        case _:
            return gradient_flows.make(name, rng)


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
    statement="each solution solves its equation, each gradient belongs to its loss, each constant is kept and nearly attained",
    hypotheses=(),
    sources=("CL22", "CEKL24"),
    cases=cases,
    check=check,
    floor=80,
    controls=(
        Control("wrong gradient", "the loss without its ½", control_cases, broken("gradient")),
        Control("wrong solution", "a solution that runs 1 % too fast", control_cases, broken("solution")),
        Control("understated constant", "half of the Lipschitz constant", control_cases, broken("constant")),
        Control("overstated minimum", "a minimum that descent undercuts", control_cases, broken("minimum")),
    ),
)

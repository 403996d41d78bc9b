"""What the truncation back to fixed rank costs: a term of second order in λ, divided by σ_min."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from geolora_ref.oracle.criteria import unit_of
from geolora_ref.oracle.mutants import MUTANTS
from verification import gradient_flows
from verification.claim import Case, CaseResult, Claim, Control, Measurements, Plan
from verification.steppers import Stepper, mutant, reference
from verification.trajectory import Iterate, tail, trajectory

EPS = float(np.finfo(float).eps)


def cases(plan: Plan) -> Iterator[Case]:
    for problem in gradient_flows.NAMES:
        for start in ("order one", "small singular value"):
            for scaled in (0.01, 0.3, 1.0):
                for seed in range(plan.pick(2, 20)):
                    yield Case(
                        f"{problem}-{start}-{scaled}-{seed}",
                        {"problem": problem, "start": start, "rate": scaled, "seed": plan.seed + seed},
                    )


def tail_bound(it: Iterate) -> float:
    """λ²‖(I − UUᵀ)GV‖ ‖UᵀG(I − VVᵀ)‖₂ / σ_min(S_new); infinite for singular S_new."""
    U, S, V = it.Y
    GV, UtG = it.G @ V, U.T @ it.G
    smallest = float(np.linalg.svd(S - it.learning_rate * U.T @ GV, compute_uv=False)[-1])
    left, right = float(np.linalg.norm(GV - U @ (U.T @ GV))), float(np.linalg.norm(UtG - (UtG @ V) @ V.T, 2))
    return it.learning_rate**2 * left * right / smallest if smallest > 0.0 else np.inf


def check(case: Case, step: Stepper = reference) -> CaseResult:
    rng, out = np.random.default_rng([case["seed"], 45]), Measurements()
    problem = gradient_flows.make(case["problem"], rng)
    rate = case["rate"] / problem.lipschitz
    for it in trajectory(problem, gradient_flows.start(problem, case["start"], rng), 30, rate, step=step, tau=1e-3, max_rank=6):
        # A tail is a distance: it moves by no more than Ŵ does, whose rounding error is measured in units of this.
        rounding = unit_of(*it.Y.shape, EPS) * float(np.linalg.norm(it.W) + rate * np.linalg.norm(it.G))
        bound = tail_bound(it)
        if np.isfinite(bound):
            out.at_most("tail_{>r}(Ŝ) ≤ bound", tail(it.outcome.W_hat, it.Y.rank), bound, rounding)
        else:
            out.undecided += 1  # the hypothesis: S_new is invertible
    return out.result(case)


def control_cases(plan: Plan) -> Iterator[Case]:
    return (case for case in cases(plan) if case["problem"] == "quadratic" and case["seed"] == plan.seed)


CLAIM = Claim(
    id="curvature-tail",
    title="What curvature does at fixed rank",
    section="What truncation to a fixed rank costs",
    statement="tail_{>r}(Ŝ) ≤ λ² ‖(I−UUᵀ)GV‖ ‖UᵀG(I−VVᵀ)‖₂ / σ_min(S_new)",
    hypotheses=("S_new invertible",),
    sources=("GeoLoRA", "CKL24"),
    explanation="The only place where small singular values hurt, and only through the choice of a fixed rank.",
    cases=cases,
    check=check,
    floor=1000,
    controls=(
        Control(
            "missing-lower-block",
            MUTANTS["missing-lower-block"].defect,
            control_cases,
            lambda case: check(case, mutant("missing-lower-block")),
        ),
    ),
)

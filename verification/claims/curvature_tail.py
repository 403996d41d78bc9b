"""The cost of truncation back to fixed rank: a term of second order in λ, divided by σ_min."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import numpy as np

from geolora_ref import LowRank
from geolora_ref.oracle.judges.criteria import unit_of
from geolora_ref.problems import GradientFlow, Quadratic
from verification.claim import Case, CaseResult, Claim, Control, Measurements, Plan
from verification.instruments import gradient_flows
from verification.instruments.steppers import Stepper, mutant_control, reference
from verification.instruments.trajectory import Iterate, tail, trajectory

EPS = float(np.finfo(float).eps)


def cases(plan: Plan) -> Iterator[Case]:
    for problem in gradient_flows.FLOWS:
        for start in ("order one", "small singular value"):
            for scaled in (0.01, 0.3, 1.0):
                for seed in range(plan.pick(2, 20)):
                    yield Case(
                        f"{problem}-{start}-{scaled}-{seed}",
                        {
                            "problem": problem,
                            "start": start,
                            "rate": scaled,
                            "seed": plan.seed + seed,
                        },
                    )
    yield from attained_cases(plan)


def attained_cases(plan: Plan) -> Iterator[Case]:
    for seed in range(plan.pick(2, 20)):
        yield Case(
            f"attained-{seed}", {"problem": "attained", "rate": 0.5, "seed": plan.seed + seed}
        )


def attained(rng: np.random.Generator) -> tuple[GradientFlow, LowRank]:
    """L = ½‖W − A‖² and a start that nearly attain the bound for λ = ½ and small b: A = Q_m [[I/5,
    bI], [bI, 0]] Q_nᵀ.

    From the first columns of Q_m and Q_n and S = I, S_new is 3/5 I; three pairs of columns have the
    core [[3/5, b/2], [b/2, 0]].
    """
    r, b = 3, 1e-2
    Q_m, Q_n = (np.linalg.qr(rng.standard_normal((size, size))).Q[:, : 2 * r] for size in (9, 8))
    A = Q_m @ np.kron([[0.2, b], [b, 0.0]], np.eye(r)) @ Q_n.T
    return Quadratic(A, np.eye(9), np.eye(8)), LowRank(Q_m[:, :r], np.eye(r), Q_n[:, :r])


def tail_bound(it: Iterate, order: int | None = None, moved: bool = True) -> float:
    """λ²‖(I − UUᵀ)GV‖ ‖UᵀG(I − VVᵀ)‖₂ / σ_min(S_new); infinite for singular S_new.

    ``order`` : of the first norm, Frobenius by default; ``moved`` : whether S_new = S − λUᵀGV is
    taken, or S (for controls).
    """
    U, S, V = it.Y
    GV, UtG = it.G @ V, U.T @ it.G
    smallest = float(np.linalg.svd(S - moved * it.learning_rate * U.T @ GV, compute_uv=False)[-1])
    left, right = (
        float(np.linalg.norm(GV - U @ (U.T @ GV), order)),
        float(np.linalg.norm(UtG - (UtG @ V) @ V.T, 2)),
    )
    return it.learning_rate**2 * left * right / smallest if smallest > 0.0 else np.inf


def check(
    case: Case, step: Stepper = reference, bound_of: Callable[[Iterate], float] = tail_bound
) -> CaseResult:
    rng, out = np.random.default_rng([case["seed"], 45]), Measurements()
    if case["problem"] == "attained":
        (problem, start), steps = attained(rng), 1
    else:
        problem, steps = gradient_flows.make(case["problem"], rng), 30
        start = gradient_flows.start(problem, case["start"], rng)
    rate = case["rate"] / problem.lipschitz
    for it in trajectory(problem, start, steps, rate, step=step, tau=1e-3, max_rank=6):
        # A tail is a distance, so it moves by no more than Ŵ does: both have rounding errors in this unit.
        rounding = unit_of(*it.Y.shape, EPS) * float(
            np.linalg.norm(it.W) + rate * np.linalg.norm(it.G)
        )
        bound = bound_of(it)
        if np.isfinite(bound):
            out.at_most("tail_{>r}(Ŝ) ≤ bound", tail(it.outcome.W_hat, it.Y.rank), bound, rounding)
        else:
            out.undecided += 1  # the hypothesis is that S_new is invertible
    return out.result(case)


def control_cases(plan: Plan) -> Iterator[Case]:
    return (
        case for case in cases(plan) if case["problem"] == "quadratic" and case["seed"] == plan.seed
    )


CLAIM = Claim(
    id="curvature-tail",
    title="What curvature does at fixed rank",
    section="What truncation to a fixed rank costs",
    statement="tail_{>r}(Ŝ) ≤ λ² ‖(I−UUᵀ)GV‖ ‖UᵀG(I−VVᵀ)‖₂ / σ_min(S_new)",
    hypotheses=("S_new invertible",),
    sources=("GeoLoRA", "CKL24"),
    explanation="For plain gradients small singular values hurt only here, through the choice of a fixed rank.",
    cases=cases,
    check=check,
    floor=16,
    controls=(
        mutant_control("missing-lower-block", control_cases, check),
        Control(
            "spectral norms",
            "the spectral norm of both residuals",
            attained_cases,
            lambda case: check(case, bound_of=partial(tail_bound, order=2)),
        ),
        Control(
            "old core",
            "σ_min(S) for σ_min(S_new)",
            attained_cases,
            lambda case: check(case, bound_of=partial(tail_bound, moved=False)),
        ),
    ),
)

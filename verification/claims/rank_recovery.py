"""Over- and underestimated initial ranks end at the planted rank and at a small loss."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from geolora_ref.problems import MatrixSensing, Quadratic
from geolora_ref.problems.problem import GradientFlow
from verification.claim import Case, CaseResult, Claim, Control, Figure, Measurements, Plan, Results
from verification.instruments.steppers import Outcome, Stepper, mutant_control, reference
from verification.instruments.trajectory import trajectory

PLANTED = 5
SPECTRUM = np.linspace(1.0, 0.6, PLANTED)
RANKS = (1, 2, 4, 8, 12)
TAU = 0.01
STEPS = {1.0: 150, 0.3: 500, 1.9: 200}
"""The number of steps, by λβ."""
SHAPE = (16, 14)
UNIT = 4.0 * np.sqrt(sum(SHAPE)) * np.finfo(float).eps * float(np.linalg.norm(SPECTRUM))
"""The rounding error of a step, 4√(m + n)·eps·‖W*‖."""


def cases(plan: Plan) -> Iterator[Case]:
    for problem in ("quadratic", "sensing"):
        for seed in range(plan.pick(1, 20)):
            yield Case(
                f"{problem}-{seed}", {"problem": problem, "seed": plan.seed + seed, "rate": 1.0}
            )
        for rate in plan.pick((0.3, 1.9) if problem == "quadratic" else (), (0.3, 1.9)):
            yield Case(
                f"{problem}-rate {rate}", {"problem": problem, "seed": plan.seed, "rate": rate}
            )


def make(name: str, rng: np.random.Generator) -> GradientFlow:
    """A problem whose minimiser has rank 5 with a gap: nothing after the fifth singular value."""
    if name == "quadratic":
        return Quadratic.random(SHAPE, SPECTRUM, rng, curvature=(0.8, 1.2))
    return MatrixSensing.planted(SHAPE, SPECTRUM, 900, rng)


def contraction(q: float, of_gradient_descent: float) -> float:
    """1 − s q², s the contraction of gradient descent: 2mλ(1 − βλ/2), which is m/β for λ = 1/β."""
    return 1.0 - of_gradient_descent * q**2


def check(
    case: Case, step: Stepper = reference, factor: Callable[[float, float], float] = contraction
) -> CaseResult:
    """Every initial rank ends at the planted one, and at a loss of rounding errors; on the way each
    step contracts.

    The recursion is L(W₁) ≤ (1 − s q²) L(W) + ‖∇L(Ŵ)‖ϑ₁ + (β/2)ϑ₁², with s = 2mλ(1 − βλ/2),
    q = max(1 − ε/(mσ*), 0) and ε = ‖(I − P)∇L‖; its proof stands in the section of the claim.  √L
    is a norm of W − W* (here L* = 0), at most √(β/2)‖W − W*‖: a step that is right to ``UNIT`` adds
    √(β/2)·UNIT to it.  Where nothing is cut off and q = 1, a fixed point of the recursion for √L is
    √(β/2)·UNIT/(1 − √(1 − s)).  The first step that decides nothing is the last one compared: the
    run has converged to rounding.  ``factor`` : another contraction, of q and s (for controls).
    """
    rng, out = np.random.default_rng([case["seed"], 48]), Measurements()
    problem = make(case["problem"], rng)
    beta, m = problem.lipschitz, -problem.one_sided_lipschitz
    rate = case["rate"] / beta
    slow = 2.0 * m * rate * (1.0 - 0.5 * beta * rate)
    histories, rounding = {}, np.sqrt(0.5 * beta) * UNIT
    out.require("L* = 0 and L strongly convex", problem.minimum <= rounding**2 and m > 0.0)
    for rank in RANKS:
        start = problem.initial(np.full(rank, 1e-3), rng)
        ranks, settled = [rank], False
        for it in trajectory(problem, start, STEPS[case["rate"]], rate, step=step, tau=TAU):
            ranks.append(it.outcome.Y.rank)
            if settled:
                continue
            before, q = out.undecided, max(1.0 - it.normal / (m * SPECTRUM[-1]), 0.0)
            cost = (
                float(np.linalg.norm(problem.gradient(it.W_hat))) * it.lost
                + 0.5 * beta * it.lost**2
            )
            bound = max(factor(q, slow), 0.0) * problem.loss(it.W) + cost
            out.at_most(
                "one step of the recursion, √L",
                np.sqrt(problem.loss(it.W_next)),
                np.sqrt(bound),
                rounding,
            )
            settled = out.undecided > before
        histories[rank] = ranks
        out.ratio("final rank / planted rank", max(ranks[-1] / PLANTED, PLANTED / ranks[-1]))
        fixed_point = rounding / (1.0 - np.sqrt(1.0 - slow))
        out.at_most("the final √L: rounding errors", np.sqrt(problem.loss(it.W_next)), fixed_point)
    out.series = {**case.parameters, "ranks": {str(key): value for key, value in histories.items()}}
    return out.result(case)


def fixed_rank(Y: Any, G: Any, **parameters: Any) -> Outcome:
    """The reference without adaptivity: the rank stays what it is at the start."""
    return reference(Y, G, **parameters | {"min_rank": Y.rank, "max_rank": Y.rank})


def draw(axes: Any, results: Results) -> None:
    for result in results:
        if result.case in ("quadratic-0", "sensing-0"):
            style = "-" if result.series["problem"] == "quadratic" else "--"
            for index, (rank, history) in enumerate(result.series["ranks"].items()):
                axes.plot(
                    history,
                    style,
                    color=f"C{index}",
                    label=f"{result.series['problem']}, initial rank {rank}",
                )
    axes.axhline(PLANTED, color="black", linestyle=":", label="planted rank")
    axes.set(
        xlabel=f"step (the ranks stay so until step {STEPS[1.0]})", ylabel="rank", xlim=(0, 40)
    )
    axes.legend(ncols=2)


def control_cases(plan: Plan) -> Iterator[Case]:
    return (case for case in cases(plan) if case["seed"] == plan.seed and case["rate"] == 1.0)


def quadratic_cases(plan: Plan) -> Iterator[Case]:
    """The quadratic, on which m and β leave little room; on "sensing" descent is faster than m says."""
    return (case for case in control_cases(plan) if case["problem"] == "quadratic")


def small_rate(plan: Plan) -> Iterator[Case]:
    """The quadratic at the smallest rate, where the slowest direction attains 1 − s up to O(λ)."""
    return (case for case in cases(plan) if case["problem"] == "quadratic" and case["rate"] == 0.3)


CLAIM = Claim(
    id="rank-recovery",
    title="Rank recovery",
    section="The rank is found from both sides",
    statement=(
        "L(W₁) ≤ (1 − 2mλ(1 − βλ/2)q²) L(W) + ‖∇L(Ŵ)‖ϑ₁ + (β/2)ϑ₁² with q = max(1 − ‖(I − P(W))∇L(W)‖/(mσ*), 0);  "
        "initial ranks 1, 2, 4, 8, 12 all end at the planted rank 5 and at a loss of rounding errors"
    ),
    hypotheses=(
        "L quadratic, m > 0 its strong convexity, σ* the least positive singular value of W*; λβ = 0.3, 1 or 1.9",
        "the minimiser has a known rank with a gap, τ below the gap, and L* = 0",
        "the start has small singular values, so that the rank can grow (a start of rank one can stall at τ = 0.02)",
    ),
    sources=("GeoLoRA",),
    by_nature=("final rank / planted rank",),
    slack={
        "the final √L: rounding errors": "the rounding errors of all steps never add up with one sign",
    },
    cases=cases,
    check=check,
    undecided=0.02,
    floor=500,
    controls=(
        Control(
            "fixed-rank",
            "no adaptivity: the rank stays at its initial guess",
            control_cases,
            lambda case: check(case, fixed_rank),
        ),
        mutant_control("off-by-one-high", control_cases, check),
        mutant_control("k-step-sign", control_cases, check),
        mutant_control("unsorted-truncation", control_cases, check),
        Control(
            "q = 1",
            "as if the whole gradient were tangential",
            quadratic_cases,
            lambda case: check(case, factor=lambda q, x: contraction(1.0, x)),
        ),
        Control(
            "contraction over 0.8",
            "1 − 1.25 s q² with the contraction s of gradient descent, where λβ = 0.3: for λ → 0 it is attained",
            small_rate,
            lambda case: check(case, factor=lambda q, x: contraction(q, 1.25 * x)),
        ),
    ),
    figures=(Figure("Rank over time", "From below and from above to the planted rank.", draw),),
    explanation=(
        "No rank is prescribed: it is what the threshold leaves, whether the start had too few directions or too many."
    ),
)

"""The mean square of the projected gradients, and with it the least, is bounded with explicit constants."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from geolora_ref.oracle.mutants import MUTANTS
from verification import gradient_flows
from verification.claim import Case, CaseResult, Claim, Control, Figure, Measurements, Plan, Results
from verification.steppers import Stepper, mutant, reference
from verification.trajectory import trajectory


def cases(plan: Plan) -> Iterator[Case]:
    for problem in gradient_flows.NAMES:
        for start in ("order one", "small singular value", "zero"):
            for tau in (1e-3, 0.4):
                for seed in range(plan.pick(1, 10)):
                    yield Case(
                        f"{problem}-{start}-{tau}-{seed}",
                        {
                            "problem": problem,
                            "start": start,
                            "tau": tau,
                            "steps": plan.pick(100, 1000),
                            "seed": plan.seed + seed,
                        },
                    )


def check(case: Case, step: Stepper = reference) -> CaseResult:
    """The bound of the mean, hence of the least, at every T, with the largest gradient norm B seen so far."""
    rng, out = np.random.default_rng([case["seed"], 43]), Measurements()
    problem = gradient_flows.make(case["problem"], rng)
    beta = problem.lipschitz
    rate = 1.0 / beta
    best, total, discarded, squares, B, first = np.inf, 0.0, 0.0, 0.0, 0.0, None
    smallest, bounds = [], []
    for it in trajectory(
        problem,
        gradient_flows.start(problem, case["start"], rng),
        case["steps"],
        rate,
        step=step,
        tau=case["tau"],
        max_rank=8,
    ):
        first = problem.loss(it.W) if first is None else first
        B = max(B, float(np.linalg.norm(problem.gradient(it.outcome.W_hat))))
        discarded, squares = discarded + it.lost, squares + it.lost**2
        best, total = min(best, it.tangential**2), total + it.tangential**2
        bound = (first - problem.minimum + B * discarded + 0.5 * beta * squares) / ((it.k + 1) * rate * (1.0 - 0.5 * beta * rate))
        out.at_most("mean ‖P∇L‖² ≤ bound", total / (it.k + 1), bound)
        smallest.append(best)
        bounds.append(bound)
    out.require("L ≥ L*", problem.loss(it.W_next) >= problem.minimum)
    out.series = {
        "problem": case["problem"],
        "start": case["start"],
        "tau": case["tau"],
        "smallest": smallest,
        "bound": bounds,
    }
    return out.result(case)


def draw_gradient(axes: Any, results: Results) -> None:
    for result in results:
        if result.series["tau"] == 1e-3 and result.series["start"] == "order one" and result.case.endswith("-0"):
            scale = result.series["bound"][0]
            (line,) = axes.plot(np.array(result.series["smallest"]) / scale, label=result.series["problem"])
            axes.plot(np.array(result.series["bound"]) / scale, ":", color=line.get_color())
    axes.plot([], [], ":", color="gray", label="bound")
    axes.set(yscale="log", xlabel="T", ylabel="min ‖P∇L‖² / first bound")
    axes.legend()


def control_cases(plan: Plan) -> Iterator[Case]:
    return (case for case in cases(plan) if case["problem"] in ("quadratic", "sensing") and case["seed"] == plan.seed)


CLAIM = Claim(
    id="convergence",
    title="How small a projected gradient becomes",
    section="How small a projected gradient becomes",
    statement="min_{t<T} ‖P(W_t)∇L(W_t)‖² ≤ their mean ≤ [L(W₀) − L* + Σ_{t<T}(Bϑ_t + (β/2)ϑ_t²)] / [Tλ(1 − βλ/2)]",
    hypotheses=("∇L is β-Lipschitz", "λ constant in (0, 2/β)", "L ≥ L*", "B ≥ ‖∇L(Ŵ_t)‖"),
    sources=("GeoLoRA",),
    cases=cases,
    check=check,
    floor=1000,
    controls=(
        Control("k-step-sign", MUTANTS["k-step-sign"].defect, control_cases, lambda case: check(case, mutant("k-step-sign"))),
        Control(
            "s-step-missing",
            MUTANTS["s-step-missing"].defect,
            control_cases,
            lambda case: check(case, mutant("s-step-missing")),
        ),
        Control(
            "unsorted-truncation",
            "the smallest singular values are kept: ϑ_t is the tail of the exact Ŵ, whatever the step reports",
            control_cases,
            lambda case: check(case, mutant("unsorted-truncation")),
        ),
    ),
    figures=(
        Figure(
            "Smallest projected gradient against its bound",
            "The bound holds at every T; solid lines are measured.",
            draw_gradient,
        ),
    ),
    explanation=(
        "All terms are those of the run itself, L(W₀) − L*, every ϑ_t and the largest gradient met: "
        "no order, and no limit of many steps. The mean is judged: the least soon has nothing to do with its bound."
    ),
)

"""The untruncated step descends, by at least an amount with explicit constants; the truncation costs at most what it says."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from geolora_ref import LowRank, ProjectedGradients, geolora_step, tangent_projection
from geolora_ref.oracle.mutants import MUTANTS
from geolora_ref.problems import TwoLayerLinear
from verification import gradient_flows
from verification.claim import Case, CaseResult, Claim, Control, Figure, Measurements, Plan, Results
from verification.steppers import Stepper, mutant, reference
from verification.trajectory import trajectory

EPS = float(np.finfo(float).eps)
STARTS = ("order one", "small singular value", "zero")


def cases(plan: Plan) -> Iterator[Case]:
    for problem in gradient_flows.NAMES:
        for start in STARTS:
            for scaled in (0.3, 1.0, 1.9):  # λβ, below 2
                for seed in range(plan.pick(1, 10)):
                    parameters = {
                        "problem": problem,
                        "start": start,
                        "rate": scaled,
                        "steps": plan.pick(60, 300),
                        "seed": plan.seed + seed,
                    }
                    yield Case(f"{problem}-{start}-{scaled}-{seed}", parameters)
    for seed in range(plan.pick(3, 30)):
        yield Case(
            f"two layers-{seed}",
            {"problem": "two layers", "steps": plan.pick(60, 300), "rate": 1.0, "seed": plan.seed + seed},
        )


def check(case: Case, step: Stepper = reference, understate: float = 1.0) -> CaseResult:
    """Along a whole trajectory.  ``understate`` divides the Lipschitz constant that the bound uses (for a control)."""
    if case["problem"] == "two layers":
        return check_two_layers(case)
    rng, out = np.random.default_rng([case["seed"], 41]), Measurements()
    problem = gradient_flows.make(case["problem"], rng)
    beta, rate = problem.lipschitz / understate, case["rate"] / problem.lipschitz
    out.require("0 < λ < 2/β", 0.0 < rate < 2.0 / problem.lipschitz)
    losses, bounds = [], []
    for it in trajectory(
        problem, gradient_flows.start(problem, case["start"], rng), case["steps"], rate, step=step, tau=0.02, max_rank=8
    ):
        W_hat, W1, lost = it.outcome.W_hat, it.W_next, it.lost
        L0, L_hat, L1 = problem.loss(it.W), problem.loss(W_hat), problem.loss(W1)
        G_hat = problem.gradient(W_hat)
        _record(
            out,
            (L0, L_hat, L1),
            rate,
            beta,
            it.tangential**2,
            float(np.linalg.norm(G_hat)),
            float(np.sum(G_hat * (W1 - W_hat))),
            lost,
        )
        losses.append(L0)
        bounds.append(L0 - rate * (1 - beta * rate / 2) * it.tangential**2 + np.linalg.norm(G_hat) * lost + beta / 2 * lost**2)
    out.series = {
        "problem": case["problem"],
        "start": case["start"],
        "rate": case["rate"],
        "loss": losses,
        "bound": bounds,
        "minimum": problem.minimum,
    }
    return out.result(case)


def _record(
    out: Measurements,
    losses: tuple[float, float, float],
    rate: float,
    beta: float,
    tangential2: float,
    gradient: float,
    slope: float,
    discarded: float,
    cancelled: float = 0.0,
) -> None:
    """The four inequalities of one step, each written so that measured and bound are of one size.

    Rounding of a loss is at most a few dozen eps of it: the sums have at most some thousand terms, added pairwise.  Where the
    residual E is a small difference of large numbers, it is eps of ``cancelled`` as well.
    """
    L0, L_hat, L1 = losses
    rounding = 50.0 * EPS * (abs(L0) + abs(L_hat) + abs(L1) + rate * tangential2 + cancelled)
    out.at_most(
        "remainder of the tangent step ≤ βλ²/2 ‖P∇L‖²",
        L_hat - L0 + rate * tangential2,
        0.5 * beta * rate**2 * tangential2,
        rounding,
    )
    # The guaranteed decrease against the decrease that happened.
    guaranteed = rate * (1.0 - 0.5 * beta * rate) * tangential2
    if guaranteed > 10.0 * rounding:
        out.at_most("guaranteed decrease ≤ decrease", guaranteed, max(L0 - L_hat, 0.0) + rounding)
    out.at_most(
        "cost of the truncation ≤ ‖∇L(Ŵ)‖ϑ₁ + β/2 ϑ₁²",
        L1 - L_hat,
        gradient * discarded + 0.5 * beta * discarded**2,
        rounding,
    )
    out.at_most("its remainder ≤ β/2 ϑ₁²", L1 - L_hat - slope, 0.5 * beta * discarded**2, rounding)


def check_two_layers(case: Case) -> CaseResult:
    """Two adapters stepped at once; β is the closed-form constant of the segment that the step moves along."""
    rng, out = np.random.default_rng([case["seed"], 42]), Measurements()
    problem = TwoLayerLinear.planted((10, 12, 8), [2.0, 1.5, 1.0], 40, rng)
    Ys: tuple[LowRank, LowRank] = problem.initial([1.0, 0.5, 0.2], rng)
    rate = 0.2
    for _ in range(case["steps"]):
        Ws = [Y.full() for Y in Ys]
        Gs = problem.gradient(*Ws)
        steps = [
            geolora_step(Y, ProjectedGradients.from_dense(Y, G), learning_rate=rate, tau=0.02)
            for Y, G in zip(Ys, Gs, strict=True)
        ]
        hats, after = [s.full() for s in steps], [s.Y.full() for s in steps]
        G_hat = problem.gradient(*hats)
        beta = max(problem.lipschitz_on(Ws, hats), problem.lipschitz_on(hats, after))
        out.require("0 < λ < 2/β on the segment", rate < 2.0 / beta)
        tangential2 = sum(float(np.sum(tangent_projection(Y, G) ** 2)) for Y, G in zip(Ys, Gs, strict=True))
        slope = sum(float(np.sum(g * (a - h))) for g, a, h in zip(G_hat, after, hats, strict=True))
        gradient = float(np.sqrt(sum(np.sum(g**2) for g in G_hat)))
        discarded = float(np.hypot(steps[0].discarded, steps[1].discarded))
        losses = (problem.loss(*Ws), problem.loss(*hats), problem.loss(*after))
        cancelled = float(np.sqrt(2.0 * max(losses)) * np.linalg.norm(problem.Y))  # ⟨E, δE⟩ with ‖δE‖ = eps ‖Y‖, E = W₂W₁X − Y
        _record(out, losses, rate, beta, tangential2, gradient, slope, discarded, cancelled)
        Ys = (steps[0].Y, steps[1].Y)
    out.series = {"start": "order one", "rate": rate}
    return out.result(case)


def draw_loss(axes: Any, results: Results) -> None:
    shown = [r for r in results if r.series["start"] == "small singular value" and r.series["rate"] == 1.0]
    for result in {r.series["problem"]: r for r in shown}.values():
        loss, bound = (np.array(result.series[key]) - result.series["minimum"] for key in ("loss", "bound"))
        (line,) = axes.plot(loss / loss[0], label=result.series["problem"])
        axes.plot(np.arange(1, len(bound) + 1), bound / loss[0], ":", color=line.get_color())
    axes.plot([], [], ":", color="gray", label="bound from the step before")
    axes.set(yscale="log", xlabel="step", ylabel="(loss − L*) / initial")
    axes.legend()


def control_cases(plan: Plan) -> Iterator[Case]:
    return (
        case
        for case in cases(plan)
        if case["problem"] in ("quadratic", "digits") and case["seed"] == plan.seed and case["rate"] == 1.9
    )


CLAIM = Claim(
    id="descent",
    title="Every step descends, up to its truncation",
    section="Every step descends, up to its truncation",
    statement="L(Ŵ) ≤ L(W) − λ(1 − βλ/2)‖P(W)∇L(W)‖²,   L(W₁) ≤ L(Ŵ) + ‖∇L(Ŵ)‖ϑ₁ + (β/2)ϑ₁²",
    hypotheses=("∇L is β-Lipschitz", "0 < λ < 2/β", "opt = SGD"),
    sources=("GeoLoRA",),
    explanation=(
        "Checked at every step of whole trajectories, from starts of order one, with a singular value of 1e-12, and from S = 0, "
        "at λβ = 0.3, 1 and 1.9. The remainders are compared with their bounds, so the ratios stay informative near the minimum."
    ),
    cases=cases,
    check=check,
    floor=5000,
    controls=(
        Control("s-step-sign", MUTANTS["s-step-sign"].defect, control_cases, lambda case: check(case, mutant("s-step-sign"))),
        Control("k-step-sign", MUTANTS["k-step-sign"].defect, control_cases, lambda case: check(case, mutant("k-step-sign"))),
        Control(
            "missing-lower-block",
            MUTANTS["missing-lower-block"].defect,
            control_cases,
            lambda case: check(case, mutant("missing-lower-block")),
        ),
        Control(
            "unsorted-truncation",
            "the smallest singular values are kept: ϑ₁ is the tail of the exact Ŵ, whatever the step reports",
            control_cases,
            lambda case: check(case, mutant("unsorted-truncation")),
        ),
        Control(
            "understated β",
            "hypothesis violated: a quarter of the Lipschitz constant",
            control_cases,
            lambda case: check(case, understate=4.0),
        ),
    ),
    figures=(
        Figure(
            "Loss against its bound",
            "Solid: the loss; dotted: what the step before guaranteed (start with σ_min = 1e-12, λβ = 1).",
            draw_loss,
        ),
    ),
)

"""On a gradient flow the augmented integrator never goes uphill before its truncation, at any step size."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from geolora_ref import LowRank
from geolora_ref.algorithm import Truncation
from geolora_ref.integrators import SolveIVP, TruncationRule
from geolora_ref.integrators.augmented_bug import augmented_bug_step
from geolora_ref.integrators.projector_splitting import K_S_L
from geolora_ref.integrators.sub_equations import Factors, K_step, L_step, S_step
from geolora_ref.integrators.sub_solvers import SubSolver
from geolora_ref.problems import AllenCahn, GradientFlow, Saddle
from geolora_ref.problems.field import Field
from geolora_ref.problems.problem import Matrix
from verification.claim import Case, CaseResult, Claim, Control, Figure, Measurements, Plan, Results
from verification.instruments import gradient_flows
from verification.instruments.acting import Acting
from verification.instruments.trajectory import tail

RANK, STEPS = 4, 6
SUB_SOLVER = SolveIVP(rtol=1e-9, atol=1e-11)
PROBLEMS = (
    "quadratic",
    "ill-conditioned quadratic",
    "sensing",
    "completion",
    "Allen–Cahn",
    "saddle",
)
SIZES = (0.1, 1.0, 10.0, 100.0)
"""Step sizes h in units of 1/ℓ, or of 1 where no ℓ exists."""


def cases(plan: Plan) -> Iterator[Case]:
    for name in PROBLEMS:
        for size in SIZES:
            for seed in range(plan.pick(1, 5)):
                yield Case(
                    f"{name}-{size}-{seed}",
                    {"problem": name, "size": size, "seed": plan.seed + seed},
                )


def make(name: str, rng: np.random.Generator) -> tuple[GradientFlow, LowRank]:
    """The problem of this name, and a start of rank 4."""
    if name == "Allen–Cahn":
        problem = AllenCahn(32)
        return problem, problem.start(RANK)
    flow = gradient_flows.make(name, rng)
    return flow, flow.initial((1.0, 0.5, 1e-3, 1e-8), rng)


BugStep = Callable[[SubSolver, Field, float, float, Factors], Factors]


RULE = TruncationRule(tau=1e-4, max_rank=8)


def keeps_the_smallest(hat: Factors, h: float) -> Truncation:
    """The rule, but with the smallest singular values of Ŷ in place of the largest (the control)."""
    right = RULE(hat, h)
    P, sigma, Qh = np.linalg.svd(hat.S)
    r = right.Y.rank
    Y = LowRank(hat.U @ P[:, -r:], np.diag(sigma[-r:]), hat.V @ Qh[-r:].T)
    return replace(right, Y=Y)


def check(
    case: Case,
    bug_step: BugStep = augmented_bug_step,
    sign: float = 1.0,
    rule: Callable[[Factors, float], Truncation] = RULE,
) -> CaseResult:
    """L(Ŷ) ≤ L(Y₀) before the truncation; where β is known, a least decrease, and
    L(Y₁) ≤ L(Ŷ) + ‖∇L(Ŷ)‖ϑ₁ + (β/2)ϑ₁².

    The Galerkin equation in the augmented bases is the gradient flow of L restricted to a linear
    space that contains Y₀.  With g = Ûᵀ∇L V̂ along it dL/dt = −‖g‖² and d‖g‖²/dt ≥ −2β‖g‖², so that
    L falls by ‖g(0)‖²(1 − e^{−2βh})/(2β) at least.  Û and V̂ are formed without the step: a step
    that does not augment would be judged in its own bases. ϑ₁ is the tail of Ŷ beyond the rank of
    Y₁: with ‖Ŷ − Y₁‖ in its place any Y₁ would pass.
    """
    rng, out = np.random.default_rng([case["seed"], 56]), Measurements()
    problem, Y = make(case["problem"], rng)
    h = case["size"] / (1.0 if np.isnan(problem.lipschitz) else problem.lipschitz)
    field: Any = problem if sign > 0.0 else uphill(problem)
    losses = [problem.loss(Y.full())]
    slack = 1e-9 * (losses[0] - problem.minimum)  # the error of the sub-solver
    for k in range(STEPS):
        hat = bug_step(SUB_SOLVER, field, k * h, h, Factors(*Y))
        W_hat, before = hat.product().full(), problem.loss(Y.full()) - problem.minimum
        cut = rule(hat, h)
        above = problem.loss(W_hat) - problem.minimum
        out.at_most("before the truncation: L(Ŷ) − L* ≤ L(Y₀) − L*", above, before, slack)
        if not above <= before + slack:
            break  # steps after one that goes uphill tell nothing
        beta = curvature(problem, problem.loss(Y.full()))
        if not np.isnan(beta):
            U_hat = reached(Y.U, K_step(SUB_SOLVER, problem, k * h, h, Factors(*Y)))
            V_hat = reached(Y.V, L_step(SUB_SOLVER, problem, k * h, h, Factors(*Y)))
            g = U_hat.T @ problem.gradient(Y.full()) @ V_hat
            least = -np.expm1(-2.0 * beta * h) / (2.0 * beta) * np.sum(g**2)
            out.at_most(
                "before the truncation: ‖g‖²(1 − e^{−2βh})/(2β) ≤ L(Y₀) − L(Ŷ)",
                least,
                before - above,
                slack,
            )
            G = float(np.linalg.norm(problem.gradient(W_hat)))
            rise = problem.loss(cut.Y.full()) - problem.loss(W_hat)
            theta = tail(W_hat, cut.Y.rank)
            allowed = G * theta + 0.5 * beta * theta**2
            out.at_most(
                "the truncation: L(Y₁) − L(Ŷ) ≤ ‖∇L(Ŷ)‖ϑ₁ + (β/2)ϑ₁²",
                rise,
                allowed,
                1e-14 * (1.0 + before),
            )
        Y = cut.Y
        losses.append(problem.loss(Y.full()))
    out.series = {**case.parameters, "losses": losses, "minimum": problem.minimum}
    return out.result(case)


def curvature(problem: GradientFlow, loss: float) -> float:
    """β on {L ≤ loss}, where the flow stays, or for all matrices; NaN where none is known.

    It also holds from Ŷ to Y₁, which may lie outside of that set: β depends on ‖·‖₂ alone, which no
    truncation raises.  For the saddle problem ‖W‖₂² ≤ ‖B‖₂ + ‖WWᵀ − B‖ = b_1 + 2√L.
    """
    if not isinstance(problem, Saddle):
        return problem.lipschitz
    largest = np.diag([np.sqrt(problem.b[0] + 2.0 * np.sqrt(loss))])
    return problem.lipschitz_on(largest, largest)


def reached(B: Matrix, X: Matrix) -> Matrix:
    """B and the directions of X outside of B above 1e-6, a thousand tolerances; with fewer the
    check would ask for less.
    """
    outside = X - B @ (B.T @ X)
    P, sigma, _ = np.linalg.svd(outside - B @ (B.T @ outside), full_matrices=False)
    return np.hstack([B, P[:, sigma > 1e-6 * np.linalg.norm(X)]])


def in_the_old_bases(solver: SubSolver, field: Field, t: float, h: float, Y: Factors) -> Factors:
    """The Galerkin step without new directions (the control)."""
    return Factors(Y.U, S_step(solver, field, t, h, Y), Y.V)


def half_a_step(solver: SubSolver, field: Field, t: float, h: float, Y: Factors) -> Factors:
    """The augmented step over half of the time (the control)."""
    return augmented_bug_step(solver, field, t, 0.5 * h, Y)


def uphill(flow: GradientFlow) -> Acting:
    """The field of opposite sign, whose flow goes uphill (the control)."""
    return Acting(
        flow.shape,
        lambda t, Y, V: -flow.apply_right(t, Y, V),
        lambda t, Y, U: -flow.apply_left(t, Y, U),
    )


def large_steps(plan: Plan) -> Iterator[Case]:
    return (
        case for case in cases(plan) if case["size"] == 100.0 and "quadratic" in case["problem"]
    )


def small_steps(plan: Plan) -> Iterator[Case]:
    return (case for case in cases(plan) if case["size"] == 0.1 and case["problem"] == "quadratic")


def draw(axes: Any, results: Results) -> None:
    for result in results:
        if result.series["size"] == 1.0 and result.case.endswith("-0"):
            above = np.array(result.series["losses"]) - result.series["minimum"]
            axes.plot(
                range(len(above)),
                above / above[0],
                "o-",
                markersize=4,
                label=result.series["problem"],
            )
    axes.set(yscale="log", xlabel="step", ylabel="(L(Y) − L*) / (L(Y₀) − L*)")
    axes.legend()


CLAIM = Claim(
    id="energy-descent",
    title="The augmented integrator descends at every step size",
    section="Integrators: what was measured",
    statement=(
        "on Ẏ = −∇L(Y): L(Ŷ) ≤ L(Y₀) − ‖Ûᵀ∇L(Y₀)V̂‖²(1 − e^{−2βh})/(2β) for every h, and L(Y₁) ≤ L(Ŷ) + ‖∇L(Ŷ)‖ϑ₁ + (β/2)ϑ₁²"
    ),
    hypotheses=(
        "the old bases are kept, so that Y₀ lies in the Galerkin space",
        "where β stands: ∇L is β-Lipschitz on {L ≤ L(Y₀)}, and on the segment from Ŷ to Y₁",
        "sub-equations by solve_ivp at tolerance 1e-9",
    ),
    sources=("CKL22",),
    explanation=(
        "No step size restriction, convex or not; the least decrease is measured on the saddle problem too, where β holds below "
        "the loss of each step. Projector splitting, whose S-step runs backwards, blows up at h = 100/β."
    ),
    slack={
        "the truncation: L(Y₁) − L(Ŷ) ≤ ‖∇L(Ŷ)‖ϑ₁ + (β/2)ϑ₁²": (
            "attained only where the removed part has the direction of −∇L(Ŷ) and of the largest curvature"
        ),
    },
    cases=cases,
    check=check,
    undecided=0.15,
    floor=6,
    controls=(
        Control(
            "projector splitting, h = 100/β",
            "a sub-step that goes uphill",
            large_steps,
            lambda case: check(case, K_S_L),
        ),
        Control(
            "half a step",
            "descent, and less than the equation has",
            small_steps,
            lambda case: check(case, half_a_step),
        ),
        Control(
            "old bases",
            "a Galerkin step without augmentation descends, and by less than the new directions allow",
            small_steps,
            lambda case: check(case, in_the_old_bases),
        ),
        Control("the flow reversed", "a sign", small_steps, lambda case: check(case, sign=-1.0)),
        Control(
            "unsorted truncation",
            "the smallest singular values are kept: ϑ₁ is the tail of Ŷ, whatever the truncation reports",
            large_steps,
            lambda case: check(case, rule=keeps_the_smallest),
        ),
    ),
    figures=(
        Figure(
            "Loss over the steps",
            "h = 1/ℓ (h = 1 for Allen–Cahn and the saddle), τ = 1e-4, at most rank 8.",
            draw,
        ),
    ),
)

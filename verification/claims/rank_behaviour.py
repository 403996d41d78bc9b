"""How the rank behaves: fixed, adaptive, stalled, and the step rejection that cures the stall."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from geolora_ref import LowRank
from geolora_ref.integrators import (
    EXPLICIT_EULER,
    Integrator,
    ParallelBUG,
    TruncationRule,
    integrate,
)
from geolora_ref.oracle.cases.spectra import geometric
from geolora_ref.problems import Quadratic
from verification.claim import (
    CHOSEN,
    YES_OR_NO,
    Case,
    CaseResult,
    Claim,
    Control,
    Figure,
    Measurements,
    Plan,
    Results,
    Table,
)
from verification.instruments.integrator_family import FAMILY
from verification.instruments.trajectory import tail

RANK, CAP, T, THETA, TINY = 5, 12, 0.25, 1e-3, 1e-12
H = 0.003125
OBLIQUE = "oblique Runge–Kutta"
REJECTING = "parallel BUG with step rejection"
FULL = "parallel BUG with step rejection where nothing was truncated"


def kind_of(name: str) -> str:
    """The behaviour of the rank: it is "fixed", it "stalls", or it grows ("adaptive").

    The parallel step and the tangent space of projected methods do not contain what lies outside of
    both bases: a new direction enters with size O(h²/σ_min), below ϑ = 1e-3 h.
    """
    if name in (REJECTING, FULL):
        return "adaptive"
    return "fixed" if not FAMILY[name].adaptive else "stalls" if FAMILY[name].stalls else "adaptive"


def step_size(name: str) -> float:
    """The step size h.  An oblique projector magnifies a new direction of size O(h²) by its norm, up to 4
    here, and would carry it over ϑ with the h of the others.
    """
    return H / 4.0 if name == OBLIQUE else H


def cases(plan: Plan) -> Iterator[Case]:
    for name in (*FAMILY, REJECTING, FULL):
        for seed in range(plan.pick(2, 10)):
            yield Case(f"{name}-{seed}", {"integrator": name, "seed": plan.seed + seed})


def integrator_of(name: str, cap: int = CAP) -> Integrator:
    rule = TruncationRule(theta=THETA, max_rank=cap, per_time=True)
    if name == REJECTING:
        return ParallelBUG(rule, EXPLICIT_EULER, rejection=10.0)
    if name == FULL:
        return ParallelBUG(TruncationRule(theta=TINY, max_rank=cap), EXPLICIT_EULER, rejection=1e12)
    return FAMILY[name].make(rule, EXPLICIT_EULER)


def check(
    case: Case,
    integrator: Integrator | None = None,
    factor_of: Callable[[float], float] = lambda factor: factor,
) -> CaseResult:
    """A quadratic with 20 relevant directions from a start of rank 5 with singular values of order
    one, ϑ = 1e-3 h.

    An adaptive rank reaches its cap of 12, with an error near the best rank-12 error; any other
    stays 5 to the end.  The two reasons to reject a step are checked apart.  With ϑ = 1e-3 h much
    is truncated, so that η decides: the first step is tried with factors c for which hη is 1 %
    below cϑ and 1 % above; ``factor_of`` changes c (for controls).  With ϑ = 1e-12 and a factor of
    1e12 η never decides, but nothing is truncated in the first step, which without rejection ends
    at rank 10.
    """
    rng, out = np.random.default_rng([case["seed"], 45]), Measurements()
    problem = Quadratic.random((24, 20), geometric(20, 1e-2), rng)
    Y0 = problem.initial(np.linspace(1.0, 0.6, RANK), rng)
    run = integrate(
        integrator or integrator_of(case["integrator"]),
        problem,
        Y0,
        (0.0, T),
        step_size(case["integrator"]),
    )
    end = problem.solution(T, Y0.full())
    best = tail(end, CAP)
    error = float(np.linalg.norm(run.Y.full() - end))
    if kind_of(case["integrator"]) != "adaptive":
        for rank in run.ranks[1:]:
            out.ratio("the rank stays", max(rank / RANK, RANK / rank))
    else:
        out.ratio("the rank reaches its cap", CAP / run.ranks[-1])
        if case["integrator"] == FULL:
            out.ratio(
                "where nothing is truncated the rank more than doubles in a step",
                (2 * RANK + 1) / run.ranks[1],
            )
        if case["integrator"] == REJECTING:
            critical = missing_block(problem, Y0) / THETA  # hη = cϑ with ϑ = 1e-3 h
            below, above = (
                rejections(problem, Y0, factor_of(share * critical)) for share in (1.01, 0.99)
            )
            out.ratio("hη below cϑ: no rejection", 2.0 * below)
            out.ratio("hη above cϑ: one rejection at least", 1.0 / (0.5 + above))
        out.at_most("best rank-12 error ≤ error", best, error)
        out.ratio(
            "error ≤ 3 best rank-12 errors + first-order error",
            error / (3.0 * best + first_order_error(problem, Y0.full())),
        )
    out.series = {
        **case.parameters,
        "ranks": run.ranks,
        "error": error,
        "best": best,
        "rejections": sum(record.rejections for record in run.records),
    }
    return out.result(case)


def missing_block(problem: Quadratic, Y: LowRank) -> float:
    """η = ‖ŨᵀF(Y)Ṽ‖: the block that the explicit Euler step leaves out; Ũ and Ṽ span F V and FᵀU
    outside of U and V.
    """
    F = problem.field(0.0, Y.full())
    U_tilde, V_tilde = (
        np.linalg.qr(X - B @ (B.T @ X)).Q for B, X in ((Y.U, F @ Y.V), (Y.V, F.T @ Y.U))
    )
    return float(np.linalg.norm(U_tilde.T @ F @ V_tilde))


def rejections(problem: Quadratic, Y: LowRank, factor: float) -> int:
    """How often the first step is rejected with this factor."""
    rule = TruncationRule(theta=THETA, max_rank=CAP, per_time=True)
    run = integrate(ParallelBUG(rule, EXPLICIT_EULER, rejection=factor), problem, Y, (0.0, H), H)
    return run.records[0].rejections


def first_order_error(problem: Quadratic, Y: Any) -> float:
    """The error of explicit Euler with the same h against the full flow."""
    W = Y
    for _ in range(round(T / H)):
        W = W + H * problem.field(0.0, W)
    return float(np.linalg.norm(W - problem.solution(T, Y)))


def rejecting(plan: Plan) -> Iterator[Case]:
    yield Case("control", {"integrator": REJECTING, "seed": plan.seed})


def full(plan: Plan) -> Iterator[Case]:
    yield Case("control", {"integrator": FULL, "seed": plan.seed})


def staying(plan: Plan) -> Iterator[Case]:
    yield Case("control", {"integrator": "parallel BUG", "seed": plan.seed})


def growing(plan: Plan) -> Iterator[Case]:
    yield Case("control", {"integrator": "augmented BUG", "seed": plan.seed})


def draw(axes: Any, results: Results) -> None:
    offset = 0.0
    for result in results:
        if result.case.endswith("-0") and kind_of(result.series["integrator"]) != "fixed":
            ranks = np.array(result.series["ranks"][:33]) + offset
            axes.plot(
                step_size(result.series["integrator"]) * np.arange(len(ranks)),
                ranks,
                label=result.series["integrator"],
            )
            offset += 0.06
    axes.set(xlabel="t", ylabel="rank (curves slightly shifted)", ylim=(0, CAP + 1))
    axes.legend()


def table(results: Results) -> list[list[str]]:
    rows = [
        ["integrator", "rank", "final rank", "error at T", "best error of rank 12", "rejections"]
    ]
    for result in results:
        if result.case.endswith("-0"):
            s = result.series
            kind = kind_of(s["integrator"])
            rows.append(
                [
                    s["integrator"],
                    kind,
                    str(s["ranks"][-1]),
                    f"{s['error']:.2e}",
                    f"{s['best']:.2e}",
                    str(s["rejections"]),
                ]
            )
    return rows


CLAIM = Claim(
    id="rank-behaviour",
    title="Rank: fixed, adaptive, stalled, and cured by step rejection",
    section="Integrators: what was measured",
    statement="with ϑ = 1e-3·h and S of order one the parallel step gains no rank; with step rejection it does",
    hypotheses=(
        "absolute threshold ϑ = 1e-3·h, h = 0.003125 (a quarter of it for oblique Runge–Kutta)",
        "explicit Euler sub-steps",
    ),
    sources=("CKL22", "CKL24"),
    explanation=(
        "A step is rejected where nothing was truncated, or where hη exceeds the factor times ϑ; each reason is checked alone, "
        "the second within 1 % of where it begins. A rejected step is repeated from the augmented bases, so that the missing "
        "lower right block becomes part of the S-step. The rejected steps and their field evaluations are reported in every "
        "step's record."
    ),
    by_nature=(
        "the rank reaches its cap",
        "the rank stays",
    ),
    slack={
        "error ≤ 3 best rank-12 errors + first-order error": CHOSEN,
        "hη above cϑ: one rejection at least": YES_OR_NO,
        "hη below cϑ: no rejection": YES_OR_NO,
    },
    cases=cases,
    check=check,
    floor=4,
    controls=(
        Control(
            "no rejection",
            "the parallel step as it is, expected to grow",
            rejecting,
            lambda case: check(case, integrator_of("parallel BUG")),
        ),
        Control(
            "rejection",
            "the parallel step with rejection, expected to stay",
            staying,
            lambda case: check(case, integrator_of(REJECTING)),
        ),
        Control(
            "collapse",
            "the parallel step with rank 1, expected to stay at 5",
            staying,
            lambda case: check(case, integrator_of("parallel BUG", 1)),
        ),
        Control(
            "no rejection where nothing was truncated",
            "the same step as it is: its rank doubles, no more",
            full,
            lambda case: check(
                case, ParallelBUG(TruncationRule(theta=TINY, max_rank=CAP), EXPLICIT_EULER)
            ),
        ),
        Control(
            "η without h",
            "η against cϑ: a step is rejected that is none to reject",
            rejecting,
            lambda case: check(case, factor_of=lambda factor: factor * H),
        ),
        Control(
            "a factor twice as large",
            "a step stays that is one to reject",
            rejecting,
            lambda case: check(case, factor_of=lambda factor: 2.0 * factor),
        ),
        Control(
            "another cap",
            "with rank 18 the error is below the best of rank 12",
            growing,
            lambda case: check(case, integrator_of("augmented BUG", 18)),
        ),
    ),
    figures=(Figure("Rank over time", "From 5 to the cap of 12, or not.", draw),),
    tables=(Table("Ranks (seed 0)", table),),
)

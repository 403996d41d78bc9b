"""Without a memory every direction descends; the spectral one by ‖PG‖_*, at a length that its
bounds allow.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from geolora_ref import LowRank
from geolora_ref.optimizers import Bases, Moments, Optimizer
from geolora_ref.oracle.cases.step_case import StepCase, draw_parameters
from geolora_ref.problems import Quadratic
from verification.claim import Case, CaseResult, Claim, Control, Measurements, Plan
from verification.instruments import gradient_flows
from verification.instruments.directions import BROKEN, RULES, dense, rounding_of, seen, uphill

KAPPA = 2.0 / 3.0**0.5
EPS = float(np.finfo(float).eps)
SIZES = (8, 24, 192, 768)
"""m of the gradients along which entries of size 1 can ascend."""
DRAWS = 100
ALIGNED = "aligned"
"""A quadratic of curvature 1 whose target has the ranges of W: P∇L has rank r and a polar factor of
length √r.
"""


def cases(plan: Plan) -> Iterator[Case]:
    for rule in RULES:
        for block in range(plan.pick(2, 20)):
            yield Case(
                f"{rule}-{block}", {"kind": "angle", "rule": rule, "seed": [plan.seed, block]}
            )
        for m in SIZES:
            yield Case(f"{rule}-uphill {m}", {"kind": "uphill", "rule": rule, "m": m})
    for block in range(plan.pick(4, 40)):
        yield Case(f"bounds-{block}", {"kind": "bounds", "seed": [plan.seed, block]})
    yield Case("bounds-attained", {"kind": "attained"})
    for problem in (ALIGNED, *gradient_flows.FLOWS):
        for start in gradient_flows.STARTS:
            for rate in (0.003, 0.03, 0.3):
                parameters = {
                    "problem": problem,
                    "start": start,
                    "rate": rate,
                    "seed": plan.seed,
                    "steps": plan.pick(30, 200),
                }
                yield Case(f"{problem}-{start}-{rate}", {"kind": "descent", **parameters})


def check(case: Case, broken: str = "", *, kappa: float = KAPPA, rank: float = 1.0) -> CaseResult:
    """Check one kind of case.  For controls: ``broken`` replaces the rule, ``kappa`` is another κ,
    ``rank`` a factor of k.
    """
    out, rule = Measurements(), (RULES | BROKEN)[broken or case.parameters.get("rule", "spectral")]
    if case["kind"] == "descent":
        descent(out, case, rule, rank)
    elif case["kind"] == "uphill":
        angle(out, rule, *uphill(case["m"]))
    elif case["kind"] == "attained":
        corner = np.array([[2.0**0.5, 1.0], [1.0, 0.0]])
        bounds(out, rule, Bases(np.eye(2, 1), np.eye(2, 1)), corner, kappa)
    else:
        rng = np.random.default_rng([*case["seed"], 55])
        for draw in range(DRAWS):
            U, _, V, G = StepCase.build(
                draw_parameters(rng, largest=20, complex_data=bool(draw % 2))
            ).state()
            G = G if draw % 4 else rng.standard_normal(G.shape)
            if case["kind"] == "angle":
                angle(out, rule, Bases(U, V), G)
            else:
                bounds(out, rule, Bases(U, V), G, kappa)
    return out.result(case)


def first(rule: Optimizer, bases: Bases, G: Any) -> Any:
    """The dense direction of a first step."""
    return dense(rule.direction(bases, seen(G, bases), Moments())[0], bases)


def tangential(bases: Bases, G: Any) -> Any:
    """P G; exactly 0 where it is rounding of G."""
    PG = dense(seen(G, bases), bases)
    return PG if np.linalg.norm(PG) > rounding_of(G) * np.linalg.norm(G) else 0.0 * PG


def angle(out: Measurements, rule: Optimizer, bases: Bases, G: Any) -> None:
    """1 − cos ∠(PG, D) is at most 1."""
    PG, D = tangential(bases, G), first(rule, bases, G)
    size = np.linalg.norm(PG) * np.linalg.norm(D)
    if not (
        np.isfinite(size) and size > 0.0
    ):  # a normal gradient, or one whose square leaves the range
        out.undecided += 1
        return
    out.ratio("1 − cos ∠(∇L, D) ≤ 1", 1.0 - float(np.vdot(PG, D).real) / float(size))


def bounds(out: Measurements, rule: Optimizer, bases: Bases, G: Any, kappa: float) -> None:
    """⟨G, D⟩ = ‖PG‖_*, ‖D‖₂ ≤ κ, ‖PG‖_*/‖PG‖ ≤ ‖D‖ ≤ √k, in double precision; k is the rank of PG."""
    PG, D = tangential(bases, G), first(rule, bases, G)
    sigma, k = np.linalg.svd(PG, compute_uv=False), int(np.linalg.matrix_rank(PG))
    if not (np.isfinite(sigma[0] ** 2) and sigma[0] ** 2 > 0.0):
        out.undecided += 1
        return
    nuclear, size = float(np.sum(sigma)), float(np.linalg.norm(D))
    exact = rounding_of(G)
    magnified = exact * float(np.linalg.norm(G)) / float(np.linalg.norm(PG))
    slope = float(np.vdot(G, D).real)
    out.at_most("‖PG‖_* ≤ ⟨∇L, D⟩", nuclear, slope, magnified * nuclear)
    out.at_most("⟨∇L, D⟩ ≤ ‖PG‖_*", slope, nuclear, magnified * nuclear)
    out.at_most("‖D‖₂ ≤ κ", float(np.linalg.norm(D, 2)), kappa, exact)
    out.at_most("‖D‖ ≤ √k", size, float(k) ** 0.5, exact)
    out.at_most("‖PG‖_*/‖PG‖ ≤ ‖D‖", nuclear / float(np.linalg.norm(PG)), size, magnified)


def descent(out: Measurements, case: Case, rule: Optimizer, rank: float) -> None:
    """L(Ŵ) ≤ L(W) − λ‖P∇L‖_* + ½βkλ², at every step of a trajectory without a memory, truncated to
    rank 6.
    """
    rng = np.random.default_rng([case["seed"], 56])
    problem, Y = _start(case, rng)
    beta, rate = gradient_flows.smoothness(problem), case["rate"]
    for _ in range(case["steps"]):
        bases, W = Bases(Y.U, Y.V), Y.full()
        G = problem.gradient(W)
        PG, D = tangential(bases, G), first(rule, bases, G)
        W_hat, nuclear, k = (
            W - rate * D,
            float(np.linalg.norm(PG, "nuc")),
            int(np.linalg.matrix_rank(PG)),
        )
        L0, L_hat = problem.loss(W), problem.loss(W_hat)
        # a loss is right to a few dozen eps: at most some thousand terms, added pairwise
        rounding = 50.0 * EPS * (abs(L0) + abs(L_hat) + rate * nuclear)
        out.at_most(
            "L(Ŵ) − L(W) + λ‖P∇L‖_* ≤ ½βkλ²",
            L_hat - L0 + rate * nuclear,
            0.5 * beta * k * rank * rate**2,
            rounding,
        )
        Y = LowRank.from_dense(W_hat, 6)


def _start(case: Case, rng: np.random.Generator) -> tuple[Any, LowRank]:
    if case["problem"] != ALIGNED:
        problem = gradient_flows.make(case["problem"], rng)
        return problem, gradient_flows.start(problem, case["start"], rng)
    Y = LowRank.random((12, 10), [1.0, 0.8, 0.6, 0.5], rng)
    return Quadratic(LowRank(Y.U, 40.0 * np.eye(4), Y.V).full(), np.eye(12), np.eye(10)), Y


def of_kind(*kinds: str) -> Any:
    """The cases of the quick plan of some kinds."""

    def chosen(plan: Plan) -> Iterator[Case]:
        return (
            case
            for case in cases(plan)
            if case["kind"] in kinds and case.parameters.get("rule", "gradient") == "gradient"
        )

    return chosen


def large_uphill(plan: Plan) -> Iterator[Case]:
    return (case for case in of_kind("uphill")(plan) if case["m"] > 20)


def aligned(plan: Plan) -> Iterator[Case]:
    return (case for case in of_kind("descent")(plan) if case["problem"] == ALIGNED)


CLAIM = Claim(
    id="first-directions",
    title="Without a memory every direction descends, the spectral one by the nuclear norm",
    section="Spectral descent",
    statement=(
        "⟨∇L, D⟩ ≥ 0 for every rule;   spectral: ⟨∇L, D⟩ = ‖P∇L‖_*, ‖D‖₂ ≤ 2/√3, ‖D‖ ≤ √k, "
        "L(Ŵ) ≤ L(W) − λ‖P∇L‖_* + ½βkλ², k = rank P∇L ≤ 2r"
    ),
    hypotheses=("the memory is empty", "for the last: ∇L is β-Lipschitz, any λ > 0"),
    sources=("GeoLoRA", "B25"),
    explanation=(
        "On drawn gradients with traps, on the gradients along which the published Adam ascends (m = 8 to 768), on the core by "
        "which 2/√3 is attained, and at every step of trajectories. It says nothing of directions of a memory."
    ),
    cases=cases,
    check=check,
    undecided=0.1,  # normal and zero gradients have no direction
    floor=29,
    controls=(
        Control(
            "published Adam",
            "Adam entry by entry on each of ∇_K, ∇_L and ∇_S goes uphill",
            of_kind("uphill"),
            lambda case: check(case, "published Adam"),
        ),
        Control(
            "shared core",
            "the same with the mean of what K and L say as its core",
            large_uphill,
            lambda case: check(case, "shared core"),
        ),
        Control(
            "blockwise polar",
            "the polar factor of each block of the core by itself is too long",
            of_kind("bounds"),
            lambda case: check(case, "blockwise polar"),
        ),
        Control(
            "polar of halves",
            "½(polar(∇_K)Vᴴ + U polar(∇_L)ᴴ) descends by less than ‖P∇L‖_*",
            of_kind("bounds"),
            lambda case: check(case, "polar of halves"),
        ),
        Control(
            "as long as may be",
            "the direction times the largest factor that ‖D‖₂ ≤ κ and ‖D‖ ≤ √k leave",
            of_kind("bounds"),
            lambda case: check(case, "as long as may be"),
        ),
        Control(
            "1 for κ",
            "the spectral norm of D is not at most 1",
            of_kind("attained"),
            lambda case: check(case, kappa=1.0),
        ),
        Control(
            "half of k",
            "½β(k/2)λ² where ‖D‖² = k and β are attained",
            aligned,
            lambda case: check(case, rank=0.5),
        ),
    ),
)

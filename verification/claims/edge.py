"""A threshold per singular value, in units of the step: every singular value above cλ is kept."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from geolora_ref.optimizers import Bases, Optimizer, Spectral
from geolora_ref.problems.problem import Matrix
from verification.claim import CHOSEN, Case, CaseResult, Claim, Control, Measurements, Plan
from verification.claims.priced import (
    LENGTH,
    PLANTED,
    RATE,
    TURNED,
    Moved,
    cases_of,
    moved_by,
    start_of,
)
from verification.instruments import gradient_flows
from verification.instruments.directions import dense, seen

EPS = float(np.finfo(float).eps)
EDGE = 0.5
"""c, the weight from which a direction is kept."""
BELOW = EDGE * (1.0 - 1e-9)
"""A singular value just below cλ, so that rounding does not decide."""
RULES: dict[str, Optimizer] = {"default": Spectral(0.9, 0.5), "noise": Spectral(0.9, 0.5, 4.0)}
SHARPENED = {
    "spent": (np.diag([1.0, (LENGTH - BELOW) * RATE]), np.diag([0.0, 1.0]), None),
    "opposed": (
        np.diag([1.0, -(LENGTH + BELOW) * RATE]),
        np.diag([0.0, 1.0]),
        np.diag([0.0, -TURNED]),
    ),
    "curved": (np.diag([1.0, (LENGTH + BELOW) * RATE]), np.diag([0.0, 1e-9]), None),
    "normal": (np.diag([1.0, 0.0]), np.array([[0.0, 1e-4], [1e-4, 1.0]]), None),
}
"""Single steps that attain an inequality: W, ∇L and a memory, in two planes, as in the claim of the
priced truncation.

"spent": the cut takes back cλ‖M̄‖₍₁₎ of the decrease.  "opposed": a memory that opposes the gradient
moves and cuts uphill.  "curved": at a minimiser the step and the cut add up.  "normal": what is cut
is normal.
"""


@dataclass(frozen=True)
class Terms:
    """Factors that controls put on the terms: of the edge, of the error, of the normal part and of β."""

    edge: float = 1.0
    error: float = 1.0
    normal: float = 1.0
    curvature: float = 1.0


def cases(plan: Plan) -> Iterator[Case]:
    return cases_of(plan, SHARPENED, RULES, RULES)


def check(case: Case, terms: Terms = Terms(), edge: float = EDGE) -> CaseResult:
    """Check the decrease of every step; ``edge`` is the threshold of the rule itself (for controls)."""
    rng, out = np.random.default_rng([case["seed"], 81]), Measurements()
    problem, Y, moments = start_of(case, rng, SHARPENED)
    rule, first = RULES[case["rule"]], problem.loss(Y.full())
    for step in range(case["steps"]):
        falling = 1.0 - step / case["steps"] if case["problem"] in PLANTED else 1.0
        moved, moments = moved_by(rule, problem, Y, moments, case["rate"] * falling)
        kept = max(1, int(np.sum(moved.decomposition[1] > edge * moved.rate)))
        _judged(out, problem, moved, kept, terms)
        old, Y = Bases(Y.U, Y.V), moved.spare(kept)
        moments = rule.transport(old, moments, Bases(Y.U, Y.V))
    if case["problem"] in PLANTED:
        out.at_most("planted: L(W_T) ≤ 1e-4 L(W₀)", problem.loss(Y.full()), 1e-4 * first)
        planted = len(PLANTED[case["problem"]])
        found = int(np.sum(np.linalg.svd(Y.S, compute_uv=False) > 1e-6))
        out.ratio("planted: the rank is the planted one", max(found / planted, planted / found))
    return out.result(case)


def _judged(out: Measurements, problem: Any, moved: Moved, kept: int, terms: Terms) -> None:
    """Record the bound of the decrease, and that of the part of it which weak directions can cost."""
    W, sigma, rate = moved.Y.full(), moved.decomposition[1], moved.rate
    L0, beta = problem.loss(W), terms.curvature * gradient_flows.smoothness(problem)
    W1, lost = moved.cut(kept)
    discarded = int(np.sum(sigma[kept:] > 1e-14 * sigma[0]))
    values = np.linalg.svd(moved.M, compute_uv=False)
    most = EDGE * rate * discarded**0.5
    step = rate * _norm(moved.D)
    outside = _norm(W1 - dense(seen(W1, Bases(moved.Y.U, moved.Y.V)), Bases(moved.Y.U, moved.Y.V)))
    change = problem.loss(W1) - L0
    bound = terms.edge * EDGE * rate * float(np.sum(values[:discarded]))
    bound += terms.error * _norm(moved.M - moved.PG) * (step + most)
    bound += terms.normal * _norm(moved.G - moved.PG) * outside + 0.5 * beta * (step + most) ** 2
    steepest = _norm(moved.G) + beta * (step + lost)
    rounding = 50.0 * EPS * (abs(L0) + abs(L0 + change) + (step + lost) * _norm(moved.G))
    rounding += 10.0 * EPS * (_norm(W) + _norm(moved.W_hat)) * steepest
    inequality = "L(W₁) − L(W) + λ⟨M̄, D⟩ ≤ cλ‖M̄‖₍q₎ + λ‖E‖(‖D‖ + c√q) + εη + ½βλ²(‖D‖ + c√q)²"
    out.at_most(inequality, change + rate * moved.slope, bound, rounding)


def _norm(X: Matrix) -> float:
    return float(np.linalg.norm(X))


def _some(*names: str) -> Any:
    """The cases of these problems."""
    return lambda plan: (c for c in cases(plan) if c["problem"] in names)


CLAIM = Claim(
    id="edge",
    title="A threshold per singular value",
    section="A threshold per singular value",
    statement="σ_i(Ŵ) ≤ cλ is cut: L(W₁) ≤ L(W) − λ⟨M̄, D⟩ + cλ‖M̄‖_{(q)} + λ‖E‖(‖D‖ + c√q) + εη + ½βλ²(‖D‖ + c√q)²",
    hypotheses=(
        "∇L is β-Lipschitz",
        "D and M̄ = P∇L + E tangential",
        "q singular values of Ŵ are cut, each at most cλ",
    ),
    sources=("GeoLoRA", "CKL24"),
    explanation=(
        "The rule is formed here, without the optimizer, with and without weights that know the noise. Single steps attain "
        "each term. Runs without noise end at the minimum with the planted rank."
    ),
    by_nature=("planted: the rank is the planted one",),
    slack={
        "planted: L(W_T) ≤ 1e-4 L(W₀)": CHOSEN,
    },
    cases=cases,
    check=check,
    undecided=0.02,
    floor=39,
    controls=(
        Control(
            "0.8 of the edge",
            "0.8c for c in the bound",
            _some("spent"),
            lambda case: check(case, Terms(edge=0.8)),
        ),
        Control(
            "0.8 of the error",
            "0.8‖E‖",
            _some("opposed"),
            lambda case: check(case, Terms(error=0.8)),
        ),
        Control(
            "0.8 of the normal part",
            "0.8εη",
            _some("normal"),
            lambda case: check(case, Terms(normal=0.8)),
        ),
        Control(
            "0.8 of β", "0.8β", _some("curved"), lambda case: check(case, Terms(curvature=0.8))
        ),
        Control(
            "a larger edge",
            "what is cut exceeds cλ: 1.25c",
            _some("two", "equal"),
            lambda case: check(case, edge=1.25),
        ),
    ),
)

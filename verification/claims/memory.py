"""With a memory a spectral step descends up to the error of the memory; a recursion bounds this error."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from geolora_ref import LowRank
from geolora_ref.optimizers import Bases, Moments, Optimizer, Spectral, Triple
from geolora_ref.problems import Quadratic
from verification.claim import Case, CaseResult, Claim, Control, Measurements, Plan
from verification.instruments import gradient_flows
from verification.instruments.directions import dense, rounding_of, seen

EPS = float(np.finfo(float).eps)
GOLDEN = ((1.0 + 5.0**0.5) / 2.0) ** -2.5
"""φ^{-5/2} = 0.3003, the maximum of x − x²/√(x² + 1), at x² = 1/φ: the most by which smoothing with
δ = 1 shortens.
"""
RANK = 6
RULES = {"default": (0.9, 0.5), "no memory": (0.0, 0.5), "no smoothing": (0.9, 0.0)}
"""Momentum and smoothing."""


@dataclass(frozen=True)
class Bound:
    """Constants that controls change: of ν, of the memory's error, of the smoothing, of the floor
    of the mean.

    ``largest`` : whether σ_1 stands for σ_r in the bound of ν.
    """

    nu: float = 1.0
    error: float = 2.0
    smoothing: float = GOLDEN
    floor: float = 1.0
    largest: bool = False


def cases(plan: Plan) -> Iterator[Case]:
    yield Case("turned", {"problem": "turned", "rule": "no smoothing", "rate": 1e-4, "steps": 1, "seed": plan.seed})
    for problem in gradient_flows.FLOWS:
        for start in gradient_flows.STARTS:
            for rate in (0.003, 0.1):
                for rule in RULES:
                    parameters = {"problem": problem, "start": start, "rate": rate, "rule": rule, "seed": plan.seed}
                    yield Case(f"{problem}-{start}-{rate}-{rule}", parameters | {"steps": plan.pick(30, 300)})


def check(case: Case, bound: Bound = Bound(), move: Any = None) -> CaseResult:
    """Check a trajectory of spectral steps; ``move`` takes the place of the transport (for controls)."""
    rng, out = np.random.default_rng([case["seed"], 58]), Measurements()
    problem, Y, moments = _start(case, rng)
    rule: Optimizer = Spectral(*RULES[case["rule"]])
    beta, smoothing, rate, L = *RULES[case["rule"]], case["rate"], gradient_flows.smoothness(problem)
    first, budget, total, before = problem.loss(Y.full()), 0.0, 0.0, None
    for step in range(case["steps"]):
        bases, W = Bases(Y.U, Y.V), Y.full()
        G = problem.gradient(W)
        PG = dense(seen(G, bases), bases)
        D, moments = rule.direction(bases, seen(G, bases), moments)
        assert moments.first is not None
        mean, k = (1.0 - beta) * dense(moments.first, bases), min(2 * Y.rank, *W.shape)
        E = mean - PG
        if before is not None and beta > 0.0:
            remembered(out, before, (bases, W, G, E), beta, bound)
        W_hat = W - rate * dense(D, bases)
        lost = bound.error * np.linalg.norm(E, "nuc") + bound.smoothing * smoothing * k**0.5 * np.linalg.norm(mean)
        nuclear, square = float(np.linalg.norm(PG, "nuc")), 0.5 * L * k * rate**2
        L0, L_hat = problem.loss(W), problem.loss(W_hat)
        # a loss is right to a few dozen eps: at most some thousand terms, added pairwise
        rounding = 50.0 * EPS * (abs(L0) + abs(L_hat) + rate * (nuclear + float(lost)))
        missing = L_hat - L0 + rate * nuclear
        out.at_most("L(Ŵ) − L(W) + λ‖P∇L‖_* ≤ λ(2‖E‖_* + ckδ) + ½βkλ²", missing, rate * float(lost) + square, rounding)
        Y = LowRank.from_dense(W_hat, RANK)
        theta = float(np.linalg.norm(W_hat - Y.full()))
        price = theta * float(np.linalg.norm(problem.gradient(W_hat))) + 0.5 * L * theta**2
        total, budget = total + nuclear, budget + bound.floor * (rate * float(lost) + square) + price
        told = (first - problem.minimum + budget) / (rate * (step + 1))
        out.at_most("mean ‖P∇L‖_* ≤ [L(W₀) − L* + …]/(λT)", total / (step + 1), told, rounding_of(W) * told)
        new = Bases(Y.U, Y.V)
        moments = replace(moments, first=move(moments.first, bases, new)) if move else rule.transport(bases, moments, new)
        before = (bases, W, G, E)
    return out.result(case)


def remembered(out: Measurements, before: Any, now: Any, beta: float, bound: Bound) -> None:
    """Record ‖E_t‖ ≤ β(‖E_{t−1}‖ + d + ν), and the bound of ν by the angle between the old and the
    new ranges.
    """
    (old, W0, G0, E0), (bases, W, G, E) = before, now
    normal = G0 - dense(seen(G0, old), old)
    nu, d = float(np.linalg.norm(dense(seen(normal, bases), bases))), float(np.linalg.norm(G - G0))
    sizes = float(np.linalg.norm(G) + np.linalg.norm(G0) + np.linalg.norm(E0))
    rounding = rounding_of(G) * sizes  # as of any identity between projections
    error = float(np.linalg.norm(E))
    out.at_most("‖E_t‖ ≤ β(‖E_{t−1}‖ + d + ν)", error, beta * (float(np.linalg.norm(E0)) + d + bound.nu * nu), rounding)
    sigma = np.linalg.svd(W, compute_uv=False)
    turned = float(np.linalg.norm(W - W0, 2)) / float(sigma[0 if bound.largest else bases.U.shape[1] - 1])
    out.at_most(
        "ν ≤ √2 ε min(1, ‖W_t − W_{t−1}‖₂/σ_r)", nu, 2.0**0.5 * float(np.linalg.norm(normal)) * min(1.0, turned), rounding
    )


def _start(case: Case, rng: np.random.Generator) -> tuple[Any, LowRank, Moments]:
    """The problem, the state, and a memory: an empty one, or for "turned" one that the next
    gradient makes −P∇L/100.
    """
    if case["problem"] != "turned":
        problem = gradient_flows.make(case["problem"], rng)
        return problem, gradient_flows.start(problem, case["start"], rng), Moments()
    problem = Quadratic.random((12, 10), [1.0, 0.9, 0.8, 0.7], rng)
    Y = LowRank.random((12, 10), [1.0, 0.8, 0.6, 0.5], rng)
    M = seen(problem.gradient(Y.full()), Bases(Y.U, Y.V))
    return problem, Y, Moments(1, Triple(*(-1.01 / RULES["no smoothing"][0] * X for X in M)))


def kept(M: Triple, old: Bases, new: Bases) -> Triple:
    """No transport: the memory keeps its numbers in the new bases, with zeros for new columns."""
    r, r1 = old.U.shape[1], new.U.shape[1]
    K, L = (np.pad(X, ((0, 0), (0, max(0, r1 - r))))[:, :r1] for X in (M.K, M.L))
    return Triple(K, L, np.pad(M.S, (0, max(0, r1 - r)))[:r1, :r1])


def _some(**wanted: Any) -> Any:
    """The cases of the quick plan with these parameters."""
    return lambda plan: (case for case in cases(plan) if wanted.items() <= case.parameters.items() and case["seed"] == plan.seed)


SMALL = {"start": "small singular value", "rule": "default"}
CLAIM = Claim(
    id="memory",
    title="Spectral descent with a memory",
    section="Spectral descent with a memory",
    statement=(
        "L(Ŵ) ≤ L(W) − λ(‖P∇L‖_* − 2‖E‖_* − φ^{-5/2}kδ) + ½βkλ²;   ‖E_t‖ ≤ μ(‖E_{t−1}‖ + ‖∇L(W_t) − ∇L(W_{t−1})‖ + ν_t), "
        "ν_t ≤ √2 ε min(1, ‖W_t − W_{t−1}‖₂/σ_r(W_t)), E = (1 − μ)M − P∇L"
    ),
    hypotheses=("∇L is β-Lipschitz", "any λ > 0, momentum μ < 1 and smoothing", "exact transport"),
    sources=("GeoLoRA", "B25"),
    explanation=(
        "The default rule, without its memory, and without smoothing, along trajectories from S = 0 and from small singular "
        "values, truncated to rank 6; the sum over the steps is judged too. β is the momentum in the names of the comparisons. "
        "Where the gradient turns, the first inequality is nearly attained."
    ),
    cases=cases,
    check=check,
    floor=5000,
    controls=(
        Control(
            "ν = 0",
            "what the new ranges see for the first time is left out",
            _some(**SMALL),
            lambda case: check(case, Bound(nu=0.0)),
            share=0.6,
        ),
        Control(
            "σ_1 for σ_r",
            "the small singular value does not count",
            _some(**SMALL),
            lambda case: check(case, Bound(largest=True)),
        ),
        Control(
            "no transport",
            "the memory keeps its numbers when the bases move",
            _some(start="order one", rule="default"),
            lambda case: check(case, move=kept),
            share=0.6,
        ),
        Control(
            "the error once", "‖E‖_* in place of 2‖E‖_*", _some(problem="turned"), lambda case: check(case, Bound(error=1.0))
        ),
        Control(
            "no floor",
            "the mean without 2‖E‖_* + ckδ + ½βkλ",
            _some(start="order one", rule="no smoothing", rate=0.1),
            lambda case: check(case, Bound(floor=0.0)),
            share=0.7,
        ),
        Control(
            "free smoothing",
            "the bound without φ^{-5/2}kδ",
            _some(rule="no memory", rate=0.003),
            lambda case: check(case, Bound(smoothing=0.0)),
        ),
    ),
)

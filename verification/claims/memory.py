"""With a memory a spectral step descends up to the error of the memory; a recursion bounds this error."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from geolora_ref import LowRank
from geolora_ref.optimizers import Bases, Moments, Optimizer, Spectral, Triple
from geolora_ref.problems import Quadratic
from verification.claim import Case, CaseResult, Claim, Control, Measurements, Plan, Results, Table
from verification.instruments import gradient_flows
from verification.instruments.directions import dense, rounding_of, seen

EPS = float(np.finfo(float).eps)
RANK = 6
RULES = {"default": (0.9, 0.5), "no memory": (0.0, 0.5), "no smoothing": (0.9, 0.0)}
"""Momentum and smoothing."""
FALLING = "falling from 0.02"
ATTAINED = {
    "turned": "no smoothing",
    "scalar": "default",
    "one direction": "default",
    "flat": "default",
}
"""Single steps that attain an inequality, with their rules.  "turned": a memory that the next
gradient makes −P∇L/100.  The others begin with an empty memory on ½β‖W − A‖²: numbers, where the
step ends at the minimiser; a gradient of rank one; a gradient with 2r equal singular values."""


@dataclass(frozen=True)
class Bound:
    """Factors that controls put on the terms: of ν, of the drift of the gradient, of the memory's
    error, of β, of the guaranteed slope, of the length of D, of the angle between tangent spaces,
    and of the floor of the mean.

    ``largest`` : whether σ_1 stands for σ_r in the bound of ν.
    ``corrected`` : whether the mean of the memory has weights that sum to 1.
    """

    nu: float = 1.0
    drift: float = 1.0
    error: float = 1.0
    curvature: float = 1.0
    slope: float = 1.0
    length: float = 1.0
    angle: float = 1.0
    floor: float = 1.0
    largest: bool = False
    corrected: bool = True


def cases(plan: Plan) -> Iterator[Case]:
    for name, rule in ATTAINED.items():
        yield Case(
            name, {"problem": name, "rule": rule, "rate": 1e-4, "steps": 1, "seed": plan.seed}
        )
    for number in range(plan.pick(4, 20)):
        yield Case(
            f"rotated-{number}",
            {"problem": "rotated", "rule": "default", "seed": plan.seed + number},
        )
    for problem in gradient_flows.FLOWS:
        for start in gradient_flows.STARTS:
            for rate in (0.003, 0.1, FALLING):
                for rule in RULES if rate != FALLING else ("default",):
                    parameters = {
                        "problem": problem,
                        "start": start,
                        "rate": rate,
                        "rule": rule,
                        "seed": plan.seed,
                    }
                    yield Case(
                        f"{problem}-{start}-{rate}-{rule}",
                        parameters | {"steps": plan.pick(30, 300)},
                    )


def weight(momentum: float, t: int) -> float:
    """μ_t, the weight of the past in the mean M̄_t = M_t(1 − μ)/(1 − μ^{t+1}), whose weights sum to 1."""
    return momentum * (1.0 - momentum**t) / (1.0 - momentum ** (t + 1))


def slope_share(smoothing: float, k: int) -> float:
    """(1 + s²/k)^{-1/2}: the least ⟨M̄, D⟩/‖M̄‖ of the rule with relative smoothing s, for k singular values."""
    return float((1.0 + smoothing**2 / k) ** -0.5)


def square_length(smoothing: float, k: int) -> float:
    """k/(1 + s²): the largest ‖D‖² of this rule."""
    return k / (1.0 + smoothing**2)


def check(case: Case, bound: Bound = Bound(), move: Any = None) -> CaseResult:
    """Check a trajectory of spectral steps; ``move`` takes the place of the transport (for controls)."""
    rng, out = np.random.default_rng([case["seed"], 58]), Measurements()
    if case["problem"] == "rotated":
        return rotated(case, bound, rng)
    problem, Y, moments = _start(case, rng)
    momentum, smoothing = RULES[case["rule"]]
    rule: Optimizer = Spectral(momentum, smoothing)
    L, first, sums, before = (
        bound.curvature * gradient_flows.smoothness(problem),
        problem.loss(Y.full()),
        np.zeros(2),
        None,
    )
    shares = []
    for step in range(case["steps"]):
        rate, bases, W = _rate(case, problem, Y, step), Bases(Y.U, Y.V), Y.full()
        G = problem.gradient(W)
        PG = dense(seen(G, bases), bases)
        triple, moments = rule.direction(bases, seen(G, bases), moments)
        assert moments.first is not None
        D, k = dense(triple, bases), min(2 * Y.rank, *W.shape)
        mean = (
            (1.0 - momentum)
            / (1.0 - bound.corrected * momentum**moments.step)
            * dense(moments.first, bases)
        )
        E = mean - PG
        if before is not None and momentum > 0.0:
            remembered(out, before, (bases, W, G, E), weight(momentum, step), bound)
        slope, share, length = (
            float(np.sum(mean * D)),
            bound.slope * slope_share(smoothing, k),
            square_length(smoothing, k),
        )
        relative = rounding_of(G)
        out.at_most("‖M̄‖(1 + s²/k)^{-1/2} ≤ ⟨M̄, D⟩", share * _norm(mean), slope, relative * slope)
        out.at_most("‖D‖² ≤ k/(1 + s²)", _norm(D) ** 2, bound.length * length, relative * length)
        W_hat, nuclear = W - rate * D, float(np.linalg.norm(E, "nuc"))
        L0, L_hat = problem.loss(W), problem.loss(W_hat)
        # a loss is right to a few dozen eps: at most some thousand terms, added pairwise
        rounding = 50.0 * EPS * (abs(L0) + abs(L_hat) + rate * (slope + nuclear))
        square = 0.5 * L * rate**2 * _norm(D) ** 2
        out.at_most(
            "L(Ŵ) − L(W) + λ⟨M̄, D⟩ ≤ λ‖E‖_* + ½βλ²‖D‖²",
            L_hat - L0 + rate * slope,
            bound.error * rate * nuclear + square,
            rounding,
        )
        gain, lost = (
            rate * share * _norm(PG),
            bound.error * rate * (share * _norm(E) + nuclear) + 0.5 * L * rate**2 * length,
        )
        out.at_most(
            "L(Ŵ) − L(W) + λc‖P∇L‖ ≤ λ(c‖E‖ + ‖E‖_*) + ½βλ²k/(1 + s²)",
            L_hat - L0 + gain,
            lost,
            rounding,
        )
        shares.append((rate * (slope - nuclear) - square, L0 - L_hat))
        Y = LowRank.from_dense(W_hat, min(RANK, *W.shape))
        theta = _norm(W_hat - Y.full())
        sums += (
            gain,
            bound.floor * lost + theta * _norm(problem.gradient(W_hat)) + 0.5 * L * theta**2,
        )
        allowed = first - problem.minimum + sums[1]
        out.at_most(
            "Σ λc‖P∇L‖ ≤ L(W₀) − L* + Σ […]", sums[0], allowed, 50.0 * EPS * (step + 1) * allowed
        )
        new = Bases(Y.U, Y.V)
        moments = (
            replace(moments, first=move(moments.first, bases, new))
            if move
            else rule.transport(bases, moments, new)
        )
        before = (bases, W, G, E)
    out.series = {
        "rate": case["rate"],
        "rule": case["rule"],
        "steps": case["steps"],
        "decreases": shares,
    }
    return out.result(case)


def remembered(out: Measurements, before: Any, now: Any, mu: float, bound: Bound) -> None:
    """Record ‖E_t‖ ≤ μ_t(‖E_{t−1}‖ + d + ν), and the bound of ν by the angle between the old and the
    new ranges.
    """
    (old, W0, G0, E0), (bases, W, G, E) = before, now
    normal = G0 - dense(seen(G0, old), old)
    nu, d = _norm(dense(seen(normal, bases), bases)), _norm(G - G0)
    rounding = rounding_of(G) * (
        _norm(G) + _norm(G0) + _norm(E0)
    )  # as of any identity between projections
    out.at_most(
        "‖E_t‖ ≤ μ_t(‖E_{t−1}‖ + d + ν)",
        _norm(E),
        mu * (_norm(E0) + bound.drift * d + bound.nu * nu),
        rounding,
    )
    _turned(out, nu, _norm(normal), W - W0, W, bases.U.shape[1], bound, rounding)


def _turned(
    out: Measurements,
    nu: float,
    normal: float,
    moved: Any,
    W: Any,
    rank: int,
    bound: Bound,
    rounding: float,
) -> None:
    sigma = float(np.linalg.svd(W, compute_uv=False)[0 if bound.largest else rank - 1])
    distance = float(np.linalg.norm(moved, 2))
    x = distance / sigma if distance < sigma else 1.0
    out.at_most(
        "ν ≤ ε x√(2 − x²), x = min(1, ‖W_t − W_{t−1}‖₂/σ_r)",
        nu,
        bound.angle * normal * x * (2.0 - x**2) ** 0.5,
        rounding,
    )


def rotated(case: Case, bound: Bound, rng: np.random.Generator) -> CaseResult:
    """e₁e₁ᵀ turned by an angle in the plane of e₁ and e₂ on both sides, and the normal gradient
    e₂e₂ᵀ: ν is attained.
    """
    out, angle = Measurements(), float(rng.uniform(0.05, 1.5))
    Q1, Q2 = (np.linalg.qr(rng.standard_normal((size, 2))).Q for size in (9, 7))
    turn = np.array([[np.cos(angle)], [np.sin(angle)]])
    W0, W, Z = (
        Q1 @ core @ Q2.T for core in (np.diag([1.0, 0.0]), turn @ turn.T, np.diag([0.0, 1.0]))
    )
    bases = Bases(Q1 @ turn, Q2 @ turn)
    _turned(out, _norm(dense(seen(Z, bases), bases)), 1.0, W - W0, W, 1, bound, rounding_of(W))
    return out.result(case)


def _norm(X: Any) -> float:
    return float(np.linalg.norm(X))


def _rate(case: Case, problem: Any, Y: LowRank, step: int) -> float:
    """The rate of a step; of "scalar" the one that ends at the minimiser."""
    if case["rate"] == FALLING:
        return float(0.02 * (1.0 - step / case["steps"]))
    if case["problem"] == "scalar":
        return _norm(Y.full() - problem.A) / slope_share(RULES[case["rule"]][1], 1)
    return float(case["rate"])


def _start(case: Case, rng: np.random.Generator) -> tuple[Any, LowRank, Moments]:
    """The problem, the state, and a memory: empty but for "turned"."""
    if case["problem"] not in ATTAINED:
        problem = gradient_flows.make(case["problem"], rng)
        return problem, gradient_flows.start(problem, case["start"], rng), Moments()
    if case["problem"] == "turned":
        problem = Quadratic.random((12, 10), [1.0, 0.9, 0.8, 0.7], rng)
        Y = LowRank.random((12, 10), [1.0, 0.8, 0.6, 0.5], rng)
        M = seen(problem.gradient(Y.full()), Bases(Y.U, Y.V))
        # at step 1000 the weights of the mean sum to 1: 0.9^1000 is below eps
        return problem, Y, Moments(1000, Triple(*(-1.01 / RULES["no smoothing"][0] * X for X in M)))
    if case["problem"] == "scalar":
        return (
            Quadratic(np.array([[2.0]]), np.array([[1.5]]), np.eye(1)),
            LowRank(*(np.eye(1),) * 3),
            Moments(),
        )
    r, Q1, Q2 = 3, *(np.linalg.qr(rng.standard_normal((size, 6))).Q for size in (12, 10))
    core = np.zeros((2 * r, 2 * r))
    if case["problem"] == "flat":
        core[:r, r:] = core[r:, :r] = np.eye(r)
    else:
        core[0, 0] = 1.0
    Y = LowRank(Q1[:, :r], np.eye(r), Q2[:, :r])
    return Quadratic(Y.full() - Q1 @ core @ Q2.T, 1.5 * np.eye(12), np.eye(10)), Y, Moments()


def kept(M: Triple, old: Bases, new: Bases) -> Triple:
    """No transport: the memory keeps its numbers in the new bases, with zeros for new columns."""
    r, r1 = old.U.shape[1], new.U.shape[1]
    K, L = (np.pad(X, ((0, 0), (0, max(0, r1 - r))))[:, :r1] for X in (M.K, M.L))
    return Triple(K, L, np.pad(M.S, (0, max(0, r1 - r)))[:r1, :r1])


def guaranteed(results: Results) -> list[list[str]]:
    """How many steps of the default rule have a guaranteed decrease, and how much of the real one it is."""
    rows = [
        [
            "λ",
            "steps that descend",
            "steps with a guarantee > 0",
            "median of guaranteed/real, where it descends",
        ]
    ]
    for rate in (0.003, FALLING, 0.1):
        mine = [
            r.series["decreases"]
            for r in results
            if r.series and r.series["rate"] == rate and r.series["rule"] == "default"
        ]
        sure, real = np.concatenate(mine).T
        down = real > 0.0
        rows.append(
            [
                str(rate),
                f"{np.mean(down):.1%}",
                f"{np.mean(sure > 0.0):.1%}",
                f"{np.median(sure[down] / real[down]):.2f}",
            ]
        )
    return rows


def _some(**wanted: Any) -> Any:
    """The cases of the quick plan with these parameters."""
    return lambda plan: (
        case
        for case in cases(plan)
        if wanted.items() <= case.parameters.items() and case["seed"] == plan.seed
    )


def _eighty(name: str, why: str, some: Any, **changed: Any) -> Control:
    """A constant at 0.8 of its value, where the inequality is attained."""
    return Control(name, why, some, lambda case: check(case, Bound(**changed)))


SMALL = {"start": "small singular value", "rule": "default", "rate": 0.003}
CLAIM = Claim(
    id="memory",
    title="Spectral descent with a memory",
    section="Spectral descent with a memory",
    statement=(
        "L(Ŵ) ≤ L(W) − λ(⟨M̄, D⟩ − ‖E‖_*) + ½βλ²‖D‖², ⟨M̄, D⟩ ≥ c‖M̄‖, c = (1 + s²/k)^{-1/2}, ‖D‖² ≤ k/(1 + s²);   "
        "‖E_t‖ ≤ μ_t(‖E_{t−1}‖ + ‖∇L(W_t) − ∇L(W_{t−1})‖ + ν_t), "
        "ν_t ≤ ε x√(2 − x²), x = min(1, ‖W_t − W_{t−1}‖₂/σ_r(W_t)), E = M̄ − P∇L"
    ),
    hypotheses=(
        "∇L is β-Lipschitz",
        "any λ > 0, momentum μ < 1 and relative smoothing s",
        "exact transport",
    ),
    sources=("GeoLoRA", "B25"),
    explanation=(
        "The default rule, without its memory, and without smoothing, along trajectories from S = 0 and from small singular "
        "values, truncated to rank 6; the sum over the steps is judged too. Single steps attain each inequality: a memory that "
        "opposes the gradient, a gradient of rank one, one with equal singular values, and a matrix that turns. "
        "The table says how often the guarantee is positive."
    ),
    cases=cases,
    check=check,
    floor=44,
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
            "not corrected",
            "the mean (1 − μ)M, whose weights do not sum to 1",
            _some(start="order one", rule="default", rate=0.003),
            lambda case: check(case, Bound(corrected=False)),
        ),
        _eighty("0.8 of the error", "0.8‖E‖_*", _some(problem="turned"), error=0.8),
        _eighty("0.8 of β", "0.8β in the curvature term", _some(problem="scalar"), curvature=0.8),
        _eighty("slope over 0.8", "⟨M̄, D⟩ ≥ c‖M̄‖/0.8", _some(problem="one direction"), slope=1.25),
        _eighty("0.8 of the length", "‖D‖² ≤ 0.8 k/(1 + s²)", _some(problem="flat"), length=0.8),
        _eighty("0.8 of the angle", "0.8 of the bound of ν", _some(problem="rotated"), angle=0.8),
        Control(
            "0.8 of the drift",
            "0.8‖∇L(W_t) − ∇L(W_{t−1})‖ in the recursion",
            _some(problem="quadratic", start="order one", rule="default", rate=0.003),
            lambda case: check(case, Bound(drift=0.8)),
        ),
        Control(
            "no floor",
            "the sum without λ(c‖E‖ + ‖E‖_*) + ½βλ²k/(1 + s²)",
            _some(problem="scalar"),
            lambda case: check(case, Bound(floor=0.0)),
        ),
    ),
    tables=(Table("Guaranteed steps of the default rule", guaranteed),),
)

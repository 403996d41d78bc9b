"""Truncation priced by the step: it spends a share of the decrease, in units that the step itself has."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from geolora_ref import LowRank
from geolora_ref.optimizers import Bases, HeavyBall, Moments, Optimizer, Sgd, Spectral
from geolora_ref.problems import Quadratic
from geolora_ref.problems.problem import Matrix
from verification.claim import CHOSEN, Case, CaseResult, Claim, Control, Measurements, Plan
from verification.claims.memory import slope_share
from verification.instruments import gradient_flows
from verification.instruments.directions import dense, rounding_of, seen

EPS = float(np.finfo(float).eps)
SHARE = 0.7
"""γ, the share of the decrease that the truncation may spend."""
RULES: dict[str, Optimizer] = {
    "gradient": Sgd(),
    "no memory": Spectral(0.0, 0.5),
    "default": Spectral(0.9, 0.5),
}
LENGTH = slope_share(0.5, 4)
"""The singular value of D for a memory of rank one at a state of rank 2."""
TURNED, RATE = 1e-6, 1e-2
SPENT = SHARE * (1.0 - 1e-9)
"""A price just below γ, so that rounding does not decide."""
PLANTED = {"two": (1.0, 0.36), "equal": (0.3,) * 6}
SHARPENED = {
    "spent": (np.diag([1.0, (1.0 - SPENT) * RATE * LENGTH]), np.diag([0.0, 1.0]), None),
    "opposed": (
        np.diag([1.0, -(1.0 + SPENT) * RATE * LENGTH]),
        np.diag([0.0, 1.0]),
        np.diag([0.0, -TURNED]),
    ),
    "curved": (np.diag([1.0, (1.0 + SPENT) * RATE * LENGTH]), np.diag([0.0, 1e-9]), None),
    "normal": (np.diag([1.0, 0.0]), np.array([[0.0, 1e-2], [1e-2, 1.0]]), None),
}
"""Single steps that attain an inequality: W, ∇L and a memory, in two planes.

"spent": the cut takes back γλ⟨∇L, D⟩ of the decrease.  "opposed": a memory that opposes the gradient
moves and cuts uphill.  "curved": at a minimiser the step and the cut add up.  "normal": W has rank 1,
and what is cut is normal, as nearly all of the gradient is."""


@dataclass(frozen=True)
class Bound:
    """Factors that controls put on the terms: of the price, of the error, of the normal part, of η and of β."""

    price: float = 1.0
    error: float = 1.0
    normal: float = 1.0
    eta: float = 1.0
    curvature: float = 1.0


def cases(plan: Plan) -> Iterator[Case]:
    return cases_of(plan, SHARPENED, RULES, ("no memory", "default"))


def cases_of(
    plan: Plan, sharpened: Iterable[str], rules: Iterable[str], arriving: Iterable[str]
) -> Iterator[Case]:
    """Single steps, runs to planted targets by the rules ``arriving``, and runs on the gradient flows."""
    for name in sharpened:
        curvature = 1.0 if name == "curved" else 1e-6
        yield Case(
            name,
            {
                "problem": name,
                "rule": "default",
                "rate": RATE,
                "steps": 1,
                "curvature": curvature,
                "seed": plan.seed,
            },
        )
    for name in PLANTED:
        for rule in arriving:
            parameters = {
                "problem": name,
                "rule": rule,
                "rate": 0.02,
                "steps": 400,
                "seed": plan.seed,
            }
            yield Case(f"{name}-{rule}", parameters)
    for problem in gradient_flows.FLOWS:
        for start in gradient_flows.STARTS:
            for rule in rules:
                rate = (
                    0.3
                    / gradient_flows.smoothness(
                        gradient_flows.make(problem, np.random.default_rng(0))
                    )
                    if rule == "gradient"
                    else 0.01
                )
                parameters = {
                    "problem": problem,
                    "start": start,
                    "rule": rule,
                    "rate": rate,
                    "steps": plan.pick(20, 200),
                }
                yield Case(f"{problem}-{start}-{rule}", parameters | {"seed": plan.seed})


def priced_rank(sigma: Matrix, theta: float) -> int:
    """The least rank, at least 1, whose tail (Σ_{i>r} σ_i²)^{1/2} is at most ϑ."""
    tails = np.sqrt(np.cumsum(sigma[::-1] ** 2)[::-1])
    return max(1, int(np.sum(tails > theta)))


@dataclass(frozen=True, eq=False)
class Moved:
    """A step before its truncation: the state, the gradient and its projection, the direction, the mean
    M̄ of the memory, Ŵ = W − λD with its singular value decomposition, and ϑ.
    """

    Y: LowRank
    G: Matrix
    PG: Matrix
    D: Matrix
    M: Matrix
    W_hat: Matrix
    decomposition: tuple[Matrix, Matrix, Matrix]
    rate: float
    theta: float

    @property
    def slope(self) -> float:
        """⟨M̄, D⟩₊."""
        return max(float(np.sum(self.M * self.D)), 0.0)

    @property
    def second_order(self) -> float:
        """λ²‖D_K⊥‖‖D_L⊥‖₂."""
        (U, V), core = (self.Y.U, self.Y.V), self.Y.U.T @ self.D @ self.Y.V
        return (
            self.rate**2
            * _norm(self.D @ V - U @ core)
            * float(np.linalg.norm(self.D.T @ U - V @ core.T, 2))
        )

    def cut(self, rank: int) -> tuple[Matrix, float]:
        """W₁ of this rank, and ‖Ŵ − W₁‖."""
        u, sigma, vh = self.decomposition
        return (u[:, :rank] * sigma[:rank]) @ vh[:rank], _norm(sigma[rank:])

    def spare(self, rank: int) -> LowRank:
        """W₁ of this rank in bases of one direction more, whose singular value is 0."""
        u, sigma, vh = self.decomposition
        columns = min(rank + 1, len(sigma))
        return LowRank(
            u[:, :columns],
            np.diag(np.where(np.arange(columns) < rank, sigma[:columns], 0.0)),
            vh[:columns].T,
        )


def check(case: Case, bound: Bound = Bound(), tau: float = 0.0) -> CaseResult:
    """Check every rank that could be kept in every step; ``tau`` > 0 is a relative threshold in place
    of the price (for controls).

    η falls with the square of the step.  The first step in which it is below rounding at every rank
    is the last one judged: the run has converged.
    """
    rng, out = np.random.default_rng([case["seed"], 74]), Measurements()
    problem, Y, moments = start_of(case, rng, SHARPENED)
    rule, first, moving = RULES[case["rule"]], problem.loss(Y.full()), True
    for step in range(case["steps"]):
        falling = 1.0 - step / case["steps"] if case["problem"] in PLANTED else 1.0
        moved, moments = moved_by(rule, problem, Y, moments, case["rate"] * falling, tau)
        kept = priced_rank(moved.decomposition[1], moved.theta)
        moving = moving and _cuts(out, problem, moved, kept, bound)
        old, Y = Bases(Y.U, Y.V), moved.spare(kept)
        moments = rule.transport(old, moments, Bases(Y.U, Y.V))
    if case["problem"] in PLANTED:
        out.at_most("planted: L(W_T) ≤ 1e-4 L(W₀)", problem.loss(Y.full()), 1e-4 * first)
        planted = len(PLANTED[case["problem"]])
        found = int(np.sum(np.linalg.svd(Y.S, compute_uv=False) > 1e-6))
        out.ratio("planted: the rank is the planted one", max(found / planted, planted / found))
    return out.result(case)


def moved_by(
    rule: Optimizer, problem: Any, Y: LowRank, moments: Moments, rate: float, tau: float = 0.0
) -> tuple[Moved, Moments]:
    """The step of a rule with its ϑ, or with a relative ``tau`` > 0; and the new memory."""
    bases, W = Bases(Y.U, Y.V), Y.full()
    G = problem.gradient(W)
    triple, moments = rule.direction(bases, seen(G, bases), moments)
    D, PG = dense(triple, bases), dense(seen(G, bases), bases)
    M = PG if moments.first is None else _mean(rule, moments, bases)
    W_hat, size = W - rate * D, _norm(M)
    price = rate * max(float(np.sum(M * D)), 0.0) / size if size else 0.0
    theta = tau * _norm(W_hat) if tau else SHARE * price
    u, sigma, vh = np.linalg.svd(W_hat, full_matrices=False)
    return Moved(Y, G, PG, D, M, W_hat, (u, sigma, vh), rate, theta), moments


def _cuts(out: Measurements, problem: Any, moved: Moved, kept: int, bound: Bound) -> bool:
    """Record the bounds of a cut at every rank, and of the decrease at the rank that is kept; whether η
    is above rounding at one of them.
    """
    moving = False
    W, sigma = moved.Y.full(), moved.decomposition[1]
    L0, beta, step = (
        problem.loss(W),
        bound.curvature * gradient_flows.smoothness(problem),
        moved.rate * _norm(moved.D),
    )
    for rank in range(1, min(2 * moved.Y.rank, *W.shape) + 1):
        if sigma[rank - 1] <= 1e-9 * sigma[0]:
            break  # below rounding of Ŵ: the singular vectors are arbitrary
        W1, lost = moved.cut(rank)
        eta = bound.eta * moved.second_order / float(sigma[rank - 1])
        outside = _norm(
            W1 - dense(seen(W1, Bases(moved.Y.U, moved.Y.V)), Bases(moved.Y.U, moved.Y.V))
        )
        before = out.undecided
        out.at_most(
            "‖(I − P)W₁‖ ≤ λ²‖D_K⊥‖‖D_L⊥‖₂/σ_{r₁}(Ŵ)",
            outside,
            eta,
            rounding_of(W) * _norm(moved.W_hat),
        )
        moving |= out.undecided == before
        normal, change = (
            bound.normal * _norm(moved.G - moved.PG) * min(lost, eta),
            problem.loss(W1) - L0,
        )
        # of the losses, and of W₁, along a gradient of at most ‖∇L(W)‖ + β‖W₁ − W‖
        steepest = _norm(moved.G) + beta * (step + lost)
        rounding = 50.0 * EPS * (abs(L0) + abs(L0 + change) + (step + lost) * _norm(moved.G))
        rounding += 10.0 * EPS * (_norm(W) + _norm(moved.W_hat)) * steepest
        terms = _norm(moved.PG) * lost + normal + 0.5 * beta * (step + lost) ** 2
        remainder = change + moved.rate * float(np.sum(moved.G * moved.D))
        out.at_most(
            "L(W₁) − L(W) + λ⟨∇L, D⟩ ≤ ‖P∇L‖ϑ₁ + εη + ½β(λ‖D‖ + ϑ₁)²", remainder, terms, rounding
        )
        if rank == kept:
            gain = (1.0 - bound.price * SHARE) * moved.rate * moved.slope
            terms = bound.error * (1.0 + SHARE) * _norm(moved.M - moved.PG) * step + normal
            terms += 0.5 * beta * ((1.0 + SHARE) * step) ** 2
            inequality = "L(W₁) − L(W) + (1 − γ)λ⟨M̄, D⟩ ≤ (1 + γ)λ‖E‖‖D‖ + εη + ½β(1 + γ)²λ²‖D‖²"
            out.at_most(inequality, change + gain, terms, rounding)
    return moving


def _mean(rule: Optimizer, moments: Moments, bases: Bases) -> Matrix:
    """M̄, the mean of the memory with weights that sum to 1."""
    assert moments.first is not None
    assert isinstance(rule, HeavyBall)
    momentum = rule.momentum
    return np.asarray(
        (1.0 - momentum) / (1.0 - momentum**moments.step) * dense(moments.first, bases)
    )


def _norm(X: Any) -> float:
    return float(np.linalg.norm(X))


def start_of(
    case: Case,
    rng: np.random.Generator,
    sharpened: Mapping[str, tuple[Matrix, Matrix, Matrix | None]],
) -> tuple[Any, LowRank, Moments]:
    """The problem, the state and the memory of a case; those of ``sharpened`` are W, ∇L and a
    memory in two planes.
    """
    name = case["problem"]
    if name in PLANTED:
        A = LowRank.random((12, 10), PLANTED[name], rng).full()
        return (
            Quadratic(A, np.eye(12), np.eye(10)),
            LowRank.random((12, 10), [1e-3, 1e-3], rng),
            Moments(),
        )
    if name not in sharpened:
        problem = gradient_flows.make(name, rng)
        return problem, gradient_flows.start(problem, case["start"], rng), Moments()
    W, G, memory = sharpened[name]
    Q1, Q2 = (np.linalg.qr(rng.standard_normal((size, 2))).Q for size in (9, 7))
    rank = np.linalg.matrix_rank(W)
    Y = LowRank(Q1[:, :rank], W[:rank, :rank], Q2[:, :rank])
    h = case["curvature"]
    problem = Quadratic(Y.full() - Q1 @ G @ Q2.T / h, h * np.eye(9), np.eye(7))
    if memory is None:
        return problem, Y, Moments()
    # the rule adds the gradient to 0.9 times the memory; after 1000 steps the weights of the mean sum to 1
    M = seen(Q1 @ (10.0 * memory - G) @ Q2.T / 0.9, Bases(Y.U, Y.V))
    return problem, Y, Moments(1000, M)


def _some(*names: str, **wanted: Any) -> Any:
    """The cases of these problems with these parameters."""
    return lambda plan: (
        c for c in cases(plan) if c["problem"] in names and wanted.items() <= c.parameters.items()
    )


CLAIM = Claim(
    id="priced",
    title="Truncation priced by the step",
    section="What a priced truncation leaves of the decrease",
    statement=(
        "ϑ ≤ γλ⟨M̄, D⟩₊/‖M̄‖: L(W₁) ≤ L(W) − (1 − γ)λ⟨M̄, D⟩ + (1 + γ)λ‖E‖‖D‖ + εη + ½β(1 + γ)²λ²‖D‖², "
        "η = ‖(I − P)W₁‖ ≤ min(ϑ₁, λ²‖D_K⊥‖‖D_L⊥‖₂/σ_{r₁}(Ŵ))"
    ),
    hypotheses=("∇L is β-Lipschitz", "D and M̄ = P∇L + E tangential, ⟨M̄, D⟩ ≥ 0", "0 < γ < 1"),
    sources=("GeoLoRA", "CKL24"),
    explanation=(
        "The rule is formed here, without the optimizer: plain gradients, the spectral rule with and without a memory, each "
        "with one spare direction in the bases. The first two inequalities are judged at every rank that could be kept. Single "
        "steps attain each term. Runs from the wrong rank end at the planted rank; with a relative threshold they do not."
    ),
    by_nature=("planted: the rank is the planted one",),
    slack={
        "planted: L(W_T) ≤ 1e-4 L(W₀)": CHOSEN,
    },
    cases=cases,
    check=check,
    undecided=0.02,
    floor=471,
    controls=(
        Control(
            "0.8 of the price",
            "0.8γ for γ in the guarantee",
            _some("spent"),
            lambda case: check(case, Bound(price=0.8)),
        ),
        Control(
            "0.8 of the error",
            "0.8‖E‖",
            _some("opposed"),
            lambda case: check(case, Bound(error=0.8)),
        ),
        Control(
            "0.8 of the normal part",
            "0.8εη",
            _some("normal"),
            lambda case: check(case, Bound(normal=0.8)),
        ),
        Control(
            "0.8 of η",
            "0.8 of the bound of ‖(I − P)W₁‖",
            _some("normal"),
            lambda case: check(case, Bound(eta=0.8)),
        ),
        Control(
            "0.8 of β", "0.8β", _some("curved"), lambda case: check(case, Bound(curvature=0.8))
        ),
        Control(
            "a relative threshold",
            "τ = 0.35: the second direction is cut whatever that costs",
            _some("two", "equal"),
            lambda case: check(case, tau=0.35),
        ),
    ),
)

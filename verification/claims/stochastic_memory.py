"""A memory averages the noise of gradients while the tangent spaces move: its error has a bias and
a standard deviation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy.special import stdtrit

from geolora_ref import LowRank
from geolora_ref.optimizers import Bases, Moments, Spectral
from geolora_ref.problems import Quadratic
from geolora_ref.problems.problem import GradientFlow, Matrix
from verification.claim import (
    STATISTICAL,
    Case,
    CaseResult,
    Claim,
    Control,
    Figure,
    Measurements,
    Plan,
    Results,
)
from verification.claims.memory import EPS, RANK, kept, slope_share, square_length, weight
from verification.claims.stochastic import confidence_width
from verification.instruments import gradient_flows
from verification.instruments.directions import dense, rounding_of, seen

BATCH = 8
NOISE = 0.02
"""Standard deviation of every entry of a Gaussian estimate."""


def cases(plan: Plan) -> Iterator[Case]:
    """A case is a group of runs from one start.  λ_t falls like (1 + t/20)^{-0.7}, and one case has
    a constant rate.
    """
    for name in ("from the minimiser", "small singular value", "digits"):
        for smoothing in plan.pick((0.5,), (0.0, 0.5)):
            for momentum in plan.pick((0.9,), (0.5, 0.9, 0.98)):
                parameters = {
                    "start": name,
                    "momentum": momentum,
                    "smoothing": smoothing,
                    "seed": plan.seed,
                }
                yield Case(f"{name}-{momentum}-{smoothing}", parameters | _size(name, plan))
    yield from coins(plan)


def coins(plan: Plan) -> Iterator[Case]:
    """Numbers without a memory, whose estimate has the wrong sign half of the time: half of the
    floor is needed.

    No unbiased estimate of a number needs more.  If it has the wrong sign with probability p and is
    0 then, (E E²)^{1/2} is at least |∇L|(p/(1 − p))^{1/2}, and 2p|∇L| is at most half of twice that.
    """
    parameters = {
        "start": "coin",
        "momentum": 0.0,
        "smoothing": 0.0,
        "runs": 64,
        "steps": 20,
        "seed": plan.seed,
    }
    yield Case("coin", parameters)


def _size(name: str, plan: Plan) -> dict[str, int]:
    if name == "digits":
        return {"runs": plan.pick(12, 48), "steps": plan.pick(20, 100)}
    return {"runs": plan.pick(24, 128), "steps": plan.pick(30, 200)}


@dataclass(frozen=True)
class Bound:
    """The changes of controls: factors of ν, of ς², of the floor; a mean of all gradients in place
    of a memory that forgets; the estimates, by a factor of their errors and a bias of every entry.
    """

    nu: float = 1.0
    noise: float = 1.0
    floor: float = 1.0
    forgets: bool = True
    louder: float = 1.0
    bias: float = 0.0


@dataclass(frozen=True, eq=False)
class Noisy:
    """A problem, a start, a rate, an estimate of the gradient, and the exact E‖P(W)(g − ∇L(W))‖² at
    a state.
    """

    problem: GradientFlow
    start: LowRank
    rate: float
    estimate: Callable[[Matrix, np.random.Generator], Matrix]
    variance: Callable[[LowRank], float]


def noisy(case: Case) -> Noisy:
    """Mini-batches of digits, or a quadratic with Gaussian errors of the gradient: ς² is NOISE²
    times the dimension of P(W).
    """
    rng = np.random.default_rng([case["seed"], 59])
    if case["start"] == "digits":
        digits = gradient_flows.digits(1e-2)
        return Noisy(
            digits,
            LowRank.from_dense(digits.minimiser, RANK),
            0.01,
            lambda W, rng: digits.batch_gradient(W, rng.integers(digits.count, size=BATCH)),
            lambda Y: digits.batch_variance(Y.full(), Y.U, Y.V, BATCH),
        )
    if case["start"] == "coin":
        line = Quadratic(np.array([[1e3]]), np.array([[1e-3]]), np.eye(1))
        return Noisy(
            line,
            LowRank(*(np.eye(1),) * 3),
            0.01,
            lambda W, rng: line.gradient(W) + rng.choice((-1.0, 1.0)) * rng.uniform(1.0, 1.02),
            lambda Y: (1.02**3 - 1.0) / 0.06,
        )
    m, n = 24, 20
    problem = Quadratic.random((m, n), np.linspace(1.0, 0.6, RANK), rng, curvature=(0.5, 1.5))
    away = case["start"] == "small singular value"
    start = (
        problem.initial([1.0, 0.1, 1e-3, 1e-6, 1e-9, 1e-12], rng)
        if away
        else LowRank.from_dense(problem.A, RANK)
    )
    return Noisy(
        problem,
        start,
        0.01 if away else 0.002,
        lambda W, rng: problem.gradient(W) + NOISE * rng.standard_normal((m, n)),
        lambda Y: NOISE**2 * (Y.rank * (m + n) - Y.rank**2),
    )


def check(case: Case, bound: Bound = Bound(), move: Any = None) -> CaseResult:
    """‖M̄_t − P∇L‖ in mean square, and the sum over the steps, at every t; ``move`` takes the
    place of the transport.

    The expectations are judged by the upper confidence limit (Student, one-sided, 99.9 %) of the
    mean over independent runs.  X_t stands for ‖E_t‖², because it varies less; the two must have
    one mean, within a limit (Student, two-sided) that chance passes at one t of a case in 10,000
    cases.
    """
    out, setting = Measurements(), noisy(case)
    runs = np.array(
        [[*one_run(case, setting, number, bound, move, out)] for number in range(case["runs"])]
    )
    errors, square_errors, turned, variance, gained, lost, losses = np.moveaxis(runs, 2, 0)
    count, steps = errors.shape
    width = (
        stdtrit(count - 1, 1.0 - 0.5e-4 / steps)
        * np.std(square_errors - errors, axis=0, ddof=1)
        / count**0.5
    )
    for off, most in zip(np.abs(np.mean(square_errors - errors, axis=0)), width, strict=True):
        out.at_most("E X_t = E‖M̄_t − P∇L‖²", float(off), float(most))
    bias, spread = standard(
        case, np.sqrt(np.mean(turned, axis=0)), bound.noise * np.mean(variance, axis=0), bound
    )
    allowed = (bias + spread) ** 2
    squares = np.mean(errors, axis=0) + confidence_width(errors)
    for square, most in zip(
        squares[1:], allowed[1:], strict=True
    ):  # the first one, ς_0² = b_0², is an equation
        # without a memory X_t is ς_t² itself
        out.at_most(
            "E‖M̄_t − P∇L‖² ≤ (a_t + b_t)²", float(square), float(most), 10.0 * EPS * float(most)
        )
    problem, k = setting.problem, min(2 * RANK, *setting.start.shape)
    rates = setting.rate * _fall(np.arange(case["steps"]))
    noise = bound.floor * np.cumsum(
        rates * (1.0 + square_length(case["smoothing"], k) ** 0.5) * (bias + spread)
    )
    left = gained + losses - problem.loss(setting.start.full())
    sums = (np.mean(left, axis=0) + confidence_width(left - lost)) / (np.mean(lost, axis=0) + noise)
    for ratio in sums:
        out.ratio(
            "E[Σ λc‖P∇L‖ + L(W_T)] − L(W₀) ≤ Σ E[λ(1 + ℓ)(a + b) + ½βℓ²λ² + …]",
            max(float(ratio), 0.0),
        )
    out.series = {
        "label": case.id,
        "error": np.sqrt(np.mean(errors, axis=0)).tolist(),
        "bound": (bias + spread).tolist(),
    }
    return out.result(case)


def standard(case: Case, turned: Any, variance: Any, bound: Bound) -> tuple[Any, Any]:
    """a_t = μ_t(a_{t−1} + q_t) and b_t² = μ_t²b_{t−1}² + (1 − μ_t)²ς_t², from a_0 = 0 and b_0 = ς_0."""
    bias, square = [0.0], [float(variance[0])]
    for t in range(1, len(variance)):
        mu = weight(case["momentum"], t)
        bias.append(mu * (bias[-1] + float(turned[t])))
        mu = mu if bound.forgets else t / (t + 1.0)
        square.append(mu**2 * square[-1] + (1.0 - mu) ** 2 * float(variance[t]))
    return np.array(bias), np.sqrt(square)


def one_run(
    case: Case, setting: Noisy, number: int, bound: Bound, move: Any, out: Measurements
) -> Iterator[tuple[float, ...]]:
    """At every t: X_t, ‖E_t‖², (d + ν)², ς², Σ λc‖P∇L‖, the terms of curvature and truncation, and
    L(W_{t+1}).

    X_t = ‖E_t‖² − Z_t, where Z_t = μ_t²Z_{t−1} + ‖E_t‖² − μ_t²‖A_t‖² − (1 − μ_t)²ς_t² and
    A_t = P(M̄_{t−1} − ∇L).  Given state and memory ‖E_t‖² has the mean μ_t²‖A_t‖² + (1 − μ_t)²ς_t².
    So E Z_t = 0 and E X_t = E‖E_t‖², and X_t varies with the bias alone.
    """
    rng, problem, Y = (
        np.random.default_rng([case["seed"], number, 60]),
        setting.problem,
        setting.start,
    )
    rule, moments = Spectral(case["momentum"], case["smoothing"]), Moments()
    L, gained, lost, known, before = gradient_flows.smoothness(problem), 0.0, 0.0, 0.0, None
    mu0 = case["momentum"]
    for t in range(case["steps"]):
        bases, W, rate = Bases(Y.U, Y.V), Y.full(), setting.rate * float(_fall(t))
        G = problem.gradient(W)
        g = G + bound.louder * (setting.estimate(W, rng) - G) + bound.bias
        PG = dense(seen(G, bases), bases)
        moved = moments.first and dense(moments.first, bases) * (1.0 - mu0) / (1.0 - mu0**t)
        D, moments = rule.direction(bases, seen(g, bases), moments)
        assert moments.first is not None
        mean = (1.0 - mu0) / (1.0 - mu0 ** (t + 1)) * dense(moments.first, bases)
        E, turned, variance = mean - PG, 0.0, setting.variance(Y)
        mu = weight(mu0, t)
        square = (1.0 - mu) ** 2 * variance
        if before is not None:
            old, G0, E0 = before
            normal = G0 - dense(seen(G0, old), old)
            d, nu = (
                float(np.linalg.norm(G - G0)),
                float(np.linalg.norm(dense(seen(normal, bases), bases))),
            )
            turned = d + bound.nu * nu
            A = moved - PG
            rounding = rounding_of(G) * float(
                np.linalg.norm(G) + np.linalg.norm(G0) + np.linalg.norm(g) + np.linalg.norm(E0)
            )
            out.at_most(
                "‖P_t(M̄_{t−1} − ∇L)‖ ≤ ‖E_{t−1}‖ + d + ν", _norm(A), _norm(E0) + turned, rounding
            )
            square += mu**2 * (_norm(A) ** 2 - _norm(E0) ** 2 + known)
        W_hat = W - rate * dense(D, bases)
        k = min(2 * Y.rank, *W.shape)
        Y1 = LowRank.from_dense(W_hat, min(RANK, *W.shape))
        theta = _norm(W_hat - Y1.full())
        gained += rate * slope_share(case["smoothing"], k) * _norm(PG)
        lost += 0.5 * L * square_length(case["smoothing"], k) * rate**2
        lost += theta * _norm(problem.gradient(W_hat)) + 0.5 * L * theta**2
        yield square, _norm(E) ** 2, turned**2, variance, gained, lost, problem.loss(Y1.full())
        new, before, known = Bases(Y1.U, Y1.V), (bases, G, E), square
        moments = (
            replace(moments, first=move(moments.first, bases, new))
            if move
            else rule.transport(bases, moments, new)
        )
        Y = Y1


def _fall(t: Any) -> Any:
    return (1.0 + t / 20.0) ** -0.7


def _norm(X: Any) -> float:
    return float(np.linalg.norm(X))


def draw(axes: Any, results: Results) -> None:
    """The error of the memory and its bound over the steps."""
    for result in results:
        (line,) = axes.plot(result.series["error"], label=result.series["label"])
        axes.plot(result.series["bound"], "--", color=line.get_color())
    axes.set(xlabel="t", ylabel="root mean square of ‖M̄_t − P∇L‖; dashed: a_t + b_t", yscale="log")
    axes.legend(fontsize=7)


def some(**changed: Any) -> Any:
    """The quick case of a start, with other parameters."""
    return lambda plan: (
        Case(case.id, {**case.parameters, **changed})
        for case in cases(Plan("quick", plan.seed))
        if case["start"] == changed["start"]
    )


CLAIM = Claim(
    id="stochastic-memory",
    title="Spectral steps with a memory and stochastic gradients",
    section="Stochastic gradients with a memory",
    statement=(
        "(E‖M̄_t − P∇L‖²)^{1/2} ≤ a_t + b_t, a_t = μ_t(a_{t−1} + q_t), b_t² = μ_t²b_{t−1}² + (1 − μ_t)²Eς_t²;   "
        "Σ_t λ_t E c‖P∇L‖ ≤ L(W₀) − L* + Σ_t E[λ_t(1 + ℓ)(a_t + b_t) + ½βℓ²λ_t² + Bϑ_t + ½βϑ_t²], "
        "c = (1 + s²/k)^{-1/2}, ℓ² = k/(1 + s²)"
    ),
    hypotheses=(
        "∇L is β-Lipschitz",
        "estimates that are unbiased given state and memory",
        "exact transport",
        "q_t² = E(‖∇L(W_t) − ∇L(W_{t−1})‖ + ν_t)²",
    ),
    sources=("GeoLoRA", "B25"),
    explanation=(
        "Gaussian errors of the gradient from a minimiser and from small singular values, and mini-batches of 8 digits. The "
        "variance of the projected estimate is exact at every state. Expectations are judged by one-sided 99.9 % limits. In "
        "the place of ‖M̄_t − P∇L‖² stands X_t, which has the same mean for unbiased estimates of this variance, and varies "
        "less; that the means agree is judged too. Half of the floor (1 + ℓ)(a_t + b_t) is needed where the estimate of a number "
        "has the wrong sign half of the time; an unbiased estimate of a number cannot need more."
    ),
    slack={
        "E X_t = E‖M̄_t − P∇L‖²": STATISTICAL,
        "E[Σ λc‖P∇L‖ + L(W_T)] − L(W₀) ≤ Σ E[λ(1 + ℓ)(a + b) + ½βℓ²λ² + …]": (
            "unbiased estimates need half of the floor at most, which a control shows to be needed"
        ),
    },
    cases=cases,
    check=check,
    floor=125,
    controls=(
        Control(
            "ν = 0",
            "what the new ranges see for the first time is left out",
            some(start="small singular value"),
            lambda case: check(case, Bound(nu=0.0)),
        ),
        Control(
            "biased",
            "estimates with 0.01 more in every entry",
            some(start="from the minimiser"),
            lambda case: check(case, Bound(bias=0.01)),
        ),
        Control(
            "louder",
            "errors 1.5 times as large as ς² says",
            some(start="from the minimiser"),
            lambda case: check(case, Bound(louder=1.5)),
        ),
        Control(
            "no noise",
            "b_t = 0",
            some(start="from the minimiser"),
            lambda case: check(case, Bound(noise=0.0)),
        ),
        Control(
            "0.8 of the noise",
            "0.8ς_t",
            some(start="from the minimiser"),
            lambda case: check(case, Bound(noise=0.64)),
        ),
        Control(
            "never forgets",
            "weights 1/(t + 1), as of a mean of all gradients",
            some(start="from the minimiser", steps=90, runs=12),
            lambda case: check(case, Bound(forgets=False)),
        ),
        Control(
            "no transport",
            "the memory keeps its numbers when the bases move",
            some(start="small singular value"),
            lambda case: check(case, move=kept),
        ),
        Control(
            "no floor",
            "the sum without (1 + ℓ)(a_t + b_t)",
            some(start="from the minimiser"),
            lambda case: check(case, Bound(floor=0.0)),
        ),
        Control(
            "half of the floor",
            "(1 + ℓ)(a_t + b_t)/2, where half is needed",
            coins,
            lambda case: check(case, Bound(floor=0.5)),
        ),
    ),
    figures=(Figure("Error of the memory", "Solid: measured. Dashed: the bound.", draw),),
)

"""A rate for spectral steps with priced truncation: linear descent in the root of the loss, to a floor."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from geolora_ref import LowRank
from geolora_ref.optimizers import Bases, Moments, Spectral
from geolora_ref.problems import Quadratic
from geolora_ref.problems.problem import Matrix
from verification.claim import Case, CaseResult, Claim, Control, Measurements, Plan
from verification.claims.memory import slope_share, square_length
from verification.instruments.directions import dense, seen

EPS = float(np.finfo(float).eps)
SHARE, SMOOTHING, STEPS = 0.7, 0.5, 200
TARGETS = {
    "number": ((1, 1), (1.0,), (1.0, 1.0)),
    "planted": ((24, 20), (1.0, 0.6, 0.36), (1.0, 1.0)),
    "ill-conditioned": ((24, 20), (1.0, 0.5), (0.2, 1.0)),
}
"""Shape and singular values of the minimiser, and the range of the curvature."""
RATES = (0.003, 0.01, 0.03)
FALLING = "falling"


@dataclass(frozen=True)
class Broken:
    """Factors that controls put on a, on B and on K."""

    slope: float = 1.0
    square: float = 1.0
    floor: float = 1.0


def cases(plan: Plan) -> Iterator[Case]:
    for name in TARGETS:
        for rate in RATES:
            for schedule in ("constant", FALLING):
                for number in range(plan.pick(1, 5)):
                    parameters = {"target": name, "rate": rate, "schedule": schedule}
                    seed = {"seed": [plan.seed, number]}
                    yield Case(f"{name}-{rate}-{schedule}-{number}", parameters | seed)


def rates_of(case: Case) -> Matrix:
    """λ_t, constant or falling linearly to 0."""
    factor = 1.0 - np.arange(STEPS) / STEPS if case["schedule"] == FALLING else np.ones(STEPS)
    return np.asarray(case["rate"] * factor)


def start(case: Case, rng: np.random.Generator) -> tuple[Quadratic, LowRank]:
    """The problem, and a state of the rank of its minimiser; a number begins just off the minimum."""
    shape, spectrum, curvature = TARGETS[case["target"]]
    problem = Quadratic.random(shape, spectrum, rng, curvature=curvature)
    if case["target"] == "number":
        W = problem.A + 1e-6 * case["rate"]
        return problem, LowRank.from_dense(W, 1)
    return problem, LowRank.random(shape, [0.1] * len(spectrum), rng)


def check(case: Case, broken: Broken = Broken()) -> CaseResult:
    rng, out = np.random.default_rng([*case["seed"], 87]), Measurements()
    problem, Y = start(case, rng)
    share = 0.0 if case["target"] == "number" else SHARE
    beta, rates = problem.lipschitz, rates_of(case)
    roots, seen_shares, constants = [], [], []
    delta = 20.0 * EPS * beta**0.5 * float(np.linalg.norm(problem.A))  # rounding of e
    for rate in rates:
        W = Y.full()
        loss, G, k = problem.loss(W), problem.gradient(W), min(2 * Y.rank, *W.shape)
        triple, memory = Spectral(0.0, SMOOTHING).direction(
            Bases(Y.U, Y.V), seen(G, Bases(Y.U, Y.V)), Moments()
        )
        assert memory.first is not None
        D, M = dense(triple, Bases(Y.U, Y.V)), dense(memory.first, Bases(Y.U, Y.V))
        tangential, whole = float(np.linalg.norm(M)), float(np.linalg.norm(G))
        theta = share * rate * float(np.sum(M * D)) / max(whole, tangential)
        Y = truncated(W - rate * D, theta)
        roots.append(loss**0.5)
        seen_shares.append(tangential**2 / (2.0 * loss))
        constants.append((slope_share(SMOOTHING, k), square_length(SMOOTHING, k)))
    roots.append(problem.loss(Y.full()) ** 0.5)
    _compare(out, np.array(roots), rates, min(seen_shares), constants, beta, share, broken, delta)
    return out.result(case)


def truncated(W_hat: Matrix, theta: float) -> LowRank:
    """The best approximation of the least rank, at least 1, within ϑ."""
    sigma = np.linalg.svd(W_hat, compute_uv=False)
    tails = np.sqrt(np.cumsum(sigma[::-1] ** 2)[::-1])
    return LowRank.from_dense(W_hat, max(1, int(np.sum(tails > theta))))


def _compare(
    out: Measurements,
    roots: Matrix,
    rates: Matrix,
    kappa: float,
    constants: list[tuple[float, float]],
    beta: float,
    share: float,
    broken: Broken,
    delta: float,
) -> None:
    """Each step, and the run: e_t against the descent from the start and from every step before."""
    c, square = min(c for c, _ in constants), max(square for _, square in constants)
    a = broken.slope * (1.0 - share) * c * (2.0 * kappa) ** 0.5
    B = broken.square * 0.5 * beta * (1.0 + share) ** 2 * square
    K = broken.floor * 2.0 * B / a
    reached = roots[0]
    for rate, before, after in zip(rates, roots[:-1], roots[1:], strict=True):
        bound = before**2 + B * rate**2
        rounding = delta * (before + after + a * rate)
        out.at_most("e₁² + aλe ≤ e² + Bλ²", after**2 + a * rate * before, bound, rounding)
        # from here on, or from a step whose error was below its floor
        reached = max(reached - a / 4.0 * rate, K * rate)
        out.at_most("e_t ≤ max(e₀ − ¼aΣλ, Kλ_s − ¼aΣλ)", after, reached, delta)


def of(target: str, schedule: str = "constant") -> object:
    return lambda plan: (
        case for case in cases(plan) if (case["target"], case["schedule"]) == (target, schedule)
    )


CLAIM = Claim(
    id="rate-floor",
    title="A rate for the default, and its floor",
    section="A rate, and its floor",
    statement="e = (L − L*)^½:  e_t ≤ max(e₀ − ¼aΣ_{u<t}λ_u, max_{s<t} Kλ_s − ¼aΣ_{s<u<t}λ_u)",
    hypotheses=(
        "‖P∇L‖² ≥ 2κ(L − L*) along the run, with the κ that is measured",
        "the price is divided by max(‖M̄‖, ‖∇L‖)",
        "no memory",
    ),
    sources=("GeoLoRA",),
    explanation=(
        "κ, c and ‖D‖ are the worst of the run.  A number that begins just off its minimum attains both "
        "inequalities: its first step ends at a distance of the whole step."
    ),
    cases=cases,
    check=check,
    floor=200,
    controls=(
        Control(
            "slope",
            "1.25 times a",
            of("number"),  # type: ignore[arg-type]
            lambda case: check(case, Broken(slope=1.25, floor=1.25)),
        ),
        Control(
            "square",
            "0.8 of B",
            of("number"),  # type: ignore[arg-type]
            lambda case: check(case, Broken(square=0.8)),
        ),
    ),
)

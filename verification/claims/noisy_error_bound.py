"""The robust error bound with mini-batches: noise adds the square root of λ, and no 1/σ_min."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import stdtrit

from geolora_ref import LowRank, tangent_projection
from geolora_ref.oracle.cases.spectra import to_size
from geolora_ref.problems import Quadratic
from geolora_ref.problems.problem import Matrix
from verification.claim import STATISTICAL, Case, CaseResult, Claim, Control, Measurements, Plan
from verification.claims.error_bound import Growing
from verification.claims.stochastic import confidence_width
from verification.instruments.steppers import Stepper, mutant_control, reference
from verification.instruments.trajectory import Iterate, trajectory

BATCH, SAMPLES, CAP = 4, 40, 8
NOISE = 0.1
"""Standard deviation of every entry of a Gaussian estimate."""
ALONE = ("noise alone", "noise that grows")


def cases(plan: Plan) -> Iterator[Case]:
    """A case is a group of runs.  In ``ALONE`` the flow stands still, at full rank: from the second
    one noise grows at the rate μ = ℓ.
    """
    for name in ALONE:
        yield Case(
            name,
            {
                "family": name,
                "rate": 0.01,
                "steps": 20,
                "theta": 0.0,
                "runs": plan.pick(64, 512),
                "seed": plan.seed,
            },
        )
    for sigma in plan.pick((0.5, 1e-12), (0.5, 1e-4, 1e-12)):
        for rate in (0.1, 0.025):
            parameters = {
                "family": "mini-batches",
                "sigma": sigma,
                "rate": rate,
                "steps": round(1.0 / rate),
                "theta": 1e-2,
            }
            yield Case(
                f"mini-batches-{sigma}-{rate}",
                parameters | {"runs": plan.pick(16, 64), "seed": plan.seed},
            )


@dataclass(frozen=True, eq=False)
class Setting:
    """A problem, a start, an estimate of the gradient, and its exact ς² = E‖P(W)(g − ∇L)‖² at a state."""

    problem: Quadratic
    start: LowRank
    estimate: Callable[[Matrix, np.random.Generator], Matrix]
    variance: Callable[[LowRank], float]


def setting_of(case: Case) -> Setting:
    """½⟨W − A_i, H₁(W − A_i)H₂⟩ in mean over 40 matrices A_i, in batches of 4 with replacement; or
    Gaussian noise.
    """
    rng = np.random.default_rng([case["seed"], 75])
    if case["family"] in ALONE:
        m, n = 7, 5
        A = LowRank.random((m, n), [1.0] * n, rng)
        kind = Quadratic if case["family"] == "noise alone" else Growing
        problem = kind(A.full(), np.eye(m), np.eye(n))
        return Setting(
            problem,
            A,
            lambda W, rng: problem.gradient(W) + NOISE * rng.standard_normal((m, n)),
            lambda Y: NOISE**2 * m * n,
        )
    m, n = 16, 12
    problem = Quadratic.random((m, n), [1.0, 0.8, 0.6, 0.4, 1e-2, 1e-2], rng, curvature=(0.6, 1.2))
    deviations = rng.standard_normal((SAMPLES, m, n)) * 0.2
    forces = problem.H1 @ (deviations - np.mean(deviations, axis=0)) @ problem.H2

    def variance(Y: LowRank) -> float:
        return (
            float(np.mean([np.sum(tangent_projection(Y, force) ** 2) for force in forces])) / BATCH
        )

    return Setting(
        problem,
        problem.initial(to_size(5, case["sigma"]), rng),
        lambda W, rng: (
            problem.gradient(W) - np.mean(forces[rng.integers(SAMPLES, size=BATCH)], axis=0)
        ),
        variance,
    )


def check(
    case: Case,
    step: Stepper = reference,
    *,
    noise: float = 1.0,
    mu: float = 1.0,
    louder: float = 1.0,
) -> CaseResult:
    """E‖W(kλ) − W_k‖² ≤ (a_k + b_k)² at every k, and the closed form at the end.

    ε_k, B_k and ϑ_k enter by their root mean squares over the runs.  Expectations are judged by
    one-sided 99.9 % limits, of X_k in the place of e_k², because it varies less.  That the two have
    one mean is judged by a two-sided limit, which chance passes at one k of a case in 10,000 cases.
    ``noise``, ``mu``, ``louder`` : factors of ς², of μ and of the errors of the estimates, for controls.
    """
    out, setting, rate = Measurements(), setting_of(case), case["rate"]
    problem, W0 = setting.problem, setting.start.full()
    ell, grown = problem.lipschitz, math.exp(mu * problem.one_sided_lipschitz * rate)
    exact = [problem.solution((k + 1) * rate, W0) for k in range(case["steps"])]
    runs = np.array(
        [[*one_run(case, setting, number, step, exact, louder)] for number in range(case["runs"])]
    )
    steady, errors, normal, field, lost, variance = np.moveaxis(runs, 2, 0)
    count, steps = errors.shape
    width = (
        stdtrit(count - 1, 1.0 - 0.5e-4 / steps)
        * np.std(errors - steady, axis=0, ddof=1)
        / count**0.5
    )
    for off, most in zip(np.abs(np.mean(errors - steady, axis=0)), width, strict=True):
        out.at_most("E X_k = E e_k²", float(off), float(most))
    squares = np.mean(steady, axis=0) + confidence_width(steady)
    normal, field, lost = (np.sqrt(np.mean(X, axis=0)) for X in (normal, field, lost))
    variance = noise * np.mean(variance, axis=0)
    bias, square = 0.0, 0.0
    local = rate * normal + 0.5 * ell * rate**2 * max(grown, 1.0) * field + lost
    for k, measured in enumerate(squares):
        bias, square = (
            grown * bias + float(local[k]),
            grown**2 * square + rate**2 * float(variance[k]),
        )
        # the first one of an estimate with constant variance is an equation
        out.at_most(
            "E e_k² ≤ (a_k + b_k)²",
            float(measured),
            (bias + square**0.5) ** 2,
            1e-12 * float(measured),
        )
    phi, phi2 = (rate * sum(grown ** (times * j) for j in range(steps)) for times in (1, 2))
    closed = phi * float(np.max(local)) / rate + (rate * phi2 * float(np.max(variance))) ** 0.5
    out.at_most(
        "(E e_k²)^{1/2} ≤ φ_μ(ε + ½ℓBλ + ϑ/λ) + ς(λφ_{2μ})^{1/2}",
        float(squares[-1]) ** 0.5,
        closed,
        1e-12 * closed,
    )
    return out.result(case)


def one_run(
    case: Case, setting: Setting, number: int, step: Stepper, exact: list[Matrix], louder: float
) -> Iterator[tuple[float, ...]]:
    """X_{k+1}, e_{k+1}², ε_k², ‖F(W_k)‖², ϑ_k² and ς_k² at every step.

    X_k = e_k² − Z_k with Z_{k+1} = e^{2μλ}Z_k + ‖d + ξ‖² − ‖d‖² − λ²ς².  The error before the
    truncation is d + ξ, with ξ = λP(g − ∇L) of mean 0 and variance λ²ς² given the state, so E Z_k = 0.
    """
    rng, rate, known = np.random.default_rng([case["seed"], number, 76]), case["rate"], 0.0
    grown, seen = math.exp(2.0 * setting.problem.one_sided_lipschitz * rate), []
    parameters: dict[str, Any] = {"theta": case["theta"] * rate, "max_rank": CAP}

    def estimate(W: Matrix, k: int) -> Matrix:
        G = setting.problem.gradient(W)
        seen.append(louder * (setting.estimate(W, rng) - G))
        return G + seen[-1]

    it: Iterate
    for it in trajectory(
        setting.problem,
        setting.start,
        case["steps"],
        rate,
        step=step,
        estimate=estimate,
        **parameters,
    ):
        error, variance = float(np.linalg.norm(exact[it.k] - it.W_next)), setting.variance(it.Y)
        before, noise = exact[it.k] - it.W_hat, rate * tangent_projection(it.Y, seen[-1])
        known = (
            grown * known
            + float(np.sum(before**2) - np.sum((before - noise) ** 2))
            - rate**2 * variance
        )
        yield error**2 - known, error**2, it.normal**2, float(np.sum(it.G**2)), it.lost**2, variance


def _some(*families: str) -> Callable[[Plan], Iterator[Case]]:
    """The cases of these families."""
    return lambda plan: (case for case in cases(plan) if case["family"] in families)


CLAIM = Claim(
    id="noisy-error-bound",
    title="Robust error bound with mini-batches",
    section="The error bound with mini-batches",
    statement=(
        "(E‖W(kλ) − W_k‖²)^{1/2} ≤ a_k + b_k, a_{k+1} = e^{μλ}a_k + λε + ½ℓλ²B + ϑ, b_{k+1}² = e^{2μλ}b_k² + λ²ς²;   "
        "≤ e^{μkλ}δ + φ_μ(ε + ½ℓBλ + ϑ/λ) + ς(λφ_{2μ})^{1/2}"
    ),
    hypotheses=(
        "plain gradients, F = −∇L autonomous, ℓ-Lipschitz with one-sided constant μ",
        "estimates that are unbiased given the state, ς² = E‖P(W)(g − ∇L)‖²",
        "ε, B and ϑ in root mean square",
    ),
    sources=("GeoLoRA", "KLW16"),
    explanation=(
        "Batches of 4 of 40 quadratics, drawn with replacement, from starts with σ_min down to 1e-12; and Gaussian noise at full "
        "rank around a minimiser, or "
        "around a maximum, where the term of ς is attained up to O(λ). X_k stands for e_k²: it has the same mean "
        "for unbiased estimates of this variance."
    ),
    slack={
        "E X_k = E e_k²": STATISTICAL,
    },
    cases=cases,
    check=check,
    floor=18,
    controls=(
        Control("no noise", "b_k = 0", _some(*ALONE), lambda case: check(case, noise=0.0)),
        Control("0.8 of the noise", "0.8ς", _some(*ALONE), lambda case: check(case, noise=0.64)),
        Control(
            "louder",
            "errors 1.5 times as large as ς² says",
            _some(*ALONE),
            lambda case: check(case, louder=1.5),
        ),
        Control(
            "no growth",
            "μ = 0 where noise grows",
            _some("noise that grows"),
            lambda case: check(case, mu=0.0),
        ),
        mutant_control("s-step-sign", _some("mini-batches"), check),
    ),
)

"""With mini-batches and Robbins–Monro rates the expected projected gradient obeys an explicit bound at every t."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import scipy.stats

from geolora_ref import LowRank
from geolora_ref.oracle.mutants import MUTANTS
from geolora_ref.problems import SoftmaxRegression
from verification import gradient_flows
from verification.claim import Case, CaseResult, Claim, Control, Figure, Measurements, Plan, Results
from verification.steppers import Stepper, mutant, reference
from verification.trajectory import trajectory

BATCH, NOISY = 128, 4
"""The sizes of a batch."""
CONFIDENCE = 0.999


def cases(plan: Plan) -> Iterator[Case]:
    """A case is a group of runs from one start; its mean is compared with the bound.

    From near the minimiser small batches lead away, which only the terms of their noise allow.  A few steps are enough: these
    terms soon exceed everything else.
    """
    for ridge in (0.0, 1e-2):
        for tau in (0.0, 0.01):
            yield case_of(ridge, tau, BATCH, plan.pick(100, 400), plan)
    for tau in plan.pick((0.0,), (0.0, 0.01)):
        yield case_of(1e-2, tau, NOISY, plan.pick(10, 100), plan)


def case_of(ridge: float, tau: float, batch: int, steps: int, plan: Plan) -> Case:
    parameters = {"ridge": ridge, "tau": tau, "batch": batch, "seeds": plan.pick(12, 32), "steps": steps, "seed": plan.seed}
    return Case(f"digits-ridge {ridge}-tau {tau}-batch {batch}", parameters)


def start_of(case: Case, problem: SoftmaxRegression) -> LowRank:
    """Of rank 4, of order one; for small batches the best approximation of rank 6 of the minimiser."""
    if case["batch"] == NOISY:
        return LowRank.from_dense(problem.minimiser, 6)
    return problem.initial([1.0, 0.8, 0.6, 0.5], np.random.default_rng([case["seed"], 440]))


def check(case: Case, step: Stepper = reference, wrong_labels: bool = False, noisy: bool = True) -> CaseResult:
    """With D_T = Σ_{t<T} [λ_t(1 − βλ_t/2)‖P∇L‖² − (β/2)λ_t²ς_t² − truncation terms]: E D_T ≤ L(W₀) − E L(W_T) ≤ L(W₀) − L*.

    ς_t² is the exact conditional variance of the projected mini-batch gradient at W_t, so no constant is estimated.  The
    expectation is: its upper confidence limit (Student, one-sided, 99.9 %) over independent runs must lie below the bound.

    All comparisons must pass, among them the one in which a wrong bound is exceeded: so it passes with a probability of at most
    0.1 %, however many comparisons there are.  (To pass one test of several would need a correction for their number; to pass
    all needs none.)  What may happen by chance is the reverse, a limit above a bound that holds.  Student's limit takes D_T of a
    run, a sum over its steps, as normal.

    ``wrong_labels`` : the estimates come from other data, ``noisy`` : whether the bound has the terms of ς_t² (for controls).
    """
    out, problem = Measurements(), gradient_flows.digits(case["ridge"])
    source = SoftmaxRegression(problem.X, np.roll(problem.labels, 1), case["ridge"]) if wrong_labels else problem
    start = start_of(case, problem)
    runs = [[*one_run(case, number, start, source, step, noisy, out)] for number in range(case["seeds"])]
    left, losses, norms = np.moveaxis(np.array(runs), 2, 0)
    available = problem.loss(start.full()) - problem.minimum
    sharp = _upper_limit(left + losses - problem.minimum)
    weak = _upper_limit(left)
    for upper in sharp:
        out.at_most("E D_T ≤ L(W₀) − E L(W_T)", float(upper), available)
    out.series = {
        "label": f"ρ = {case['ridge']}, τ = {case['tau']}, batches of {case['batch']}",
        "weak": (weak / available).tolist(),
        "sharp": (sharp / available).tolist(),
        "norm": np.mean(norms, axis=0).tolist(),
    }
    return out.result(case)


def one_run(
    case: Case, number: int, start: LowRank, source: SoftmaxRegression, step: Stepper, noisy: bool, out: Measurements
) -> Iterator[tuple[float, float, float]]:
    """D_T, L(W_T) and ‖P∇L(W_{T−1})‖ for T = 1, 2, …, with mini-batches of ``source``."""
    problem, rng = gradient_flows.digits(case["ridge"]), np.random.default_rng([case["seed"], number, 44])
    beta, batch, total = problem.lipschitz, case["batch"], 0.0

    def estimate(W: Any, k: int) -> Any:
        return source.batch_gradient(W, rng.integers(source.count, size=batch))

    parameters: Any = {"step": step, "estimate": estimate, "tau": case["tau"], "max_rank": 8}
    for it in trajectory(problem, start, case["steps"], lambda k: _rate(k, beta), **parameters):
        out.require("0 < λ_t < 2/β", 0.0 < it.learning_rate < 2.0 / beta)
        rate, theta = it.learning_rate, it.lost
        total += rate * (1.0 - 0.5 * beta * rate) * it.tangential**2
        if noisy:
            total -= 0.5 * beta * rate**2 * problem.batch_variance(it.W, it.Y.U, it.Y.V, batch)
        if theta > 0.0:
            total -= float(np.linalg.norm(problem.gradient(it.W_hat))) * theta + 0.5 * beta * theta**2
        yield total, problem.loss(it.W_next), it.tangential


def _upper_limit(runs: Any) -> Any:
    """The upper confidence limit of the mean over the runs (rows), at every t."""
    width = scipy.stats.t.ppf(CONFIDENCE, len(runs) - 1) * np.std(runs, axis=0, ddof=1) / np.sqrt(len(runs))
    return np.mean(runs, axis=0) + width


def _rate(k: int, beta: float) -> float:
    """(1/β)(1 + k/20)^{-0.7}: Σλ_t = ∞, Σλ_t² < ∞."""
    return float((1.0 + k / 20.0) ** -0.7 / beta)


def draw_bound(axes: Any, results: Results) -> None:
    for result in results:
        (line,) = axes.plot(result.series["sharp"], label=result.series["label"])
        axes.plot(result.series["weak"], ":", color=line.get_color())
    axes.axhline(1.0, color="black", linestyle="--", label="bound")
    axes.set(xlabel="T", ylabel="fraction of L(W₀) − L*", ylim=(-0.05, 1.1))
    axes.legend()


def draw_norm(axes: Any, results: Results) -> None:
    for result in results:
        axes.plot(result.series["norm"], label=result.series["label"])
    axes.set(yscale="log", xscale="log", xlabel="t", ylabel="mean ‖P∇L(W_t)‖")
    axes.legend()


def large_batches(plan: Plan) -> Iterator[Case]:
    """The cases in which no noise excuses what is wrong."""
    return (case for case in cases(plan) if case["batch"] == BATCH)


def noisy_cases(plan: Plan) -> Iterator[Case]:
    return (case for case in cases(plan) if case["batch"] == NOISY)


def control_cases(plan: Plan) -> Iterator[Case]:
    """Without ridge in the quick plan: every control fails alike with it."""
    some = (case for case in large_batches(plan) if case["tau"] == 0.0 and case["ridge"] <= plan.pick(0.0, 1e-2))
    return (Case(case.id, {**case.parameters, "seeds": 6}) for case in some)


def truncated_cases(plan: Plan) -> Iterator[Case]:
    """The same with truncation."""
    some = (case for case in large_batches(plan) if case["tau"] > 0.0 and case["ridge"] <= plan.pick(0.0, 1e-2))
    return (Case(case.id, {**case.parameters, "seeds": 6}) for case in some)


CLAIM = Claim(
    id="stochastic",
    title="Convergence with stochastic gradients",
    section="Stochastic gradients",
    statement="Σ_t λ_t(1 − βλ_t/2) E‖P∇L(W_t)‖² ≤ L(W₀) − L* + (β/2) Σ_t λ_t² E ς_t² + Σ_t E[Bϑ_t + (β/2)ϑ_t²]   for every t",
    hypotheses=("unbiased gradient estimates", "0 < λ_t < 2/β", "ς_t² = E‖P(W_t)(g_t − ∇L)‖²"),
    sources=("GeoLoRA",),
    explanation=(
        "Mini-batches of 128 of 1797 handwritten digits, and of 4 near the minimiser, where the terms of ς_t² are most of the "
        "bound. The conditional variance of the projected gradient is computed exactly at every iterate, and the expectation is "
        "judged by a one-sided 99.9 % confidence limit over independent runs."
    ),
    cases=cases,
    check=check,
    floor=200,
    controls=(
        Control("s-step-sign", MUTANTS["s-step-sign"].defect, control_cases, lambda case: check(case, mutant("s-step-sign"))),
        Control(
            "unsorted-truncation",
            "the smallest singular values are kept: ϑ_t is the tail of the exact Ŵ_t, whatever the step reports",
            truncated_cases,
            lambda case: check(case, mutant("unsorted-truncation")),
        ),
        Control(
            "biased",
            "hypothesis violated: the estimates come from data with shifted labels",
            control_cases,
            lambda case: check(case, wrong_labels=True),
        ),
        Control("no noise", "the bound without ς_t², near the minimiser", noisy_cases, lambda case: check(case, noisy=False)),
    ),
    figures=(
        Figure(
            "Left side against its bound",
            "Upper confidence limits over the runs. Solid: E D_T + E L(W_T) − L*; dotted: E D_T alone.",
            draw_bound,
        ),
        Figure("Projected gradient", "Mean over the runs: it falls with Robbins–Monro rates.", draw_norm),
    ),
)

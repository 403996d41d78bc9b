"""The order of every integrator against the projected flow, tangential and general, and the ε-dial."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np

from geolora_ref import LowRank
from geolora_ref.integrators import AugmentedBUG, Integrator, Step, TruncationRule, integrate
from geolora_ref.integrators.parallel_bug import parallel_bug_step
from geolora_ref.integrators.sub_equations import Factors
from geolora_ref.integrators.sub_solvers import EXPLICIT_EULER, RK4
from geolora_ref.problems import RankPreservingRiccati
from geolora_ref.problems.field import Field
from geolora_ref.problems.problem import Matrix
from verification.claim import (
    CHOSEN,
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
from verification.instruments.integrator_family import FAMILY, member, projected_flow
from verification.instruments.slopes import Slopes
from verification.instruments.time_dependence import AtOneTime, TurningFrame
from verification.instruments.trajectory import tail

SHAPE, RANK, T, GENERAL = (60, 50), 4, 1.0, 0.3
SHORT = 0.25
SPECTRUM = (1.0, 0.8, 0.6, 0.5)
LEVELS = 5
SHOWN = 64
TOLERANCE = TruncationRule(theta=1e-2, per_time=True)
TOLERANCE_STEPS = (4, 8, 16, 32, 64)
EPSILONS = (0.32, 0.16, 0.08, 0.04, 0.02)
DIAL_STEPS = 128
ALLOWED = 0.1
FLOOR = 1e-11
"""Error of reference and rounding: DOP853 at tolerance 1e-12 up to T = 1 is within 1e-12 of the
closed form for ε = 0.
"""
CLOSED = 1e-13
"""Error of rounding where the reference is the closed form."""


SHARPEST = {
    "midpoint BUG": ["time-dependent"],
    "midpoint BUG, 3r": ["dial"],
    "generalised Nyström": ["dial"],
    "augmented BUG": ["tolerance", "small σ"],
    "parallel BUG": ["tolerance"],
}
"""What the quick plan reads after the two orders of a method: next to a limit, or the only one of its kind."""


def cases(plan: Plan) -> Iterator[Case]:
    for seed in range(plan.pick(1, 5)):
        for name, promise in FAMILY.items():
            whole = (
                ["time-dependent"] * (promise.tangential == 2)
                + ["dial"] * promise.dial
                + ["tolerance"] * promise.adaptive
                + ["small σ"] * promise.robust
            )
            for kind in ["tangential", "general", *plan.pick(SHARPEST.get(name, []), whole)]:
                yield Case(
                    f"{name}-{kind}-{seed}",
                    {"integrator": name, "kind": kind, "seed": plan.seed + seed},
                )


@lru_cache(maxsize=16)
def problem_of(seed: int, epsilon: float) -> tuple[RankPreservingRiccati, LowRank, Matrix, Matrix]:
    """AY + YBᵀ + YMY + εC, a well conditioned start, the projected flow at T, and the full flow at T."""
    rng = np.random.default_rng([seed, 51])
    problem = RankPreservingRiccati.random(SHAPE, rng, epsilon)
    Y0 = problem.initial(SPECTRUM, rng)
    full = problem.solution(T, Y0.full())
    return problem, Y0, full if epsilon == 0.0 else projected_flow(problem, Y0, T), full


def best_error(seed: int, epsilon: float) -> float:
    """The best error of rank r against the full flow."""
    return tail(problem_of(seed, epsilon)[3], RANK)


def error_of(integrator: Integrator, seed: int, epsilon: float, steps: int) -> float:
    problem, Y0, reference, _ = problem_of(seed, epsilon)
    return float(
        np.linalg.norm(integrate(integrator, problem, Y0, (0.0, T), T / steps).Y.full() - reference)
    )


def steps_of(name: str) -> list[int]:
    """The numbers of steps on five levels, from the coarsest one on which the order shows."""
    return [FAMILY[name].coarsest * 2**k for k in range(LEVELS)]


def check(case: Case, integrator: Integrator | None = None) -> CaseResult:
    """The slope in h over 5 levels, judged by its last three: see the check of each kind."""
    return CHECKS[case["kind"]](case, integrator)


def check_order(case: Case, integrator: Integrator | None) -> CaseResult:
    """The order against the projected flow, tangential (ε = 0) or general (ε = 0.3)."""
    out, name, seed = Measurements(), case["integrator"], case["seed"]
    integrator, steps = integrator or member(name, RANK), steps_of(name)
    epsilon, expected = (
        (0.0, FAMILY[name].tangential)
        if case["kind"] == "tangential"
        else (GENERAL, FAMILY[name].general)
    )
    errors = [error_of(integrator, seed, epsilon, number) for number in steps]
    slopes = Slopes([T / number for number in steps], errors, FLOOR if epsilon else CLOSED)
    compare(out, slopes, expected)
    out.series = {**case.parameters, **as_data(slopes), "best": best_error(seed, epsilon)}
    return out.result(case)


def compare(out: Measurements, slopes: Slopes, expected: int) -> None:
    """Record each slope in the window alone, and the mean slope with its confidence."""
    for slope in slopes.judged:
        out.ratio("each slope in the window is the order ± 0.1", abs(slope - expected) / ALLOWED)
    out.ratio("|order − expected| + confidence ≤ 0.1", slopes.off(expected) / ALLOWED)


def check_time(case: Case, integrator: Integrator | None) -> CaseResult:
    """Methods of order 2 on the tangential flow in a turning frame, up to T/4: with F at a wrong
    time the order is 1.

    (A method of order 1 stays of order 1 then: its errors in time are found by `exactness`.)
    """
    out, name = Measurements(), case["integrator"]
    problem, Y0, *_ = problem_of(case["seed"], 0.0)
    integrator, field = integrator or member(name, RANK), TurningFrame(problem)
    end, sizes = (
        field.seen(SHORT, problem.solution(SHORT, Y0.full())),
        [T / number for number in steps_of(name)],
    )
    errors = [
        float(np.linalg.norm(integrate(integrator, field, Y0, (0.0, SHORT), h).Y.full() - end))
        for h in sizes
    ]
    slopes = Slopes(sizes, errors, FLOOR)
    compare(out, slopes, FAMILY[name].tangential)
    out.series = {**case.parameters, **as_data(slopes)}
    return out.result(case)


def check_dial(case: Case, integrator: Integrator | None) -> CaseResult:
    """At fixed h the slope in ε.  What is left at ε = 0 is the O(h²) of the tangential case, and
    must be far below.
    """
    out, seed = Measurements(), case["seed"]
    integrator = integrator or member(case["integrator"], RANK)
    errors = [error_of(integrator, seed, epsilon, DIAL_STEPS) for epsilon in EPSILONS]
    rest, slopes = error_of(integrator, seed, 0.0, DIAL_STEPS), Slopes(EPSILONS, errors, FLOOR)
    out.ratio(
        "at fixed h the error falls linearly in ε: |slope − 1| + confidence ≤ 0.1",
        slopes.off(1.0) / ALLOWED,
    )
    out.at_most(
        "the rest is small: error at ε = 0 ≤ 1/100 of the error at ε = 0.32", rest, 0.01 * errors[0]
    )
    out.series = {**case.parameters, **as_data(slopes)}
    return out.result(case)


def check_tolerance(case: Case, integrator: Integrator | None) -> CaseResult:
    """With a tolerance instead of fixed rank and against the full flow: the rank grows, and the
    modelling error goes away.

    From rank 4 it takes a few steps until the rank suffices, each of which loses O(εh): the error
    falls like h, not faster, but far below the best error of rank 4.  Where the rank stalls
    (`rank-stall`), smaller steps make the error larger.
    """
    out, (problem, Y0, _, full) = Measurements(), problem_of(case["seed"], GENERAL)
    integrator = integrator or FAMILY[case["integrator"]].make(TOLERANCE, RK4)
    runs = [integrate(integrator, problem, Y0, (0.0, T), T / steps) for steps in TOLERANCE_STEPS]
    slopes = Slopes(
        [T / n for n in TOLERANCE_STEPS],
        [float(np.linalg.norm(run.Y.full() - full)) for run in runs],
        FLOOR,
    )
    best = best_error(case["seed"], GENERAL)
    if FAMILY[case["integrator"]].stalls:
        last = runs[-1].ranks[-1]
        out.ratio(
            "tolerance, stalling methods: at the smallest h the rank is that of the start",
            max(last / RANK, RANK / last),
        )
    else:
        out.at_most(
            "tolerance: the error is below half of the best error of the first rank",
            slopes.errors[-1],
            0.5 * best,
        )
    out.series = {
        **case.parameters,
        **as_data(slopes),
        "best": best,
        "ranks": [run.ranks[-1] for run in runs],
    }
    return out.result(case)


def check_small(case: Case, integrator: Integrator | None) -> CaseResult:
    """Tangential flow, σ_min = 1e-8: single slopes vary by up to 0.9; over a window of finer steps
    the order is within 0.5.
    """
    out, rng, name = Measurements(), np.random.default_rng([case["seed"], 51]), case["integrator"]
    problem = RankPreservingRiccati.random(SHAPE, rng)
    Y0 = problem.initial((*SPECTRUM[:-1], 1e-8), rng)
    integrator, end = integrator or member(name, RANK), problem.solution(T, Y0.full())
    # with 16 steps the slopes of order 4 still differ by 0.7, and 256 end in rounding errors: its levels are closer
    growth = 2.0 ** (2.0 / max(FAMILY[name].tangential, 2))
    steps = [round(max(32, 2 * FAMILY[name].coarsest) * growth**k) for k in range(LEVELS)]
    runs = [integrate(integrator, problem, Y0, (0.0, T), T / number) for number in steps]
    slopes = Slopes(
        [T / n for n in steps], [float(np.linalg.norm(run.Y.full() - end)) for run in runs], CLOSED
    )
    out.ratio(
        "σ_min = 1e-8: |order − expected| + confidence ≤ 0.5",
        slopes.off(FAMILY[name].tangential) / 0.5,
    )
    out.series = {**case.parameters, **as_data(slopes)}
    return out.result(case)


CHECKS = {
    "tangential": check_order,
    "general": check_order,
    "time-dependent": check_time,
    "dial": check_dial,
    "tolerance": check_tolerance,
    "small σ": check_small,
}


def as_data(slopes: Slopes) -> dict[str, Any]:
    """Errors and observed order, as data for the figures and tables."""
    return {"errors": slopes.errors, "words": slopes.words()}


class WithoutLowerLeft(AugmentedBUG):
    """A parallel step that forgets the block ŨᴴK₁ of Ŝ: consistent only where F lies in the range of U₀."""

    def advance(self, field: Field, t: float, Y: LowRank, h: float) -> Step:
        """The parallel step with that block set to 0."""
        U, S, V = parallel_bug_step(self.solver, field, t, h, Factors(*Y))
        S = S.copy()
        S[Y.rank :, : Y.rank] = 0.0
        return Step.truncated(self.truncate(Factors(U, S, V), h))


def one_case(name: str, *kinds: str) -> Any:
    def of(plan: Plan) -> Iterator[Case]:
        for kind in kinds:
            yield Case(f"{name}-{kind}", {"integrator": name, "kind": kind, "seed": plan.seed})

    return of


def first_seed(results: Results, kind: str) -> dict[str, Any]:
    """The series of this kind, by integrator."""
    return {
        r.series["integrator"]: r.series
        for r in results
        if r.series["kind"] == kind and r.case.endswith("-0")
    }


def draw(kind: str) -> Any:
    def on(axes: Any, results: Results) -> None:
        shown = first_seed(results, kind)
        for name, series in shown.items():
            steps = TOLERANCE_STEPS if kind == "tolerance" else steps_of(name)
            axes.plot(
                [T / number for number in steps], series["errors"], "o-", markersize=3, label=name
            )
        if kind != "tangential":
            best = next(iter(shown.values()))["best"]
            axes.axhline(
                best, linestyle=":", color="gray", label=f"best rank-{RANK} error of the full flow"
            )
        reference = "full" if kind == "tolerance" else "projected"
        axes.set(
            xscale="log", yscale="log", xlabel="h", ylabel=f"error against the {reference} flow"
        )
        axes.set_ylim(bottom=axes.get_ylim()[0] / 1e3)
        axes.legend(ncols=2, loc="lower right")

    return on


def draw_dial(axes: Any, results: Results) -> None:
    for name, series in first_seed(results, "dial").items():
        axes.plot(EPSILONS, series["errors"], "o-", markersize=3, label=name)
    axes.set(xscale="log", yscale="log", xlabel="ε", ylabel=f"error at h = 1/{DIAL_STEPS}")
    axes.legend()


def order_table(results: Results) -> list[list[str]]:
    head = [
        "integrator",
        "tangential (ε = 0)",
        "general (ε = 0.3)",
        "time-dependent (ε = 0)",
        "slope in ε",
    ]
    rows = [[*head, f"error at h = 1/{SHOWN}: ε = 0", "ε = 0.3"]]
    kinds = [
        first_seed(results, kind) for kind in ("tangential", "general", "time-dependent", "dial")
    ]
    for name in FAMILY:
        shown = steps_of(name).index(SHOWN)
        words = [series[name]["words"] if name in series else "" for series in kinds]
        rows.append(
            [name, *words, *(f"{series[name]['errors'][shown]:.1e}" for series in kinds[:2])]
        )
    return rows


def tolerance_table(results: Results) -> list[list[str]]:
    rows = [
        [
            "integrator",
            "slope against the full flow",
            "final rank at h = 1/4",
            "at h = 1/64",
            "error / best rank-4 error at h = 1/64",
        ]
    ]
    for name, s in first_seed(results, "tolerance").items():
        rows.append(
            [
                name,
                s["words"],
                str(s["ranks"][0]),
                str(s["ranks"][-1]),
                f"{s['errors'][-1] / s['best']:.3f}",
            ]
        )
    return rows


CLAIM = Claim(
    id="order",
    title="Orders of the integrators",
    section="Integrators: what was measured",
    statement="the error against the projected flow falls like h^p with the p of the table; with the dial it is O(h²) + O(εh)",
    hypotheses=(
        "fixed rank, S well conditioned",
        "RK4 for the sub-equations, far more accurate than the splitting",
    ),
    sources=(
        "LO14",
        "CL22",
        "CKL22",
        "CKL24",
        "CEKL24",
        "K24",
        "KV19",
        "R25",
        "KSW25",
        "C24",
        "CKLV25",
    ),
    explanation=(
        "Read on Ẏ = AY + YBᵀ + YMY + εC, tangential for ε = 0, and, where F is to depend on time, on the same in a turning "
        "frame. The reference is the projected flow Ẏ = P(Y)F: against the full flow a slope would measure the modelling error "
        "ε T, the dotted line. Augmented BUG and Lie splitting have the same dial as the two BUG methods that are called second "
        "order; only Strang splitting and projected Runge–Kutta keep order 2 in the general flow. Oblique Runge–Kutta follows "
        "another flow: its distance to the projected flow is O(ε), whatever h (order 0)."
    ),
    by_nature=("tolerance, stalling methods: at the smallest h the rank is that of the start",),
    slack={
        "at fixed h the error falls linearly in ε: |slope − 1| + confidence ≤ 0.1": CHOSEN,
        "each slope in the window is the order ± 0.1": CHOSEN,
        "the rest is small: error at ε = 0 ≤ 1/100 of the error at ε = 0.32": CHOSEN,
        "tolerance: the error is below half of the best error of the first rank": CHOSEN,
        "|order − expected| + confidence ≤ 0.1": CHOSEN,
        "σ_min = 1e-8: |order − expected| + confidence ≤ 0.5": CHOSEN,
    },
    cases=cases,
    check=check,
    floor=1.6,
    controls=(
        Control(
            "BUG is not of order 2",
            "the order of augmented BUG required of fixed-rank BUG",
            one_case("augmented BUG", "tangential"),
            lambda case: check(case, member("BUG", RANK)),
        ),
        Control(
            "Lie is not Strang",
            "the order of Strang splitting required of Lie splitting in the general flow",
            one_case("projector splitting, Strang", "general"),
            lambda case: check(case, member("projector splitting, Lie", RANK)),
        ),
        Control(
            "F at the wrong time",
            "projected Runge–Kutta that asks for F(t, ·) in all stages is of order 1 where F depends on time, and only there",
            one_case("projected Runge–Kutta", "time-dependent"),
            lambda case: check(case, AtOneTime(member("projected Runge–Kutta", RANK))),
        ),
        Control(
            "Euler sub-steps",
            "augmented BUG with explicit Euler for its sub-equations is of order 1, and that error does not depend on ε",
            one_case("augmented BUG", "tangential", "small σ", "dial"),
            lambda case: check(case, member("augmented BUG", RANK, EXPLICIT_EULER)),
        ),
        Control(
            "no stall",
            "augmented BUG, expected to stay at its rank",
            one_case("parallel BUG", "tolerance"),
            lambda case: check(case, FAMILY["augmented BUG"].make(TOLERANCE, RK4)),
        ),
        Control(
            "collapse",
            "the parallel step with rank 1, expected to stay at 4",
            one_case("parallel BUG", "tolerance"),
            lambda case: check(
                case, FAMILY["parallel BUG"].make(replace(TOLERANCE, max_rank=1), RK4)
            ),
        ),
        Control(
            "a block forgotten",
            "parallel BUG without ŨᴴK₁ does not converge at all",
            one_case("parallel BUG", "tangential"),
            lambda case: check(case, WithoutLowerLeft(TruncationRule.fixed_rank(RANK), RK4)),
        ),
        Control(
            "fixed rank",
            "without a growing rank the full flow stays out of reach",
            one_case("augmented BUG", "tolerance"),
            lambda case: check(case, member("augmented BUG", RANK)),
        ),
    ),
    figures=(
        Figure(
            "Tangential flow",
            "ε = 0: order 1 and order 2. The best rank-4 error of the full flow is 0.",
            draw("tangential"),
        ),
        Figure(
            "General flow",
            "ε = 0.3: only Strang splitting and projected Runge–Kutta stay of order 2.",
            draw("general"),
        ),
        Figure(
            "With a tolerance",
            "ε = 0.3, ϑ = 0.01 h, against the full flow: the rank grows and the error falls, except where the rank stalls.",
            draw("tolerance"),
        ),
        Figure(
            "The ε-dial",
            "Against the projected flow, whose own distance to the best rank-4 error does not enter.",
            draw_dial,
        ),
    ),
    tables=(
        Table("Order ± confidence (window), seed 0", order_table),
        Table("With a tolerance, ϑ = 0.01 h, against the full flow", tolerance_table),
    ),
)

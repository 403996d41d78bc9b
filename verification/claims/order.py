"""4.4, 5: the order of every integrator against the projected flow, tangential and general, and the ε-dial."""

from __future__ import annotations

from collections.abc import Iterator
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
from verification.claim import Case, CaseResult, Claim, Control, Figure, Measurements, Plan, Results, Table
from verification.integrator_family import FAMILY, member, projected_flow
from verification.slopes import Slopes

SHAPE, RANK, T, GENERAL = (60, 50), 4, 1.0, 0.3
SPECTRUM = (1.0, 0.8, 0.6, 0.5)
LEVELS = 5
SHOWN = 256
EPSILONS = (0.32, 0.16, 0.08, 0.04, 0.02)
DIAL_STEPS = 128
ALLOWED = 0.1
FLOOR = 1e-11
"""Reference and rounding: DOP853 at tolerance 1e-12 over a time of order one, within 1e-13 of the closed form for ε = 0."""


def cases(plan: Plan) -> Iterator[Case]:
    for seed in range(plan.pick(1, 10)):
        for name in FAMILY:
            for epsilon in (0.0, GENERAL):
                yield Case(
                    f"{name}-{epsilon}-{seed}", {"integrator": name, "epsilon": epsilon, "dial": False, "seed": plan.seed + seed}
                )
            if FAMILY[name].dial:
                yield Case(f"{name}-dial-{seed}", {"integrator": name, "epsilon": None, "dial": True, "seed": plan.seed + seed})


@lru_cache(maxsize=16)
def problem_of(seed: int, epsilon: float) -> tuple[RankPreservingRiccati, LowRank, Matrix, float]:
    """AY + YBᵀ + YMY + εC, a well conditioned start, the projected flow at T, and the best rank-r error of the full flow."""
    rng = np.random.default_rng([seed, 51])
    problem = RankPreservingRiccati.random(SHAPE, rng, epsilon)
    Y0 = problem.initial(SPECTRUM, rng)
    full = problem.solution(T, Y0.full())
    reference = full if epsilon == 0.0 else projected_flow(problem, Y0, T)
    return problem, Y0, reference, float(np.linalg.norm(np.linalg.svd(full, compute_uv=False)[RANK:]))


def error_of(integrator: Integrator, seed: int, epsilon: float, steps: int) -> float:
    problem, Y0, reference, _ = problem_of(seed, epsilon)
    return float(np.linalg.norm(integrate(integrator, problem, Y0, (0.0, T), T / steps).Y.full() - reference))


def steps_of(name: str) -> list[int]:
    """Five levels, from where the order shows."""
    return [FAMILY[name].coarsest * 2**k for k in range(LEVELS)]


def check(case: Case, integrator: Integrator | None = None) -> CaseResult:
    """The slope in h over 5 levels, and for the dial the slope in ε at fixed h, each judged by its last three.

    What is left of the dial at ε = 0 is the O(h²) of the tangential case, and must be far below.
    """
    out, promise = Measurements(), FAMILY[case["integrator"]]
    integrator = integrator or member(case["integrator"], RANK)
    if case["dial"]:
        errors = [error_of(integrator, case["seed"], epsilon, DIAL_STEPS) for epsilon in EPSILONS]
        rest = error_of(integrator, case["seed"], 0.0, DIAL_STEPS)
        slopes = Slopes(EPSILONS, errors, FLOOR)
        out.ratio("at fixed h the error falls linearly in ε: |slope − 1| + confidence ≤ 0.1", slopes.off(1.0) / ALLOWED)
        out.at_most("the rest is small: error at ε = 0 ≤ 1/100 of the error at ε = 0.32", rest, 0.01 * errors[0])
    else:
        expected = promise.tangential if case["epsilon"] == 0.0 else promise.general
        steps = steps_of(case["integrator"])
        errors = [error_of(integrator, case["seed"], case["epsilon"], number) for number in steps]
        slopes = Slopes([T / number for number in steps], errors, FLOOR)
        for slope in slopes.judged:
            out.ratio("each slope in the window is the order ± 0.1", abs(slope - expected) / ALLOWED)
        out.ratio("|order − expected| + confidence ≤ 0.1", slopes.off(expected) / ALLOWED)
    out.series = {
        **case.parameters,
        "errors": errors,
        "order": slopes.order,
        "words": slopes.words(),
        "pairwise": slopes.pairwise,
        "best": 0.0 if case["dial"] else problem_of(case["seed"], case["epsilon"])[3],
    }
    return out.result(case)


class WithoutLowerLeft(AugmentedBUG):
    """A parallel step that forgets the block ŨᴴK₁ of Ŝ: consistent only where F lies in the range of U₀."""

    def advance(self, field: Field, t: float, Y: LowRank, h: float) -> Step:
        """The parallel step with that block set to 0."""
        U, S, V = parallel_bug_step(self.solver, field, t, h, Factors(*Y))
        S = S.copy()
        S[Y.rank :, : Y.rank] = 0.0
        return Step.truncated(self.truncate(Factors(U, S, V), h))


def one_case(name: str, epsilon: float) -> Any:
    def of(plan: Plan) -> Iterator[Case]:
        yield Case(name, {"integrator": name, "epsilon": epsilon, "dial": False, "seed": plan.seed})

    return of


def draw(epsilon: float) -> Any:
    def on(axes: Any, results: Results) -> None:
        shown = [r.series for r in results if r.series["epsilon"] == epsilon and r.case.endswith("-0")]
        for series in shown:
            axes.plot(
                [T / N for N in steps_of(series["integrator"])], series["errors"], "o-", markersize=3, label=series["integrator"]
            )
        if epsilon:
            axes.axhline(shown[0]["best"], linestyle=":", color="gray", label=f"best rank-{RANK} error of the full flow")
        axes.set(xscale="log", yscale="log", xlabel="h", ylabel="error against the projected flow")
        axes.legend(ncols=2)

    return on


def draw_dial(axes: Any, results: Results) -> None:
    for result in results:
        if result.series["dial"] and result.case.endswith("-0"):
            axes.plot(EPSILONS, result.series["errors"], "o-", markersize=3, label=result.series["integrator"])
    axes.set(xscale="log", yscale="log", xlabel="ε", ylabel=f"error at h = 1/{DIAL_STEPS}")
    axes.legend()


def order_table(results: Results) -> list[list[str]]:
    rows = [["integrator", "tangential (ε = 0)", "general (ε = 0.3)", "slope in ε", "error at h = 1/256: ε = 0", "ε = 0.3"]]
    for name in FAMILY:
        first = [r.series for r in results if r.series["integrator"] == name and r.case.endswith("-0")]
        mine, shown = {(series["dial"], series["epsilon"]): series for series in first}, steps_of(name).index(SHOWN)
        flat, general, dial = mine[False, 0.0], mine[False, GENERAL], mine.get((True, None))
        rows.append(
            [
                name,
                flat["words"],
                general["words"],
                dial["words"] if dial else "",
                f"{flat['errors'][shown]:.1e}",
                f"{general['errors'][shown]:.1e}",
            ]
        )
    return rows


CLAIM = Claim(
    id="order",
    title="Orders of the integrators",
    section="5",
    statement="the error against the projected flow falls like h^p with the p of the table; with the dial it is O(h²) + O(εh)",
    hypotheses=("fixed rank, S well conditioned", "RK4 for the sub-equations, far more accurate than the splitting"),
    sources=("LO14", "CL22", "CKL22", "CKL24", "CEKL24", "K24", "KLW16"),
    explanation=(
        "Read on Ẏ = AY + YBᵀ + YMY + εC, tangential for ε = 0. The reference is the projected flow Ẏ = P(Y)F: against the full "
        "flow a slope would measure the modelling error ε T, the dotted line. Augmented BUG and Lie splitting have the same dial "
        "as the two BUG methods that are called second order; only Strang splitting and projected Runge–Kutta keep order 2 in "
        "the general flow."
    ),
    cases=cases,
    check=check,
    floor=85,
    controls=(
        Control(
            "BUG is not of order 2",
            "the order of augmented BUG asked of fixed-rank BUG",
            one_case("augmented BUG", 0.0),
            lambda case: check(case, member("BUG", RANK)),
        ),
        Control(
            "Lie is not Strang",
            "the order of Strang splitting asked of Lie splitting in the general flow",
            one_case("projector splitting, Strang", GENERAL),
            lambda case: check(case, member("projector splitting, Lie", RANK)),
        ),
        Control(
            "Euler sub-steps",
            "augmented BUG with explicit Euler for its sub-equations is of order 1",
            one_case("augmented BUG", 0.0),
            lambda case: check(case, member("augmented BUG", RANK, EXPLICIT_EULER)),
        ),
        Control(
            "a block forgotten",
            "parallel BUG without ŨᴴK₁ does not converge at all",
            one_case("parallel BUG", 0.0),
            lambda case: check(case, WithoutLowerLeft(TruncationRule.fixed_rank(RANK), RK4)),
        ),
    ),
    figures=(
        Figure("Tangential flow", "ε = 0: two groups, order 1 and order 2.", draw(0.0)),
        Figure("General flow", "ε = 0.3: only Strang splitting and projected Runge–Kutta stay of order 2.", draw(GENERAL)),
        Figure("The ε-dial", "At fixed h the error falls linearly with ε, until the h² term shows.", draw_dial),
    ),
    tables=(Table("Order ± confidence (window), seed 0", order_table),),
)

"""The error constants of the family do not grow as σ_min falls to 1e-14; the naive factor
integrator breaks down.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from geolora_ref.integrators import RK4, Integrator, RungeKuttaBUG, TruncationRule, integrate
from geolora_ref.integrators.sub_solvers import RK4_TABLEAU, SubSolver
from geolora_ref.oracle.cases.spectra import to_size
from geolora_ref.problems import RankPreservingRiccati
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
from verification.instruments.integrator_family import FAMILY, member
from verification.instruments.steppers import broken_down
from verification.instruments.trajectory import tail

SHAPE, RANK, T = (24, 20), 4, 1.0
SIGMA_MIN = (1e-1, 1e-2, 1e-4, 1e-6, 1e-8, 1e-10, 1e-12, 1e-14)
EPSILONS = (1e-6, 1e-2)
FLAT, FLATNESS = 3.0, "error(σ_min) / error(σ_min = 0.1), at most 3"
FOLLOWED = 0.05
"""The largest error that is allowed, as a share of ‖Y(T) − Y(0)‖, the way of the solution."""


def cases(plan: Plan) -> Iterator[Case]:
    for name, promise in FAMILY.items():
        if promise.robust:
            yield from cases_of(name, plan)


def cases_of(name: str, plan: Plan) -> Iterator[Case]:
    for epsilon in EPSILONS:
        for h in plan.pick((0.1,), (0.1, 0.05, 0.025)):
            for seed in range(plan.pick(1, 5)):
                yield Case(
                    f"{name}-{epsilon:g}-{h}-{seed}",
                    {"integrator": name, "epsilon": epsilon, "h": h, "seed": plan.seed + seed},
                )


def check(
    case: Case, sub_solver: SubSolver = RK4, integrator: Integrator | None = None
) -> CaseResult:
    """Errors against the full flow for every σ_min over the error for σ_min = 0.1, and over the way
    of the solution.

    The error of a run that breaks down is infinite; for σ_min = 0.1 no run may break down.
    ε = 1e-6 lies below the error of every method at these step sizes, so that the method's own
    constant is seen; with ε = 1e-2 the normal part is felt.  With ε = 0 even the naive integrator
    survives: it divides by S, and (I − UUᵀ)FV = (I − UUᵀ)AUS has the factor S.
    """
    out, errors, best = Measurements(), [], []
    integrator = integrator or member(case["integrator"], RANK, sub_solver)
    for sigma in SIGMA_MIN:
        rng = np.random.default_rng([case["seed"], 54])
        problem = RankPreservingRiccati.random(SHAPE, rng, case["epsilon"])
        Y0 = problem.initial(to_size(RANK, sigma), rng)
        with np.errstate(over="ignore", invalid="ignore"):
            run = integrate(integrator, problem, Y0, (0.0, T), case["h"])
        end = problem.solution(T, Y0.full())
        if run.stopped is None:
            errors.append(float(np.linalg.norm(run.Y.full() - end)))
        else:
            errors.append(broken_down(run.stopped, expected=bool(errors)))
        way = float(np.linalg.norm(end - Y0.full()))
        out.ratio("error / way of the solution, at most 1/20", errors[-1] / way / FOLLOWED)
        best.append(tail(end, RANK))
    for error in errors[1:]:
        out.ratio(FLATNESS, error / errors[0] / FLAT)
    out.series = {**case.parameters, "errors": errors, "best": best}
    return out.result(case)


def draw(axes: Any, results: Results) -> None:
    shown = [
        r.series
        for r in results
        if r.series["epsilon"] == 1e-2 and r.series["h"] == 0.1 and r.case.endswith("-0")
    ]
    for series in shown:
        axes.plot(SIGMA_MIN, series["errors"], "o-", markersize=3, label=series["integrator"])
    naive = check(
        Case(
            "naive",
            {
                **{key: shown[0][key] for key in ("epsilon", "h", "seed")},
                "integrator": "naive factor Euler",
            },
        )
    )
    axes.plot(
        SIGMA_MIN,
        np.minimum(naive.series["errors"], 1e3),
        "x--",
        color="black",
        markersize=5,
        label="naive factor Euler",
    )
    axes.plot(SIGMA_MIN, shown[0]["best"], ":", color="gray", label=f"best rank-{RANK} error")
    axes.set(
        xscale="log",
        yscale="log",
        xlabel="σ_min of the start",
        ylabel="error at T = 1 (cut at 1e3)",
        ylim=(1e-3, 1e6),
    )
    axes.invert_xaxis()
    axes.legend(ncols=2)


def table(results: Results) -> list[list[str]]:
    rows = [
        [
            "integrator",
            *(f"largest error(σ_min) / error(0.1), ε = {epsilon:g}" for epsilon in EPSILONS),
        ]
    ]
    for name, promise in FAMILY.items():
        if promise.robust:
            mine = [r for r in results if r.series["integrator"] == name]
            worst = (
                max(max(r.ratios[FLATNESS]) for r in mine if r.series["epsilon"] == e)
                for e in EPSILONS
            )
            rows.append([name, *(f"{FLAT * ratio:.2f}" for ratio in worst)])
    return rows


CLAIM = Claim(
    id="integrator-robustness",
    title="The whole family is robust to small singular values",
    section="Integrators: what was measured",
    statement=(
        "the error at fixed h for σ_min = 1e-2 … 1e-14 is at most 3 times the error for σ_min = 0.1, and a twentieth of the way"
    ),
    hypotheses=(
        "the same problem; only the smallest singular value of the start changes",
        "fixed rank",
    ),
    sources=(
        "LO14",
        "KLW16",
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
    explanation="Explicit Euler on the factor equations divides by S and breaks down as soon as the field has a normal part.",
    slack={
        "error / way of the solution, at most 1/20": CHOSEN,
        "error(σ_min) / error(σ_min = 0.1), at most 3": CHOSEN,
    },
    cases=cases,
    check=check,
    floor=3,
    controls=(
        Control(
            "naive-factor-euler",
            "explicit Euler on U, S, V",
            lambda plan: cases_of("naive factor Euler", plan),
            check,
            infinite=True,
        ),
        Control(
            "standing still",
            "sub-equations that are not solved: the error is flat too",
            lambda plan: cases_of("augmented BUG", plan),
            lambda case: check(case, lambda f, t, X, h: X),
        ),
        Control(
            "truncated stages",
            "Runge–Kutta BUG by RK4 with stages of rank r: their error grows with 1/σ_min, and shows where ε is small",
            lambda plan: list(cases_of("Runge–Kutta BUG, RK4", plan))[:1],
            lambda case: check(
                case, integrator=RungeKuttaBUG(TruncationRule.fixed_rank(RANK), RK4_TABLEAU)
            ),
        ),
    ),
    figures=(
        Figure(
            "Error over σ_min",
            "ε = 0.01, h = 0.1; dotted: the best rank-4 approximation of the full flow.",
            draw,
        ),
    ),
    tables=(Table("Robustness factors", table),),
)

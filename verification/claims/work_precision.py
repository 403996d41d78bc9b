"""The cost of accuracy: the error of every integrator against wall time and field evaluations, with
the best possible error.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np

from geolora_ref import LowRank
from geolora_ref.integrators import Integrator, Step, integrate
from geolora_ref.problems import AllenCahn, Field, KochLubich, RotatingExponential, Schroedinger
from geolora_ref.problems.curve import Curve
from geolora_ref.problems.problem import Matrix, StartedODE
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
from verification.instruments.trajectory import tail

T = 1.0
RANKS = {"Schrödinger": 10, "rotating exponential": 10}
ORDERED = {
    **{f"rotating exponential, n = 100, rank {rank}": rank for rank in (4, 8, 16, 32)},
    "Koch–Lubich, ε = 1e-1": 10,
    "Koch–Lubich, ε = 1e-3": 10,
    "Allen–Cahn, n = 128": 4,
}
"""Problems of the full plan, in the sizes of their papers, with their ranks.  The start of
Allen–Cahn has a gap at its rank.
"""
STEPS = (4, 8, 16, 32, 64)
REACHED = 2.0
WORK = (
    ("seconds", "wall time", "seconds"),
    ("evaluations", "field evaluations", "actions F V and Fᴴ U"),
)


def cases(plan: Plan) -> Iterator[Case]:
    for problem in plan.pick(RANKS, RANKS | ORDERED):
        for name, promise in FAMILY.items():
            for seed in range(3 if plan.effort == "full" and problem in RANKS else 1):
                if promise.robust:
                    yield Case(
                        f"{problem}-{name}-{seed}",
                        {"problem": problem, "integrator": name, "seed": plan.seed + seed},
                    )


@lru_cache(maxsize=4)
def problem_of(name: str, seed: int) -> tuple[StartedODE, LowRank, Matrix, float]:
    """The problem, its start, the full solution at T and the best error of the fixed rank."""
    rng, rank = np.random.default_rng([seed, 59]), (RANKS | ORDERED)[name]
    problem: Schroedinger | Curve | AllenCahn
    if name == "Schrödinger":
        problem = Schroedinger(48, rng)
        whole = problem.start(2 * rank).full()
    elif name == "rotating exponential":
        problem = RotatingExponential.random(48, rng, rank=24, speed=3.0)
        whole = problem.curve(0.0)
    elif name.startswith("rotating exponential"):
        problem = RotatingExponential.random(100, rng)
        whole = problem.curve(0.0)
    elif name.startswith("Koch–Lubich"):
        problem = KochLubich(100, float(name.partition("ε = ")[2]), rng)
        whole = problem.curve(0.0)
    else:
        problem = AllenCahn(128)
        whole = problem.start_dense()
    Y0, end = problem.start(rank), problem.solution(T, whole)
    return problem, Y0, end, tail(end, rank)


def check(case: Case, integrator: Integrator | None = None, rank: int | None = None) -> CaseResult:
    """No error is below the best of its rank; at the smallest h it is at most 2 (best error + gain
    of the last halving of h).

    A first-order error best + c h has the ratio ½, and an error that grows gains nothing.
    ``rank`` : start with another rank than the one that the errors are compared with (for a control).
    """
    out, name = Measurements(), case["problem"]
    problem, Y0, end, best = problem_of(name, case["seed"])
    if rank is not None:
        Y0 = problem.start(rank)
    integrator = integrator or member(case["integrator"], Y0.rank)
    errors, seconds, evaluations = [], [], []
    for steps in STEPS:
        started = time.perf_counter()
        run = integrate(integrator, problem, Y0, (0.0, T), T / steps)
        seconds.append(time.perf_counter() - started)
        errors.append(float(np.linalg.norm(run.Y.full() - end)))
        evaluations.append(run.evaluations.calls)
        out.at_most("best error of the rank ≤ error", best, errors[-1], 1e-13)
    settled = REACHED * (best + max(errors[-2] - errors[-1], 0.0))
    out.ratio(
        "at the smallest step: error ≤ 2 (best error + what the last halving of h gained)",
        errors[-1] / settled,
    )
    per_step = evaluations[-1] / STEPS[-1]
    out.series = {
        **case.parameters,
        "errors": errors,
        "seconds": seconds,
        "evaluations": evaluations,
        "best": best,
        "per step": per_step,
    }
    return out.result(case)


@dataclass(frozen=True)
class Growing(Integrator):
    """An integrator whose state comes out 1.1 times too large after every step: the smaller h, the
    larger the error.
    """

    of: Integrator

    def advance(self, field: Field, t: float, Y: LowRank, h: float) -> Step:
        """One step."""
        step = self.of.advance(field, t, Y, h)
        return replace(step, Y=LowRank(step.Y.U, 1.1 * step.Y.S, step.Y.V))


def control_cases(plan: Plan) -> Iterator[Case]:
    yield Case(
        "control",
        {"problem": "rotating exponential", "integrator": "augmented BUG", "seed": plan.seed},
    )


def draw(problem: str, against: str, label: str) -> Any:
    def on(axes: Any, results: Results) -> None:
        mine = [
            r.series for r in results if r.series["problem"] == problem and r.case.endswith("-0")
        ]
        for series in mine:
            axes.plot(
                series[against], series["errors"], "o-", markersize=3, label=series["integrator"]
            )
        axes.axhline(
            mine[0]["best"], linestyle=":", color="gray", label=f"best rank-{RANKS[problem]} error"
        )
        axes.set(xscale="log", yscale="log", xlabel=label, ylabel="error against the full solution")
        axes.legend(ncols=2)

    return on


def table(results: Results) -> list[list[str]]:
    rows = [
        [
            "integrator",
            "field evaluations a step (RK4)",
            *(f"{problem}: error / best at h = 1/64" for problem in RANKS),
        ]
    ]
    for name in FAMILY:
        mine = {
            r.series["problem"]: r.series
            for r in results
            if r.series["integrator"] == name and r.case.endswith("-0")
        }
        if mine:
            quotients = [
                f"{mine[problem]['errors'][-1] / mine[problem]['best']:.3f}" for problem in RANKS
            ]
            rows.append([name, f"{next(iter(mine.values()))['per step']:g}", *quotients])
    return rows


CLAIM = Claim(
    id="work-precision",
    title="Work and precision",
    section="Integrators: what was measured",
    statement=(
        "no error is below the best of the same rank; at the smallest h the error of every robust integrator is at most "
        "2 (best error + what the last halving of h gained)"
    ),
    hypotheses=("fixed rank", "the full solution as reference"),
    sources=("CL22", "CKL22", "CKL24", "CEKL24", "K24"),
    explanation=(
        "Each integrator has arrived near the best error or is still converging; how far above it each is at h = 1/64 the table "
        "says. Wall times are of this machine and this run, one thread; compare them within the figure only."
    ),
    slack={
        "at the smallest step: error ≤ 2 (best error + what the last halving of h gained)": CHOSEN,
    },
    cases=cases,
    check=check,
    floor=3,
    controls=(
        Control(
            "a higher rank",
            "rank 14 is closer than the best of rank 10",
            control_cases,
            lambda case: check(case, rank=14),
        ),
        Control(
            "a lower rank",
            "what rank 7 lacks no halving of h gains",
            control_cases,
            lambda case: check(case, rank=7),
        ),
        Control(
            "growing",
            "1.1 times too large after every step: the error grows as h falls",
            control_cases,
            lambda case: check(case, Growing(member(case["integrator"], RANKS[case["problem"]]))),
        ),
    ),
    figures=tuple(
        Figure(
            f"{problem}: error against {words}",
            "Dotted: no matrix of this rank is closer.",
            draw(problem, against, label),
        )
        for problem in RANKS
        for against, words, label in WORK
    ),
    tables=(Table("Cost and accuracy", table),),
)

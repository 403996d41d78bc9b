"""The error of GeoLoRA does not depend on σ_min; that of the naive factor integrator does."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

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
)
from verification.claims.error_bound import LARGE, problem_of
from verification.instruments.steppers import (
    Stepper,
    broken_down,
    naive_factor_euler,
    reference,
    standing_still,
)
from verification.instruments.trajectory import trajectory

SIGMA_MIN = (LARGE, *(10.0**-k for k in range(2, 15, 2)))
FLAT = 3.0
FOLLOWED = 0.5
"""The largest error of a run that counts as following the solution, as a share of the way ‖W(T) − W(0)‖."""
T = 1.0


def cases(plan: Plan) -> Iterator[Case]:
    for family in ("general", "general, tail 1", "ε = 1e-1"):
        for rate in (0.1, 0.05, 0.025):
            for seed in range(plan.pick(2, 20)):
                yield Case(
                    f"{family}-{rate}-{seed}",
                    {"family": family, "rate": rate, "seed": plan.seed + seed},
                )


def errors(case: Case, step: Stepper) -> tuple[list[float], list[float]]:
    """The error at time T for every σ_min, and the way of the solution, ‖W(T) − W(0)‖.

    The error is infinite where a run breaks down; for the first σ_min no run may break down.
    """
    found: list[float] = []
    ways = []
    for sigma in SIGMA_MIN:
        problem, Y0 = problem_of(Case(case.id, {**case.parameters, "sigma": sigma}))
        end = problem.solution(T, Y0.full())
        ways.append(float(np.linalg.norm(end - Y0.full())))
        try:
            with np.errstate(over="ignore", invalid="ignore"):
                for it in trajectory(
                    problem,
                    Y0,
                    round(T / case["rate"]),
                    case["rate"],
                    step=step,
                    theta=1e-4 * case["rate"],
                    max_rank=12,
                ):
                    last = it.W_next
                found.append(float(np.linalg.norm(last - end)))
        except ValueError as error:  # np.linalg.LinAlgError is one, too
            found.append(broken_down(error, expected=bool(found)))
    return found, ways


def check(case: Case, step: Stepper = reference) -> CaseResult:
    out, (found, ways) = Measurements(), errors(case, step)
    for error, way in zip(found, ways, strict=True):
        out.ratio("error / way of the solution, at most ½", error / way / FOLLOWED)
    for error in found[1:]:
        out.ratio(
            "error(σ_min) / error(σ_min = ½), at most 3",
            max(error / found[0], found[0] / error) / FLAT,
        )
    out.series = {**case.parameters, "errors": found}
    return out.result(case)


def draw(axes: Any, results: Results) -> None:
    for result in results:
        if result.series["family"] == "general" and result.case.endswith("-0"):
            (line,) = axes.plot(
                SIGMA_MIN,
                result.series["errors"],
                "o-",
                markersize=4,
                label=f"GeoLoRA, λ = {result.series['rate']}",
            )
            case = Case(
                result.case, {key: result.series[key] for key in ("family", "rate", "seed")}
            )
            naive, _ = errors(case, naive_factor_euler)
            axes.plot(
                SIGMA_MIN,
                np.minimum(naive, 1e8),
                "x--",
                markersize=5,
                color=line.get_color(),
                label=f"naive, λ = {result.series['rate']}",
            )
    axes.set(
        xscale="log",
        yscale="log",
        xlabel="σ_min of the start",
        ylabel="error at T = 1 (cut at 1e8)",
        ylim=(1e-3, 3e10),
    )
    axes.invert_xaxis()
    axes.legend(ncols=3)


def control_cases(plan: Plan) -> Iterator[Case]:
    return (
        case for case in cases(plan) if case["family"] == "general" and case["seed"] == plan.seed
    )


CLAIM = Claim(
    id="robustness",
    title="Robust to small singular values",
    section="Small singular values do not hurt",
    statement="the error for σ_min = 1e-2 … 1e-14 is within a factor 3 of that for σ_min = ½, and at most half of the way",
    hypotheses=("the same problem; only the smallest singular value of the start changes",),
    sources=("GeoLoRA", "CKL24", "KLW16"),
    explanation=(
        "Explicit Euler on the factor equations, which are equivalent in exact arithmetic, breaks down. The factor 3 and the "
        "half are chosen, not derived: they separate errors that do not depend on σ_min from errors that do by orders of "
        "magnitude, and are no bounds that could be attained."
    ),
    slack={
        "error / way of the solution, at most ½": CHOSEN,
        "error(σ_min) / error(σ_min = ½), at most 3": CHOSEN,
    },
    cases=cases,
    check=check,
    floor=5,
    controls=(
        Control(
            "naive-factor-euler",
            "explicit Euler on U, S, V divides by S",
            control_cases,
            lambda case: check(case, naive_factor_euler),
            infinite=True,
        ),
        Control(
            "standing still",
            "its error is flat too",
            control_cases,
            lambda case: check(case, standing_still),
        ),
    ),
    figures=(
        Figure(
            "Error over σ_min",
            "GeoLoRA: flat. The naive integrator (its rank stays 6) follows for σ_min of order one and breaks down as it falls.",
            draw,
        ),
    ),
)

"""One step of the parallel integrator in a tangential field is off by O(h²), small singular values
or not.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from geolora_ref.integrators import Integrator, SolveIVP, TruncationRule
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
)
from verification.claims.order import WithoutLowerLeft, compare
from verification.instruments.integrator_family import member
from verification.instruments.slopes import Slopes

SHAPE, RANK = (24, 20), 4
SIZES = tuple(0.2 / 2**k for k in range(6))
SIGMA_MIN = (0.5, 1e-8, 1e-14)
SUB_SOLVER = SolveIVP(rtol=1e-12, atol=1e-15)


def cases(plan: Plan) -> Iterator[Case]:
    for sigma in SIGMA_MIN:
        for seed in range(plan.pick(5, 30)):
            yield Case(f"{sigma}-{seed}", {"sigma": sigma, "seed": plan.seed + seed})


def check(case: Case, integrator: Integrator | None = None) -> CaseResult:
    """The error of one step, truncated to rank r, has slope 2 ± 0.1 against the exact flow of a
    tangential field (so ε = 0).

    The truncation at most doubles the error.  The flow of a tangential field keeps the rank, so Ŷ
    is no farther from its best rank-r approximation than from Φ_h(Y₀): the whole error is at most
    2‖Ŷ − Φ_h(Y₀)‖, whatever σ_min is.
    """
    rng, out = np.random.default_rng([case["seed"], 53]), Measurements()
    problem = RankPreservingRiccati.random(SHAPE, rng)
    Y0 = problem.initial(to_size(RANK, case["sigma"]), rng)
    integrator = integrator or member("parallel BUG", RANK, SUB_SOLVER)
    errors = [
        float(
            np.linalg.norm(
                integrator.step(problem, 0.0, Y0, h).Y.full() - problem.solution(h, Y0.full())
            )
        )
        for h in SIZES
    ]
    slopes = Slopes(SIZES, errors, 1e-13)
    compare(out, slopes, 2)
    out.series = {**case.parameters, "errors": errors}
    return out.result(case)


def control_cases(plan: Plan) -> Iterator[Case]:
    yield Case("control", {"sigma": 0.5, "seed": plan.seed})


def draw(axes: Any, results: Results) -> None:
    for sigma in SIGMA_MIN:
        mine = [r.series["errors"] for r in results if r.series["sigma"] == sigma]
        axes.plot(SIZES, np.median(mine, axis=0), "o-", markersize=4, label=f"σ_min = {sigma:g}")
    axes.plot(SIZES, [0.1 * h**2 for h in SIZES], ":", color="gray", label="slope 2")
    axes.set(xscale="log", yscale="log", xlabel="h", ylabel="error of one step (median)")
    axes.legend()


CLAIM = Claim(
    id="local-error",
    title="Local error of the parallel integrator",
    section="Integrators: what was measured",
    statement="‖Φ_h(Y₀) − Y₁‖ falls like h² for a tangential field",
    hypotheses=("ε = 0", "fixed rank", "sub-equations by solve_ivp at tolerance 1e-12"),
    sources=("CKL24",),
    slack={
        "each slope in the window is the order ± 0.1": CHOSEN,
        "|order − expected| + confidence ≤ 0.1": CHOSEN,
    },
    cases=cases,
    check=check,
    floor=4,
    controls=(
        Control(
            "a block forgotten",
            "without ŨᴴK₁ in Ŝ one step is off by O(h)",
            control_cases,
            lambda case: check(case, WithoutLowerLeft(TruncationRule.fixed_rank(RANK), SUB_SOLVER)),
        ),
        Control(
            "augmented BUG does better",
            "its local error on a tangential field is O(h³): the parallel integrator's h² is its own",
            control_cases,
            lambda case: check(case, member("augmented BUG", RANK, SUB_SOLVER)),
        ),
    ),
    figures=(
        Figure(
            "Error of one step",
            "The slope is 2 for every σ_min. The flow keeps its rank, so the best rank-r error is 0.",
            draw,
        ),
    ),
    explanation=(
        "One step from an exact start, the sub-equations solved to 1e-12: what is left is the error of the splitting. The "
        "tolerance of 0.1 is chosen: it separates orders, which differ by 1, and the slopes are nearer to theirs than that."
    ),
)

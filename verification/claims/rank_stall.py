"""The lower right block of Ŝ is zero, so from large singular values the rank cannot grow when λ is
small.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from geolora_ref.oracle.cases.spectra import geometric
from geolora_ref.problems import Quadratic
from verification.claim import Case, CaseResult, Claim, Control, Figure, Measurements, Plan, Results
from verification.claims.curvature_tail import tail_bound
from verification.instruments.steppers import Stepper, augmented_bug, reference
from verification.instruments.trajectory import tail, trajectory

RANK, CAP, T, THETA = 5, 12, 2.0, 1e-3  # ϑ = 1e-3 λ
STARTS = {"order one": np.linspace(1.0, 0.6, RANK), "zero": np.zeros(RANK)}


def cases(plan: Plan) -> Iterator[Case]:
    for start in STARTS:
        for rate in (0.05, 0.025, 0.0125, 0.00625, 0.003125):
            for seed in range(plan.pick(2, 10)):
                yield Case(
                    f"{start}-{rate}-{seed}",
                    {"start": start, "rate": rate, "seed": plan.seed + seed},
                )


def check(case: Case, step: Stepper = reference) -> CaseResult:
    """A step whose tail bound lies below ϑ adds no rank.  From singular values of order one with
    the smallest λ the rank ends where it began (stall); from S = 0 it reaches its cap.
    """
    rng, out = np.random.default_rng([case["seed"], 45]), Measurements()
    problem = Quadratic.random((24, 20), geometric(20, 1e-2), rng)
    start, rate = problem.initial(STARTS[case["start"]], rng), case["rate"]
    ranks = [RANK]
    for it in trajectory(
        problem, start, round(T / rate), rate, step=step, theta=THETA * rate, max_rank=CAP
    ):
        ranks.append(it.outcome.Y.rank)
        if it.Y.rank < CAP and tail_bound(it) <= THETA * rate:  # at the cap no step can add a rank
            out.ratio("tail bound ≤ ϑ: no new rank", ranks[-1] / it.Y.rank)
    if case["start"] == "zero":
        out.ratio("from S = 0 the rank reaches its cap", CAP / ranks[-1])
    elif rate == 0.003125:
        out.ratio(
            "from order one at the smallest λ the rank stalls",
            max(ranks[-1] / RANK, RANK / ranks[-1]),
        )
    elif not out.ratios:
        out.undecided += 1  # the tail bound always exceeded ϑ, so nothing is stated
    error = float(np.linalg.norm(it.W_next - problem.solution(T, start.full())))
    best = tail(problem.solution(T, start.full()), CAP)
    out.series = {**case.parameters, "ranks": ranks, "error": error, "best": best}
    return out.result(case)


def draw_ranks(axes: Any, results: Results) -> None:
    for result in results:
        if result.case.endswith("-0") and result.series["rate"] in (
            0.025,
            0.0125,
            0.00625,
            0.003125,
        ):
            style = "-" if result.series["start"] == "order one" else ":"
            time = result.series["rate"] * np.arange(len(result.series["ranks"]))
            axes.plot(
                time,
                result.series["ranks"],
                style,
                label=f"{result.series['start']}, λ = {result.series['rate']}",
            )
    axes.set(
        xlabel="t (the ranks stay so until t = 2)",
        ylabel="rank",
        xlim=(0.0, 0.4),
        ylim=(0, CAP + 1),
    )
    axes.legend(ncols=2)


def draw_error(axes: Any, results: Results) -> None:
    for start, marker in (("order one", "o-"), ("zero", "s--")):
        shown = sorted(
            (r.series["rate"], r.series["error"])
            for r in results
            if r.series["start"] == start and r.case.endswith("-0")
        )
        axes.plot(*np.transpose(shown), marker, label=f"start: {start}")
        best = next(
            r.series["best"]
            for r in results
            if r.series["start"] == start and r.case.endswith("-0")
        )
        axes.axhline(
            best,
            linestyle=":",
            color=axes.lines[-1].get_color(),
            label=f"best rank-{CAP} error ({start})",
        )
    axes.set(xscale="log", yscale="log", xlabel="λ", ylabel="error at T = 2")
    axes.legend()


def smallest_rate(start: str) -> Any:
    """The cases from this start with the smallest λ, for controls."""
    return lambda plan: (
        case for case in cases(plan) if case["start"] == start and case["rate"] == 0.003125
    )


def capped(cap: int) -> Stepper:
    """The reference with ``max_rank`` = ``cap``, so without room to grow."""
    return lambda Y, G, **parameters: reference(Y, G, **parameters | {"max_rank": cap})


CLAIM = Claim(
    id="rank-stall",
    title="When the rank can grow, and when it stalls",
    section="When the rank can grow, and when it stalls",
    statement=(
        "if λ² ‖(I−UUᵀ)GV‖ ‖UᵀG(I−VVᵀ)‖₂ / σ_min(S_new) ≤ ϑ, the step adds no rank; with ϑ ∝ λ, ‖G‖ bounded and "
        "σ_min(S_new) bounded below that is so for all small λ"
    ),
    hypotheses=(
        "absolute threshold ϑ = 1e-3·λ, r_min ≤ r",
        "S_new invertible for the stall; S = 0 for the growth",
    ),
    sources=("CKL22", "CKL24"),
    explanation=(
        "A limitation of the published algorithm, not of the bound: ε is large while the rank stalls. A new direction enters "
        "with σ ≈ λ²/σ_min against a threshold that falls like λ. The integrator that keeps the lower right block does not "
        "stall where that block exceeds the threshold: it is the control."
    ),
    by_nature=(
        "from S = 0 the rank reaches its cap",
        "from order one at the smallest λ the rank stalls",
        "tail bound ≤ ϑ: no new rank",
    ),
    cases=cases,
    check=check,
    undecided=0.01,
    floor=10,
    controls=(
        Control(
            "augmented-bug",
            "keeps the lower right block −λŨᵀGṼ of Ŝ, so its rank grows",
            smallest_rate("order one"),
            lambda case: check(case, augmented_bug),
        ),
        Control(
            "collapsed",
            "max_rank is 1: a rank that falls does not stall",
            smallest_rate("order one"),
            lambda case: check(case, capped(1)),
        ),
        Control(
            "capped",
            "max_rank is the rank of the start",
            smallest_rate("zero"),
            lambda case: check(case, capped(RANK)),
        ),
    ),
    figures=(
        Figure(
            "Rank over time",
            "Solid: start of order one; dotted: from S = 0. The smaller λ, the surer the stall.",
            draw_ranks,
        ),
        Figure(
            "Error over λ",
            "From order one the error jumps up where the rank stalls, although λ falls.",
            draw_error,
        ),
    ),
)

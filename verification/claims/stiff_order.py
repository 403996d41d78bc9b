"""Exponential methods keep their order at steps that are long against the stiff part, whatever σ_min is."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from geolora_ref import LowRank
from geolora_ref.integrators import (
    Integrator,
    NaiveFactorEuler,
    ProjectedExponential,
    ProjectedRK,
    Step,
    TruncationRule,
    integrate,
)
from geolora_ref.oracle.cases.spectra import to_size
from geolora_ref.problems import AllenCahn, Field, Lyapunov, MatrixODE, Riccati
from geolora_ref.problems.problem import Matrix
from verification.claim import (
    CHOSEN,
    EQUALITY,
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
from verification.instruments.slopes import Slopes
from verification.instruments.trajectory import tail

STAGES = {"exponential Euler": 1, "exponential Runge": 2}
STEPS = (32, 64, 128, 256, 512)
FEW = (1, 4, 16)
ALLOWED, FLAT = 0.15, 3.0
FLOOR = 1e-11
SIGMA_MIN = (1e-1, 1e-4, 1e-8, 1e-14)


def cases(plan: Plan) -> Iterator[Case]:
    for name in STAGES:
        for problem in ("Riccati", "Allen–Cahn"):
            yield Case(f"{problem}-{name}", {"problem": problem, "method": name, "seed": plan.seed})
        for seed in range(plan.pick(4, 8)):
            yield Case(
                f"Lyapunov-{name}-{seed}",
                {"problem": "Lyapunov", "method": name, "seed": plan.seed + seed},
            )
            yield Case(
                f"σ-{name}-{seed}", {"problem": "σ", "method": name, "seed": plan.seed + seed}
            )


@lru_cache(maxsize=8)
def problem_of(name: str, seed: int) -> tuple[MatrixODE, Matrix, LowRank, float]:
    """The problem, the Hermitian matrix of its linear part AX + XA, a start, and the end of time.

    Riccati and Allen–Cahn have ranks at which the best error is far below that of the methods.  The
    start of Riccati has been smoothed by its own flow: a random one lacks the range of CᵀC, and the
    first step would lose a normal part of O(εh).
    """
    rng = np.random.default_rng([seed, 61])
    if name == "Riccati":
        riccati = Riccati(24)
        early = riccati.solution(
            0.005, LowRank.random((24, 24), 100.0 * 0.5 ** np.arange(12), rng).full()
        )
        return riccati, riccati.A.T.copy(), LowRank.from_dense(early, 16), 0.1
    if name == "Allen–Cahn":
        allen_cahn, n = AllenCahn(24, 1.0), 24
        ring = np.roll(np.eye(n), 1, 0)
        return (
            allen_cahn,
            (ring + ring.T - 2.0 * np.eye(n)) / allen_cahn.x[1] ** 2,
            allen_cahn.start(6),
            2.0,
        )
    lyapunov = Lyapunov(24, 0.5 ** np.arange(4), rng)
    return lyapunov, lyapunov.A(np.eye(24)), lyapunov.smooth_initial(0.5 ** np.arange(8), rng), 1.0


def method(name: str, A: Matrix, rank: int) -> Integrator:
    return ProjectedExponential(TruncationRule.fixed_rank(rank), A, A, STAGES[name])


def explicit(name: str, A: Matrix, rank: int) -> Integrator:
    """Projected Heun, which is explicit in the stiff part too (the control)."""
    return ProjectedRK(TruncationRule.fixed_rank(rank))


def wrong_part(name: str, A: Matrix, rank: int) -> Integrator:
    """Half of the linear part is exponentiated, so that the rest is stiff (the control)."""
    return method(name, 0.5 * A, rank)


@dataclass(frozen=True, eq=False)
class Divided(Integrator):
    """Exponential steps that begin with a hundredth of a step of the factor equations, which divide
    by S (the control).
    """

    of: ProjectedExponential

    def advance(self, field: Field, t: float, Y: LowRank, h: float) -> Step:
        """A naive Euler step over h/100, then the exponential one over the rest of the time."""
        first = NaiveFactorEuler().advance(field, t, Y, 0.01 * h).Y
        return self.of.advance(field, t + 0.01 * h, first, 0.99 * h)


def naive(name: str, A: Matrix, rank: int) -> Integrator:
    return Divided(ProjectedExponential(TruncationRule.fixed_rank(rank), A, A, STAGES[name]))


def first_order(name: str, A: Matrix, rank: int) -> Integrator:
    return method("exponential Euler", A, rank)


def error_of(
    integrator: Integrator, problem: MatrixODE, Y0: LowRank, end: Matrix, T: float, steps: int
) -> float:
    """The error at T; infinite where the run broke down."""
    with np.errstate(all="ignore"):
        run = integrate(integrator, problem, Y0, (0.0, T), T / steps)
    return float(np.linalg.norm(run.Y.full() - end)) if run.stopped is None else float("inf")


def check(case: Case, make: Any = method) -> CaseResult:
    """Riccati, Allen–Cahn: the order over five step sizes, from h‖L‖ = 40 and 7 on, in which no
    explicit method is stable.

    Lyapunov: G = C is constant, and tangential at every Y whose range holds that of C; then both
    methods are exact for every h, h‖L‖ up to 240.  σ: Riccati from starts with σ_min to 1e-14,
    against the closed form at one h.
    """
    out, name = Measurements(), case["method"]
    problem, A, Y0, T = problem_of(
        "Riccati" if case["problem"] == "σ" else case["problem"], case["seed"]
    )
    integrator = make(name, A, Y0.rank)
    if case["problem"] == "Lyapunov":
        end = problem.solution(T, Y0.full())
        for number in FEW:
            error = error_of(integrator, problem, Y0, end, T, number)
            out.ratio(
                "Lyapunov: exact for every h, error / ‖Y(T)‖ ≤ 1e-12",
                error / float(np.linalg.norm(end)) / 1e-12,
            )
        return out.result(case)
    if case["problem"] == "σ":
        return robust(case, out, problem, integrator, T)
    end = problem.solution(T, Y0.full())
    started = time.process_time()
    errors = [error_of(integrator, problem, Y0, end, T, number) for number in STEPS]
    seconds, slopes = (
        time.process_time() - started,
        Slopes([T / number for number in STEPS], errors, FLOOR),
    )
    out.ratio("stiff: |order − stages| + confidence ≤ 0.15", slopes.off(STAGES[name]) / ALLOWED)
    lengths = [2.0 * T / number * float(np.linalg.norm(A, 2)) for number in STEPS]
    out.series = {
        **case.parameters,
        "errors": errors,
        "lengths": lengths,
        "words": slopes.words(),
        "best": tail(end, Y0.rank),
        "ms": 1e3 * seconds / sum(STEPS),
    }
    return out.result(case)


def robust(
    case: Case, out: Measurements, problem: MatrixODE, integrator: Integrator, T: float
) -> CaseResult:
    errors = []
    for sigma in SIGMA_MIN:
        rng = np.random.default_rng([case["seed"], 62])
        Y0 = LowRank.random(problem.shape, to_size(12, sigma), rng)
        errors.append(
            error_of(integrator, problem, Y0, problem.solution(T, Y0.full()), T, STEPS[0])
        )
    for error in errors[1:]:
        out.ratio("error(σ_min) / error(σ_min = 0.1), at most 3", error / errors[0] / FLAT)
    out.at_most("error at σ_min = 0.1 ≤ 1/20, ‖Y(0)‖ ≈ 1", errors[0], 0.05)
    return out.result(case)


def one_case(problem: str, name: str) -> Any:
    def of(plan: Plan) -> Iterator[Case]:
        yield Case(f"control-{problem}", {"problem": problem, "method": name, "seed": plan.seed})

    return of


def ordered(results: Results) -> list[dict[str, Any]]:
    """The series with errors over step sizes."""
    return [dict(result.series) for result in results if "errors" in result.series]


def draw(axes: Any, results: Results) -> None:
    for series in ordered(results):
        axes.plot(
            series["lengths"],
            series["errors"],
            "o-",
            markersize=4,
            label=f"{series['problem']}, {series['method']}",
        )
    axes.set(xscale="log", yscale="log", xlabel="h‖L‖", ylabel="error at the end of time")
    axes.legend()


def table(results: Results) -> list[list[str]]:
    rows = [
        [
            "problem",
            "method",
            "order ± confidence (window in h)",
            "largest h‖L‖",
            "error there",
            "best error of the rank",
        ]
    ]
    for s in ordered(results):
        rows.append(
            [
                s["problem"],
                s["method"],
                s["words"],
                f"{s['lengths'][0]:.0f}",
                f"{s['errors'][0]:.1e}",
                f"{s['best']:.1e}",
            ]
        )
    return rows


CLAIM = Claim(
    id="stiff-order",
    title="Exponential methods at long steps",
    section="Integrators: what was measured",
    statement=(
        "for F = AY + YB + G(Y): projected exponential Euler has order 1 and Runge order 2 for h‖L‖ ≫ 2, they are exact for a "
        "constant tangential G, and the error at σ_min = 1e-14 is at most 3 times the error at σ_min = 0.1"
    ),
    hypotheses=(
        "A and B Hermitian",
        "a rank at which the best error does not show",
        "a start that the flow has smoothed",
    ),
    sources=("CV24",),
    explanation=(
        "Riccati, Allen–Cahn with ε = 1, and the heat equation with a source. No explicit method is stable at the longest of "
        "these steps. Their cost is one SVD of an m x n matrix a stage, since every φ is evaluated in the eigenvectors of A "
        "and B."
    ),
    slack={
        "Lyapunov: exact for every h, error / ‖Y(T)‖ ≤ 1e-12": EQUALITY,
        "error at σ_min = 0.1 ≤ 1/20, ‖Y(0)‖ ≈ 1": CHOSEN,
        "error(σ_min) / error(σ_min = 0.1), at most 3": CHOSEN,
        "stiff: |order − stages| + confidence ≤ 0.15": CHOSEN,
    },
    cases=cases,
    check=check,
    floor=2.5,
    controls=(
        Control(
            "explicit",
            "projected Heun, explicit in the stiff part too, breaks down",
            lambda plan: (
                case
                for problem in ("Allen–Cahn", "Lyapunov")
                for case in one_case(problem, "exponential Runge")(plan)
            ),
            lambda case: check(case, explicit),
            infinite=True,
        ),
        Control(
            "Euler is not Runge",
            "the order of Runge required of Euler",
            one_case("Allen–Cahn", "exponential Runge"),
            lambda case: check(case, first_order),
        ),
        Control(
            "half of the linear part",
            "is exponentiated; what is left over is stiff",
            one_case("σ", "exponential Euler"),
            lambda case: check(case, wrong_part),
        ),
        Control(
            "a hundredth of a step of the factors",
            "explicit Euler on U, S, V before each step: its error grows as σ_min falls",
            one_case("σ", "exponential Euler"),
            lambda case: check(case, naive),
            infinite=True,
        ),
    ),
    figures=(
        Figure(
            "Error over h‖L‖",
            "Slopes 1 and 2 at steps beyond every explicit stability limit.",
            draw,
        ),
    ),
    tables=(Table("Orders at long steps", table),),
)

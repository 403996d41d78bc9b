"""The stability interval of every integrator on the matrix Dahlquist problem, measured and computed."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from numpy.polynomial import Polynomial

from geolora_ref import LowRank
from geolora_ref.integrators import EXPLICIT_EULER, RK4, Integrator, TruncationRule
from geolora_ref.integrators.sub_solvers import RungeKutta
from geolora_ref.problems.problem import Matrix
from verification.claim import (
    CHOSEN,
    Case,
    CaseResult,
    Claim,
    Control,
    Measurements,
    Plan,
    Results,
    Table,
)
from verification.instruments.acting import Acting
from verification.instruments.integrator_family import FAMILY

N, RANK, STEPS = 12, 3, 24
SOLVERS = {"Euler": EXPLICIT_EULER, "RK4": RK4}
RATES = -np.linspace(0.5, 0.05, N)
"""λ_i of both sides, so that those of the problem, λ_i + λ_j, go from −1 to −0.1."""
ALLOWED = 0.01
SPLITTINGS = {"projector splitting, Lie": 1, "projector splitting, Strang": 2}


def cases(plan: Plan) -> Iterator[Case]:
    for name, promise in FAMILY.items():
        for solver in SOLVERS if promise.solves else ("Euler",) if promise.alone else ():
            for seed in range(plan.pick(1, 5)):
                yield Case(
                    f"{name}-{solver}-{seed}",
                    {"integrator": name, "solver": solver, "seed": plan.seed + seed},
                )


def amplification(method: RungeKutta) -> Polynomial:
    """R(z) of an explicit Runge–Kutta method: X₁ = R(z)X₀ for X' = λX, z = hλ."""
    z, slopes = Polynomial([0.0, 1.0]), list[Polynomial]()
    for row in (*method.tableau.a, method.tableau.b):
        slopes.append(
            Polynomial([1.0])
            + z * sum((a * k for a, k in zip(row, slopes, strict=True)), Polynomial([0.0]))
        )
    return slopes[-1]


def computed(name: str, solver: str) -> float:
    """The largest x with |R(−y)| ≤ 1 for all 0 ≤ y ≤ x.

    With P that of the sub-solver, R(z) = P(z) for a method that ends with a Galerkin step.  Lie
    splitting goes forward twice and backward once, R(z) = P(z)P(−z)P(z), and Strang splitting does
    this twice over half the time.  With Euler, (1 − x)²(1 + x) = 1 at x = (1 + √5)/2.
    """
    P = amplification(FAMILY[name].alone or SOLVERS[solver])
    if name not in SPLITTINGS:
        return crossing(P)
    return SPLITTINGS[name] * crossing(P * P * P(Polynomial([0.0, -1.0])))


def crossing(R: Polynomial) -> float:
    """The least x > 0 at which |R(−x)| leaves 1 upwards."""
    roots = np.concatenate([(R - 1.0).roots(), (R + 1.0).roots()])
    found = sorted(-float(z.real) for z in roots if abs(z.imag) < 1e-7 and z.real < -1e-7)
    return next(x for x in found if abs(R(-1.001 * x)) > 1.0)


def field() -> Acting:
    """F(Y) = ΛY + YΛ."""

    def F(P: Matrix, Q: Matrix, X: Matrix) -> Matrix:
        return np.asarray(RATES[:, None] * (P @ (Q.T @ X)) + P @ ((RATES[:, None] * Q).T @ X))

    return Acting((N, N), lambda t, Y, V: F(*Y, V), lambda t, Y, U: F(Y.right, Y.left, U))


def growth(integrator: Integrator, start: LowRank, h: float) -> float:
    """The mean of log(‖Y_{k+1}‖/‖Y_k‖) over the second half of the steps."""
    Y, logs, F = start, [], field()
    for _ in range(STEPS):
        Y = integrator.advance(F, 0.0, Y, h).Y
        size = Y.norm()
        logs.append(np.log(size))
        Y = LowRank(Y.U, Y.S / size, Y.V)
    return float(np.mean(logs[STEPS // 2 :]))


def measured(integrator: Integrator, start: LowRank, near: float) -> float:
    """h‖A‖ at which growth begins, by bisection between 0.8 and 1.25 times a guess."""
    low, high = 0.8 * near, 1.25 * near
    while high - low > 1e-3 * near:
        middle = 0.5 * (low + high)
        low, high = (middle, high) if growth(integrator, start, middle) <= 1e-6 else (low, middle)
    return 0.5 * (low + high)


def check(case: Case, interval: Callable[[str, str], float] = computed) -> CaseResult:
    """Ẏ = ΛY + YΛ from an invariant subspace that holds the fastest and the slowest mode.

    There nothing turns: every entry (i, j) of S is multiplied by R(h(λ_i + λ_j)), whatever the
    method, so the interval is that of a scalar polynomial.
    """
    out, rng = Measurements(), np.random.default_rng([case["seed"], 64])
    E = np.eye(N)[:, [0, N // 2, N - 1]]
    start = LowRank(E, np.eye(RANK) + 0.1 * rng.standard_normal((RANK, RANK)), E)
    expected = interval(case["integrator"], case["solver"])
    integrator = FAMILY[case["integrator"]].make(
        TruncationRule.fixed_rank(RANK), SOLVERS[case["solver"]]
    )
    found = measured(integrator, start, expected)
    out.ratio("|measured / computed − 1| ≤ 0.01", abs(found / expected - 1.0) / ALLOWED)
    out.series = {**case.parameters, "measured": found, "computed": expected}
    return out.result(case)


def one_case(plan: Plan) -> Iterator[Case]:
    for name in SPLITTINGS:
        yield Case(name, {"integrator": name, "solver": "Euler", "seed": plan.seed})


def table(results: Results) -> list[list[str]]:
    rows = [["integrator", "Euler: measured", "computed", "RK4: measured", "computed"]]
    for name in FAMILY:
        found = {
            r.series["solver"]: r.series
            for r in results
            if r.series["integrator"] == name and r.case.endswith("-0")
        }
        cells = [
            f"{found[s][key]:.3f}" if s in found else ""
            for s in SOLVERS
            for key in ("measured", "computed")
        ]
        rows.append([name, *cells])
    return rows


CLAIM = Claim(
    id="linear-stability",
    title="Stability intervals on the matrix Dahlquist problem",
    section="Integrators: what was measured",
    statement=(
        "on Ẏ = ΛY + YΛ, Λ < 0, in an invariant subspace: bounded if and only if h‖A‖ is at most the x of the table; Lie "
        "splitting with Euler sub-steps has the golden ratio, Strang twice that, all Galerkin methods that of their sub-solver"
    ),
    hypotheses=("the start spans eigenvectors, so that no basis turns",),
    sources=("LO14", "CL22", "KV19"),
    explanation=(
        "Each entry of S is multiplied by a polynomial R(h(λ_i + λ_j)). The backward step of the splitting costs stability: "
        "P(z)P(−z)P(z) in place of P(z). Projected exponential methods are stable at every step size (`stiff-order`)."
    ),
    slack={
        "|measured / computed − 1| ≤ 0.01": CHOSEN,
    },
    cases=cases,
    check=check,
    floor=0.8,
    controls=(
        Control(
            "no backward step",
            "the interval of the sub-solver required of both splittings",
            one_case,
            lambda case: check(case, lambda name, solver: crossing(amplification(SOLVERS[solver]))),
        ),
    ),
    tables=(Table("h‖A‖ up to which the norm stays bounded", table),),
)

"""On a dissipative flow the Galerkin methods never raise the norm, at any step size and for any bases."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import scipy.linalg

from geolora_ref import LowRank
from geolora_ref.integrators import Integrator
from geolora_ref.integrators.sub_solvers import Derivative
from geolora_ref.oracle.cases.spectra import to_size
from geolora_ref.problems.problem import Matrix
from verification.claim import Case, CaseResult, Claim, Control, Measurements, Plan, Results, Table
from verification.instruments.acting import Acting
from verification.instruments.integrator_family import member

SHAPE, RANK, STEPS = (12, 10), 3, 3
GALERKIN = (
    "BUG",
    "augmented BUG",
    "midpoint BUG",
    "midpoint BUG, 3r",
    "augmented splitting (abc-PSI)",
)
LENGTHS = (0.1, 10.0, 1000.0)
"""h‖A‖, from short steps to steps that go beyond every mode."""
NAME = "‖Y₁‖ ≤ e^{μh}‖Y₀‖, μ < 0"


def cases(plan: Plan) -> Iterator[Case]:
    for name in GALERKIN:
        for length in LENGTHS:
            for start in ("random", "slowest"):
                for seed in range(plan.pick(1, 5)):
                    parameters = {
                        "integrator": name,
                        "length": length,
                        "start": start,
                        "least": 0.01,
                        "seed": plan.seed + seed,
                    }
                    yield Case(f"{name}-{length:g}-{start}-{seed}", parameters)


def problem_of(case: Case) -> tuple[Matrix, LowRank]:
    """The weights of Ẏ = −M∘Y (entry by entry), from |μ| to 1, and a start.

    No tangent space contains M∘Y, so every part of a method is at work.  The "slowest" start lies
    in the block of the least weights, where the bound is attained.
    """
    rng = np.random.default_rng([case["seed"], 63])
    M = np.exp(rng.uniform(np.log(case["least"]), 0.0, SHAPE))
    M[:RANK, :RANK], M[-1, -1] = case["least"], 1.0
    if case["start"] == "random":
        return M, LowRank.random(SHAPE, to_size(RANK, 1e-6), rng)
    return M, LowRank(np.eye(SHAPE[0], RANK), np.diag(to_size(RANK, 1e-6)), np.eye(SHAPE[1], RANK))


def weighted(M: Matrix) -> Acting:
    """F(Y) = −M∘Y."""
    return Acting(SHAPE, lambda t, Y, V: -(M * Y.full()) @ V, lambda t, Y, U: -(M * Y.full()).T @ U)


def exactly(f: Derivative, t: float, X: Matrix, h: float) -> Matrix:
    """e^{hf}X of a linear f, whose matrix is formed column by column."""
    units = np.eye(X.size).reshape(X.size, *X.shape)
    columns = np.stack([f(t, unit).ravel() for unit in units], axis=1)
    return np.asarray((scipy.linalg.expm(h * columns) @ X.ravel()).reshape(X.shape))


def check(case: Case, integrator: Integrator | None = None, sign: float = 1.0) -> CaseResult:
    """‖Ŷ‖ ≤ e^{μh}‖ΠY₀‖ ≤ e^{μh}‖Y₀‖: a Galerkin step solves S' = ÛᴴF(ÛSV̂ᴴ)V̂ from ÛᴴY₀V̂, with
    d‖S‖²/dt = 2⟨Y, F(Y)⟩ ≤ 2μ‖S‖², and no truncation raises the norm.

    Neither the step size nor the bases matter: what keeps the norm is that the projection of a
    dissipative operator is dissipative.
    """
    out, (M, Y) = Measurements(), problem_of(case)
    integrator = integrator or member(case["integrator"], RANK, exactly)
    h, mu, field = case["length"], -0.01, weighted(sign * M)
    quotients = []
    for k in range(STEPS):
        Y1 = integrator.step(field, k * h, Y, h).Y
        out.at_most(NAME, Y1.norm(), np.exp(mu * h) * Y.norm(), 1e-13 * Y.norm())
        quotients.append(Y1.norm() / Y.norm())
        Y = Y1
    out.series = {**case.parameters, "quotient": max(quotients), "bound": float(np.exp(mu * h))}
    return out.result(case)


def one_case(length: float) -> Any:
    def of(plan: Plan) -> Iterator[Case]:
        yield Case(
            "control",
            {
                "integrator": "BUG",
                "length": length,
                "start": "random",
                "least": 0.01,
                "seed": plan.seed,
            },
        )

    return of


def asked_of(name: str) -> Any:
    return lambda case: check(case, member(name, RANK, exactly))


def table(results: Results) -> list[list[str]]:
    rows = [["integrator", *(f"largest ‖Y₁‖/‖Y₀‖ at h‖A‖ = {length:g}" for length in LENGTHS)]]
    for name in GALERKIN:
        mine = [r.series for r in results if r.series["integrator"] == name]
        rows.append(
            [
                name,
                *(f"{max(s['quotient'] for s in mine if s['length'] == x):.2g}" for x in LENGTHS),
            ]
        )
    return rows


CLAIM = Claim(
    id="nonexpansive",
    title="Galerkin methods are nonexpansive on dissipative flows",
    section="Integrators: what was measured",
    statement=(
        "for Ẏ = A[Y] with ⟨Y, A[Y]⟩ ≤ μ‖Y‖², μ ≤ 0: ‖Y₁‖ ≤ e^{μh}‖Y₀‖ at every step size h, for BUG, augmented and midpoint BUG "
        "and the augmented splitting"
    ),
    hypotheses=(
        "sub-equations solved exactly",
        "the last sub-step is a Galerkin step from a projection of Y₀",
    ),
    sources=("CL22", "CKL22", "CEKL24", "KSW25"),
    explanation=(
        "The projection is the point, not the step size: Π A Π is dissipative whatever the bases are, and BUG, which projects "
        "its start, can only lose norm by that. Lie splitting has a backward step, in which a dissipative flow grows; explicit "
        "methods have a largest step (`linear-stability`). The bound is attained in the slowest block."
    ),
    cases=cases,
    check=check,
    floor=2,
    controls=(
        Control(
            "Lie splitting",
            "its S-step runs backwards",
            one_case(100.0),
            asked_of("projector splitting, Lie"),
        ),
        Control(
            "projected Runge–Kutta", "explicit", one_case(100.0), asked_of("projected Runge–Kutta")
        ),
        Control(
            "another sign", "a flow that grows", one_case(10.0), lambda case: check(case, sign=-1.0)
        ),
    ),
    tables=(Table("Norms at every step size", table),),
)

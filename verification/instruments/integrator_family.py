"""The integrators by name, and what each promises: data for the claims, the figures and the table
of the documentation.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import scipy.integrate

from geolora_ref import LowRank
from geolora_ref.arrays import H, Matrix
from geolora_ref.integrators import (
    BUG,
    EXPLICIT_EULER,
    HEUN,
    RK4,
    AugmentedBUG,
    AugmentedSplitting,
    GeneralisedNystroem,
    Integrator,
    MidpointBUG,
    NaiveFactorEuler,
    ObliqueRK,
    ParallelBUG,
    ProjectedRK,
    ProjectorSplitting,
    RungeKuttaBUG,
    SecondOrderParallel,
    StrangSplitting,
    TruncationRule,
)
from geolora_ref.integrators.sub_solvers import RK4_TABLEAU, RungeKutta, SubSolver
from geolora_ref.problems import MatrixODE, Product

__all__ = ["FAMILY", "Member", "member", "projected_flow"]


@dataclass(frozen=True)
class Member:
    """One integrator and its promises."""

    name: str
    make: Callable[[TruncationRule, SubSolver], Integrator]
    tangential: int
    """The order against the projected flow for a tangential field; 0 for a method that follows
    another flow, at a distance of O(ε).
    """
    general: int
    """The order for a field with a normal part, likewise."""
    dial: bool = False
    """True for an error O(h²) + O(εh), whose first-order part can be dialled away by ε."""
    exact: bool | None = False
    """True if it reproduces a given curve of its rank; None promises nothing about it, and is not
    judged.
    """
    half_exact: bool = False
    """True if it reproduces a curve without a normal part at the beginning of the step, as where
    one of its two spaces is constant: the missing block of Ŝ is 0 then.
    """
    conservative: bool = False
    """True if every sub-step is a Galerkin step in a space that contains the state, so that the
    invariants of a Hamiltonian field stay up to the truncation.
    """
    robust: bool = True
    """True if its error does not depend on the smallest singular value of S; a method that divides
    by S breaks down.
    """
    coarsest: int = 16
    """The number of steps per unit of time from which on the order shows."""
    adaptive: bool = True
    """True if the rank follows a tolerance."""
    stalls: bool = False
    """True if the rank fails to grow from a well conditioned state as h falls, since a new
    direction enters with size O(h²/σ_min) only.
    """
    solves: bool = True
    """True if a sub-solver handles time, so that a curve in the spaces of the state is exact."""
    alone: RungeKutta | None = None
    """The Runge–Kutta method that a method without a sub-solver is where nothing turns; its linear
    stability is judged by it, or not at all.
    """


FAMILY = {
    member.name: member
    for member in (
        Member(
            "projector splitting, Lie",
            lambda _, s: ProjectorSplitting(s),
            tangential=2,
            general=1,
            dial=True,
            exact=True,
            conservative=True,
            adaptive=False,
        ),
        Member(
            "projector splitting, Strang",
            lambda _, s: StrangSplitting(s),
            tangential=2,
            general=2,
            exact=True,
            conservative=True,
            adaptive=False,
        ),
        Member("BUG", lambda _, s: BUG(s), 1, 1, exact=True, adaptive=False),
        Member("augmented BUG", AugmentedBUG, 2, 1, dial=True, exact=True, conservative=True),
        Member("parallel BUG", ParallelBUG, 1, 1, half_exact=True, stalls=True),
        # 4r columns are so rich that coarse steps superconverge: the order shows later
        Member("midpoint BUG", MidpointBUG, 2, 1, dial=True, conservative=True, coarsest=32),
        Member(
            "midpoint BUG, 3r",
            lambda rule, s: MidpointBUG(rule, s, wide=False),
            2,
            1,
            dial=True,
            conservative=True,
        ),
        Member("second-order parallel", SecondOrderParallel, 2, 1, dial=True, half_exact=True),
        Member(
            "projected Runge–Kutta",
            lambda rule, _: ProjectedRK(rule),
            2,
            2,
            stalls=True,
            solves=False,
            alone=HEUN,
        ),
        Member(
            "augmented splitting (abc-PSI)",
            AugmentedSplitting,
            2,
            1,
            dial=True,
            exact=True,
            conservative=True,
        ),
        # the slope of h⁴ is that of RK4: the splitting itself shows no error on a tangential field
        Member("generalised Nyström", GeneralisedNystroem, 4, 1, dial=True, exact=True, coarsest=8),
        Member(
            "Runge–Kutta BUG, Heun",
            lambda rule, _: RungeKuttaBUG(rule),
            2,
            1,
            solves=False,
            coarsest=32,
            alone=HEUN,
        ),
        Member(
            "Runge–Kutta BUG, RK4",
            lambda rule, _: RungeKuttaBUG(rule, RK4_TABLEAU, wide=True),
            4,
            1,
            dial=True,
            solves=False,
            coarsest=8,
            alone=RK4,
        ),
        Member(
            "oblique Runge–Kutta",
            lambda rule, _: ObliqueRK(rule),
            2,
            0,
            dial=True,
            stalls=True,
            solves=False,
            alone=HEUN,
        ),
        Member(
            "naive factor Euler",
            lambda *_: NaiveFactorEuler(),
            1,
            1,
            robust=False,
            adaptive=False,
            solves=False,
            alone=EXPLICIT_EULER,
        ),
    )
}


def member(name: str, rank: int, solver: SubSolver = RK4) -> Integrator:
    """An integrator by name, at fixed rank."""
    return FAMILY[name].make(TruncationRule.fixed_rank(rank), solver)


def projected_flow(problem: MatrixODE, Y0: LowRank, t: float) -> Matrix:
    """Y(t) of Ẏ = P(Y)F(t, Y), by DOP853 at tolerance 1e-12 on the factor equations: what the
    integrators converge to.

    The factor equations divide by S, so S must stay well conditioned.
    """
    m, r, n = Y0.shape[0], Y0.rank, Y0.shape[1]
    cuts = (m * r, m * r + r * r)

    def unpacked(y: Matrix) -> tuple[Matrix, Matrix, Matrix]:
        U, S, V = np.split(y, cuts)
        return U.reshape(m, r), S.reshape(r, r), V.reshape(n, r)

    def derivative(s: float, y: Matrix) -> Matrix:
        U, S, V = unpacked(y)
        at = Product(U @ S, V)
        FV, FhU = problem.apply_right(s, at, V), problem.apply_left(s, at, U)
        dS = H(U) @ FV
        dU, dV = (
            np.linalg.solve(S.T, (FV - U @ dS).T).T,
            np.linalg.solve(S.conj(), (FhU - V @ H(dS)).T).T,
        )
        return np.concatenate([dU.ravel(), dS.ravel(), dV.ravel()])

    y0 = np.concatenate([Y0.U.ravel(), Y0.S.ravel(), Y0.V.ravel()])
    run = scipy.integrate.solve_ivp(derivative, (0.0, t), y0, "DOP853", rtol=1e-12, atol=1e-12)
    if not run.success:
        raise RuntimeError(f"projected flow of {type(problem).__name__} at t = {t}: {run.message}")
    U, S, V = unpacked(run.y[:, -1])
    return np.asarray(U @ S @ H(V))

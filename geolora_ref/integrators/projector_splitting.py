"""The projector-splitting integrator [LO14]: K, S backwards, L; first order (Lie) and second order
(Strang).
"""

from __future__ import annotations

from dataclasses import dataclass

from geolora_ref.arrays import H, qr
from geolora_ref.integrators.integrator import Integrator, Step
from geolora_ref.integrators.sub_equations import Factors, K_step, L_step, S_step
from geolora_ref.integrators.sub_solvers import RK4, SubSolver
from geolora_ref.lowrank import LowRank
from geolora_ref.problems.field import Field

__all__ = ["ProjectorSplitting", "StrangSplitting"]


def K_S_L(solver: SubSolver, field: Field, t: float, h: float, Y: Factors) -> Factors:
    """K-step, K₁ = U₁Ŝ; S-step backwards, Ŝ → S̃; L-step from V₀S̃ᴴ, L₁ = V₁S₁ᴴ."""
    U, S = qr(K_step(solver, field, t, h, Y))
    S = S_step(solver, field, t, h, Factors(U, S, Y.V), sign=-1.0)
    V, Sh = qr(L_step(solver, field, t, h, Factors(U, S, Y.V)))
    return Factors(U, H(Sh), V)


def L_S_K(solver: SubSolver, field: Field, t: float, h: float, Y: Factors) -> Factors:
    """The adjoint of :func:`K_S_L`: L-step, S-step backwards, K-step."""
    V, Sh = qr(L_step(solver, field, t, h, Y))
    S = S_step(solver, field, t, h, Factors(Y.U, H(Sh), V), sign=-1.0)
    U, S = qr(K_step(solver, field, t, h, Factors(Y.U, S, V)))
    return Factors(U, S, V)


@dataclass(frozen=True)
class ProjectorSplitting(Integrator):
    """Lie splitting of P(Y)F = FVVᴴ − UUᴴFVVᴴ + UUᴴF.  Fixed rank; exact for F = Ȧ(t) with A(t) of
    rank r whose spaces turn by less than 90°, see :class:`~geolora_ref.integrators.BUG`.

    The S-step runs backwards in time, which is delicate for dissipative equations.  Source: [LO14].
    """

    solver: SubSolver = RK4

    def advance(self, field: Field, t: float, Y: LowRank, h: float) -> Step:
        """One Lie step."""
        return Step(LowRank(*K_S_L(self.solver, field, t, h, Factors(*Y))))


@dataclass(frozen=True)
class StrangSplitting(Integrator):
    """Strang splitting: Lie over h/2, then its adjoint over h/2.  Fixed rank, second order.

    Exact for F = Ȧ(t) with A(t) of rank r where V(t₀)ᴴV(t½) and U(t½)ᴴU(t₁) are invertible.
    Source: [LO14].
    """

    solver: SubSolver = RK4

    @property
    def order(self) -> int:
        """2."""
        return 2

    def advance(self, field: Field, t: float, Y: LowRank, h: float) -> Step:
        """One Strang step."""
        half = K_S_L(self.solver, field, t, 0.5 * h, Factors(*Y))
        return Step(LowRank(*L_S_K(self.solver, field, t + 0.5 * h, 0.5 * h, half)))

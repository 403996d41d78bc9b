"""The basis update & Galerkin integrator of fixed rank (BUG, "unconventional") [CL22]."""

from __future__ import annotations

from dataclasses import dataclass

from geolora_ref.arrays import H, qr
from geolora_ref.integrators.integrator import Integrator, Step
from geolora_ref.integrators.sub_equations import Factors, K_step, L_step, S_step
from geolora_ref.integrators.sub_solvers import RK4, SubSolver
from geolora_ref.lowrank import LowRank
from geolora_ref.problems.field import Field

__all__ = ["BUG"]


@dataclass(frozen=True)
class BUG(Integrator):
    """K- and L-step independently, U₁ = orth(K₁), V₁ = orth(L₁), then S forwards in (U₁, V₁) from
    (U₁ᴴU₀)S₀(V₀ᴴV₁).

    The rank is fixed.  Exact for F = Ȧ(t) with A(t) of rank r whose spaces turn by less than 90°:
    U(t₀)ᴴU(t₁) and V(t₀)ᴴV(t₁) are invertible.  No sub-step runs backwards in time.  Source:
    [CL22].
    """

    solver: SubSolver = RK4

    def advance(self, field: Field, t: float, Y: LowRank, h: float) -> Step:
        """One step."""
        U0, S0, V0 = Y
        U1, _ = qr(K_step(self.solver, field, t, h, Factors(*Y)))
        V1, _ = qr(L_step(self.solver, field, t, h, Factors(*Y)))
        start = Factors(U1, (H(U1) @ U0) @ S0 @ (H(V0) @ V1), V1)
        return Step(LowRank(U1, S_step(self.solver, field, t, h, start), V1))

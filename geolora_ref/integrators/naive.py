"""The counterexample: explicit Euler on the equations of the factors, which divide by S."""

from __future__ import annotations

from dataclasses import dataclass

from geolora_ref.arrays import H, namespace, qr
from geolora_ref.integrators.integrator import Integrator, Step
from geolora_ref.integrators.sub_equations import Factors
from geolora_ref.lowrank import LowRank
from geolora_ref.problems.field import Field

__all__ = ["NaiveFactorEuler"]


@dataclass(frozen=True)
class NaiveFactorEuler(Integrator):
    """One explicit Euler step of U̇ = (I − UUᴴ)FVS⁻¹, V̇ = (I − VVᴴ)FᴴUS⁻ᴴ, Ṡ = UᴴFV; then the
    bases are orthonormalised.

    The equations are equivalent to Ẏ = P(Y)F, but stiff like 1/σ_min(S): small singular values
    break this method and leave the others unaffected.  The triangular factors of the QR go into S,
    so their signs do not matter.  Source: [KL07].
    """

    def advance(self, field: Field, t: float, Y: LowRank, h: float) -> Step:
        """One step; a singular S raises an error."""
        U, S, V = Y
        xp, at = namespace(S), Factors(*Y).product()
        FV, FhU = field.apply_right(t, at, V), field.apply_left(t, at, U)
        dS = H(U) @ FV
        dU = H(xp.linalg.solve(H(S), H(FV - U @ dS)))  # (I − UUᴴ)FV S⁻¹
        dV = H(xp.linalg.solve(S, H(FhU - V @ H(dS))))  # (I − VVᴴ)FᴴU S⁻ᴴ
        (U1, R_U), (V1, R_V) = qr(U + h * dU), qr(V + h * dV)
        return Step(LowRank(U1, R_U @ (S + h * dS) @ H(R_V), V1))

"""The augmented, backward-corrected projector-splitting integrator (abc-PSI) [KSW25]."""

from __future__ import annotations

from dataclasses import dataclass

from geolora_ref.arrays import H, qr
from geolora_ref.integrators.augmented_bug import augmented
from geolora_ref.integrators.integrator import Integrator, Step, TruncationRule
from geolora_ref.integrators.sub_equations import Factors, K_step, L_step
from geolora_ref.integrators.sub_solvers import RK4, SubSolver
from geolora_ref.lowrank import LowRank
from geolora_ref.problems.field import Field

__all__ = ["AugmentedSplitting"]


@dataclass(frozen=True)
class AugmentedSplitting(Integrator):
    """Projector splitting without its backward step: K-step, Û = [U₀ | Ũ], L-step in Û from Y₀ itself.

    With an explicit Euler step the backward step S' = −U₁ᴴF V₀ of Lie splitting ends at U₁ᴴU₀S₀,
    the projection of Y₀. So no equation need be solved, and with Û ⊇ range(U₀) the projection loses
    nothing.

    Norm, energy and descent are preserved up to the errors of truncation and sub-solver. Exact for
    F = Ȧ(t) with A(t) of rank r and V(t₀)ᴴV(t₁) invertible. Error O(h²) + O(εh), ε the normal part
    of F: observed, while O(h) + O(ε) is proved. Source: [KSW25].

    =======================================  ==============================================
    [KSW25]                                  here
    =======================================  ==============================================
    K-step from K(t₀) = U₀S₀                 ``K_step``
    augmented basis Û of [U₀ | K(t₁)]        ``augmented``, the one QR of a basis
    correction S̃ = ÛᴴU₀S₀, L(t₀) = V₀S̃ᴴ      ``start``: S̃ is S₀ above rows of zeros
    L-step L' = F(ÛLᴴ)ᴴÛ                      ``L_step``
    truncation by an SVD of L(t₁)            ``qr`` and ``self.truncate``: QR, then a small SVD
    =======================================  ==============================================
    """

    truncate: TruncationRule
    solver: SubSolver = RK4

    def advance(self, field: Field, t: float, Y: LowRank, h: float) -> Step:
        """One step."""
        U_hat = augmented(Y.U, K_step(self.solver, field, t, h, Factors(*Y)))
        start = Factors(*Y).in_bases(U_hat, Y.V)
        V, R = qr(L_step(self.solver, field, t, h, start))
        return Step.truncated(self.truncate(Factors(U_hat, H(R), V), h))

"""Randomised dynamical low-rank approximation by the generalised Nyström method [C24]."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from geolora_ref import checks
from geolora_ref.arrays import Array, H, eps, namespace, qr
from geolora_ref.integrators.augmented_bug import augmented
from geolora_ref.integrators.integrator import Integrator, Step, TruncationRule, combine
from geolora_ref.integrators.sub_equations import Factors, K_step, L_step, S_step
from geolora_ref.integrators.sub_solvers import RK4, SubSolver
from geolora_ref.lowrank import LowRank
from geolora_ref.problems.field import Field, Product

__all__ = ["GeneralisedNystroem"]


@dataclass(frozen=True)
class GeneralisedNystroem(Integrator):
    """Ranges from random sketches of the flow; then Y₁ = B D⁺ Cᴴ from three equations in these ranges.

    D⁺ is the pseudo-inverse of the truncated D: its small singular values are also factors of B and
    C. Exact for F = Ȧ(t) with A(t) of rank r, with probability 1. With a normal part ε the error is
    O(εh).

    ``oversampling`` : the columns of a sketch beyond r.
    ``seed`` : the sketches of a step depend on it and on t alone.

    Source: [C24], without power iterations.

    =======================================================  ================================
    [C24]                                                  here
    =======================================================  ================================
    dynamical rangefinder: B' = F(BΩᴴ)Ω from Y₀Ω, orth       ``K_step`` in Ω, ``augmented``
    dynamical corangefinder: C' = F(ΨCᴴ)ᴴΨ from Y₀ᴴΨ, orth   ``L_step`` in Ψ, ``augmented``
    augmentation by the bases of Y₀                          they come first in Û and V̂
    B(h), C(h), D(h) in Û, V̂                                 ``K_step``, ``L_step``, ``S_step``
    Y₁ = B D⁺ Cᴴ, D truncated                                ``self.truncate``, ``combine``
    =======================================================  ================================

    Raises ``ValueError`` unless both are integers ≥ 0.
    """

    truncate: TruncationRule
    solver: SubSolver = RK4
    oversampling: int = 5
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.integer("oversampling", self.oversampling, 0)
        checks.integer("seed", self.seed, 0)

    def advance(self, field: Field, t: float, Y: LowRank, h: float) -> Step:
        """One step; ``discarded`` is that of the truncation of D."""
        U, S, V = Y
        rng, how = (
            np.random.default_rng([self.seed, *np.float64(t).tobytes()]),
            (self.solver, field, t, h),
        )
        Omega, Psi = self._sketch(rng, V), self._sketch(rng, U)
        U_hat = augmented(U, K_step(*how, Factors(U, S @ (H(V) @ Omega), Omega)))
        V_hat = augmented(V, L_step(*how, Factors(Psi, (H(Psi) @ U) @ S, V)))
        hat = Factors(U, S, V).in_bases(U_hat, V_hat)
        B, C, D = (substep(*how, hat) for substep in (K_step, L_step, S_step))
        cut = self.truncate(hat._replace(S=D), h)
        xp, sigma = namespace(D), namespace(D).linalg.diagonal(cut.Y.S)
        kept = xp.abs(sigma) > eps(D) * xp.abs(sigma[0])
        divisor = xp.where(kept, sigma, 0.0 * sigma + 1.0)  # not 1/σ, which may overflow
        left, right = B @ (H(V_hat) @ cut.Y.V) / divisor[None, :], C @ (H(U_hat) @ cut.Y.U)
        left = xp.where(kept[None, :], left, 0.0 * left)
        return replace(Step.truncated(cut), Y=LowRank(*combine([(1.0, Product(left, right))])))

    def _sketch(self, rng: np.random.Generator, B: Array) -> Array:
        """Orthonormal columns in a random direction, more by the oversampling than B has."""
        xp, (rows, columns) = namespace(B), B.shape
        gaussian = rng.standard_normal((rows, min(rows, columns + self.oversampling)))
        return qr(xp.astype(xp.asarray(gaussian, device=B.device), B.dtype))[0]

"""Projected exponential methods for stiff equations: exponential Euler and exponential Runge [CV24]."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property

from geolora_ref import checks
from geolora_ref.arrays import Array, Float, H, Inexact, eps, namespace, norm
from geolora_ref.integrators.integrator import Integrator, Step, TruncationRule
from geolora_ref.integrators.sub_equations import Factors
from geolora_ref.lowrank import LowRank
from geolora_ref.problems.field import Field, Product

__all__ = ["ProjectedExponential"]


TERMS = 16
"""Terms of a series at |z| < ½; the next one is below 2⁻¹⁶/16! < 1e-18."""


@dataclass(frozen=True, eq=False)
class ProjectedExponential(Integrator):
    """F(t, Y) = AY + YBᴴ + G(t, Y): the linear part L is solved exactly, the rest is projected.

    Euler (``stages`` = 1) :  Y₁ = R(e^{hL}Y₀ + hφ₁(hL)P(Y₀)G(Y₀)).
    Runge (``stages`` = 2) :  Y₁ = R(K + hφ₂(hL)[P(RK)G(RK) − P(Y₀)G(Y₀)]), K as above before its R.

    φ₁(z) = (e^z − 1)/z and φ₂(z) = (φ₁(z) − 1)/z. A and B are the arguments of the method, G is the
    rest of the field, so any Hermitian A and B are right. With A = B = 0 these are projected Euler
    and projected Heun. An m x n matrix is formed in the eigenvectors of A and B
    (docs/integrators.md).

    Source: [CV24].

    ======================================  ==============================
    [CV24]                                  here
    ======================================  ==============================
    P(Y)G(Y)                                :meth:`_rest`
    e^{hL}, hφ_k(hL)                        :func:`phi`, on coefficients
    retraction R                            ``self.truncate``
    stiff order conditions of order 2       the difference of both slopes
    ======================================  ==============================

    Raises ``ValueError`` unless A and B are finite Hermitian matrices and ``stages`` is 1 or 2.
    """

    truncate: TruncationRule
    A: Inexact[Array, "m m"]
    B: Inexact[Array, "n n"]
    stages: int = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.matrices(A=self.A, B=self.B)
        for name, X in (("A", self.A), ("B", self.B)):
            if X.shape[0] != X.shape[1] or norm(X - H(X)) > X.shape[0] * eps(X) * norm(X):
                raise ValueError(
                    f"{name}: expected a Hermitian matrix, found shape {tuple(X.shape)}, or X ≠ Xᴴ"
                )
        if checks.integer("stages", self.stages, 1) > 2:
            raise ValueError(f"stages: expected 1 or 2, found {self.stages}")

    @property
    def order(self) -> int:
        """The number of stages."""
        return self.stages

    @cached_property
    def _spectral(self) -> tuple[Array, Array, Array]:
        """λ_i + μ_j, and the eigenvectors of A and of B."""
        eigh = namespace(self.A, self.B).linalg.eigh
        (left, Phi), (right, Psi) = eigh(self.A), eigh(self.B)
        return left[:, None] + right[None, :], Phi, Psi

    def advance(self, field: Field, t: float, Y: LowRank, h: float) -> Step:
        """One step; ``discarded_inside`` is that of the stage."""
        rates, Phi, Psi = self._spectral
        z, start = h * rates, self._coefficients(Factors(*Y).product())
        first = self._rest(field, t, Y)
        K = phi(0, z) * start + h * phi(1, z) * first
        cut = self.truncate(Factors(Phi, K, Psi), h)
        if self.stages == 1:
            return Step.truncated(cut)
        change = self._rest(field, t + h, cut.Y) - first
        last = self.truncate(Factors(Phi, K + h * phi(2, z) * change, Psi), h)
        return replace(Step.truncated(last), discarded_inside=cut.discarded)

    def _coefficients(self, X: Product) -> Inexact[Array, "m n"]:
        """ΦᴴXΨ."""
        _, Phi, Psi = self._spectral
        return (H(Phi) @ X.left) @ H(H(Psi) @ X.right)

    def _rest(self, field: Field, t: float, Y: LowRank) -> Inexact[Array, "m n"]:
        """The coefficients of P(Y)G = (GV − U UᴴGV)Vᴴ + U(GᴴU)ᴴ with G = F − AY − YBᴴ."""
        (U, S, V), at, xp = Y, Factors(*Y).product(), namespace(Y.S)
        AU, BV = self.A @ U, self.B @ V
        GV = field.apply_right(t, at, V) - AU @ S - U @ (S @ (H(BV) @ V))
        GhU = field.apply_left(t, at, U) - V @ (H(S) @ (H(AU) @ U)) - BV @ H(S)
        return self._coefficients(
            Product(xp.concat([GV - U @ (H(U) @ GV), U], axis=1), xp.concat([V, GhU], axis=1))
        )


def phi(k: int, z: Float[Array, "m n"]) -> Float[Array, "m n"]:
    """φ_k(z), k ≤ 2, entry by entry: φ₀ = e^z, φ_k = (φ_{k−1} − 1/(k−1)!)/z.

    Near 0, where the recursion cancels, by the series Σ z^j/(j + k)!.
    """
    xp = namespace(z)
    if k == 0:
        return xp.exp(z)
    near = xp.abs(z) < 0.5
    inner, outer = xp.where(near, z, 0.0 * z), xp.where(near, 0.0 * z + 1.0, z)
    series = 0.0 * z
    for j in reversed(range(TERMS)):
        series = series * inner + 1.0 / math.factorial(j + k)
    by_recursion = xp.expm1(outer) / outer
    return xp.where(near, series, by_recursion if k == 1 else (by_recursion - 1.0) / outer)

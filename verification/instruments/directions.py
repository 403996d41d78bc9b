"""The rules of ``geolora_ref.optimizers`` as the claims see them, and broken ones that claims about
directions must reject.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from geolora_ref.algorithm import assemble, basis_augmentation
from geolora_ref.arrays import Array, H, svd, to_numpy
from geolora_ref.optimizers import (
    Adam,
    AdamPublished,
    Bases,
    HeavyBall,
    Moments,
    Normalised,
    Optimizer,
    Preconditioned,
    Sgd,
    Spectral,
    Triple,
    moved_apart,
)
from geolora_ref.oracle.judges.criteria import FAIL, unit_of

__all__ = ["BROKEN", "EQUIVARIANT", "RULES", "dense", "rounding_of", "seen", "uphill", "wide"]

RULES: dict[str, Optimizer] = {
    "gradient": Sgd(),
    "heavy ball": HeavyBall(0.8),
    "normalised": Normalised(0.8),
    "spectral": Spectral(0.8),
    "smooth spectral": Spectral(0.8, smoothing=0.5),
    "preconditioned": Preconditioned(),
    "adam": Adam(),
}
EQUIVARIANT = tuple(name for name in RULES if name != "adam")
"""The rules that commute with changes of gauge: other orthonormal bases of the same spaces."""


def seen(G: Array, bases: Bases) -> Triple:
    """The triple (GV, GᴴU, UᴴGV) of a dense matrix G: its projection on the tangent space."""
    U, V = bases
    K = G @ V
    return Triple(K, H(G) @ U, H(U) @ K)


def dense(D: Triple, bases: Bases) -> Array:
    """The matrix that lines 3 to 5 of Algorithm 1 subtract from W per unit of λ; K, L and S need
    not come from one matrix.
    """
    (U, V), (K, L, S) = bases, D
    return (K - U @ (H(U) @ K)) @ H(V) + U @ H(L - V @ (H(V) @ L)) + U @ S @ H(V)


def rounding_of(X: Any) -> float:
    """The rounding error of numbers of order one in double precision that reaches the fail level of
    the oracle.
    """
    m, n = X.shape
    return FAIL * unit_of(m, n, float(np.finfo(float).eps))


def wide(X: Any) -> Any:
    """An array in NumPy's complex double precision."""
    return to_numpy(X).astype(np.complex128)


def uphill(m: int) -> tuple[Bases, Any]:
    """The state and the gradient of docs/theory/directions.md, "Adam as published can go uphill"."""
    U = np.full((m, 1), (2.0 * (m - 1)) ** -0.5)
    U[0] = 0.5**0.5
    V = np.eye(3, 1)
    G = np.full((m, 1), 1e-3)
    G[0] = 1.0
    return Bases(U, V), G @ V.T


@dataclass(frozen=True)
class Altered:
    """A rule whose direction is changed afterwards by ``change(bases, D)``, and whose memory moves
    by ``move``, if given.
    """

    rule: Optimizer
    change: Callable[[Bases, Triple], Triple] | None = None
    move: Callable[[Triple, Bases, Bases], Triple] | None = None

    def direction(
        self, bases: Bases, gradients: Triple, moments: Moments
    ) -> tuple[Triple, Moments]:
        """The direction of the rule, changed by ``change`` if given."""
        D, moments = self.rule.direction(bases, gradients, moments)
        return (self.change(bases, D) if self.change else D), moments

    def transport(self, old: Bases, moments: Moments, new: Bases) -> Moments:
        """The moments in the new bases, moved by ``move`` if given, else by the rule."""
        if self.move is None or moments.first is None:
            return self.rule.transport(old, moments, new)
        return replace(moments, first=self.move(moments.first, old, new))


def _shared_core(bases: Bases, D: Triple) -> Triple:
    """S moves by the mean of UᴴD_K and D_LᴴV."""
    return D._replace(S=0.5 * (H(bases.U) @ D.K + H(D.L) @ bases.V))


def _incomplete(M: Triple, old: Bases, new: Bases) -> Triple:
    """The incomplete transport: M_K(VᴴV₁) and so on, each matrix by itself."""
    return moved_apart(M, H(old.U) @ new.U, H(old.V) @ new.V)


def _core_twice(M: Triple, old: Bases, new: Bases) -> Triple:
    """The projection of M_K Vᴴ + U M_Lᴴ, in which the core is counted twice."""
    K = M.K @ (H(old.V) @ new.V) + old.U @ (H(M.L) @ new.V)
    L = M.L @ (H(old.U) @ new.U) + old.V @ (H(M.K) @ new.U)
    return Triple(K, L, H(new.U) @ K)


def _polar(X: Array) -> Array:
    P, sigma, Qh = svd(X)
    kept = sigma > 1e-12 * sigma[..., :1]
    return (P * kept) @ Qh


class BlockwisePolar(Sgd):
    """The polar factor of each block of the core by itself: its spectral norm is up to the golden ratio."""

    def direction(
        self, bases: Bases, gradients: Triple, moments: Moments
    ) -> tuple[Triple, Moments]:
        """The direction made of the polar factors of the three blocks."""
        (U, V), r = bases, gradients.S.shape[-1]
        U_tilde, V_tilde = basis_augmentation(U, gradients.K), basis_augmentation(V, gradients.L)
        C = assemble(gradients.S, gradients.K, gradients.L, U_tilde, V_tilde)
        C11, C12, C21 = _polar(C[:r, :r]), _polar(C[:r, r:]), _polar(C[r:, :r])
        return Triple(U @ C11 + U_tilde @ C21, V @ H(C11) + V_tilde @ H(C12), C11), Moments(
            moments.step + 1
        )


class HalvesPolar(Sgd):
    """½(polar(MV)Vᴴ + U polar(UᴴM)): of size one as well, with half of the descent at worst."""

    def direction(
        self, bases: Bases, gradients: Triple, moments: Moments
    ) -> tuple[Triple, Moments]:
        """The triple of this matrix."""
        U, V = bases
        D = 0.5 * (_polar(gradients.K) @ H(V) + U @ H(_polar(gradients.L)))
        return seen(D, bases), Moments(moments.step + 1)


class LongPolar(Spectral):
    """The direction times the largest factor with ‖D‖₂ ≤ 2/√3 and ‖D‖² ≤ k, k the rank of the gradient."""

    def direction(
        self, bases: Bases, gradients: Triple, moments: Moments
    ) -> tuple[Triple, Moments]:
        """The longer direction."""
        D, moments = super().direction(bases, gradients, moments)
        X, k = dense(D, bases), np.linalg.matrix_rank(dense(gradients, bases))
        factor = (
            min(2.0 / 3.0**0.5 / np.linalg.norm(X, 2), k**0.5 / np.linalg.norm(X)) if k else 1.0
        )
        return Triple(*(factor * part for part in D)), moments


BROKEN: dict[str, Any] = {
    "published Adam": AdamPublished(),
    "shared core": Altered(AdamPublished(), change=_shared_core),
    "incomplete transport": Altered(HeavyBall(0.8), move=_incomplete),
    "core counted twice": Altered(HeavyBall(0.8), move=_core_twice),
    "blockwise polar": BlockwisePolar(),
    "polar of halves": HalvesPolar(),
    "as long as may be": LongPolar(),
}

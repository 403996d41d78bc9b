"""Proved statements about one iteration, left ≤ right, about the exact numbers that double
precision took in and gave out.

Every statement judges the *output* against quantities that the output does not enter, except
through its rank. Some forms of the guarantees would hold for any output whatever and prove nothing:
the descent lemma with ⟨∇L(Ŵ), W₁ − Ŵ⟩, and the error recursion with ϑ = ‖Ŵ − W₁‖. So ϑ₁ is the tail
of the exact Ŵ here, the least that any matrix of this rank can lose.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
from flint import arb, arb_mat

from geolora_ref.oracle.judges.criteria import FAIL
from verification.certificates.balls import (
    defect,
    dot,
    matrix,
    norm,
    off,
    singular_values,
    square,
    tail,
)
from verification.certificates.instances import Instance, Output

__all__ = ["STATEMENTS", "Iteration"]

Sides = tuple[Any, Any]


class Iteration:
    """The exact quantities of one iteration, enclosed; singular values from an approximate SVD in
    ``bits``.
    """

    def __init__(self, x: Instance, out: Output, bits: int) -> None:
        self.x, self.out, self.bits = x, out, bits
        self.U, self.S, self.V, self.A, self.X = (matrix(Z) for Z in (x.U, x.S, x.V, x.A, x.X))
        self.U1, self.S1, self.V1 = (matrix(Z) for Z in (out.U1, out.S1, out.V1))
        self.rate, self.rank = arb(x.learning_rate), out.S1.shape[0]
        self.curvature = [[arb(float(a)) * arb(float(b)) for b in x.d2] for a in x.d1]
        self.beta = arb(float(np.max(x.d1))) * arb(float(np.max(x.d2)))
        self.mu = -arb(float(np.min(x.d1))) * arb(float(np.min(x.d2)))
        self.W = self.U * self.S * self.V.transpose()
        self.W1 = self.U1 * self.S1 * self.V1.transpose()
        self.G = self.gradient(self.W)
        self.normal_G = self.normal(self.U, self.V, self.G)
        self.W_hat = self.W - self.rate * (self.G - self.normal_G)
        self.columns = min(2 * x.S.shape[0], *x.A.shape)
        self.bounds: dict[str, list[tuple[Any, Any]]] = {}

    @staticmethod
    def normal(U: Any, V: Any, Z: Any) -> Any:
        """(I − P) Z."""
        return off(U, off(V, Z.transpose()).transpose())

    def gradient(self, W: Any) -> Any:
        """H₁(W − A)H₂."""
        E = W - self.A
        return arb_mat(
            [
                [h * e for h, e in zip(*rows, strict=True)]
                for rows in zip(self.curvature, E.tolist(), strict=True)
            ]
        )

    def loss(self, W: Any) -> Any:
        """½⟨W − A, H₁(W − A)H₂⟩."""
        return dot(W - self.A, self.gradient(W)) / 2

    def flow(self, t: Any, W: Any) -> Any:
        """A + e^{−t d₁d₂ᵀ} ∘ (W − A)."""
        E = (W - self.A).tolist()
        decayed = [
            [(-t * h).exp() * e for h, e in zip(*rows, strict=True)]
            for rows in zip(self.curvature, E, strict=True)
        ]
        return self.A + arb_mat(decayed)

    def values(self, name: str, M: Any) -> list[tuple[Any, Any]]:
        """Bounds of the singular values of M, kept under this name for the certificate."""
        if name not in self.bounds:
            self.bounds[name] = singular_values(M, self.bits)
        return self.bounds[name]

    @cached_property
    def unit(self) -> Any:
        """FAIL·c·eps with c = 4√(m + n): what rounding may cost, relative to the scale."""
        return FAIL * 4 * arb(sum(self.x.A.shape)).sqrt() * arb(2) ** -52

    @cached_property
    def scale(self) -> Any:
        """s = ‖W‖ + λ‖G‖."""
        return norm(self.W) + self.rate * norm(self.G)

    @cached_property
    def lost(self) -> Any:
        """ϑ₁, the tail of Ŵ beyond the rank of the output."""
        return tail(self.values("W_hat", self.W_hat), self.rank)

    @cached_property
    def threshold(self) -> Any:
        """ϑ: the absolute threshold if one is given, else τ‖Ŵ‖."""
        x = self.x
        return arb(x.tau or 0.0) * norm(self.W_hat) if x.theta is None else arb(x.theta)


def orthonormal_u(it: Iteration) -> Sides:
    return defect(it.U1), it.unit


def orthonormal_v(it: Iteration) -> Sides:
    return defect(it.V1), it.unit


def diagonal_core(it: Iteration) -> Sides:
    """S₁ is diagonal, nonnegative and sorted: the left side is the norm of all violations."""
    d = [it.S1[i, i] for i in range(it.rank)] + [arb(0)]
    wrong = [it.S1[i, j] for i in range(it.rank) for j in range(it.rank) if i != j]
    wrong += [(b - a).max(arb(0)) for a, b in pairwise(d)]
    return sum((w**2 for w in wrong), arb(0)).sqrt(), it.unit * it.scale


def conformance(it: Iteration) -> Sides:
    """The distance η from Ŵ to the nearest matrix of which W₁ is a best approximation of rank r₁.

    With D = Ŵ − W₁ and its part N in the normal space at W₁,

        η² = ‖D − N‖² + Σ_i (σ_i(N) − σ_{r₁}(W₁))₊².

    W₁ is a best approximation of Ŵ + E iff the tangential part of D + E vanishes and
    ‖N + E_N‖₂ ≤ σ_{r₁}(W₁).  The nearest such N + E_N has the singular values of N cut off there
    [Mirsky 1960].  If σ_{r₁}(W₁) = 0, then Ŵ + E = W₁, and η = ‖D‖.
    """
    D = it.W_hat - it.W1
    N = it.normal(it.U1, it.V1, D)
    smallest = arb.union(*it.values("W1", it.W1)[it.rank - 1])
    excess = [(arb.union(*sigma) - smallest).max(arb(0)) ** 2 for sigma in it.values("N", N)]
    return (square(D - N) + sum(excess, arb(0))).nonnegative_part().sqrt(), it.unit * it.scale


def rank_not_too_low(it: Iteration) -> Sides | None:
    most = it.columns if it.x.max_rank is None else min(it.columns, it.x.max_rank)
    return None if it.rank == most else (it.lost, it.threshold + it.unit * it.scale)


def rank_not_too_high(it: Iteration) -> Sides | None:
    """tail_{r₁−1} ≥ ϑ up to rounding, or the rank is the least allowed."""
    if it.rank == min(it.x.min_rank, it.columns):
        return None
    return it.threshold - it.unit * it.scale, tail(it.values("W_hat", it.W_hat), it.rank - 1)


def rank_in_range(it: Iteration) -> Sides:
    most = it.columns if it.x.max_rank is None else min(it.columns, it.x.max_rank)
    return arb(max(min(it.x.min_rank, it.columns) - it.rank, it.rank - most, 0)), arb(0)


def descent(it: Iteration) -> Sides:
    """L(W₁) ≤ L(W) − λ(1 − βλ/2)‖P∇L(W)‖² + ‖∇L(Ŵ)‖ϑ₁ + (β/2)ϑ₁², not up to rounding."""
    decrease = it.rate * (1 - it.beta * it.rate / 2) * square(it.G - it.normal_G)
    price = norm(it.gradient(it.W_hat)) * it.lost + it.beta / 2 * it.lost**2
    return it.loss(it.W1), it.loss(it.W) - decrease + price


def error_recursion(it: Iteration) -> Sides:
    """e₁ ≤ e^{μλ}e₀ + λε + ½ℓλ²B + ϑ₁ with B = ‖F(W)‖ (μ ≤ 0), with no allowance for rounding."""
    before, after = norm(it.X - it.W), norm(it.flow(it.rate, it.X) - it.W1)
    local = it.rate * norm(it.normal_G) + it.beta / 2 * it.rate**2 * norm(it.G)
    return after, (it.mu * it.rate).exp() * before + local + it.lost


def tail_bound(it: Iteration) -> Sides | None:
    """‖Ŵ − W₁‖ ≤ λ²‖(I−UUᵀ)GV‖ ‖UᵀG(I−VVᵀ)‖₂ / σ_min(S_new) + 30·c·eps·s for r₁ ≥ r.

    Where a part of G vanishes the bound is 0, so an allowance for rounding is needed.
    """
    r = it.x.S.shape[0]
    if it.rank < r or it.columns == r:
        return None
    GV = it.G - off(it.V, it.G.transpose()).transpose()  # G Π_V
    UG = it.G - off(it.U, it.G)  # Π_U G
    core = it.W - it.rate * (UG - off(it.V, UG.transpose()).transpose())
    cross = off(it.V, UG.transpose()).transpose()
    smallest = arb.union(*it.values("core", core)[r - 1])
    largest = arb.union(*it.values("cross", cross)[0])
    return norm(it.W_hat - it.W1), it.rate**2 * norm(
        off(it.U, GV)
    ) * largest / smallest + it.unit * it.scale


def tangent_step(it: Iteration) -> Sides | None:
    """‖Û Ŝ V̂ᵀ − (W − λP(W)G)‖ within rounding."""
    if it.out.augmented is None:
        return None
    U_hat, S_hat, V_hat = (matrix(Z) for Z in it.out.augmented)
    return norm(U_hat * S_hat * V_hat.transpose() - it.W_hat), it.unit * it.scale


def projection_is_near(it: Iteration) -> Sides:
    """‖Z₁ − P Z‖ within rounding, for the computed projection Z₁ of the matrix Z = G in double
    precision.
    """
    Z, Z1 = matrix(it.x.G), matrix(it.out.projection)
    return norm(Z1 - (Z - it.normal(it.U, it.V, Z))), it.unit * norm(Z)


def projection_is_idempotent(it: Iteration) -> Sides:
    Z1 = matrix(it.out.projection)
    return norm(it.normal(it.U, it.V, Z1)), it.unit * norm(matrix(it.x.G))


def projection_is_orthogonal(it: Iteration) -> Sides:
    Z, Z1 = matrix(it.x.G), matrix(it.out.projection)
    return abs(dot(Z1, Z - Z1)), it.unit * square(Z)


@dataclass(frozen=True)
class Statement:
    """A statement: the section of the theory that it belongs to, and its two sides (None: it says
    nothing here).
    """

    section: str
    text: str
    sides: Callable[[Iteration], Sides | None]


CRITERIA, PROJECTOR = "The other criteria, and the unit", "The tangent projector"
STATEMENTS: Mapping[str, Statement] = {
    "orthonormal U": Statement(CRITERIA, "‖U₁ᵀU₁ − I‖ ≤ 30·c·eps", orthonormal_u),
    "orthonormal V": Statement(CRITERIA, "‖V₁ᵀV₁ − I‖ ≤ 30·c·eps", orthonormal_v),
    "diagonal core": Statement(CRITERIA, "S₁ diagonal, nonnegative, sorted", diagonal_core),
    "rank in range": Statement(CRITERIA, "min_rank ≤ r₁ ≤ max_rank", rank_in_range),
    "conformance": Statement(
        "Stationarity and dominance",
        "W₁ is the best approximation of a matrix within 30·c·eps·s of Ŵ",
        conformance,
    ),
    "rank not too low": Statement(CRITERIA, "tail_{r₁}(Ŵ) ≤ ϑ + 30·c·eps·s", rank_not_too_low),
    "rank not too high": Statement(CRITERIA, "tail_{r₁−1}(Ŵ) ≥ ϑ − 30·c·eps·s", rank_not_too_high),
    "tangent step": Statement(
        "The untruncated step is the Riemannian gradient step",
        "‖Û Ŝ V̂ᵀ − (W − λP(W)G)‖ ≤ 30·c·eps·s",
        tangent_step,
    ),
    "descent": Statement(
        "Every step descends, up to its truncation",
        "L(W₁) ≤ L(W) − λ(1 − βλ/2)‖P∇L‖² + ‖∇L(Ŵ)‖ϑ₁ + (β/2)ϑ₁²",
        descent,
    ),
    "error recursion": Statement(
        "The robust error bound", "e₁ ≤ e^{μλ}e₀ + λε + ½ℓλ²B + ϑ₁", error_recursion
    ),
    "tail bound": Statement(
        "What truncation to a fixed rank costs",
        "‖Ŵ − W₁‖ ≤ λ²‖(I−Π_U)GΠ_V‖ ‖Π_U G(I−Π_V)‖₂/σ_min + 30·c·eps·s",
        tail_bound,
    ),
    "projection": Statement(PROJECTOR, "‖Z₁ − P Z‖ ≤ 30·c·eps·‖Z‖", projection_is_near),
    "projection idempotent": Statement(
        PROJECTOR, "‖(I − P) Z₁‖ ≤ 30·c·eps·‖Z‖", projection_is_idempotent
    ),
    "projection orthogonal": Statement(
        PROJECTOR, "|⟨Z₁, Z − Z₁⟩| ≤ 30·c·eps·‖Z‖²", projection_is_orthogonal
    ),
}

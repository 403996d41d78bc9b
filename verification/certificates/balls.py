"""Matrices of balls (Arb, through python-flint): every result is an interval that is proved to
contain the exact one.

A double is an exact ball of radius 0.  Sums, products, square roots and exponentials of balls are
Arb's; what Arb lacks is here: the distance to a range, and singular values that come with a proof.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import flint
import mpmath
import numpy as np
from flint import arb, arb_mat

__all__ = [
    "DOUBLE",
    "defect",
    "dot",
    "matrix",
    "norm",
    "off",
    "precision",
    "singular_values",
    "square",
    "tail",
]

DOUBLE = 53
"""Up to this precision the approximate singular vectors come from LAPACK, else from mpmath."""

Bounds = list[tuple[Any, Any]]


@contextmanager
def precision(bits: int) -> Iterator[None]:
    """A context that computes with this many bits, and restores the former precision at its end."""
    before, flint.ctx.prec = flint.ctx.prec, bits
    try:
        yield
    finally:
        flint.ctx.prec = before


def matrix(X: Any) -> Any:
    """An array of doubles as exact balls."""
    return arb_mat(np.asarray(X, dtype=np.float64).tolist())


def dot(A: Any, B: Any) -> Any:
    """⟨A, B⟩."""
    return sum((a * b for a, b in zip(A.entries(), B.entries(), strict=True)), arb(0))


def square(A: Any) -> Any:
    """‖A‖²; a square never dips below zero."""
    return sum((a**2 for a in A.entries()), arb(0))


def norm(A: Any) -> Any:
    """‖A‖ (Frobenius)."""
    return square(A).nonnegative_part().sqrt()


def defect(B: Any) -> Any:
    """‖BᵀB − I‖."""
    k = B.ncols()
    return norm(
        B.transpose() * B - arb_mat(k, k, [int(i == j) for i in range(k) for j in range(k)])
    )


def off(B: Any, Z: Any) -> Any:
    """(I − Π) Z with the exact orthogonal projector Π = B(BᵀB)⁻¹Bᵀ onto range(B), whether or not B
    is orthonormal.

    Raises ``ZeroDivisionError`` if BᵀB is not proved to be invertible.
    """
    return Z - B * (B.transpose() * B).solve(B.transpose() * Z)


def singular_values(M: Any, bits: int) -> Bounds:
    """Lower and upper bounds of all singular values of M, in descending order, from an approximate
    SVD M ≈ PΣQᵀ in ``bits``.

    Weyl: the singular values of B = PᵀMQ differ from Σ by at most ‖B − Σ‖.  Ostrowski: those of B
    are those of M times factors between σ_min(P)σ_min(Q) and σ_max(P)σ_max(Q), and
    |σ(P)² − 1| ≤ ‖PᵀP − I‖.  So every bound holds however bad the approximate SVD is, and equal or
    zero singular values are no special case.
    """
    P, sigma, Q = _approximate_svd(M, bits)
    B = P.transpose() * M * Q
    for i, s in enumerate(sigma):
        B[i, i] -= s
    radius, stretch, shrink = norm(B), arb(1), arb(1)
    for X in (P, Q):
        off_one = defect(X)
        if not off_one < 1:
            return [(arb(0), norm(M).upper()) for _ in sigma]
        stretch, shrink = stretch * (1 + off_one).sqrt(), shrink * (1 - off_one).sqrt()
    lower = [((s - radius) / stretch).lower().max(arb(0)) for s in sigma]
    return [(low, ((s + radius) / shrink).upper()) for low, s in zip(lower, sigma, strict=True)]


def tail(bounds: Bounds, rank: int) -> Any:
    """The ball of (Σ_{i>rank} σ_i²)^{1/2}."""
    low = sum((b[0] ** 2 for b in bounds[rank:]), arb(0)).nonnegative_part().sqrt()
    high = sum((b[1] ** 2 for b in bounds[rank:]), arb(0)).sqrt()
    return low.union(high)


def _approximate_svd(M: Any, bits: int) -> tuple[Any, Sequence[Any], Any]:
    """Square P and Q, and the diagonal of Σ in descending order, as exact numbers."""
    if bits <= DOUBLE:
        P, sigma, Qt = np.linalg.svd(
            np.array([[float(x.mid()) for x in row] for row in M.tolist()])
        )
        return matrix(P), [arb(float(s)) for s in sigma], matrix(Qt.T)
    with mpmath.mp.workprec(bits):
        middle = mpmath.matrix([[mpmath.mpf(x.mid()) for x in row] for row in M.tolist()])
        wide = middle.cols > middle.rows  # mpmath wants the tall one
        P, sigma, Qt = mpmath.mp.svd_r(middle.T if wide else middle, full_matrices=True)
        if wide:
            P, Qt = Qt.T, P.T
        left, right = (
            arb_mat([[arb(X[i, j]) for j in range(X.cols)] for i in range(X.rows)])
            for X in (P, Qt.T)
        )
        return left, [arb(s) for s in sigma], right

"""Products, singular values and tails for judging a step, in a precision wider than the step's own."""

from __future__ import annotations

from functools import reduce
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geolora_ref.oracle.judges.storage import norm

__all__ = [
    "H",
    "in_double",
    "off",
    "orthonormality_defect",
    "product",
    "singular_values",
    "spectral_norm",
    "tails_of",
    "wider",
]

LARGE = 512
"""From this min(m, n) on, singular values of low-rank matrices are computed from a smaller matrix,
not the dense one.
"""
Matrix = NDArray[Any]


def wider(X: Matrix) -> Matrix:
    """X in the next wider precision: float32 to float64, float64 to extended (double again on
    platforms without it).
    """
    wider: Any = {"e": "d", "f": "d", "d": "g", "g": "g", "F": "D", "D": "G", "G": "G"}[
        X.dtype.char
    ]
    return X.astype(wider)


def in_double(X: Matrix) -> Matrix:
    """The same numbers in double precision."""
    return X.astype(np.complex128 if np.iscomplexobj(X) else np.float64)


def H(X: Matrix) -> Matrix:
    """Xᴴ."""
    return X.conj().T


def product(*factors: Matrix) -> Matrix:
    """The product from left to right.  In extended precision, without BLAS, ``np.dot`` takes a
    third of the time of ``@``.
    """
    return reduce(np.dot, factors)


def off(B: Matrix, X: Matrix) -> Matrix:
    """(I − BBᴴ) X."""
    return np.asarray(X - product(B, product(H(B), X)))


def spectral_norm(X: Matrix, rank: int | None = None) -> float:
    """‖X‖₂ of a matrix of at most this ``rank``; infinite if X is beyond double precision."""
    with np.errstate(over="ignore"):
        X = in_double(X)
    return float(singular_values(X, rank)[0]) if np.all(np.isfinite(X)) else np.inf


def singular_values(X: Matrix, rank: int | None = None) -> NDArray[np.float64]:
    """All min(m, n) singular values; for a large X of low ``rank`` those of QᴴX, Q a basis of the
    range of X, and zeros.

    X times enough random vectors has the range of X, except for rounding.
    """
    X, count = in_double(X), min(X.shape)
    if rank is None or count < LARGE or 3 * rank > count:
        return np.linalg.svd(X, compute_uv=False)
    vectors = np.random.default_rng(0).standard_normal((X.shape[1], rank + 8))
    found = np.linalg.svd(H(np.linalg.qr(X @ vectors)[0]) @ X, compute_uv=False)
    return np.append(found, np.zeros(count - len(found)))


def orthonormality_defect(B: Matrix) -> float:
    """‖BᴴB − I‖."""
    return norm(product(H(B), B) - np.eye(B.shape[1]))


def tails_of(W_hat: Matrix, rank: int | None = None) -> NDArray[np.float64]:
    """tails[j] = (Σ_{i≥j} σ_i²)^{1/2}, and 0 after the last; summed from the smallest up and
    scaled by the largest, so that no square leaves the range.
    """
    sigma = singular_values(W_hat, rank)
    largest = sigma[0] if sigma[0] > 0.0 else 1.0
    return np.append(largest * np.sqrt(np.cumsum((sigma[::-1] / largest) ** 2))[::-1], 0.0)

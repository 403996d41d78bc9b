"""The dense oracle: the right result of one step, from the dense matrices W and G alone.

Ŵ = W − λ P(W) G with P(W) G = G − (I − UUᴴ) G (I − VVᴴ), then the optimal truncation by a dense
SVD.  No part of the factored algorithm is used: no K, no L, no augmentation.  This module and
``algorithm.py`` may not import each other.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["DenseOracle", "dense_oracle"]

Matrix = NDArray[Any]


@dataclass(frozen=True, eq=False)
class DenseOracle:
    """The target of one step and the ranks that its truncation may have.

    ``W_hat`` the untruncated step; ``singular_values`` and ``tails`` of it (``tails[j]``: the error
    of keeping j, so that there is one more of them); ``theta`` the absolute threshold; ``ranks``
    the admissible ranks, several where a tail lies on the threshold to working precision; ``scale``
    s = ‖W‖ + λ‖G‖; ``unit`` the error that counts as 1: c·eps·s with c = 4√(m + n) as in the
    criteria.
    """

    W_hat: Matrix
    singular_values: NDArray[np.float64]
    tails: NDArray[np.float64]
    theta: float
    ranks: range
    scale: float
    unit: float

    def truncated(self, rank: int) -> Matrix:
        """A best approximation of Ŵ of this rank."""
        P, sigma, Qh = _svd(_double(self.W_hat), full_matrices=False)
        return np.asarray((P[:, :rank] * sigma[:rank]) @ Qh[:rank])

    def ratio(self, W1: Matrix, rank: int) -> float:
        """The error of a returned matrix in rounding units; infinite for an inadmissible rank.

        The largest of four errors counts.  *Forward*: ‖W₁ − T_r(Ŵ)‖ (1 − σ_{r+1}/σ_r), because the
        derivative of the truncation T_r has norm 1/(1 − σ_{r+1}/σ_r) exactly; it is 0 at a tie.
        *Loss of optimality*: ‖W₁ − Ŵ‖ − tail_r, which works at ties, but next to a tail sees errors
        only to second order.  *Coupling*: the residual Ŵ − W₁ of a best approximation is orthogonal
        to the row and column space of W₁; this sees errors to first order, also at ties. *Excess*:
        the part of the residual outside of both spaces may not be larger than the smallest singular
        value of W₁, which the loss of optimality hardly sees next to a tail.
        """
        if rank not in self.ranks or W1.shape != self.W_hat.shape or not np.all(np.isfinite(W1)):
            return np.inf
        sigma = np.append(self.singular_values, 0.0)
        gap = 1.0 - sigma[rank] / sigma[rank - 1] if sigma[rank - 1] > 0.0 else 1.0
        forward = gap * _norm(W1 - self.truncated(rank))
        residual = _double(self.W_hat - W1)
        optimality = _norm(residual) - self.tails[rank]
        P, kept, Qh = _svd(_double(W1), full_matrices=False)
        P, Qh = P[:, :rank], Qh[:rank]
        left, right = P.conj().T @ residual, residual @ Qh.conj().T
        outside = right - P @ (P.conj().T @ right)
        coupling = np.hypot(_norm(left), _norm(outside))
        remaining = residual - P @ left - outside @ Qh
        excess = _svd(remaining, compute_uv=False)[0] - kept[rank - 1]
        error = float(max(forward, optimality, coupling, excess))
        return error / self.unit if self.unit > 0.0 else (0.0 if error == 0.0 else np.inf)


def dense_oracle(
    U: Matrix,
    S: Matrix,
    V: Matrix,
    G: Matrix,
    *,
    learning_rate: float,
    tau: float | None = None,
    theta: float | None = None,
    min_rank: int = 1,
    max_rank: int | None = None,
    eps: float | None = None,
) -> DenseOracle:
    """The dense oracle for one SGD step from W = U S Vᴴ with the dense gradient G.

    ``U, S, V, G`` are NumPy arrays in the working precision; everything is evaluated in the next
    wider one.  ``eps`` is the precision that the step claims, by default that of the arrays.

    Raises ``ValueError`` unless λ is a finite number ≥ 0, and exactly one of τ and ϑ is given,
    finite and ≥ 0.
    """
    if (tau is None) == (theta is None):
        raise ValueError(
            f"tau, theta: expected exactly one of the two thresholds, found tau={tau}, theta={theta}"
        )
    for name, value in (("learning_rate", learning_rate), ("tau", tau), ("theta", theta)):
        if value is not None and not 0.0 <= value < np.inf:
            raise ValueError(f"{name}: expected a finite number >= 0, found {value!r}")
    eps = float(np.finfo(S.dtype).eps) if eps is None else eps
    (m, r), n, normal_numbers = U.shape, V.shape[0], float(np.finfo(S.dtype).tiny)
    U, S, V, G = (_wide(X) for X in (U, S, V, G))
    W = U @ S @ V.conj().T
    normal = G - U @ (U.conj().T @ G)
    normal = normal - (normal @ V) @ V.conj().T
    W_hat = W - learning_rate * (G - normal)
    sigma = _svd(_double(W_hat), compute_uv=False)
    tails = np.append(np.hypot.accumulate(sigma[::-1])[::-1], 0.0)
    if theta is None:
        theta = float(tau or 0.0) * float(tails[0])
    scale = _norm(W) + learning_rate * _norm(G)
    if 0.0 < scale < normal_numbers:  # below them rounding is absolute
        scale = normal_numbers
    unit = 4.0 * float(np.sqrt(m + n)) * eps * scale
    slack = 30.0 * unit * (1.0 + (tau or 0.0))
    most = min(2 * r, m, n) if max_rank is None else min(2 * r, m, n, max_rank)
    least = min(min_rank, most)
    smallest = int(np.count_nonzero(tails > theta + slack))
    largest = int(np.count_nonzero(tails[:-1] > theta - slack))
    ranks = range(min(max(smallest, least), most), min(max(largest, least), most) + 1)
    return DenseOracle(W_hat, sigma, tails, theta, ranks, scale, unit)


def _wide(X: Matrix) -> Matrix:
    """X in the next wider precision: single to double, double to extended (double again on
    platforms without it).
    """
    return X.astype(_WIDER[X.dtype.char])


def _double(X: Matrix) -> Matrix:
    """X in double precision, real or complex, for LAPACK."""
    return X.astype(np.complex128 if X.dtype.kind == "c" else np.float64)


def _norm(X: Matrix) -> float:
    """Frobenius norm, without a square that could leave the range."""
    return float(np.hypot.reduce(np.abs(_double(X)).ravel()))


_WIDER: dict[str, Any] = {
    "e": np.float64,
    "f": np.float64,
    "d": np.longdouble,
    "F": np.complex128,
    "D": np.clongdouble,
}


def _svd(X: Matrix, **wanted: bool) -> Any:
    """The SVD by QR iteration, another driver than that of NumPy."""
    import scipy.linalg  # takes a tenth of the time of `geolora-ref check --quick`, which does not need it

    return scipy.linalg.svd(X, lapack_driver="gesvd", **wanted)

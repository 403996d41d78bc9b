"""The definitions of the rules on dense matrices, without factors, for the oracle alone.

A step is given bases U and V and the projection PG of a gradient.  The memory is a dense tangent
matrix, and moves to new bases by the orthogonal projection P (docs/theory/directions.md).
Everything is computed in double precision.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

__all__ = ["RULES", "Definition", "Expected", "Setting", "Step", "projected"]

Matrix = NDArray[Any]


def H(X: Matrix) -> Matrix:
    """Conjugate transpose."""
    return X.conj().T


class Step(NamedTuple):
    """Bases U (m, r) and V (n, r) with orthonormal columns, and a dense gradient G (m, n)."""

    U: Matrix
    V: Matrix
    G: Matrix


@dataclass(frozen=True)
class Setting:
    """The options of rules: momentum and smoothing for rules with one memory, betas and eps for
    rules with two.

    ``rounding`` : eps of the judged arithmetic.
    """

    momentum: float = 0.9
    smoothing: float = 0.0
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    rounding: float = 2.0**-52


class Expected(NamedTuple):
    """The dense direction D; its ``sensitivity``, the largest first-order change in the Frobenius
    norm per relative change of all gradients so far; and ``product``, its inner product with PG in
    a first step, None if the rule promises none.
    """

    D: Matrix
    sensitivity: float
    product: float | None


class Definition(Protocol):
    """The definition of a rule: a function that yields the expected direction of every step."""

    def __call__(self, steps: Sequence[Step], setting: Setting) -> Iterator[Expected]:
        """The expected directions in the order of the steps."""


def projected(Z: Matrix, U: Matrix, V: Matrix) -> Matrix:
    """P(W)Z = UUᴴZ + ZVVᴴ − UUᴴZVVᴴ."""
    of_U, of_V = U @ (H(U) @ Z), (Z @ V) @ H(V)
    return np.asarray(of_U + of_V - U @ (H(U) @ of_V))


def _memories(steps: Sequence[Step], momentum: float) -> Iterator[tuple[Matrix, float]]:
    """The memory M ← βPM + PG after each step, and the sum of ‖PG‖ with the same weights."""
    M, size = np.zeros_like(steps[0].G), 0.0
    for U, V, G in steps:
        M, size = (
            projected(momentum * M + G, U, V),
            momentum * size + float(np.linalg.norm(projected(G, U, V))),
        )
        yield M, size


def gradient(steps: Sequence[Step], setting: Setting) -> Iterator[Expected]:
    """D = PG."""
    for M, size in _memories(steps, 0.0):
        yield Expected(M, size, size**2)


def heavy_ball(steps: Sequence[Step], setting: Setting) -> Iterator[Expected]:
    """D = M."""
    for M, size in _memories(steps, setting.momentum):
        yield Expected(M, size, size**2)


def normalised(steps: Sequence[Step], setting: Setting) -> Iterator[Expected]:
    """D = M/‖M‖, and 0 for M = 0."""
    for M, size in _memories(steps, setting.momentum):
        length = float(np.linalg.norm(M)) or 1.0
        yield Expected(M / length, 2.0 * size / length, length if np.any(M) else 0.0)


def spectral(steps: Sequence[Step], setting: Setting) -> Iterator[Expected]:
    """D = P polar(M), or P M(MᴴM + δ²I)^{-1/2} with δ = smoothing times the root mean square of the
    singular values.
    """
    for (U, V, _), (M, size) in zip(steps, _memories(steps, setting.momentum), strict=True):
        k = min(2 * U.shape[1], *M.shape)  # a bound on the rank of a tangent matrix
        P, sigma, Qh = np.linalg.svd(M, full_matrices=False)
        P, sigma, Qh = P[:, :k], sigma[:k], Qh[:k]
        delta = setting.smoothing * float(np.sum(sigma**2) / k) ** 0.5
        known = sigma > k * setting.rounding * sigma[0]
        weights = np.where(known, sigma / np.where(known, np.hypot(sigma, delta), 1.0), 0.0)
        slope = 2.0 / max(delta, float(np.min(sigma[known]))) if np.any(known) else 0.0
        D = projected((P * weights) @ Qh, U, V)
        yield Expected(D, slope * size, float(np.sum(sigma * weights)))


def preconditioned(steps: Sequence[Step], setting: Setting) -> Iterator[Expected]:
    """The core ½(M_S X_K + X_L M_S), outside it M_K⊥X_K and M_L⊥X_L, X = (R + eps²I)^{-1/2} with R
    of ∇ᴴ∇/m.
    """
    one, two = setting.betas
    M, R_K, R_L, before = np.zeros_like(steps[0].G), np.zeros(()), np.zeros(()), steps[0]
    for t, (U, V, G) in enumerate(steps, start=1):
        M = projected(one * M + (1.0 - one) * G, U, V)
        if t > 1:
            R_K, R_L = _carried(R_K, H(before.V) @ V), _carried(R_L, H(before.U) @ U)
        K, L = (X @ B for X, B in ((projected(G, U, V), V), (H(projected(G, U, V)), U)))
        R_K, R_L = (two * R + (1.0 - two) * H(X) @ X / len(X) for R, X in ((R_K, K), (R_L, L)))
        X_K, X_L = (_inverse_root(R / (1.0 - two**t), setting) for R in (R_K, R_L))
        mean, before = M / (1.0 - one**t), Step(U, V, G)
        M_K, M_L, M_S = mean @ V, H(mean) @ U, H(U) @ mean @ V
        S = 0.5 * (M_S @ X_K + X_L @ M_S)
        D = U @ S @ H(V) + (M_K - U @ M_S) @ X_K @ H(V) + U @ H((M_L - V @ H(M_S)) @ X_L)
        most, size = (
            max(float(np.linalg.norm(X, 2)) for X in (X_K, X_L)),
            float(np.linalg.norm(mean)),
        )
        # a change of R changes X by ‖X‖³/2 times that, a relative change of PG changes R by
        # 2‖PG‖²/m times that
        in_units = (most * float(np.linalg.norm(projected(G, U, V)))) ** 2 / min(G.shape)
        yield Expected(D, most * size * (1.0 + in_units), None)


def _carried(R: Matrix, B: Matrix) -> Matrix:
    """BᴴRB + (tr R/r)(I − BᴴB)."""
    return np.asarray(H(B) @ R @ B + np.trace(R) / len(R) * (np.eye(B.shape[1]) - H(B) @ B))


def _inverse_root(R: Matrix, setting: Setting) -> Matrix:
    """(R + eps²I)^{-1/2}, with eigenvalues of R raised to at least r·eps of the largest."""
    values, Q = np.linalg.eigh(R)
    root = np.sqrt(
        np.maximum(values, len(R) * setting.rounding * np.max(np.abs(values))) + setting.eps**2
    )
    return np.asarray((Q / root) @ H(Q))


def adam(steps: Sequence[Step], setting: Setting) -> Iterator[Expected]:
    """D = D_K Vᴴ + U D_Lᴴ with D_K = M̂_K/(v̂_K^{1/2} + eps) entry by entry, D_L alike; columns of
    v by weights that sum to 1.
    """
    one, two = setting.betas
    M, v_K, v_L, before = np.zeros_like(steps[0].G), np.zeros(()), np.zeros(()), steps[0]
    for t, (U, V, G) in enumerate(steps, start=1):
        M = projected(one * M + (1.0 - one) * G, U, V)
        if t > 1:
            v_K, v_L = v_K @ _inherited(H(before.V) @ V), v_L @ _inherited(H(before.U) @ U)
        K, L = projected(G, U, V) @ V, H(projected(G, U, V)) @ U
        v_K, v_L = (two * v + (1.0 - two) * np.abs(X) ** 2 for v, X in ((v_K, K), (v_L, L)))
        mean, before = M / (1.0 - one**t), Step(U, V, G)
        roots = [np.sqrt(v / (1.0 - two**t)) + setting.eps for v in (v_K, v_L)]
        D_K, D_L = (mean @ V) / roots[0], (H(mean) @ U) / roots[1]
        largest = max(float(np.max(np.abs(X))) for X in (K, L, mean @ V, H(mean) @ U))
        sensitivity = (
            largest
            / min(float(np.min(root)) for root in roots)
            * float(np.sqrt(D_K.size + D_L.size))
        )
        yield Expected(D_K @ H(V) + U @ H(D_L), sensitivity, None)


def _inherited(A: Matrix) -> Matrix:
    """|A|², each column filled up evenly to the sum 1."""
    squares = np.abs(A) ** 2
    return np.asarray(squares + np.maximum(1.0 - squares.sum(axis=0), 0.0) / len(A))


RULES: dict[str, Definition] = {
    "gradient": gradient,
    "heavy-ball": heavy_ball,
    "normalised": normalised,
    "spectral": spectral,
    "preconditioned": preconditioned,
    "adam": adam,
}
"""The definitions by the names that ``geolora-ref check-rule`` takes."""

"""Exact vectors: steps whose every number is a small dyadic rational, so that implementations must
agree bit for bit.

The bases are columns of normalised Hadamard matrices (complex: Fourier matrices) of size 1, 4, 16
or 64, with entries ±2^{-p} (±i 2^{-p}).  Ŝ is given with at most one entry in a row and a column,
so that its singular values are the absolute values of the entries, and the gradients are chosen
such that the step arrives at Ŝ.  Every stage is evaluated with fractions; a vector is refused
unless each sum is exact in half precision in whatever order it is summed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geolora_ref.arrays import Matrix
from geolora_ref.oracle.judges.criteria import StepInputs

__all__ = ["EXACT", "ExactCase", "build", "stages"]

Rational = NDArray[Any]  # of Fractions

SIGNIFICAND, SMALLEST, LARGEST = 2**11, Fraction(1, 2**24), Fraction(65504)
"""Half precision has every multiple k·q with |k| ≤ 2^11, 2^{-24} ≤ q a power of two, up to 65504."""


@dataclass(frozen=True)
class ExactCase:
    """The description of an exact step.  ``entries`` : {(row, column): nonzero entry of Ŝ}.
    ``start`` : "zero" for S = 0.
    """

    m: int
    n: int
    r: int
    entries: Mapping[tuple[int, int], complex]
    reason: str
    learning_rate: float = 0.5
    tau: float | None = None
    theta: float | None = None
    min_rank: int = 1
    max_rank: int | None = None
    complex: bool = False
    start: str = "dense"


FOUR = {(0, 2): 4, (1, 3): 2, (2, 0): 2, (3, 1): -1}
"""σ = 4, 2, 2, 1: the tails 5, 3, √5, 1 make ties with exact thresholds."""
SEVEN = {(0, 0): 4, (1, 5): 4, (2, 6): -4, (3, 7): 2, (5, 1): 2, (6, 2): 2, (7, 3): -2}
"""σ = 4, 4, 4, 2, 2, 2, 2, 0: the tails are 8, √48, √32, 4, √12, √8, 2, 0."""
LARGE = {(0, 8): 4, (1, 9): 4, (2, 10): -4, (3, 11): 2, (8, 0): 2, (9, 1): 2, (10, 2): -2}
"""The values of SEVEN, placed for r = 8."""

EXACT = {
    "one-by-one": ExactCase(1, 1, 1, {(0, 0): -1}, "the smallest matrix; σ = |−1|", tau=0.5),
    "rank-one": ExactCase(
        16, 4, 1, {(0, 1): 4, (1, 0): 2}, "S_new = 0: the new columns carry everything", theta=0.5
    ),
    "rank-one-wide": ExactCase(
        4, 16, 1, {(0, 0): 4}, "K_new and L_new stay in the old range", 0.25, tau=0.5
    ),
    "four-values": ExactCase(16, 4, 2, FOUR, "ϑ = τ‖Σ‖ = 5/2 lies between two tails", tau=0.5),
    "tie": ExactCase(
        16, 4, 2, FOUR, "tail_1 = 3 = ϑ exactly: the comparison is ≤, the rank is 1", theta=3.0
    ),
    "tie-relative": ExactCase(
        16,
        4,
        2,
        {(0, 2): 2, (1, 3): 2, (2, 0): 2, (3, 1): 2},
        "tail_3 = 2 = τ‖Σ‖ exactly: the rank is 3",
        tau=0.5,
    ),
    "min-rank": ExactCase(
        16, 4, 2, FOUR, "ϑ asks for rank 1, min_rank = 3", 0.25, theta=3.0, min_rank=3
    ),
    "max-rank": ExactCase(
        16, 4, 2, FOUR, "ϑ = 0 asks for rank 4, max_rank = 2", 1.0, theta=0.0, max_rank=2
    ),
    "wide": ExactCase(4, 16, 2, FOUR, "m < n", 0.125, tau=0.25),
    "full-rank": ExactCase(
        16,
        4,
        4,
        {(0, 0): 4, (4, 1): 2, (5, 2): -2, (3, 3): 1},
        "r = n: V has no new column, Ŝ is 8 x 4",
        tau=0.25,
    ),
    "square": ExactCase(
        16, 16, 4, SEVEN, "m = n, seven new directions; tail_3 = 4 = τ‖Σ‖ exactly", tau=0.5
    ),
    "gradient-descent": ExactCase(
        4, 4, 4, {(0, 1): 2, (1, 0): -2, (2, 3): 2, (3, 2): 2}, "r = m = n: W_hat = W − λG", tau=0.0
    ),
    "no-step": ExactCase(
        16,
        4,
        2,
        {(0, 1): 2, (1, 0): 4},
        "λ = 0: K_new = US, L_new = VSᴴ, S_new = S",
        0.0,
        theta=0.0,
    ),
    "zero-start": ExactCase(
        16,
        4,
        2,
        {(0, 0): 4, (1, 3): 2, (3, 1): 1},
        "S = 0, the usual start",
        theta=0.25,
        start="zero",
    ),
    "complex": ExactCase(
        16, 4, 2, {(0, 2): 4j, (1, 3): 2, (2, 0): -2j, (3, 1): 1}, "complex", tau=0.5, complex=True
    ),
    "complex-wide": ExactCase(
        4, 16, 1, {(0, 1): 2j, (1, 0): -2}, "complex, m < n", 0.25, theta=0.0, complex=True
    ),
    "complex-full-rank": ExactCase(
        4,
        4,
        4,
        {(0, 1): 2j, (1, 0): -2, (2, 3): -1, (3, 2): 4j},
        "complex, r = m = n",
        theta=1.5,
        complex=True,
    ),
    "large": ExactCase(
        64, 16, 8, LARGE, "64 x 16 with r = 8, r = n − r; tail_3 = 4 = τ‖Σ‖ exactly", tau=0.5
    ),
    "large-square": ExactCase(
        64,
        64,
        8,
        LARGE,
        "m = n = 64, r = 8; the cap comes before the threshold",
        tau=0.25,
        max_rank=5,
    ),
    "large-complex": ExactCase(
        64,
        16,
        4,
        {(0, 4): 4j, (1, 5): 2, (4, 0): -2j, (5, 1): 1},
        "complex, 64 x 16 with r = 4",
        tau=0.5,
        complex=True,
    ),
}


def build(case: ExactCase) -> StepInputs:
    """The inputs in double precision: S_new, Ũᴴ K_new and L_newᴴ Ṽ are the blocks of the wanted Ŝ."""
    r, rate = case.r, case.learning_rate
    k, l = (min(r, size - r) for size in (case.m, case.n))  # noqa: E741
    U_hat, V_hat = (
        _basis(size, case.complex)[:, : r + new] for size, new in ((case.m, k), (case.n, l))
    )
    S_hat = np.zeros((r + k, r + l), dtype=U_hat.dtype)
    for place, value in case.entries.items():
        S_hat[place] = value
    (U, U_tilde), (V, V_tilde) = np.split(U_hat, [r], axis=1), np.split(V_hat, [r], axis=1)
    S_new, inverse = S_hat[:r, :r], 1.0 / rate if rate else 0.0
    dS = -inverse * S_new if case.start == "zero" else _small_integers(r, case.complex)
    dK = U @ dS - inverse * U_tilde @ S_hat[r:, :r]
    dL = V @ dS.conj().T - inverse * V_tilde @ S_hat[:r, r:].conj().T
    return StepInputs(
        U,
        S_new + rate * dS,
        V,
        dK,
        dL,
        dS,
        rate,
        case.tau,
        case.theta,
        case.min_rank,
        case.max_rank,
    )


def stages(x: StepInputs, case: ExactCase) -> dict[str, Any]:
    """The exact K_new, L_new, S_new, UᴴK_new, VᴴL_new, Ŵ (matrices), singular values of Ŝ, ϑ and rank.

    Raises ``ValueError`` if one of them, or a partial sum on the way, is not exact in half
    precision.  Ŵ is checked in both forms: from the new coefficients, and as W − λP(W)G.
    """
    U, S, V, dK, dL, dS = (_rational(X) for X in x.arrays)
    rate = Fraction(x.learning_rate)
    K_new = _sum((U, S), (_identity(U, -rate), dK))
    L_new = _sum((V, S.T), (_identity(V, -rate), dL))
    S_new = _sum((_identity(S), S), (_identity(S, -rate), dS))
    W_hat = _sum((_sum((U, S_new)), V.T), (_off(U, K_new), V.T), (U, _off(V, L_new).T))
    tangent = _sum((_sum((U, dS)), V.T), (_off(U, dK), V.T), (U, _off(V, dL).T))
    _sum(
        (_sum((U, S)), V.T), (_identity(U, -rate), tangent)
    )  # Ŵ in its other form, which must be exact too
    UhK, VhL = _sum((U.T, K_new)), _sum((V.T, L_new))
    if np.any(UhK != S_new) or np.any(VhL != S_new.T):
        raise ValueError("dK, dL, dS: expected the projections of one gradient")
    matrices = {"K_new": K_new, "L_new": L_new, "S_new": S_new, "UhK_new": UhK, "VhL_new": VhL}
    values = {name: _double(X, case.complex) for name, X in (matrices | {"W_hat": W_hat}).items()}
    return values | _rank_decision(case)


def _rank_decision(case: ExactCase) -> dict[str, Any]:
    """The singular values of Ŝ, ϑ and the rank.

    Raises ``ValueError`` for a case in which rounding, of a norm scaled by σ_1 or not or of a tail,
    could change the rank.
    """
    columns = min(2 * case.r, case.m, case.n)
    sigma = sorted((Fraction(abs(value)) for value in case.entries.values()), reverse=True)
    sigma += [Fraction(0)] * (columns - len(sigma))
    squares = [sum((s * s for s in sigma[j:]), Fraction(0)) for j in range(columns + 1)]
    for unit in (Fraction(1), sigma[0]):
        denominators = (((s / unit) ** 2).denominator for s in sigma)
        _require(squares[0] / unit**2, Fraction(1, math.lcm(*denominators)))
    theta = (
        Fraction(case.theta or 0) if case.tau is None else Fraction(case.tau) * _root(squares[0])
    )
    for square in squares:
        if square != theta**2 and abs(square - theta**2) < Fraction(1, 16) * square:
            raise ValueError(
                f"tail² = {square} is too close to ϑ² = {theta**2} to be decided in half precision"
            )
    most = min(columns, case.max_rank or columns)
    rank = min(max(sum(square > theta**2 for square in squares), case.min_rank), most)
    return {"singular_values": [float(s) for s in sigma], "theta": float(theta), "rank": rank}


def _basis(size: int, complex_data: bool) -> Matrix:
    """A unitary matrix with entries of absolute value 1/√size, size a power of 4."""
    hadamard = [
        [1.0, 1.0, 1.0, 1.0],
        [1.0, -1.0, 1.0, -1.0],
        [1.0, 1.0, -1.0, -1.0],
        [1.0, -1.0, -1.0, 1.0],
    ]
    fourier = [[1, 1, 1, 1], [1, 1j, -1, -1j], [1, -1, 1, -1], [1, -1j, -1, 1j]]
    seed: Matrix = np.array(fourier if complex_data else hadamard)
    basis: Matrix = np.ones((1, 1), dtype=seed.dtype)
    while len(basis) < size:
        basis = np.kron(basis, seed)
    return basis / math.isqrt(size)


def _small_integers(r: int, complex_data: bool) -> Matrix:
    """A dense r x r matrix of integers between −3 and 3, neither symmetric nor sorted."""
    i, j = np.indices((r, r))
    real = (3.0 * i + 5.0 * j + 1.0) % 7.0 - 3.0
    return real + 1j * ((2.0 * i + 3.0 * j) % 5.0 - 2.0) if complex_data else real


def _rational(X: Matrix) -> Rational:
    """The matrix in fractions, a complex one as [[Re, −Im], [Im, Re]], for which products and
    transposes are the complex ones.
    """
    if np.iscomplexobj(X):
        X = np.block([[X.real, -X.imag], [X.imag, X.real]])
    exact: Rational = np.array([[Fraction(x) for x in row] for row in X.tolist()], dtype=object)
    _require(max(abs(x) for x in exact.flat), _quantum(exact))
    return exact


def _double(X: Rational, complex_data: bool) -> Matrix:
    """The matrix in double precision, without rounding."""
    re = X.astype(np.float64)
    if not complex_data:
        return re
    m, n = (size // 2 for size in X.shape)
    return np.asarray(re[:m, :n] + 1j * re[m:, :n])


def _identity(X: Rational, factor: Fraction = Fraction(1)) -> Rational:
    """A multiple of the identity that can stand to the left of ``X``."""
    return np.array(
        [[factor * int(i == j) for j in range(len(X))] for i in range(len(X))], dtype=object
    )


def _off(B: Rational, X: Rational) -> Rational:
    """(I − BBᴴ) X."""
    return _sum((_identity(X), X), (-B, _sum((B.T, X))))


def _sum(*products: tuple[Rational, Rational]) -> Rational:
    """Σ A B over the pairs, if every partial sum in every order, fused or not, is exact in half
    precision.
    """
    bound = np.asarray(sum(abs(A) @ abs(B) for A, B in products))
    _require(max(bound.flat), min(_quantum(A) * _quantum(B) for A, B in products))
    return np.asarray(sum(A @ B for A, B in products))


def _quantum(X: Rational) -> Fraction:
    """The largest 1/q of which every entry is a multiple."""
    return Fraction(1, math.lcm(*(x.denominator for x in X.flat)))


def _require(largest: Fraction, quantum: Fraction) -> None:
    """Raise ``ValueError`` unless all multiples of ``quantum`` up to ``largest`` are half precision
    numbers.
    """
    power_of_two = quantum.denominator & (quantum.denominator - 1) == 0
    if not (
        power_of_two and quantum >= SMALLEST and largest <= min(quantum * SIGNIFICAND, LARGEST)
    ):
        raise ValueError(f"not exact in half precision: multiples of {quantum} up to {largest}")


def _root(square: Fraction) -> Fraction:
    """√square, or ``ValueError`` if that is not rational."""
    root = Fraction(math.isqrt(square.numerator), math.isqrt(square.denominator))
    if root * root != square:
        raise ValueError(
            f"‖Σ‖² = {square}: the norm is irrational, the relative threshold is not exact"
        )
    return root

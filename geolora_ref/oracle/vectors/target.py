"""The expected values, by a third implementation that shares no code with the algorithm, the
criteria or the dense oracle.

It uses mpmath with 60 decimal digits, the exact binary inputs and the definition alone:

    Ŵ = W − λ (U dS Vᴴ + (I − UUᴴ) dK Vᴴ + U dLᴴ (I − VVᴴ)),    W = U S Vᴴ,

then the singular values of the dense m x n matrix Ŵ (of a large Ŵ after two QR decompositions), the
tails, the threshold, and the ranks that rounding leaves open.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import mpmath
from numpy.typing import NDArray

__all__ = ["DIGITS", "SLACK", "Target", "target"]

Matrix = NDArray[Any]
Real = Any  # mpmath.mpf
Dense = Any  # mpmath.matrix

DIGITS = 60
SLACK = 120
"""Tails within SLACK·√(m + n)·eps·s of the threshold may fall on either side of it."""
EPS = 2.0**-52
SMALL = 16
"""The most rows and columns for which the dense matrix is decomposed; for a larger matrix of rank
2r its core is.
"""

_MP = mpmath.MPContext()
_MP.dps = DIGITS


@dataclass(frozen=True, eq=False)
class Target:
    """The right result of one step, in mpmath numbers.

    ``W_hat`` : m x n, the untruncated step.  ``singular_values`` : min(m, n) of them, descending;
    values below 1e-50·σ_1 are rounding of the 60 digits and replaced by 0.  ``tails`` : (Σ_{i≥j}
    σ_i²)^{1/2} for j = 0 … min(m, n), the last one 0.
    ``theta`` : the absolute threshold.  ``scale`` : s, see :func:`_scale`.  ``ranks`` : the lowest
    and the highest admissible rank.
    """

    W_hat: Dense
    singular_values: Sequence[Real]
    tails: Sequence[Real]
    theta: Real
    scale: Real
    ranks: tuple[int, int]


def target(
    U: Matrix,
    S: Matrix,
    V: Matrix,
    dK: Matrix,
    dL: Matrix,
    dS: Matrix,
    *,
    learning_rate: float,
    tau: float | None,
    theta: float | None,
    min_rank: int,
    max_rank: int | None,
) -> Target:
    """The target of one step from U (m x r), S (r x r), V (n x r), dK (m x r), dL (n x r), dS
    (r x r), double precision.
    """
    u, s, v, dk, dl, ds = (_MP.matrix(X.tolist()) for X in (U, S, V, dK, dL, dS))
    rate = _MP.mpf(learning_rate)
    W_hat = u * s * v.H - rate * (u * ds * v.H + _off(u, dk) * v.H + u * _off(v, dl).H)
    large = max(W_hat.rows, W_hat.cols) > SMALL and 2 * s.rows <= min(W_hat.rows, W_hat.cols)
    core = (
        _core(u, s * v.H - rate * (ds * v.H + _off(v, dl).H), -rate * _off(u, dk), v)
        if large
        else W_hat
    )
    sigma = _singular_values(core)
    sigma += [_MP.zero] * (min(W_hat.rows, W_hat.cols) - len(sigma))
    sigma = sigma[: min(W_hat.rows, W_hat.cols)]
    tails = [_MP.norm(sigma[j:]) for j in range(len(sigma) + 1)]
    threshold = _MP.mpf(tau or 0.0) * tails[0] if theta is None else _MP.mpf(theta)
    scale = _scale(u, s, v, dk, dl, ds, rate)
    slack = SLACK * _MP.sqrt(W_hat.rows + W_hat.cols) * EPS * scale * (1 + _MP.mpf(tau or 0.0))
    columns = min(2 * s.rows, W_hat.rows, W_hat.cols)
    most = columns if max_rank is None else min(columns, max_rank)
    ranks = _admissible(tails, threshold, slack, min(min_rank, most), most)
    return Target(W_hat, sigma, tails, threshold, scale, ranks)


def _admissible(
    tails: Sequence[Real], theta: Real, slack: Real, least: int, most: int
) -> tuple[int, int]:
    """The smallest r' with tail_{r'} ≤ ϑ + slack and the largest with tail_{r'−1} > ϑ − slack, each
    clipped to [least, most].
    """
    lowest = sum(tail > theta + slack for tail in tails)
    highest = sum(tail > theta - slack for tail in tails[:-1])
    return min(max(lowest, least), most), min(max(highest, least), most)


def _core(U: Dense, X: Dense, Y: Dense, V: Dense) -> Dense:
    """A small matrix with the nonzero singular values of U X + Y Vᴴ: R_1 R_2ᴴ from the QR
    decompositions of both sides.
    """
    left, right = _beside(U, Y), _beside(X.H, V)
    return _MP.qr(left, mode="skinny")[1] * _MP.qr(right, mode="skinny")[1].H


def _beside(A: Dense, B: Dense) -> Dense:
    """[A | B]."""
    return _MP.matrix(
        [[*row_A, *row_B] for row_A, row_B in zip(A.tolist(), B.tolist(), strict=True)]
    )


def _singular_values(W: Dense) -> list[Real]:
    """All min(m, n) singular values, descending, with rounding replaced by 0."""
    sigma = list(_MP.svd(W, compute_uv=False))
    return [x if x > sigma[0] * _MP.mpf(10) ** -50 else _MP.zero for x in sigma]


def _scale(U: Dense, S: Dense, V: Dense, dK: Dense, dL: Dense, dS: Dense, rate: Real) -> Real:
    """s = ‖S‖ + λ (‖(I − UUᴴ) dK‖ + ‖(I − VVᴴ) dL‖ + ‖dS‖ + δ/eps), δ = ‖UᴴdK − dS‖ + ‖VᴴdL − dSᴴ‖.

    ‖S‖ = ‖W‖; the three norms belong to the three parts of P(W)G; δ is the amount by which the
    given gradients contradict each other, and the answer is determined only up to δ.
    """
    tangent = _norm(_off(U, dK)) + _norm(_off(V, dL)) + _norm(dS)
    contradiction = _norm(U.H * dK - dS) + _norm(V.H * dL - dS.H)
    return _norm(S) + rate * (tangent + contradiction / EPS)


def _off(B: Dense, X: Dense) -> Dense:
    """(I − BBᴴ) X."""
    return X - B * (B.H * X)


def _norm(X: Dense) -> Real:
    return _MP.mnorm(X, "f")


def decimal(x: Real, digits: int = 20) -> str:
    """The number with this many significant digits, such as "-1.2500000000000000000e-3"."""
    return str(_MP.nstr(x, digits, strip_zeros=False, min_fixed=0, max_fixed=0))


def nearest_double(x: Real) -> float:
    """The double nearest to the number, subnormal ones included (Python rounds decimal strings
    correctly).
    """
    return float(decimal(x, DIGITS))


def parts(X: Dense) -> dict[str, list[list[Real]]]:
    """The rows of real parts as ``re`` and of imaginary parts, if the matrix is complex, as ``im``."""
    rows = X.tolist()
    real = {"re": [[_MP.re(x) for x in row] for row in rows]}
    if not any(isinstance(x, _MP.mpc) for row in rows for x in row):
        return real
    return real | {"im": [[_MP.im(x) for x in row] for row in rows]}

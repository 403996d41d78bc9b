"""The small matrices of the fast step: a core Ŝ₀ that needs no augmented basis, and the ranks of
all layers at once.

With B_K = [U | ΔK] (m x 2w) and B_L = [V | ΔL],

    Ŵ = U S_new Vᵀ − λ(I − UUᵀ) ΔK Vᵀ − λU ΔLᵀ (I − VVᵀ) = B_K Ŝ₀ B_Lᵀ,   Ŝ₀ = [[A, −λI], [−λI, 0]],

with A = S_new + λ(C_K + C_Lᵀ), S_new = S − λΔS, C_K = UᵀΔK and C_L = VᵀΔL. No augmented basis is
formed, and λ occurs in the small matrix alone. A triangular factor B = Q R of each side turns Ŝ₀
into the core of Algorithm 1 up to the choice of basis, Ŝ = R_K Ŝ₀ R_Lᵀ. R contains the defect UᵀU −
I of earlier steps, so no defect grows. ``gram.py`` takes R from the Gram matrix, ``householder.py``
takes Q and R from LAPACK.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from geolora_ref.algorithm import RankRule

__all__ = ["RULES", "Limits", "Ranks", "Small", "core", "cut_at", "decide_ranks", "small_of"]

RULES = (RankRule.THRESHOLD, RankRule.MIN_RANK, RankRule.MAX_RANK, RankRule.BASIS, RankRule.BUDGET)
"""The rank rules by their code in :attr:`Ranks.rule`."""
THRESHOLD, MIN_RANK, MAX_RANK, BASIS, BUDGET = range(5)
Values = NDArray[np.float64]
Integers = NDArray[Any]


def core(A: Tensor, rate: float) -> Tensor:
    """Ŝ₀ (L, 2w, 2w) from A = S_new + λ(C_K + C_Lᵀ) (L, w, w) and the learning rate λ."""
    w = A.shape[1]
    S0 = A.new_zeros(len(A), 2 * w, 2 * w)
    S0[:, :w, :w] = A
    for block in (S0[:, :w, w:], S0[:, w:, :w]):
        block.diagonal(0, 1, 2).fill_(-rate)
    return S0


class Small(NamedTuple):
    """The small matrices of some layers, in float64.

    ``Gamma`` (2, L, 2w, 2w) Γ_K and Γ_L, ``S_new`` and ``A`` = S_new + λ(C_K + C_Lᵀ) (L, w, w),
    ``scale`` (L,) s², ``rate`` λ. s² = ‖A‖² + λ²(‖ΔK‖² + ‖ΔL‖²) measures the size of Ŵ; it is
    infinite or NaN if any input is.
    """

    Gamma: Tensor
    S_new: Tensor
    A: Tensor
    scale: Tensor
    rate: float

    def of(self, rows: Integers) -> Small:
        """The small matrices of the layers ``rows``, without copies if these are all layers."""
        if len(rows) == len(self.scale):
            return self
        return Small(
            self.Gamma[:, rows], self.S_new[rows], self.A[rows], self.scale[rows], self.rate
        )


def small_of(Gamma: Tensor, S: Tensor, delta_S: Tensor | None, *, rate: float) -> Small:
    """:class:`Small` from Γ_K and Γ_L (2, L, 2w, 2w), S and ΔS (L, w, w), all float64; ΔS = None
    means UᵀΔK, as dS = UᵀdK.

    Any non-finite value makes ``scale`` non-finite.
    """
    w = S.shape[1]
    C_K, C_L = Gamma[0, :, :w, w:], Gamma[1, :, :w, w:]
    S_new = S - rate * (C_K if delta_S is None else delta_S)
    A = S_new + rate * (C_K + C_L.mT)
    squares = Gamma.diagonal(0, 2, 3)[:, :, w:].sum((0, 2))
    return Small(Gamma, S_new, A, (A**2).sum((1, 2)) + rate * rate * squares, rate)


class Limits(NamedTuple):
    """The truncation of a step: one of tau (relative) and theta (absolute, (L,)), and the range of
    the new ranks, max_rank (L,).

    ``spare`` : whether bases keep the first discarded direction, with singular value 0.
    ``spectral`` : whether the threshold bounds every discarded singular value in place of their norm.
    """

    tau: float | None
    theta: Values | None
    min_rank: int
    max_rank: Integers
    spare: bool = False
    spectral: bool = False


class Ranks(NamedTuple):
    """The truncation of all layers: new rank, code of the rule that fixed it, threshold ϑ,
    discarded norm, ‖Ŵ‖, number of kept singular values, each (L,).

    A layer with a spare direction keeps one singular value less than its rank.
    """

    rank: Integers
    rule: Integers
    theta: Values
    discarded: Values
    norm: Values
    kept: Integers


@np.errstate(over="ignore", invalid="ignore")  # the caller refuses norms beyond the range
def decide_ranks(sigma: Values, columns: Integers, limits: Limits) -> Ranks:
    """Algorithm 2's rank for every row of ``sigma`` (L, p) at once; ``columns`` (L,) counts the
    columns of each layer's bases.
    """
    tail = _tails(sigma)
    tau, theta, min_rank, max_rank, spare, spectral = limits
    limit = tail[:, 0] * (tau or 0.0) if theta is None else theta
    # after leading values sigma may hold the norm of the rest, which can exceed them
    measured = np.minimum.accumulate(sigma, axis=1) if spectral else tail[:, :-1]
    wanted = np.minimum((measured > limit[:, None]).sum(axis=1), columns)
    rank = np.maximum(np.minimum(wanted, max_rank), np.minimum(columns, min_rank))
    raised = np.where(columns < min_rank, BASIS, MIN_RANK)
    rule = np.where(wanted > max_rank, MAX_RANK, np.where(wanted < min_rank, raised, THRESHOLD))
    discarded = tail[np.arange(len(rank)), rank]
    more = spare & (rank < np.minimum(columns, max_rank))
    return Ranks(rank + more, rule, limit, discarded, tail[:, 0], rank)


@np.errstate(over="ignore", invalid="ignore")
def cut_at(sigma: Values, rank: Integers) -> Ranks:
    """The truncation at ranks (L,) that a budget has chosen; no threshold was applied (ϑ = 0)."""
    tail = _tails(sigma)
    discarded = tail[np.arange(len(rank)), rank]
    return Ranks(rank, np.full_like(rank, BUDGET), np.zeros(len(rank)), discarded, tail[:, 0], rank)


def _tails(sigma: Values) -> Values:
    """(Σ_{i≥j} σ_i²)^{1/2} of sorted singular values (L, p), and 0 after the last: (L, p + 1).

    Scaled by the largest value, so that no square leaves the range.
    """
    largest = np.where(sigma[:, :1] > 0.0, sigma[:, :1], 1.0)
    tails = np.zeros((sigma.shape[0], sigma.shape[1] + 1))
    tails[:, -2::-1] = np.sqrt(np.cumsum(np.square(sigma / largest)[:, ::-1], axis=1)) * largest
    return tails

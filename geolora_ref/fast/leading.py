"""The leading half of a spectrum by a few products, where a step is small beside the smallest σ of its core.

Ŵ has rank 2r at most, r of it large and the rest small.  U, V orthonormal, R_K = (I − UUᵀ)ΔK and R_L = (I − VVᵀ)ΔL,

    UᵀŴV = S_new,   (I − UUᵀ)ŴV = −λR_K,   UᵀŴ(I − VVᵀ) = −λR_Lᵀ,   (I − UUᵀ)Ŵ(I − VVᵀ) = 0.

Let Ŵ = U_rΣ_rV_rᵀ + U_⊥Σ_⊥V_⊥ᵀ, the r leading singular values and the others, σ' = σ_r(S_new) > 0, a = λ‖R_K‖/σ' and
b = λ‖R_L‖/σ' (spectral norms), both below 1.  Then

    σ_r(Ŵ) ≥ σ',   σ_{r+1}(Ŵ) ≤ ab·σ',   sin∠(V, V_r) ≤ b :

S_new is a block of Ŵ; Ŵ + λ²R_K S_new⁻¹R_Lᵀ = (U S_new − λR_K) S_new⁻¹ (S_new Vᵀ − λR_Lᵀ) has rank r; and
(I − VVᵀ)V_r = (I − VVᵀ)ŴᵀU_rΣ_r⁻¹ = −λR_L UᵀU_rΣ_r⁻¹.  A product with Ŵ takes the range of V_r + V_⊥T to that of
U_r + U_⊥(Σ_⊥TΣ_r⁻¹), so that it makes the tangent of the angle ab times as large at most, as does one with Ŵᵀ.  After
h = 1 + 2k products, U_h a basis of the range of (ŴŴᵀ)ᵏŴV, orthonormal in the second inequality,

    tan∠(U_h, U_r) ≤ (ab)ʰ·b/√(1 − b²),   ‖U_hU_hᵀŴ − U_rΣ_rV_rᵀ‖ ≤ √2·σ'(ab)ʰ·b/√(1 − b²).

Every U_h is normalised to UᵀU_h = I, every V_h to VᵀV_h = I, so that E_K = ΔKᵀU_h or E_L = ΔLᵀV_h (w x w) is all of it.  With
Ŝ₀ = [[A, −λI], [−λI, 0]] a product with Ŵ, and one with Ŵᵀ, is

    Z = [A − λE_L; −λI],   F = Γ_K Z,   E_K = F₂F₁⁻¹,      Z = [Aᵀ − λE_K; −λI],   F = Γ_L Z,   E_L = F₂F₁⁻¹,

from E_L = ΔLᵀV on.  F₁ = UᵀŴV_h = S_new − λR_LᵀV_h is invertible where a and b are at most ½: no tangent exceeds 0.8 then.
Nothing grows from product to product, and U_h, whose singular values are 1 at least and less than 2, becomes orthonormal by
one Cholesky factor.  At the end

    X = ZF₁⁻¹,   U_hᵀU_h = Xᵀ[I; E_K] = L Lᵀ,   Y = [Aᵀ − λE_K; −λI]L⁻ᵀ,   YᵀΓ_L Y = Q Σ² Qᵀ,   X_K = X L⁻ᵀQ,   X_L = Y Q Σ⁻¹.

The eigenproblem has half the size of the one in ``gram.py``, an eighth of the work.  V₁ has the defect that ``trusted`` knows.
What lies behind σ_r is known by its norm alone, (‖Ŵ‖² − Σσ²)^{1/2} with ‖Ŵ‖² = tr(Γ_KŜ₀Γ_LŜ₀ᵀ): enough where no rank grows.
U and V are orthonormal to the rounding of their storage, d; that changes σ', a and b by shares of d‖S_new‖/σ', U₁ by abd.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from geolora_ref.fast.arrays import eigenpairs
from geolora_ref.fast.core import Small
from geolora_ref.fast.scratch import Scratch

__all__ = ["LEAST_WIDTH", "LeadingCore", "Smallness", "leading_core", "smallness"]

Values = NDArray[np.float64]
Integers = NDArray[Any]
LEAST_WIDTH = 16
"""Below it the eigenvalues take less time than the products."""
MOST_ROUNDS = 3
LARGEST = 0.5
"""Of a and b."""


class Smallness(NamedTuple):
    """How small a step is, for each layer, (L,) each: ``rounds`` is the k from which on the bound of the error is eps/2·σ₁,
    infinite where the step is too large; ``rest`` a bound of the norm behind σ_r, ``size`` one of ‖Ŵ‖ from below.
    """

    rounds: Values
    rest: Values
    size: Values


class LeadingCore(NamedTuple):
    """The leading spectra, and what :meth:`coordinates` makes the new bases from.

    ``squares`` (L, w) Σ² and ``Q`` (L, w, w), ascending as LAPACK returns them; ``X`` = X L⁻ᵀ and ``Y`` (L, 2w, w); ``rest``
    (L,) the square of the norm behind them, to rounding of s²; ``scale`` (L,) s²; ``info`` (L,) not 0 where the spectrum means
    nothing.
    """

    squares: Tensor
    Q: Tensor
    X: Tensor
    Y: Tensor
    rest: Tensor
    scale: Tensor
    info: Tensor

    def coordinates(self, inverse: Tensor) -> tuple[Tensor, Tensor]:
        """X_K, X_L (L, 2w, k) from 1/σ of what is kept and 0 behind it, ``inverse`` (L, 1, k): zeros behind w."""
        w = self.Q.shape[1]
        kept = inverse[:, :, :w]
        leading = self.Q[:, :, -kept.shape[2] :].flip(2)
        X_K, X_L = torch.bmm(self.X, leading * (kept > 0.0)), torch.bmm(self.Y, leading) * kept
        behind = (0, inverse.shape[2] - kept.shape[2])
        return torch.nn.functional.pad(X_K, behind), torch.nn.functional.pad(X_L, behind)


@np.errstate(all="ignore")  # what is not a number is not small
def smallness(small: Small, ranks: Integers, eps: float) -> Smallness:
    """By bounds that cost no eigenvalues: ‖R‖² ≤ ‖ΔᵀΔ‖_∞, σ' ≥ minᵢ|S_new,ᵢᵢ| − ‖S_new − diag S_new‖, σ₁ ≥ maxᵢ|S_new,ᵢᵢ|.

    Each layer has its own rank ≤ w; eps is that of the storage.  On the host: the small matrices have to be there.
    """
    w = small.S_new.shape[1]
    S_new = small.S_new.numpy()
    diagonal = np.abs(S_new.diagonal(axis1=1, axis2=2))
    others = S_new * (1.0 - np.eye(w))
    size, off = np.sqrt(np.einsum("lj,lj->l", diagonal, diagonal)), np.sqrt(np.einsum("lij,lij->l", others, others))
    sigma = np.where(np.arange(w) < ranks[:, None], diagonal, np.inf).min(1) - off
    sigma = np.where(sigma > 0.0, sigma, np.nan)
    a, b = small.rate * small.Gamma[:, :, w:, w:].abs().sum(3).amax(2).sqrt().numpy() / sigma
    error = math.sqrt(2.0) * sigma * a * b * b / np.sqrt(1.0 - b * b)
    wanted = 0.5 * eps * diagonal.max(1) / error
    rounds = np.fmax(np.ceil(0.5 * np.log(wanted) / np.log(a * b)), 0.0)  # NaN where a or b is 0
    enough = (a <= LARGEST) & (b <= LARGEST) & (rounds <= MOST_ROUNDS)
    return Smallness(np.where(enough, rounds, np.inf), np.sqrt(ranks) * a * b * sigma, size)


def leading_core(small: Small, ranks: Integers, rounds: int, scratch: Scratch) -> LeadingCore:
    """By 1 + 2·rounds products, from all that is small of layers with these ranks ≤ w; no result is in ``scratch``."""
    Gamma, S0, rate = small.Gamma, small.S0, small.rate
    w = S0.shape[1] // 2
    A, E = S0[:, :w, :w], Gamma[1, :, w:, :w]
    for i in range(1 + 2 * rounds):
        G, core = (Gamma[1], A.mT) if i % 2 else (Gamma[0], A)
        top = torch.sub(core, E, alpha=rate)
        F = torch.baddbmm(G[:, :, w:], G[:, :, :w], top, beta=-rate)
        inverse = torch.linalg.inv_ex(_without_gaps(F[:, :w], ranks)).inverse
        E = torch.bmm(F[:, w:], inverse)
    X = torch.cat([torch.bmm(top, inverse), -rate * inverse], dim=1)
    factor, info = torch.linalg.cholesky_ex(_without_gaps(torch.baddbmm(X[:, :w].mT, X[:, w:].mT, E), ranks))
    orthonormal = torch.linalg.solve_triangular(factor, torch.eye(w, dtype=X.dtype).expand_as(factor), upper=False).mT
    Y = torch.cat([torch.bmm(torch.sub(A.mT, E, alpha=rate), orthonormal), -rate * orthonormal], dim=1)
    squares, Q, info = eigenpairs(torch.bmm(Y.mT, torch.bmm(Gamma[1], Y)), info)
    P_K, P_L = (torch.bmm(*pair, out=scratch.take(*S0.shape)) for pair in ((Gamma[0], S0), (S0, Gamma[1])))
    rest = (P_K * P_L).sum((1, 2)) - squares.sum(1)
    return LeadingCore(squares, Q, torch.bmm(X, orthonormal), Y, rest, small.scale, info)


def _without_gaps(M: Tensor, ranks: Integers) -> Tensor:
    """M (L, w, w) with 1 on the diagonal behind each layer's rank, where it is zero."""
    gaps = np.arange(M.shape[1]) >= ranks[:, None]
    return M + torch.diag_embed(torch.from_numpy(gaps.astype(np.float64))) if gaps.any() else M

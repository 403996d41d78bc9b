"""The step from Gram matrices: the only operations of length m or n are two products, BᵀB before
and B X after.

It serves storage in float32 or less and computes in float64. With Γ = BᵀB of each side (B = [U |
ΔK], see ``core.py``) and one Cholesky factor Γ_K = L Lᵀ,

    A = Lᵀ Ŝ₀,   M = A Γ_L Aᵀ = P Σ² Pᵀ,   X_L = Aᵀ P Σ⁻¹,   X_K = Ŝ₀ Γ_L X_L Σ⁻¹,
    U₁ = B_K X_K,   V₁ = B_L X_L,   S₁ = Σ,

because M = ŜŜᵀ for the core Ŝ = Lᵀ Ŝ₀ L_L. The left singular vectors of Ŵ are B_K L⁻ᵀ P, the right
ones Ŵᵀ U₁ Σ⁻¹, and U₁ = Ŵ V₁ Σ⁻¹ avoids the inverse of L. No residual is formed, so rank-deficient
updates, zero columns and S = 0 need no special case: a missing direction has Σ = 0 and is not kept.
:func:`trusted` bounds the rounding.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from geolora_ref.fast.update.core import Small, core

__all__ = [
    "GramCore",
    "eigenpairs",
    "gram_core",
    "gram_matrices",
    "new_bases",
    "resolved",
    "trusted",
]

Values = NDArray[np.float64]
EPS = torch.finfo(torch.float64).eps
NOTHING = 1e-200
"""The pivot of a zero column, below the square of every nonzero float32."""
MOST_AT_ONCE = 2**19


def _added(w: int, roots: Any) -> Any:
    """δ (L,) : the diagonal D of Γ_K is multiplied by 1 + δ, so that a Cholesky factor exists for
    singular Γ_K; ``roots`` (L,) are √ℓ, ℓ = max(m, n).

    δ = (w + 8 + √ℓ)·eps₆₄ is measured: w/2 + 4 are enough for the factorisation of every matrix
    that was tried, and 0.6·√ℓ for the rounding of Γ_K, whose entries are sums of m products. (The
    error of a sum in one accumulator, which some processors use, grows like √m [Hig02, section
    2.8]; several accumulators hide it.) A proof for all matrices needs w(2w + 1)·eps₆₄ for the
    algorithm [Hig02, theorem 10.7] and wm·eps₆₄ for the sums (‖|B|‖₂² ≤ 2w for unit columns). A
    layer without a factor has ``info`` ≠ 0 and goes through ``householder.py``.
    """
    return (w + 8 + roots) * EPS


class GramCore(NamedTuple):
    """The spectra of all layers, and the matrices from which :meth:`coordinates` makes the new bases.

    ``squares`` (L, 2w) Σ² and ``P`` (L, 2w, 2w), ascending as LAPACK returns them; ``At`` = Aᵀ and
    ``S0_Gamma_L`` (L, 2w, 2w); ``scale`` (L,) s²; ``info`` (L,) of the Cholesky factorisation, and
    1 where no eigenvalues were found.  A layer whose scale is not finite or whose info is not 0 has
    no valid spectrum.
    """

    squares: Tensor
    P: Tensor
    At: Tensor
    S0_Gamma_L: Tensor
    scale: Tensor
    info: Tensor

    def coordinates(self, inverse: Tensor) -> tuple[Tensor, Tensor]:
        """X_K, X_L (L, 2w, k) with U₁ = B_K X_K and V₁ = B_L X_L, from ``inverse`` (L, 1, k): 1/σ
        of kept values, else 0.
        """
        X_L = self.At @ self.P[:, :, -inverse.shape[2] :].flip(2) * inverse
        return self.S0_Gamma_L @ X_L * inverse, X_L


def gram_matrices(Bt: Tensor, dtype: torch.dtype) -> Tensor:
    """BᵀB (L, 2w, 2w) of Bᵀ (L, 2w, ℓ), by products of this dtype."""
    return torch.cat([torch.bmm(B, B.mT) for B in _pieces(Bt, dtype)])


def new_bases(Xt: Tensor, Bt: Tensor) -> Tensor:
    """XᵀBᵀ (L, k, ℓ), by products of the dtype of Xᵀ (L, k, 2w)."""
    pieces = _pieces(Bt, Xt.dtype)
    return torch.cat([torch.bmm(X, B) for X, B in zip(Xt.split(_at_once(Bt)), pieces, strict=True)])


def _pieces(Bt: Tensor, dtype: torch.dtype) -> Iterator[Tensor]:
    """The layers of a stack in this dtype, some at a time.

    Converting a whole stack to a wider dtype would need fresh pages of memory in every step.
    """
    return (B.to(dtype) for B in Bt.split(_at_once(Bt)))


def _at_once(Bt: Tensor) -> int:
    """The number of layers of this stack that have about ``MOST_AT_ONCE`` entries together."""
    return max(1, MOST_AT_ONCE // Bt[0].numel())


def gram_core(small: Small, roots: Tensor) -> GramCore:
    """The spectra from the small matrices (Γ_K is overwritten); ``roots`` (L,) are √max(m, n), for
    the shift.
    """
    Gamma_K, Gamma_L, S0 = small.Gamma[0], small.Gamma[1], core(small.A, small.rate)
    diagonal = Gamma_K.diagonal(0, 1, 2)
    diagonal.mul_(1.0 + _added(small.A.shape[1], roots[:, None])).add_(
        NOTHING
    )  # a Cholesky factor for singular Γ_K too
    factor, info = torch.linalg.cholesky_ex(Gamma_K)
    At, S0_Gamma_L = S0.mT @ factor, S0 @ Gamma_L
    squares, P, info = eigenpairs(factor.mT @ S0_Gamma_L @ At, info)
    return GramCore(squares, P, At, S0_Gamma_L, small.scale, info)


def eigenpairs(M: Tensor, info: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Eigenvalues (L, p), ascending, and eigenvectors of symmetric M (L, p, p), and the error code:
    1 where none were found.
    """
    M.nan_to_num_(0.0, 0.0, 0.0)  # one non-finite layer would fail all
    try:
        return *torch.linalg.eigh(M), info
    except torch.linalg.LinAlgError:  # type: ignore[attr-defined]  # the layer is unknown: all go through Householder QR
        return M.new_zeros(M.shape[:2]), M, info * 0 + 1


def resolved(
    squares: Values, scale: Values, rank: NDArray[Any], roots: Values
) -> NDArray[np.bool_]:
    """For each layer (L,), whether its last direction is more than rounding: 16η·s² ≤ σ²_r.

    This is enough for a spare direction, which the step makes orthonormal to the others.
    """
    last = squares[np.arange(len(rank)), rank - 1]
    eta = (squares.shape[1] + 32.0 + 3.0 * roots) * EPS
    return np.asarray(16.0 * eta * scale <= last, dtype=np.bool_)


def trusted(
    squares: Values, scale: Values, rank: NDArray[Any], roots: Values, eps: float
) -> NDArray[np.bool_]:
    """For each layer (L,), whether its bases are orthonormal to rounding: η·s² ≤ eps·σ²_{r₁}, eps
    of the storage.

    With s² = ‖A‖² + λ²(‖ΔK‖² + ‖ΔL‖²), the shift δ moves M by δ‖D^{1/2} Ŝ₀ B_Lᵀ‖² ≤ 2δ·s².
    Arithmetic moves M by 6 eps₆₄·s² at most in ten thousand draws of short bases, and by 16 in a
    search for the worst case; 16 + √ℓ are assumed. With η = 2δ + (16 + √ℓ)·eps₆₄ = (2w + 32 +
    3√ℓ)·eps₆₄ singular values are right to √η·s. The bases have a defect of at most η·(s/σ_{r₁})²:
    V₁ from arithmetic, U₁ also δ·Σ⁻¹V₁ᵀ(B_L Ŝ₀ᵀ D Ŝ₀ B_Lᵀ)V₁Σ⁻¹. This is the only risk, since
    W₁ = Ŵ V₁ V₁ᵀ whatever σ is. Other layers go through ``householder.py``.
    """
    smallest = squares[np.arange(len(rank)), rank - 1]
    eta = (
        squares.shape[1] + 32.0 + 3.0 * roots
    ) * EPS  # (2w + 32 + 3√ℓ)·eps₆₄, derived at the top of this file
    good: NDArray[np.bool_] = (scale > 0.0) & (scale * eta <= smallest * eps)
    return good

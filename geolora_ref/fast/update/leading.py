"""Steps that are small against the smallest σ of their core: half of the spectrum and products in
float32 are enough for them.

Ŵ has rank 2r at most, r of its singular values large and the rest small. With orthonormal U, V,
R_K = (I − UUᵀ)ΔK and R_L = (I − VVᵀ)ΔL,

    UᵀŴV = S_new,   (I − UUᵀ)ŴV = −λR_K,   UᵀŴ(I − VVᵀ) = −λR_Lᵀ,   (I − UUᵀ)Ŵ(I − VVᵀ) = 0.

:class:`Smallness` bounds both parts of the spectrum, :func:`leading_core` turns the old bases by
products with Ŵ. The eigenproblem has half the size of the one in ``gram.py``, an eighth of the
work. Of the spectrum after σ_r only the norm is known, which is enough where no rank grows.
docs/fast_path.md says why float32 is enough.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from geolora_ref.fast.update.core import Small
from geolora_ref.fast.update.gram import eigenpairs

__all__ = ["LEAST_WIDTH", "LeadingCore", "Smallness", "defects", "leading_core", "smallness"]

Values = NDArray[np.float64]
Integers = NDArray[Any]
LEAST_WIDTH = 16
"""The smallest width for this route: below it the full eigenproblem is faster."""
MOST_PRODUCTS = 7
LARGEST = 0.5
"""The largest a and b for which a step counts as small."""
UNDERFLOW = 2.0**-80
"""Up to 2²³ terms below the range of float32, 2⁻¹²⁶ each, are rounding (2⁻²³) of sums that are not
below it.
"""


class Smallness(NamedTuple):
    """The size of steps, (L,) each: bounds of a and b from above, and of σ', σ₁ and ‖Ŵ‖ from below;
    NaN where S_new may be singular.

    Let Ŵ = U_rΣ_rV_rᵀ + U_⊥Σ_⊥V_⊥ᵀ, the r leading singular values and the others, σ' = σ_r(S_new) >
    0, a = λ‖R_K‖/σ' and b = λ‖R_L‖/σ' (spectral norms), both below 1. Then

        σ_r(Ŵ) ≥ σ',   σ_{r+1}(Ŵ) ≤ ab·σ',   sin∠(V, V_r) ≤ b,

    because S_new is a block of Ŵ; because Ŵ + λ²R_K S_new⁻¹R_Lᵀ = (U S_new − λR_K) S_new⁻¹ (S_new
    Vᵀ − λR_Lᵀ) has rank r; and because (I − VVᵀ)V_r = (I − VVᵀ)ŴᵀU_rΣ_r⁻¹ = −λR_L UᵀU_rΣ_r⁻¹.
    """

    a: Values
    b: Values
    smallest: Values
    largest: Values
    size: Values

    @property
    def is_small(self) -> NDArray[np.bool_]:
        """For each layer, whether a and b are at most ½."""
        small: NDArray[np.bool_] = np.maximum(self.a, self.b) <= LARGEST
        return small

    def rest(self, ranks: Integers) -> Values:
        """A bound of the norm of the spectrum after σ_r, for layers with these ranks."""
        bound: Values = np.sqrt(ranks) * self.a * self.b * self.smallest
        return bound

    @np.errstate(all="ignore")
    def products(self, eps: float) -> Values:
        """The least number h of products with an error bound of at most eps/2·σ₁; infinite above
        ``MOST_PRODUCTS``.

        A product with Ŵ takes the range of V_r + V_⊥T to the range of U_r + U_⊥(Σ_⊥TΣ_r⁻¹), so it
        multiplies the tangent of the angle by ab at most, and so does a product with Ŵᵀ. Let U_h be
        a basis of the range after h products with Ŵ and Ŵᵀ in turn, which start from V if h is odd
        and from U if h is even, and P_h the projection onto it. Then, with t = b/√(1 − b²) or a/√(1
        − a²),

            tan∠(U_h, U_r) ≤ (ab)ʰ·t,   ‖P_hŴ − U_rΣ_rV_rᵀ‖ ≤ √2·σ'(ab)ʰ·t.
        """
        a, b = self.a, self.b
        h = np.arange(1, MOST_PRODUCTS + 1)[:, None]
        start = np.where(h % 2, b / np.sqrt(1.0 - b * b), a / np.sqrt(1.0 - a * a))
        right = math.sqrt(2.0) * self.smallest * (a * b) ** h * start <= 0.5 * eps * self.largest
        return np.where(right.any(0), right.argmax(0) + 1.0, np.inf)


class LeadingCore(NamedTuple):
    """The leading spectra, and the matrices from which :meth:`coordinates` makes the new bases.

    ``squares`` (L, w) Σ², ascending as LAPACK returns them; ``X_K`` = Z L⁻ᵀ Q and ``TQ`` (L, 2w,
    w), descending; ``rest`` (L,) the squared norm of the rest of the spectrum; ``scale`` (L,) s²;
    ``info`` (L,) not 0 where the spectrum is invalid.

    U_c = R_K − U XᵀG_K spans the complement of U_h in the range of [U | R_K]. With the Y from which
    X was made, λI + X S_new = λX G_L Y, hence U_cᵀŴ = λG_K X(R_Lᵀ − G_L Y Vᵀ), and ``rest`` is

        ‖Ŵ − P_hŴ‖² = ‖(U_cᵀU_c)^{−1/2}U_cᵀŴ‖²
                    = λ² tr((G_K X(I + XᵀG_K X)⁻¹)ᵀ X(G_L + G_L Y YᵀG_L)).
    """

    squares: Tensor
    X_K: Tensor
    TQ: Tensor
    rest: Tensor
    scale: Tensor
    info: Tensor

    def coordinates(self, inverse: Tensor) -> tuple[Tensor, Tensor]:
        """X_K and X_L as in :meth:`GramCore.coordinates`, with zeros beyond w."""
        k = min(self.squares.shape[1], inverse.shape[2])
        kept = inverse[:, :, :k]
        padding = (0, inverse.shape[2] - k)
        X_K, X_L = self.X_K[:, :, :k] * (kept > 0.0), self.TQ[:, :, :k] * kept
        return torch.nn.functional.pad(X_K, padding), torch.nn.functional.pad(X_L, padding)


@np.errstate(all="ignore")  # NaN compares as not small
def smallness(small: Small, ranks: Integers) -> Smallness:
    """:class:`Smallness` by bounds without eigenvalues: ‖Δ‖² ≤ ‖ΔᵀΔ‖_F, ‖ΔᵀΔ‖_∞;
    σ' ≥ minᵢ|S_new,ᵢᵢ| − ‖S_new − diag S_new‖.

    Each layer has its own rank ≤ w.
    """
    S_new, w = small.S_new.numpy(), small.S_new.shape[1]
    diagonal = np.abs(np.diagonal(S_new, 0, 1, 2))
    squares = np.einsum("lj,lj->l", diagonal, diagonal)
    off = np.sqrt(np.maximum(np.einsum("lij,lij->l", S_new, S_new) - squares, 0.0))
    sigma = np.where(np.arange(w) < ranks[:, None], diagonal, np.inf).min(1) - off
    sigma = np.where(sigma > 0.0, sigma, np.nan)
    D = small.Gamma[:, :, w:, w:].numpy()
    squared = np.sqrt(np.einsum("slij,slij->sl", D, D))
    if w >= LEAST_WIDTH:  # where a product more costs more than the second bound
        squared = np.minimum(squared, np.abs(D).sum(3).max(2))
    a, b = small.rate * np.sqrt(squared + UNDERFLOW) / sigma
    return Smallness(a, b, sigma, diagonal.max(1), np.sqrt(squares))


def defects(small: Small, ranks: Integers) -> Values:
    """The larger norm d of UᵀU − I and VᵀV − I of layers with these ranks ≤ w, (L,).

    The formulas of X and Y ignore d, which moves W₁ by fractions of abd‖S_new‖ and of λd‖ΔK‖: they
    need bases whose d is rounding.
    """
    w = small.A.shape[1]
    of_bases = small.Gamma[:, :, :w, :w].numpy()
    squares = (
        np.einsum("slij,slij->sl", of_bases, of_bases)
        - 2.0 * np.einsum("slii->sl", of_bases)
        + ranks
    )
    largest: Values = np.sqrt(np.maximum(squares, 0.0).max(0))
    return largest


def leading_core(small: Small, ranks: Integers, products: int) -> LeadingCore:
    """The leading half of the spectra by ``products`` products, from the small matrices of layers
    with these ranks ≤ w.

    Normalised to UᵀU_h = I and VᵀV_h = I, bases have the form U_h = U + R_K X and V_h = V + R_L Y
    with X and Y (w x w). With G_K = R_KᵀR_K = ΔKᵀΔK − C_KᵀC_K, and G_L likewise, the products are

        ŴV_h = U F − λR_K,    F = S_new − λG_L Y,    X = −λF⁻¹,
        ŴᵀU_h = V F − λR_L,   F = S_newᵀ − λG_K X,   Y = −λF⁻¹,

    from Y = 0 or X = 0 on. F = UᵀŴV_h is invertible for a, b ≤ ½: no tangent exceeds 0.8 then.
    The singular values of U_h lie in [1, 2). At the end, with F of the second kind,

        Z = [I − C_K X; X],   ZᵀΓ_K Z = U_hᵀU_h = L Lᵀ,   T = [F + λC_L; −λI] L⁻ᵀ,   TᵀΓ_L T = Q Σ² Qᵀ,
        U₁ = U_h L⁻ᵀ Q = B_K Z L⁻ᵀ Q,   V₁ = ŴᵀU₁ Σ⁻¹ = B_L T Q Σ⁻¹.
    """
    Gamma, rate, w = small.Gamma, small.rate, small.A.shape[1]
    identity = torch.eye(w, dtype=Gamma.dtype)
    gaps = (
        identity * torch.from_numpy(np.arange(w) >= ranks[:, None])[:, None]
    )  # 1 beyond the ranks, where all is zero
    C_K, C_L = C = Gamma[:, :, :w, w:]
    G_K, G_L = Gamma[:, :, w:, w:] - C.mT @ C
    S_new = small.S_new + gaps
    X = G_Y = torch.zeros_like(S_new)  # nothing grows from product to product
    for remaining in range(
        products, 0, -1
    ):  # inv_ex: F is invertible for a, b ≤ ½, so its error flag is not read
        if remaining % 2:
            X = -rate * torch.linalg.inv_ex(S_new - rate * G_Y)[0]
        else:
            G_Y = G_L @ (-rate * torch.linalg.inv_ex(S_new.mT - rate * (G_K @ X))[0])
    G_X = G_K @ X
    Z = torch.cat([identity - C_K @ X, X], dim=1)
    factor, info = torch.linalg.cholesky_ex(Z.mT @ (Gamma[0] @ Z) + gaps)
    L_inverse = torch.linalg.solve_triangular(factor, identity.expand(factor.shape), upper=False).mT
    T = torch.cat([(S_new.mT + rate * (C_L - G_X)) @ L_inverse, -rate * L_inverse], dim=1)
    squares, Q, info = eigenpairs(T.mT @ (Gamma[1] @ T), info)
    rest = rate * rate * (G_X @ L_inverse @ L_inverse.mT * (X @ G_L + X @ G_Y @ G_Y.mT)).sum((1, 2))
    Q = Q.flip(2)  # eigenvalues ascend, singular values are wanted descending
    return LeadingCore(squares, Z @ (L_inverse @ Q), T @ Q, rest, small.scale, info)

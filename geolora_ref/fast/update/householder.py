"""The step by Householder QR of [U | ΔK]: always accurate, for float64 and for layers that Gram
matrices cannot resolve.

B = Q R by LAPACK, Ŝ = R_K Ŝ₀ R_Lᵀ (see ``core.py``), SVD, U₁ = Q_K P, V₁ = Q_L Q.  Q has min(m, 2w)
orthonormal columns whatever the rank of B is: zero columns of B get some orthonormal complement, as
in the published augmentation.

Ŵ is homogeneous in S, ΔS, ΔK and ΔL.  They are divided by a power of two, which is exact, so that
the largest entry is about 1: LAPACK scales before it squares, but libraries for accelerators may
not.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from geolora_ref.arrays import svd
from geolora_ref.fast.update.core import core

__all__ = ["HouseholderCore", "householder_core"]


class HouseholderCore(NamedTuple):
    """Singular values (L, p) descending, and the singular vectors of Ŵ, transposed: (L, p, m) and
    (L, p, n).

    If Ŵ is beyond the range, or a result of the solver is not finite, the first singular value is infinite.
    """

    sigma: Tensor
    Ut: Tensor
    Vt: Tensor


def householder_core(
    Bt_K: Tensor, Bt_L: Tensor, S: Tensor, delta_S: Tensor | None
) -> HouseholderCore:
    """The singular value decomposition of Ŵ from Bt_K (L, 2w, m), Bt_L (L, 2w, n), S and ΔS (L, w,
    w), all float64 and finite, with λ multiplied into the updates; ΔS = None means UᵀΔK.
    """
    w = S.shape[1]
    size = _power_of_two(S, *([] if delta_S is None else [delta_S]), Bt_K[:, w:], Bt_L[:, w:])
    Q_K, R_K = torch.linalg.qr(torch.cat([Bt_K[:, :w], Bt_K[:, w:] / size], dim=1).mT)
    Q_L, R_L = torch.linalg.qr(torch.cat([Bt_L[:, :w], Bt_L[:, w:] / size], dim=1).mT)
    C_K, C_L = (R[:, :, :w].mT @ R[:, :, w:] for R in (R_K, R_L))
    S_new = S / size - (C_K if delta_S is None else delta_S / size)
    S_hat = R_K @ core(S_new + C_K + C_L.mT, 1.0) @ R_L.mT  # rate 1: λ is in the updates already
    P, sigma, Qt = svd(S_hat)
    Ut, Vt = P.mT @ Q_K.mT, Qt @ Q_L.mT
    sums = torch.stack(
        [sigma.sum(1), Ut.sum((1, 2)), Vt.sum((1, 2))]
    )  # finite only if everything is
    return HouseholderCore(
        (sigma * size[:, 0]).masked_fill(~torch.isfinite(sums).all(0)[:, None], torch.inf), Ut, Vt
    )


def _power_of_two(*given: Tensor) -> Tensor:
    """A power of two above the largest entry of each layer, by a factor of 2 at most; 1 for zeros:
    (L, 1, 1).

    Exponents are clamped to ±1000, so subnormal entries stay somewhat below 1 after the division.
    """
    largest = torch.stack([X.abs().amax((1, 2)) for X in given]).amax(0)
    _, exponent = torch.frexp(largest)
    return torch.exp2(exponent.clamp(-1000, 1000).double())[:, None, None]

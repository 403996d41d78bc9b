"""The step by Householder QR of [U | ΔK]: always right, for float64 and for the layers that the Gram matrices cannot resolve.

B = Q R by LAPACK, Ŝ = R_K Ŝ₀ R_Lᵀ (see ``core.py``), SVD, U₁ = Q_K P, V₁ = Q_L Q.  Q has orthonormal columns whatever the rank of
B is: zero columns get some complement, as in the published augmentation, and min(m, 2w) of them exist.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from geolora_ref.fast.core import core

__all__ = ["HouseholderCore", "householder_core"]


class HouseholderCore(NamedTuple):
    """Singular values (L, p) descending, and the singular vectors of Ŵ, transposed: (L, p, m) and (L, p, n).

    Where Ŝ left the range, the singular values are infinite.
    """

    sigma: Tensor
    Ut: Tensor
    Vt: Tensor


def householder_core(Bt_K: Tensor, Bt_L: Tensor, S: Tensor, delta_S: Tensor, shared: bool) -> HouseholderCore:
    """The singular value decomposition of Ŵ: Bt_K (L, 2w, m), Bt_L (L, 2w, n), S and ΔS (L, w, w), all float64 and
    finite; ``shared`` see :func:`core`.
    """
    w = S.shape[1]
    Q_K, R_K = torch.linalg.qr(Bt_K.mT)
    Q_L, R_L = torch.linalg.qr(Bt_L.mT)
    C_K, C_L = (R[:, :, :w].mT @ R[:, :, w:] for R in (R_K, R_L))
    S_hat = R_K @ core(S, delta_S, C_K, C_L, shared) @ R_L.mT
    finite = torch.isfinite(S_hat).all(2).all(1)
    P, sigma, Qt = torch.linalg.svd(torch.where(finite[:, None, None], S_hat, 0.0), full_matrices=False)
    return HouseholderCore(torch.where(finite[:, None], sigma, torch.inf), P.mT @ Q_K.mT, Qt @ Q_L.mT)

"""Small matrices of many layers, float64: NumPy arrays where they are in the memory of the processor, else tensors.

For the 8 x 8 matrices of 36 layers NumPy takes 1 to 2 µs an operation and 0.2 a view, torch 4 to 8 and 2.  Wide ones are tensors:
NumPy's BLAS takes threads for products of theirs, which then contend with torch's.  ``core.py``, ``gram.py`` and ``leading.py``
say what both understand; where the two differ, it is here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from geolora_ref.arrays import Array

__all__ = [
    "as_array",
    "as_kind_of",
    "cholesky",
    "descending",
    "diagonals",
    "eigenpairs",
    "inverse",
    "joined",
    "lower_inverse",
    "on_host",
    "zeros",
]


WIDE = 33
"""The least w of layers whose matrices are tensors on the host as well."""


def as_array(X: Tensor, width: int) -> Array:
    """The same memory as an array of NumPy, if it is the host's and the matrices are not wide."""
    return X.numpy() if X.device.type == "cpu" and width < WIDE else X


def as_kind_of(like: Array, X: NDArray[Any]) -> Array:
    """The same memory as a tensor if that is one, which has to be on the host."""
    return X if isinstance(like, np.ndarray) else torch.from_numpy(X)


def zeros(like: Array, *shape: int) -> Array:
    """Of the same kind."""
    return np.zeros(shape) if isinstance(like, np.ndarray) else like.new_zeros(shape)


def diagonals(M: Array) -> Array:
    """The diagonals (…, p) of M (…, p, p), a view that can be written."""
    return np.einsum("...ii->...i", M) if isinstance(M, np.ndarray) else M.diagonal(0, -2, -1)


def descending(P: Array, count: int) -> Array:
    """The last ``count`` columns of P (L, p, p), the last one first."""
    return P[:, :, : -count - 1 : -1].copy() if isinstance(P, np.ndarray) else P[:, :, -count:].flip(2)


def cholesky(M: Array) -> tuple[Array, Array]:
    """The lower factors (L, p, p), and the error code (L,): not 0 where there is none."""
    factor, info = torch.linalg.cholesky_ex(torch.as_tensor(M))
    return (factor.numpy(), info.numpy()) if isinstance(M, np.ndarray) else (factor, info)


def eigenpairs(M: Array, info: Array) -> tuple[Array, Array, Array]:
    """Eigenvalues (L, p), ascending, and eigenvectors of symmetric M (L, p, p), and the error code: 1 where none were found."""
    finite = torch.as_tensor(M)
    if not isinstance(M, np.ndarray) or not np.isfinite(M).all():
        finite.nan_to_num_(0.0, 0.0, 0.0)  # what is not finite in one layer would fail all
    try:
        squares, P = torch.linalg.eigh(finite)
    except torch.linalg.LinAlgError:  # type: ignore[attr-defined]  # of whichever layer: all go through Householder's QR
        return zeros(M, *M.shape[:2]), M, info * 0 + 1
    return (squares.numpy(), P.numpy(), info) if isinstance(M, np.ndarray) else (squares, P, info)


def inverse(M: Array) -> Array:
    """The inverses of matrices (L, p, p), in half the time that NumPy takes; not finite where there is none."""
    found = torch.linalg.inv_ex(torch.as_tensor(M))[0]
    return found.numpy() if isinstance(M, np.ndarray) else found


def lower_inverse(factor: Array) -> Array:
    """The inverses of lower triangular matrices (L, p, p), in a third of the time of :func:`inverse`."""
    identity = torch.from_numpy(np.eye(factor.shape[1])).expand(factor.shape)
    found = torch.linalg.solve_triangular(torch.as_tensor(factor), identity, upper=False)
    return found.numpy() if isinstance(factor, np.ndarray) else found


def joined(A: Array, B: Array, dtype: torch.dtype) -> Tensor:
    """A and B, one behind the other, as a tensor of this dtype, which may be a narrower one."""
    if not isinstance(A, np.ndarray):
        return torch.cat([A, B]).to(dtype)
    found = torch.empty(len(A) + len(B), *A.shape[1:], dtype=dtype)
    np.concatenate([A, B], out=found.numpy())
    return found


def on_host(given: Sequence[Array]) -> list[NDArray[np.float64]]:
    """All of these on the host, those that are elsewhere by one transfer."""
    if all(isinstance(X, np.ndarray) or X.device.type == "cpu" for X in given):
        return [np.asarray(X) for X in given]
    together = torch.cat([X.flatten().double() for X in given]).cpu().numpy()
    ends = np.cumsum([X.numel() for X in given])
    return [part.reshape(X.shape) for part, X in zip(np.split(together, ends[:-1]), given, strict=True)]

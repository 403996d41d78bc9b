"""Array-library neutral helpers: the few things the Python array API standard does not say in one word.

The core is written once against that standard, so the same lines run on NumPy, on torch (CPU, CUDA)
and on every other conforming library.  Real and complex data are treated alike: every transpose is
a conjugate transpose.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from importlib import import_module
from itertools import accumulate
from typing import TYPE_CHECKING, Any, TypeAlias

import array_api_compat
import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from jaxtyping import Float, Inexact
else:
    try:
        from jaxtyping import Float, Inexact
    except (
        ModuleNotFoundError
    ):  # shapes are documentation; only the tests and the docs evaluate them

        class Float:
            """``Float[Array, "m n"]`` is the array."""

            def __class_getitem__(cls, item: tuple[Any, str]) -> Any:
                return item[0]

        Inexact = Float

__all__ = [
    "Array",
    "Float",
    "H",
    "Inexact",
    "Matrix",
    "Values",
    "diagonal_matrix",
    "eps",
    "finite",
    "identity",
    "is_complex",
    "is_diagonal",
    "namespace",
    "norm",
    "qr",
    "svd",
    "tail_norms",
    "to_numpy",
    "zeros",
]

Array: TypeAlias = Any
"""Any array of a library that follows the array API standard."""

Matrix: TypeAlias = NDArray[Any]
"""A NumPy matrix of any floating dtype.  The judges of the oracle, which share no code, have their own alias.
"""

Values: TypeAlias = Sequence[float] | np.ndarray[Any, Any]
"""Real numbers in a row, such as singular values that a caller chooses."""


def namespace(*arrays: Array) -> Any:
    """The array API namespace that all ``arrays`` share (``TypeError`` of array-api-compat if they
    do not).
    """
    if arrays and all(
        type(X) is np.ndarray for X in arrays
    ):  # the search among all libraries takes long
        return import_module("array_api_compat.numpy")
    return array_api_compat.array_namespace(*arrays)


@cache
def is_complex(xp: Any, dtype: Any) -> bool:
    """Return whether a dtype of this namespace is complex; NumPy takes long to say so."""
    return bool(xp.isdtype(dtype, "complex floating"))


def H(X: Inexact[Array, "*stack a b"]) -> Inexact[Array, "*stack b a"]:
    """Conjugate transpose Xᴴ."""
    xp = namespace(X)
    return xp.conj(X).mT if is_complex(xp, X.dtype) else X.mT


def eps(X: Inexact[Array, ...]) -> float:
    """Distance from 1 to the next number in the precision of ``X`` (twice the unit round-off)."""
    return float(namespace(X).finfo(X.dtype).eps)


def finite(X: Inexact[Array, ...]) -> bool:
    """Return whether every entry is finite."""
    xp = namespace(X)
    return bool(xp.all(xp.isfinite(X)))


def norm(X: Inexact[Array, ...]) -> float:
    """Frobenius norm, inf or NaN where an entry is.

    Scaled by the largest entry, so that 1e-200 and 1e200 neither underflow nor overflow.
    """
    xp = namespace(X)
    entries = xp.abs(xp.reshape(X, (-1,)))
    largest = float(xp.max(entries)) if entries.shape[0] else 0.0
    if largest == 0.0 or not math.isfinite(largest):
        return largest
    return largest * float(xp.linalg.vector_norm(entries / largest))


def svd(A: Inexact[Array, "*stack a b"]) -> tuple[Array, Array, Array]:
    """A = P Σ Qᴴ, thin: P, the singular values in descending order, Qᴴ.

    NumPy and torch have only LAPACK's divide and conquer on the CPU.  It fails to converge on a few
    finite matrices with equal or zero singular values; which ones depends on the processor.  Then
    the SVD of the transpose is computed instead.

    Raises the ``LinAlgError`` of the library if the transpose fails as well.
    """
    xp = namespace(A)
    try:
        return tuple(xp.linalg.svd(A, full_matrices=False))
    except (
        ValueError,
        RuntimeError,
    ) as problem:  # LinAlgError is a ValueError in NumPy, a RuntimeError in torch
        if "converge" not in str(problem):
            raise
    if len(A.shape) > 2:
        return tuple(
            xp.stack(parts)
            for parts in zip(*(svd(A[i, ...]) for i in range(A.shape[0])), strict=True)
        )
    Q, sigma, Ph = xp.linalg.svd(H(A), full_matrices=False)
    return H(Ph), sigma, H(Q)


def qr(
    X: Inexact[Array, "*stack m s"],
) -> tuple[Inexact[Array, "*stack m k"], Inexact[Array, "*stack k s"]]:
    """X = Q R: k = min(m, s) orthonormal columns Q, the first j of which have those of X in their
    span, and R = QᴴX.

    MKL's complex QR turns a column of subnormal numbers into NaN.  Then every column is divided by
    its largest real or imaginary part, which keeps the span of the columns.  (Real and imaginary
    part are divided separately.)
    """
    xp = namespace(X)
    Q, R = xp.linalg.qr(X)
    if finite(Q) or not (finite(X) and is_complex(xp, X.dtype)):
        return Q, R
    parts = [xp.real(X), xp.imag(X)]
    largest = xp.maximum(*(xp.max(xp.abs(part), axis=-2, keepdims=True) for part in parts))
    real, imaginary = (
        xp.astype(part / xp.where(largest > 0.0, largest, 1.0), X.dtype) for part in parts
    )
    Q, _ = xp.linalg.qr(real + 1j * imaginary)
    return Q, H(Q) @ X


def tail_norms(singular_values: Float[Array, " k"]) -> list[float]:
    """All tails at once: entry j is (Σ_{i≥j} σ_i²)^{1/2}, the error of keeping the first j singular values.

    Summed from the smallest up by ``hypot``, which neither underflows nor overflows: a tail is 0
    only if all of it is 0.  The sum is in double precision: in single precision a tail may overflow
    although every singular value is finite.
    """
    ascending = to_numpy(singular_values)[::-1].tolist()
    return list(accumulate(ascending, math.hypot))[::-1]


def identity(size: int, like: Inexact[Array, ...]) -> Inexact[Array, "size size"]:
    """The identity matrix in the dtype and on the device of ``like``."""
    return namespace(like).eye(size, dtype=like.dtype, device=array_api_compat.device(like))


def zeros(shape: tuple[int, ...], like: Inexact[Array, ...]) -> Inexact[Array, "*stack a b"]:
    """The zero matrix in the dtype and on the device of ``like``."""
    return namespace(like).zeros(shape, dtype=like.dtype, device=array_api_compat.device(like))


def diagonal_matrix(
    diagonal: Float[Array, " r"], like: Inexact[Array, ...]
) -> Inexact[Array, "r r"]:
    """The square matrix with this diagonal, in the dtype and on the device of ``like``."""
    return identity(diagonal.shape[0], like) * namespace(like).astype(diagonal, like.dtype)[None, :]


def is_diagonal(S: Inexact[Array, "r r"]) -> bool:
    """Return whether every entry off the diagonal is exactly 0."""
    return not bool(namespace(S).any(S * identity(S.shape[0], S) != S))


def to_numpy(X: Array) -> np.ndarray[Any, Any]:
    """A NumPy copy of any library's array, on the host (reduced-precision formats NumPy lacks
    become float32, without loss).
    """
    if isinstance(X, np.ndarray):
        return np.array(X)
    if array_api_compat.is_torch_array(X):
        X = X.detach().cpu().resolve_conj().resolve_neg()
        X = (X.float() if X.is_floating_point() and X.element_size() < 4 else X).numpy()
    elif array_api_compat.is_cupy_array(X):
        X = X.get()
    elif hasattr(X, "dtype") and str(X.dtype) == "bfloat16":  # JAX
        X = X.astype("float32")
    return np.array(X)

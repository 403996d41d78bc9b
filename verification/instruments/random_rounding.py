"""An array whose every operation rounds up or down at random: what rounding can do to a result."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

__all__ = ["Rounded", "digits", "random_rounding"]

WIDER = {np.dtype(np.float32): np.float64, np.dtype(np.float64): np.longdouble}
"""In which the exact result of one operation is known but for a rounding 2⁻¹¹ times as large (x86)."""
ROUNDED = (np.add, np.subtract, np.multiply, np.divide, np.sqrt)
SWEEPS = 40


class Rounded(np.ndarray[Any, Any]):
    """A real NumPy array; its sums, products, quotients and roots are rounded up or down with
    probability ½ each, unless they are exact [V04].

    The same code runs on it as on every array, so no formula is written twice.  Products of
    matrices and sums are built from these operations one after the other, QR is Householder's, the
    SVD Jacobi's one-sided one.  Signs, moduli, comparisons and moves of entries are exact.
    """

    rng: ClassVar[np.random.Generator | None] = None

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **options: Any) -> Any:
        plain = [np.asarray(x) if isinstance(x, Rounded) else x for x in inputs]
        if ufunc is np.matmul:
            return _product(*(np.asarray(x, dtype=self.dtype) for x in plain))
        if ufunc is np.add and method == "reduce":
            return _sum(plain[0], options.get("axis", 0), options.get("keepdims", False))
        if options.pop("out", None) is not None:
            raise TypeError("random rounding: expected no array to write into")
        if (
            ufunc in ROUNDED
            and method == "__call__"
            and np.issubdtype(np.result_type(*plain), np.floating)
        ):
            wide = WIDER[self.dtype]
            return _rounded(ufunc(*(np.asarray(x, dtype=wide) for x in plain)), self.dtype)
        result = getattr(ufunc, method)(*plain, **options)
        return (
            result.view(Rounded)
            if isinstance(result, np.ndarray) and result.dtype == self.dtype
            else result
        )

    def __array_function__(self, function: Any, types: Any, args: Any, options: Any) -> Any:
        if function is np.linalg.qr:
            return _qr(args[0])
        if function is np.linalg.svd:
            return _svd(args[0])
        if function in (np.linalg.norm, np.linalg.vector_norm):
            return np.sqrt(np.sum(args[0] * args[0]))
        result = super().__array_function__(
            function, types, args, options
        )  # joined arrays come back as plain ones
        return (
            result.view(Rounded)
            if isinstance(result, np.ndarray) and result.dtype in WIDER
            else result
        )


@contextmanager
def random_rounding(seed: int) -> Iterator[None]:
    """The random draws of all :class:`Rounded` arrays inside of the block."""
    Rounded.rng, before = np.random.default_rng(seed), Rounded.rng
    try:
        yield
    finally:
        Rounded.rng = before


def digits(samples: list[NDArray[Any]]) -> float:
    """The decimal digits that the samples share: −log10 of their root mean square deviation from
    their mean, over the norm of the mean.
    """
    stack = np.array([np.asarray(X, dtype=np.float64) for X in samples])
    mean = np.mean(stack, axis=0)
    spread = float(np.sqrt(np.sum((stack - mean) ** 2) / (len(stack) - 1)))
    return float(-np.log10(max(spread / float(np.linalg.norm(mean)), 1e-30)))


def _rounded(exact: NDArray[Any], dtype: np.dtype[Any]) -> Any:
    """One of the two numbers around each entry, at random; an exact one stays."""
    if Rounded.rng is None:
        raise RuntimeError(
            "random rounding: expected a block `with random_rounding(seed)`, found none"
        )
    near = np.asarray(exact).astype(dtype)
    towards = np.where(exact > near, np.inf, -np.inf).astype(dtype)
    other = np.where(exact == near, near, np.nextafter(near, towards))
    return np.where(Rounded.rng.random(near.shape) < 0.5, near, other).astype(dtype).view(Rounded)


def _sum(X: NDArray[Any], axis: int | None, keepdims: bool) -> Any:
    rows = X.ravel() if axis is None else np.moveaxis(X, axis, 0)
    total = np.zeros(rows.shape[1:], dtype=X.dtype).view(Rounded)
    for row in rows:
        total = total + row
    if not keepdims:
        return total
    return total.reshape((1,) * X.ndim) if axis is None else np.expand_dims(total, axis)


def _product(A: NDArray[Any], B: NDArray[Any]) -> Any:
    """Σ_k A[:, k] B[k, :], term after term."""
    total = np.zeros((A.shape[0], B.shape[1]), dtype=A.dtype).view(Rounded)
    for k in range(A.shape[1]):
        total = total + A[:, k, None].view(Rounded) * B[None, k, :]
    return total


def _qr(X: Rounded) -> tuple[Rounded, Rounded]:
    """X = QR by Householder's reflections I − 2vvᵀ/(vᵀv)."""
    (m, s), R, reflections = X.shape, X.copy(), []
    for j in range(min(m, s)):
        v = R[j:, j : j + 1].copy()
        size = np.sqrt(v.T @ v)[0, 0]
        if size == 0.0:
            continue
        v[0, 0] = v[0, 0] + (size if v[0, 0] >= 0.0 else -size)
        reflections.append((j, v, 2.0 / (v.T @ v)[0, 0]))
        R[j:, j:] = R[j:, j:] - v @ (reflections[-1][2] * (v.T @ R[j:, j:]))
    Q = np.eye(m, min(m, s), dtype=X.dtype).view(Rounded)
    for j, v, factor in reversed(reflections):
        Q[j:] = Q[j:] - v @ (factor * (v.T @ Q[j:]))
    return Q, np.triu(R[: min(m, s)]).view(Rounded)


def _svd(A: Rounded) -> tuple[Rounded, Rounded, Rounded]:
    """A = P Σ Qᵀ by one-sided Jacobi: columns are rotated until all pairs are orthogonal."""
    if A.shape[0] < A.shape[1]:
        Q, sigma, Pt = _svd(A.T)
        return Pt.T, sigma, Q.T
    X, Q, enough = (
        A.copy(),
        np.eye(A.shape[1], dtype=A.dtype).view(Rounded),
        4.0 * A.shape[0] * np.finfo(A.dtype).eps,
    )
    for _ in range(SWEEPS):
        rotated = False
        for i in range(X.shape[1] - 1):
            for j in range(i + 1, X.shape[1]):
                x, y = X[:, i : i + 1], X[:, j : j + 1]
                a, b, c = (x.T @ x)[0, 0], (y.T @ y)[0, 0], (x.T @ y)[0, 0]
                if abs(float(c)) <= enough * float(np.sqrt(float(a) * float(b))):
                    continue
                rotated, a, b, c = (
                    True,
                    *(np.array([z], dtype=A.dtype).view(Rounded) for z in (a, b, c)),
                )
                zeta = (b - a) / (2.0 * c)
                t = np.where(zeta >= 0.0, 1.0, -1.0).astype(A.dtype) / (
                    np.abs(zeta) + np.sqrt(1.0 + zeta * zeta)
                )
                cosine = 1.0 / np.sqrt(1.0 + t * t)
                sine = cosine * t
                for Z in (X, Q):
                    left, right = (
                        Z[:, i] * cosine - Z[:, j] * sine,
                        Z[:, i] * sine + Z[:, j] * cosine,
                    )
                    Z[:, i], Z[:, j] = left, right
        if not rotated:
            break
    sizes = np.sqrt(np.sum(X * X, axis=0)).view(Rounded)
    order = np.argsort(-np.asarray(sizes))
    X, Q = X[:, order].view(Rounded), Q[:, order].view(Rounded)
    P = _qr(X)[0]  # completes zero columns
    signs = np.where(np.sum(np.asarray(P) * np.asarray(X), axis=0) < 0.0, -1.0, 1.0).astype(A.dtype)
    return P * signs, sizes[order], Q.T

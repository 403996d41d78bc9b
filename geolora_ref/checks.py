"""Checks of arguments before anything is computed; an error names the argument, what was expected
and what was found.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache, partial
from numbers import Integral, Real
from typing import Any

import array_api_compat
import numpy as np

from geolora_ref.arrays import (
    Array,
    H,
    Inexact,
    eps,
    finite,
    identity,
    is_complex,
    is_diagonal,
    namespace,
    norm,
)

__all__ = [
    "alike",
    "averaging",
    "below_one",
    "each",
    "finite_entries",
    "finite_norm",
    "finite_results",
    "first_few",
    "instance",
    "integer",
    "invertible",
    "is_integer",
    "matrices",
    "naming",
    "nonnegative_number",
    "not_orthonormal",
    "number",
    "on_copies",
    "one_of",
    "orthonormal",
    "positive_number",
    "product_shape",
    "rank",
    "ranks",
    "real_matrices",
    "same_shape",
    "threshold",
]


def instance(name: str, value: Any, kinds: type | tuple[type, ...], meaning: str) -> None:
    """Raise ``ValueError`` unless ``value`` is one of these kinds; ``meaning`` says what was expected."""
    if isinstance(
        value, type
    ):  # a class has its instances' methods, so it would pass for an instance of a protocol
        raise ValueError(f"{name}: expected {meaning}, found the class {value.__name__}")
    if not isinstance(value, kinds):
        shape = (
            f" of shape {tuple(value.shape)}" if array_api_compat.is_array_api_obj(value) else ""
        )
        raise ValueError(f"{name}: expected {meaning}, found {type(value).__name__}{shape}")


@contextmanager
def naming(where: str, *more: type[Exception]) -> Iterator[None]:
    """Prefix the messages of ``ValueError`` and of the kinds in ``more`` with ``where``, unless it
    is empty.
    """
    kinds: tuple[type[Exception], ...] = (ValueError, *more)
    try:
        yield
    except kinds as problem:
        if not where:
            raise
        raise type(problem)(f"{where}: {problem}") from problem


def first_few(names: Sequence[str]) -> str:
    """The first eight names, as a message lists them."""
    return ", ".join(names[:8]) + (", …" if len(names) > 8 else "")


def alike(**named: Array) -> Any:
    """The namespace of 2-d arrays of one library, floating dtype and device, finite or not.

    Raises ``ValueError`` that names the first argument that does not fit.
    """
    for name, X in named.items():
        if not array_api_compat.is_array_api_obj(X) or isinstance(X, np.ma.MaskedArray):
            raise ValueError(
                f"{name}: expected an array of an array API library, found {type(X).__name__}"
            )
        if getattr(X, "requires_grad", False):
            raise ValueError(
                f"{name}: expected an array outside of automatic differentiation, found one that requires a gradient"
            )
    first, *_ = named.values()
    first_name, *_ = named
    xp = namespace(first)
    for name, X in named.items():
        if namespace(X) is not xp:
            raise ValueError(
                f"{name}: expected the array library of {first_name} ({xp.__name__}), found {namespace(X).__name__}"
            )
        if X.ndim != 2:
            raise ValueError(
                f"{name}: expected a matrix (2 dimensions), found shape {tuple(X.shape)}"
            )
        if not _single_or_double(xp, X.dtype):
            raise ValueError(
                f"{name}: expected a real or complex floating dtype of single or double precision, found {X.dtype}"
            )
        if X.dtype != first.dtype:
            raise ValueError(
                f"{name}: expected the dtype of {first_name} ({first.dtype}), found {X.dtype}"
            )
        if array_api_compat.device(X) != array_api_compat.device(first):
            raise ValueError(
                f"{name}: expected the device of {first_name} ({array_api_compat.device(first)}), "
                f"found {array_api_compat.device(X)}"
            )
    return xp


@cache
def _single_or_double(xp: Any, dtype: Any) -> bool:
    """Return whether a dtype of this namespace is floating, real or complex, with parts of 32 or
    64 bits; NumPy takes long to say so.
    """
    return bool(
        xp.isdtype(dtype, ("real floating", "complex floating"))
        and xp.finfo(dtype).bits in (32, 64)
    )


def matrices(**named: Array) -> Any:
    """The namespace of finite 2-d arrays of one library, floating dtype and device.

    Raises ``ValueError`` that names the first argument that does not fit.
    """
    xp = alike(**named)
    for name, X in named.items():
        finite_entries(name, X)
    return xp


def finite_entries(name: str, X: Inexact[Array, "a b"]) -> None:
    """Raise ``ValueError`` with the number of non-finite entries if the matrix has any."""
    if not finite(X):
        xp = namespace(X)
        bad = int(xp.sum(xp.astype(~xp.isfinite(X), xp.int64)))
        raise ValueError(
            f"{name}: expected finite entries, found {bad} of {X.shape[0] * X.shape[1]} not finite"
        )


def real_matrices(**named: Array) -> Any:
    """Like :func:`matrices`; complex matrices raise ``ValueError`` as well."""
    xp = matrices(**named)
    for name, X in named.items():
        if is_complex(xp, X.dtype):
            raise ValueError(f"{name}: expected a real matrix, found {X.dtype}")
    return xp


def same_shape(name: str, X: Array, expected: tuple[int, ...], meaning: str) -> None:
    """Raise ``ValueError`` unless ``X`` has the expected shape."""
    if tuple(X.shape) != expected:
        raise ValueError(f"{name}: expected shape {expected} ({meaning}), found {tuple(X.shape)}")


def product_shape(
    S_hat: Inexact[Array, "p q"], U_hat: Inexact[Array, "m p"], V_hat: Inexact[Array, "n q"]
) -> tuple[int, int]:
    """(m, n) of Û Ŝ V̂ᴴ; ``ValueError`` unless the three are finite and fit together."""
    matrices(S_hat=S_hat, U_hat=U_hat, V_hat=V_hat)
    (p, q), m, n = S_hat.shape, int(U_hat.shape[0]), int(V_hat.shape[0])
    same_shape("U_hat", U_hat, (m, p), "m x p, p the rows of S_hat")
    same_shape("V_hat", V_hat, (n, q), "n x q, q the columns of S_hat")
    return m, n


def on_copies(
    optimizer: Callable[[Array, Array, float], Array],
) -> Callable[[Array, Array, float], Array]:
    """A caller's opt(P, G, λ) applied to copies of P and G, so that it may work in place.

    Raises ``ValueError`` unless ``optimizer`` is callable; the returned function raises it unless
    the result can be the new P.
    """
    if not callable(optimizer):
        raise ValueError(f"optimizer: expected a callable opt(P, G, λ), found {optimizer!r}")

    return partial(_on_copies, optimizer)


def _on_copies(
    optimizer: Callable[[Array, Array, float], Array],
    P: Inexact[Array, "a b"],
    G: Inexact[Array, "a b"],
    learning_rate: float,
) -> Array:
    xp, name = namespace(P), "opt(P, G, λ)"
    new = optimizer(xp.asarray(P, copy=True), xp.asarray(G, copy=True), learning_rate)
    alike(**{"P": P, name: new})
    same_shape(name, new, tuple(P.shape), "that of P")
    return new


def orthonormal(name: str, U: Inexact[Array, "m r"]) -> None:
    """Raise ``ValueError`` unless ‖UᴴU − I‖ ≤ √eps.

    √eps is the largest defect that one Newton–Schulz step (whose error is quadratic in the defect)
    still repairs to rounding; accumulated rounding of many steps stays far below it, a wrong basis
    far above.
    """
    defect, allowed = norm(H(U) @ U - identity(U.shape[1], U)), math.sqrt(eps(U))
    if not defect <= allowed:
        raise not_orthonormal(name, defect, allowed)


def not_orthonormal(name: str, defect: float, allowed: float, bound: str = "√eps") -> ValueError:
    """The error for a basis whose defect exceeds ``allowed``; ``bound`` is the formula of that limit."""
    return ValueError(
        f"{name}: expected orthonormal columns, ‖{name}ᴴ{name} − I‖ ≤ {bound} = {allowed:.1e}, found {defect:.3e}"
    )


def invertible(name: str, S: Inexact[Array, "r r"]) -> None:
    """Raise ``ValueError`` if a diagonal ``S`` has a zero on its diagonal, or a dense one
    σ_min ≤ eps·σ_max.
    """
    xp = namespace(S)
    if is_diagonal(S):
        smallest, limit = float(xp.min(xp.abs(xp.linalg.diagonal(S)))), 0.0
    else:
        sigma = xp.linalg.svdvals(S)
        smallest, limit = float(xp.min(sigma)), eps(S) * float(xp.max(sigma))
    if smallest <= limit:
        raise ValueError(
            f"{name}: the published route divides by {name}, expected an invertible {name}, found smallest singular value "
            f"{smallest:.3e}; use ProjectedGradients, which do not divide"
        )


def number(value: Any) -> float:
    """``value`` as a float, or NaN if it is no real number or beyond the range of floats: no range
    contains NaN.
    """
    try:
        return float(value) if isinstance(value, Real) else math.nan
    except OverflowError:  # an int of more than 308 digits
        return math.nan


def nonnegative_number(name: str, value: Any) -> float:
    """``value`` as a finite float ≥ 0, or ``ValueError``."""
    if not 0.0 <= number(value) < math.inf:
        raise ValueError(f"{name}: expected a finite number >= 0, found {value!r}")
    return number(value)


def positive_number(name: str, value: Any) -> float:
    """``value`` as a finite float > 0, or ``ValueError``."""
    if not 0.0 < number(value) < math.inf:
        raise ValueError(f"{name}: expected a finite number > 0, found {value!r}")
    return number(value)


def below_one(name: str, value: Any) -> float:
    """``value`` as a float; ``ValueError`` unless 0 ≤ value < 1."""
    if not 0.0 <= number(value) < 1.0:
        raise ValueError(f"{name}: expected 0 <= {name} < 1, found {value!r}")
    return number(value)


def is_integer(value: Any) -> bool:
    """Return whether ``value`` is an integer of Python or NumPy; True and False are none."""
    return isinstance(value, Integral) and not isinstance(value, bool)


def integer(name: str, value: Any, least: int) -> int:
    """``value`` as an int of Python, which does not overflow; ``ValueError`` unless it is an
    integer and at least ``least``.
    """
    if not is_integer(value) or int(value) < least:
        raise ValueError(f"{name}: expected an integer >= {least}, found {value!r}")
    return int(value)


def one_of(name: str, value: Any, allowed: Sequence[str]) -> None:
    """Raise ``ValueError`` unless ``value`` is one of the allowed texts."""
    if value not in allowed:
        raise ValueError(f"{name}: expected {' or '.join(map(repr, allowed))}, found {value!r}")


def each(name: str, value: Any, count: int) -> list[Any]:
    """One value for each of ``count`` layers, from a single value or a sequence; ``ValueError`` for
    another length.
    """
    if isinstance(value, np.ndarray) and value.ndim:
        value = value.tolist()
    values = list(value) if isinstance(value, Sequence) else [value] * count
    if len(values) != count:
        raise ValueError(
            f"{name}: expected one number, or one for each of {count} layers, found {len(values)}"
        )
    return values


def threshold(tau: float | None, theta: float | None) -> None:
    """Exactly one of the relative threshold τ and the absolute threshold ϑ, each finite and ≥ 0, or
    ``ValueError``.
    """
    if (tau is None) == (theta is None):
        raise ValueError(
            f"tau, theta: expected exactly one of the two thresholds, found tau={tau}, theta={theta}"
        )
    if tau is not None:
        nonnegative_number("tau", tau)
    if theta is not None:
        nonnegative_number("theta", theta)


def averaging(betas: Any, eps: Any) -> tuple[tuple[float, float], float]:
    """Two weights 0 ≤ β < 1 of running means, and a finite eps ≥ 0, as floats, or ``ValueError``."""
    weights = betas if isinstance(betas, tuple | list) else ()
    if len(weights) != 2 or not all(0.0 <= number(beta) < 1.0 for beta in weights):
        raise ValueError(f"betas: expected two numbers >= 0 and < 1, found {betas!r}")
    return (float(weights[0]), float(weights[1])), nonnegative_number("eps", eps)


def rank(name: str, value: Any, shape: tuple[int, int]) -> int:
    """``value`` as an int; ``ValueError`` unless it is a rank of m x n matrices, 1 to min(m, n)."""
    found = integer(name, value, 1)
    if found > min(shape):
        raise ValueError(f"{name}: expected at most min(m, n) = {min(shape)}, found {found}")
    return found


def ranks(
    min_rank: Any, max_rank: Any, shape: tuple[int, int] | None = None
) -> tuple[int, int | None]:
    """Both ranks as ints; ``ValueError`` unless 1 ≤ min_rank ≤ max_rank, and min_rank ≤ min(m, n)
    for a given shape.
    """
    least = integer("min_rank", min_rank, 1)
    if not (max_rank is None or is_integer(max_rank)):
        raise ValueError(f"max_rank: expected an integer or None, found {max_rank!r}")
    if shape is not None:
        rank("min_rank", least, shape)
    if max_rank is None:
        return least, None
    if int(max_rank) < least:
        raise ValueError(f"max_rank: expected at least min_rank = {least}, found {max_rank}")
    return least, int(max_rank)


def finite_norm(line: str, name: str, size: float) -> None:
    """Raise ``FloatingPointError`` that names the line and the result if ``size``, the norm of the
    result, is not finite.
    """
    if not math.isfinite(size):
        raise FloatingPointError(
            f"{line}: the norm of {name} overflowed the range of float64; nothing was changed"
        )


def finite_results(line: str, **named: Array) -> None:
    """Raise ``FloatingPointError`` that names the line and the first result whose entries or norm
    left its dtype's range.
    """
    for name, X in named.items():
        size = norm(X)
        if math.isnan(size):
            raise FloatingPointError(f"{line}: {name} is not finite; nothing was changed")
        if size > float(namespace(X).finfo(X.dtype).max):
            raise FloatingPointError(
                f"{line}: {name} overflowed the range of {X.dtype}; nothing was changed"
            )

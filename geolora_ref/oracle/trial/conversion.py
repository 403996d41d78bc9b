"""Convert between NumPy arrays and arrays of the backend's library, dtype and device."""

from __future__ import annotations

import contextlib
import importlib
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geolora_ref.arrays import Array, Matrix, to_numpy
from geolora_ref.support.foreign import words
from geolora_ref.support.memory import owner_of
from geolora_ref.support.options import LIBRARIES

__all__ = ["EPS", "Conversion", "layouts", "share_memory", "taken_away"]


EPS = {
    "float64": 2.0**-52,
    "float32": 2.0**-23,
    "float16": 2.0**-10,
    "bfloat16": 2.0**-7,
    "complex128": 2.0**-52,
    "complex64": 2.0**-23,
}
"""The distance from 1 to the next number, by dtype."""
LARGEST = {
    "float16": 65504.0,
    "float64": float(np.finfo(np.float64).max),
    "complex128": float(np.finfo(np.float64).max),
}
"""The largest number, by dtype; for all others it is that of float32, nearly."""
NEGATIVE = {"reversed": (-1, 1), "backwards": (1, -1), "turned": (-1, -1)}
"""Layouts with negative strides: the order of rows and of columns."""
ARGUMENTS = ("U", "S", "V", "dK", "dL", "dS")


@dataclass(frozen=True)
class Conversion:
    """The conversion to a library's arrays and back.

    JAX makes 64-bit arrays only inside :meth:`scope`; they can be read anywhere.

    Raises ``ValueError`` for an unknown library or dtype, for bfloat16 in NumPy or CuPy, for a
    device with another library than torch, and for an empty device name; ``ModuleNotFoundError`` if
    the library is not installed.
    """

    array: str = "numpy"
    dtype: str = "float64"
    device: str | None = None

    def __post_init__(self) -> None:
        for name, known in (("array", LIBRARIES), ("dtype", EPS)):
            if (found := getattr(self, name)) not in known:
                raise ValueError(f"{name}: expected one of {', '.join(known)}, found {found!r}")
        if self.dtype == "bfloat16" and self.array in ("numpy", "cupy"):
            use = "use --array torch or jax"
            raise ValueError(f"dtype: {self.array} has no bfloat16, found {self.dtype!r}; {use}")
        if self.device is not None and self.array != "torch":
            wanted = f"expected none for {self.array}"
            raise ValueError(f"device: {wanted}, found {self.device!r}; only torch takes one")
        if self.device == "":
            raise ValueError("device: expected the name of a device, or None for the CPU, found ''")

    @property
    def is_complex(self) -> bool:
        """Return whether the dtype is complex."""
        return self.dtype.startswith("complex")

    @property
    def largest(self) -> float:
        """The largest number of the dtype."""
        return LARGEST.get(self.dtype, 3.38e38)

    def scope(self) -> contextlib.AbstractContextManager[Any]:
        """A context in which the dtype exists.  JAX silently makes 32-bit arrays unless 64 bits are
        enabled, here without changing its global setting; other libraries need nothing.
        """
        if self.array != "jax" or self.dtype not in ("float64", "complex128"):
            return contextlib.nullcontext()
        return importlib.import_module("jax").enable_x64(True)  # type: ignore[no-any-return]

    def has_layout(self, layout: str) -> bool:
        """Return whether the library has arrays of this memory layout: JAX has no choice, torch has
        no negative strides, and torch alone has numbers whose conjugation or sign is still to be
        applied.
        """
        how = layout.partition(":")[0]
        if how in ("lazy", "negated"):
            return self.array == "torch" and (self.is_complex or how == "negated")
        return how == "rows" or (
            self.array != "jax" and not (self.array == "torch" and how in NEGATIVE)
        )

    def laid_out(self, X: Matrix, layout: str) -> Array:
        """A new array of the library in a memory layout, "rows" or one of ``catalogue.LAYOUTS``.

        The memory between and before its numbers is NaN, which only a backend that ignores strides
        or offsets would read.
        """
        if layout in ("columns", "long"):
            other = "rows" if layout == "columns" else "padded"
            return self.laid_out(X.swapaxes(-1, -2), other).swapaxes(-1, -2)
        if layout == "spaced":
            wide = np.repeat(X, 2, axis=-1)
            wide[..., ::2] = np.nan
            return self.to(wide)[..., 1::2]
        if layout == "expanded" and np.array_equal(X, np.broadcast_to(X[..., :1, :], X.shape)):
            return self._expanded(X)
        if layout == "padded":
            return self._corner(X)
        if layout in NEGATIVE:
            rows, columns = NEGATIVE[layout]
            axis = -2 if rows < 0 else -1
            # as much NaN at the end, for code that reads forwards
            there = np.concatenate([X[..., ::rows, ::columns], np.full_like(X, np.nan)], axis=axis)
            begin = X.shape[axis] - 1
            last = (slice(begin, None, -1), slice(None, None, columns))
            return self.to(there)[(..., *(last if rows < 0 else (slice(None), last[0])))]
        if layout == "negated":
            return importlib.import_module(self.array)._neg_view(self.to(-X))
        if layout == "lazy" and self.has_layout(layout):
            return self.to(X.conj()).conj()
        if layout == "flat":
            return self.to(np.pad(X.ravel(), 1, constant_values=np.nan))[1:-1].reshape(X.shape)
        return self.to(X)

    def _corner(self, X: Matrix) -> Array:
        """X as the first columns of an array with three more columns of NaN; a stack is every
        second problem of a longer one.
        """
        wide = np.concatenate([X, np.full((*X.shape[:-1], 3), np.nan, X.dtype)], axis=-1)
        if X.ndim == 2:
            return self.to(wide)[:, : X.shape[-1]]
        longer = np.stack([wide, np.full_like(wide, np.nan)], axis=1).reshape(-1, *wide.shape[1:])
        return self.to(longer)[::2, :, : X.shape[-1]]

    def _expanded(self, X: Matrix) -> Array:
        """X as one row with a stride of 0; its rows must be alike."""
        one = self.to(X[..., :1, :])
        if self.array == "torch":
            return one.expand(X.shape)
        strides = (*one.strides[:-2], 0, one.strides[-1])
        library = importlib.import_module(self.array)
        return library.lib.stride_tricks.as_strided(one, X.shape, strides)

    def overwritten(self, X: Array, values: Matrix) -> bool:
        """Write these values into an array of their shape; False if it cannot be written to, as all
        arrays of JAX.
        """
        try:
            X[...] = self.to(values)
        except (
            ValueError,
            TypeError,
            RuntimeError,
        ):  # read-only, JAX, several entries at one place
            return False
        return True

    def alone(self, X: Array) -> bool:
        """Return whether the memory between and after the numbers of X still holds the NaN that
        :meth:`laid_out` wrote there.
        """
        if self.array == "jax":
            return True
        if self.array == "torch":
            whole, strides = X.untyped_storage().nbytes() // X.element_size(), X.stride()
            around = self.back(X.as_strided((whole,), (1,), 0))
        else:
            strides, around = X.strides, self.back(owner_of(X))
        counts = (n for n, stride in zip(X.shape, strides, strict=True) if stride)  # each one once
        return bool(np.isnan(around).sum() == around.size - math.prod(counts))

    def to(self, X: Matrix) -> Array:
        """A new array of the library, its values rounded to the dtype, row by row in memory."""
        if self.array == "numpy":
            return X.astype(self.dtype, order="C", copy=True)
        library = importlib.import_module({"jax": "jax.numpy"}.get(self.array, self.array))
        dtype, X = getattr(library, self.dtype), np.ascontiguousarray(X)
        if self.array == "torch":
            return library.tensor(X, device="cpu").to(dtype).to(self.device or "cpu")
        with self.scope():
            return library.array(X, dtype=dtype)

    def wait(self) -> None:
        """Wait until the device has finished its work; errors of the device are raised here."""
        if self.array == "cupy":
            importlib.import_module("cupy").cuda.get_current_stream().synchronize()
        elif self.array == "torch" and self.device is not None:
            torch = importlib.import_module("torch")
            device = torch.device(self.device)
            if device.type != "cpu":
                torch.get_device_module(device).current_stream(device).synchronize()

    def try_out(self) -> None:
        """Raise ``ValueError`` unless arrays can be made here and read again,
        ``ModuleNotFoundError`` without the library.
        """
        try:
            self.rounded(np.ones((1, 1)))
        except ModuleNotFoundError:
            raise
        except Exception as problem:  # every library has its own, torch's assertions included
            where = f" on the device {self.device!r}" if self.device else ""
            wanted = f"expected {self.array} to make and read arrays{where}"
            raise ValueError(f"device: {wanted}, found {words(problem)}") from problem

    def back(self, X: Array) -> Matrix:
        """A NumPy copy; reduced precision that NumPy lacks becomes float32."""
        return to_numpy(X)

    def rounded(self, X: Matrix) -> Matrix:
        """The values of ``X`` rounded to the dtype, in NumPy."""
        return self.back(self.to(X))


def layouts(layout: str) -> tuple[str, ...]:
    """The memory layouts of U, S, V, dK, dL, dS: all alike; the gradients in another layout than
    the factors ("mixed", "swapped", "expanded"); or one argument alone in another layout, such as
    "columns:dK".
    """
    how, _, alone = layout.partition(":")
    if alone:
        return tuple(how if name == alone else "rows" for name in ARGUMENTS)
    rows, columns, repeated = ("rows",) * 3, ("columns",) * 3, ("expanded", "expanded", "rows")
    return {"mixed": rows + columns, "swapped": columns + rows, "expanded": rows + repeated}.get(
        layout, (layout,) * 6
    )


def taken_away(X: Array) -> bool:
    """Return whether an array has lost its contents: a compiled JAX function may take the memory of
    its arguments (donation).
    """
    return hasattr(X, "is_deleted") and bool(X.is_deleted())


def share_memory(X: Array, Y: Array) -> bool:
    """Return whether two arrays of one library share a number in memory; False for JAX, whose
    arrays never change.
    """
    if isinstance(X, np.ndarray) and isinstance(Y, np.ndarray):
        return bool(np.may_share_memory(X, Y) and np.shares_memory(X, Y))
    if hasattr(X, "untyped_storage") and hasattr(Y, "untyped_storage"):
        if X.untyped_storage().data_ptr() != Y.untyped_storage().data_ptr():
            return False
        nothing = np.empty(X.untyped_storage().nbytes(), np.uint8)  # never written: takes no memory
        return bool(np.shares_memory(_as_view(X, nothing), _as_view(Y, nothing)))
    return X is Y and not hasattr(X, "is_deleted")


def _as_view(X: Any, memory: NDArray[np.uint8]) -> NDArray[Any]:
    """A view of this memory with the offset, shape and strides of a torch tensor."""
    size = X.element_size()
    strides = [size * step for step in X.stride()]
    return np.ndarray(tuple(X.shape), f"V{size}", memory, X.storage_offset() * size, strides)

"""The array libraries and dtypes that the core is tested on."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from geolora_ref.arrays import Array, to_numpy

__all__ = ["DTYPES", "LIBRARIES", "NUMPY", "Dtype", "Library", "bytes_of", "load"]

LIBRARIES = ("numpy", "torch", "array_api_strict")


@dataclass(frozen=True)
class Library:
    """An array library that follows the array API standard."""

    name: str
    module: Any

    def array(self, X: NDArray[Any]) -> Array:
        """A copy of ``X`` in this library."""
        return self.module.asarray(X.copy())


@dataclass(frozen=True)
class Dtype:
    """A working precision: the real dtype that sets eps, and whether the data are complex."""

    name: str
    real: type[np.floating[Any]]
    complex: bool

    @property
    def eps(self) -> float:
        """The distance from 1 to the next number."""
        return float(np.finfo(self.real).eps)


DTYPES = (
    Dtype("float32", np.float32, False),
    Dtype("float64", np.float64, False),
    Dtype("complex64", np.float32, True),
    Dtype("complex128", np.float64, True),
)
NUMPY = Library("numpy", np)


def load(name: str) -> Library:
    """The library, or a skipped test that says which one is missing."""
    module = pytest.importorskip(name, reason=f"{name} is not installed")
    if name == "torch":
        module.set_num_threads(
            1
        )  # the matrices are small, and several test processes share the cores
    return Library(name, module)


def bytes_of(arrays: Iterable[Array]) -> tuple[bytes, ...]:
    """The contents of arrays, to prove that a call changed nothing."""
    return tuple(to_numpy(X).tobytes() for X in arrays)

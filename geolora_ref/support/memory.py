"""The memory that an array is a view of, and reads of it with other strides that stay within it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["memory_of", "misread", "owner_of"]

Matrix = NDArray[Any]


def memory_of(X: Matrix) -> tuple[Matrix, int]:
    """All numbers of the array that owns the memory of X, as a vector in the order of their
    addresses, and the place of X's first number among them.
    """
    owner = owner_of(X)
    begin = X.__array_interface__["data"][0] - owner.__array_interface__["data"][0]
    return owner.ravel(order="K"), begin // X.itemsize


def owner_of(X: Any) -> Any:
    """The array of NumPy or CuPy whose memory X is a view of; X itself if it owns its memory."""
    while X.base is not None:
        X = X.base
    return X


def misread(X: Matrix, strides: Sequence[int]) -> Matrix:
    """The array that code with these strides, in numbers, reads in place of X: NaN where the owner
    of X has no memory, because a read outside of it would find what the heap happens to hold.
    """
    memory, begin = memory_of(X)
    places = begin + np.tensordot(strides, np.indices(X.shape), 1)
    found = np.full(X.shape, np.nan, X.dtype)
    owned = (places >= 0) & (places < memory.size)
    found[owned] = memory[places[owned]]
    return found

"""Check that views stay in the memory that they are views of.

``np.lib.stride_tricks.as_strided`` alone makes views without checking that: slices cannot leave
their array, ``np.ndarray(buffer=…)`` and torch raise.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import numpy as np
from numpy.lib import stride_tricks
from numpy.lib.array_utils import byte_bounds

__all__ = ["watched"]


@contextmanager
def watched() -> Iterator[list[str]]:
    """A context that lists the views made by ``as_strided`` that leave the memory of their owner.

    A list, because what a step raises is caught and judged by the kit.
    """
    beyond: list[str] = []
    original = stride_tricks.as_strided

    def as_strided(x: Any, *args: Any, **kwargs: Any) -> Any:
        view = original(x, *args, **kwargs)
        owner: Any = np.asarray(x)
        while hasattr(
            owner.base, "__array_interface__"
        ):  # the base of a view may be what NumPy wraps it in
            owner = owner.base
        (low, high), (first, last) = byte_bounds(view), byte_bounds(owner)
        if view.size and not first <= low <= high <= last:
            beyond.append(
                f"{view.shape} with strides {view.strides}, {low - first} bytes into {last - first}"
            )
        return view

    with patch.object(stride_tricks, "as_strided", as_strided):
        yield beyond

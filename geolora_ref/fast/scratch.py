"""Memory for what a step needs in between, kept for the next one.

What is freed at the end of a step goes back to the system where it lies at the end of the heap, and the next step takes it again
page by page: thousands of page faults, a third of an update of rank 32 (see ``memory.py``).
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

__all__ = ["Scratch"]


MOST_VIEWS = 256
"""Of sizes that were wanted, with ranks that change; a view takes longer to make than to find."""


class Scratch:
    """Uninitialised tensors out of one piece of memory, which is as large as what was ever wanted of it at once."""

    def __init__(self, device: torch.device) -> None:
        self._memory = torch.empty(0, dtype=torch.float64, device=device)
        self._views: dict[Any, tuple[Tensor, int]] = {}
        self._taken = 0

    def clear(self) -> None:
        """Nothing that was taken so far is needed any more."""
        self._taken = 0
        if len(self._views) > MOST_VIEWS:
            self._views.clear()

    def take(self, *shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
        """Contiguous, float64 or float32, and apart from all that was taken since :meth:`clear`."""
        key = self._taken, dtype, shape
        if key not in self._views:
            self._views[key] = self._view(shape, dtype)
        view, self._taken = self._views[key]
        return view

    def _view(self, shape: tuple[int, ...], dtype: torch.dtype) -> tuple[Tensor, int]:
        """Behind what is taken, and where it ends."""
        count = math.prod(shape)
        end = self._taken + math.ceil(count * dtype.itemsize / 8)
        if end > len(self._memory):  # what was taken before keeps the old memory alive
            self._memory = self._memory.new_empty(end)
            self._views.clear()
        return self._memory[self._taken : end].view(dtype)[:count].view(shape), end

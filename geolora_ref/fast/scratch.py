"""Memory for what a step needs in between, kept for the next one.

What is freed at the end of a step goes back to the system where it lies at the end of the heap, and the next step takes it again
page by page: thousands of page faults, a third of an update of rank 32 (see ``memory.py``).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["Scratch"]


class Scratch:
    """Uninitialised float64 tensors out of one piece of memory, which is as large as what was ever wanted of it at once."""

    def __init__(self, device: torch.device) -> None:
        self._memory = torch.empty(0, dtype=torch.float64, device=device)
        self._taken = 0

    def clear(self) -> None:
        """Nothing that was taken so far is needed any more."""
        self._taken = 0

    def take(self, *shape: int) -> Tensor:
        """Contiguous, and apart from all that was taken since :meth:`clear`."""
        begin, self._taken = self._taken, self._taken + math.prod(shape)
        if self._taken > len(self._memory):  # what was taken before keeps the old memory alive
            self._memory = self._memory.new_empty(self._taken)
        return self._memory[begin : self._taken].view(shape)

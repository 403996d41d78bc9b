"""The array libraries at hand: NumPy always, torch where it is installed."""

from __future__ import annotations

import importlib.util
from typing import Any

import numpy as np

__all__ = ["available", "convert"]


def available() -> tuple[str, ...]:
    """The names of the libraries that the parity cases run on."""
    return ("numpy", "torch") if importlib.util.find_spec("torch") else ("numpy",)


def convert(X: np.ndarray[Any, Any], library: str) -> Any:
    """A NumPy array as an array of this library (CPU)."""
    if library == "numpy":
        return X
    import torch

    return torch.from_numpy(np.ascontiguousarray(X))

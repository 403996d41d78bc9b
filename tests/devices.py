"""The devices that tests run on: the CPU always, so that the very same code is tried everywhere,
and CUDA where there is one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from numpy.typing import NDArray

from geolora_ref.arrays import Array
from tests.libraries import Library
from verification.parity.measure import missing

__all__ = ["DEVICES", "NO_CUDA", "OnDevice"]

NO_CUDA = missing("cuda")
"""Why there is no CUDA device here, or an empty string; torch states it in full only once."""
CUDA = pytest.param(
    "cuda", marks=[pytest.mark.gpu, pytest.mark.skipif(bool(NO_CUDA), reason=NO_CUDA or "-")]
)
DEVICES = ("cpu", CUDA)


@dataclass(frozen=True)
class OnDevice(Library):
    """torch, with arrays on a device."""

    device: str

    @classmethod
    def of(cls, device: str) -> OnDevice:
        """torch on this device."""
        return cls("torch", torch, device)

    def array(self, X: NDArray[Any]) -> Array:
        """A copy of ``X`` there."""
        return torch.asarray(X.copy(), device=self.device)

"""Autocast where there is any: some devices, meta for one, have none, and torch refuses to be asked about them."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

__all__ = ["autocasts", "no_autocast"]


ASKED_IN_GRAPHS = hasattr(torch.backends.mkldnn, "matmul")
"""Whether compiled code may ask if there is autocast, as since torch 2.9; before, it is taken to be there."""


def autocasts(device: str) -> bool:
    """Whether autocast is on for this type of device."""
    if torch.compiler.is_compiling() and not ASKED_IN_GRAPHS:
        return torch.is_autocast_enabled(device)
    return torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)


def no_autocast(device: str) -> AbstractContextManager[Any]:
    """Within this context it is off."""
    return torch.autocast(device, enabled=False) if torch.amp.is_autocast_available(device) else nullcontext()

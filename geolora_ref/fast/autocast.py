"""Autocast where there is any: some devices, meta for one, have none, and torch refuses to be asked about them."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

__all__ = ["autocasts", "no_autocast"]


def autocasts(device: str) -> bool:
    """Whether autocast is on for this type of device."""
    return _is_available(device) and torch.is_autocast_enabled(device)


def no_autocast(device: str) -> AbstractContextManager[Any]:
    """Within this context it is off.  Where it is off already there is nothing to do, and nothing to pay."""
    is_on = _is_available(device) if torch.compiler.is_compiling() else autocasts(device)
    return torch.autocast(device, enabled=False) if is_on else nullcontext()


def _is_available(device: str) -> bool:
    """Compiled code cannot ask torch in every release (not in 2.9): there, meta is the one that has none."""
    return device != "meta" if torch.compiler.is_compiling() else torch.amp.is_autocast_available(device)

"""Products in the precision of their factors, whatever torch has been allowed to do elsewhere."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

import torch

from geolora_ref.fast.autocast import no_autocast
from geolora_ref.fast.precision import whole_products

__all__ = ["own_precision"]


def own_precision(device: torch.device) -> AbstractContextManager[Any]:
    """Within this context products have the dtype of their factors and all of its bits: no autocast, no TensorFloat-32.

    Bases that are updated by products with fewer bits would not stay orthonormal.  In compiled code, which runs with the
    settings that it was compiled for, autocast alone is switched off.
    """
    uncast = no_autocast(device.type)
    return uncast if torch.compiler.is_compiling() else whole_products(uncast)

"""Whether a layer computes with one merged weight, W₀ + scale·U S Vᵀ, in place of two more products of its rows.

Of T rows the products a Kᵀ and b Lᵀ of the adapter are passes over T·m numbers forward and T·n backward; a merged weight is
formed by one over m·n.  It is rounded like the weight: the adapter loses what lies below half a unit in the last place of W₀.
Beside the rounding of x W₀ᵀ that is nothing where products have all bits of float32.  In half precision, in which adapters are
often smaller than that, it may be everything.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from geolora_ref.fast.precision import float32_is_whole

__all__ = ["merging_pays"]

LEAST_ROWS = 8
"""T in units of m·n / (m + n) from which on weights are merged.

A layer then takes 0.95 to 0.99 of its time (m and n from 256 to 3072, r = 8; from 4 units on already), and the matrix, which is
kept for the backward pass, is no larger than an eighth of x and y.
"""


def merging_pays(x: Tensor, W: Tensor) -> bool:
    """Whether x (…, n) has rows enough for a merged weight in place of W (m, n), and products keep all bits of it.

    Not on a device, where float32 may have the bits of TensorFloat-32 and nothing was measured; nor compiled, where the number
    of rows may not be known.
    """
    m, n = W.shape
    return (
        not torch.compiler.is_compiling()
        and x.device.type == "cpu"
        and math.prod(x.shape[:-1]) * (m + n) >= LEAST_ROWS * m * n
        and (W.dtype == torch.float64 or (W.dtype == torch.float32 and float32_is_whole()))
    )

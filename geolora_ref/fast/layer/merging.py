"""Decide whether a layer uses one merged weight, W₀ + scale·U S Vᵀ, in place of two extra products
per pass.

For T rows the products a Kᵀ and b Lᵀ of the adapter are passes over T·m numbers forward and T·n
backward; a merged weight is formed in one pass over m·n numbers.  It is rounded like W₀: the
adapter loses its part below half a unit in the last place of W₀.  That is negligible against the
rounding of x W₀ᵀ if products have all bits of float32.  In half precision the whole adapter is
often smaller than that unit and may be lost.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from geolora_ref.fast.precision import float32_is_whole

__all__ = ["merging_pays"]

LEAST_ROWS = 8
"""The number of rows, in units of m·n / (m + n), from which on weights are merged.

A layer then takes 0.95 to 0.99 of the unmerged time (m and n from 256 to 3072, r = 8; already from
4 units on).  The matrix, which is kept for the backward pass, is then no larger than an eighth
of x and y.
"""


def merging_pays(x: Tensor, W: Tensor) -> bool:
    """Return whether x (…, n) has enough rows for a merged weight in place of W (m, n), and
    products keep all its bits.

    Never on an accelerator, where float32 may mean TensorFloat-32 and nothing was measured; never
    in compiled code, where the number of rows may be unknown.
    """
    m, n = W.shape
    return (
        not torch.compiler.is_compiling()
        and x.device.type == "cpu"
        and math.prod(x.shape[:-1]) * (m + n) >= LEAST_ROWS * m * n
        and (W.dtype == torch.float64 or (W.dtype == torch.float32 and float32_is_whole()))
    )

"""The six skinny products of an adapted layer, taken in blocks of rows.

The time of a product (rows, n)·(n, r) with many rows and few columns depends on how a BLAS splits
it, not on arithmetic or memory.  Two measures together nearly halve the time.  The rows are cut
into blocks, and the products of all blocks are one batch.  Matrices with r columns are stored
transposed: the bases (r, n) and (r, m), and the array (B, r, rows / B) between the two sides of a
layer, which :func:`down` makes and :func:`up`, :func:`add_up` and :func:`gradient` use.

A single block is treated as one row-major matrix: transposed, or as a batch of one, its products
take longer.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["add_up", "down", "gradient", "row_blocks", "up"]

LEAST_ROWS = 256
"""Rows of the smallest block: with fewer rows the batch costs more than it saves."""


def row_blocks(x: Tensor) -> Tensor:
    """x (…, n) as (B, rows / B, n), a view of contiguous x; B is the largest power of two that
    gives equal, large enough blocks.

    16-bit numbers get one block: a sum over blocks would round every part to 16 bits, one product
    rounds only the sum.
    """
    rows, blocks = math.prod(x.shape[:-1]), 1
    if x.element_size() > 2:
        while _known(rows % (2 * blocks) == 0) and _known(rows // (2 * blocks) >= LEAST_ROWS):
            blocks *= 2
    return x.reshape(blocks, rows // blocks, x.shape[-1])


def _known(condition: bool | torch.SymBool) -> bool:
    """The condition; under ``torch.compile`` with dynamic sizes, whether it holds for every
    possible size.
    """
    if torch.compiler.is_compiling():
        from torch.fx.experimental.symbolic_shapes import statically_known_true

        return statically_known_true(condition)
    return bool(condition)


def down(x: Tensor, V: Tensor) -> Tensor:
    """(x V)ᵀ, (B, r, rows / B), of blocks x (B, rows / B, n) and a basis V (n, r)."""
    if x.shape[0] == 1:
        return torch.mm(x[0], V).mT[None]
    return torch.bmm(V.mT.expand(x.shape[0], -1, -1), x.mT)


def up(at: Tensor, Kt: Tensor) -> Tensor:
    """a Kᵀ, (B, rows / B, m), of aᵀ (B, r, rows / B) and Kᵀ (r, m)."""
    if at.shape[0] == 1:
        return torch.mm(at[0].mT, Kt)[None]
    return torch.bmm(at.mT, Kt.expand(at.shape[0], -1, -1))


def add_up(y: Tensor, at: Tensor, Kt: Tensor, scale: float) -> Tensor:
    """y + scale·a Kᵀ in place, for y (B, rows / B, m) and otherwise as :func:`up`."""
    if at.shape[0] == 1:
        y[0].addmm_(at[0].mT, Kt, alpha=scale)
        return y
    return y.baddbmm_(at.mT, Kt.expand(at.shape[0], -1, -1), alpha=scale)


def gradient(at: Tensor, g: Tensor) -> Tensor:
    """aᵀ g, (r, m), summed over the blocks of aᵀ (B, r, rows / B) and g (B, rows / B, m)."""
    if at.shape[0] == 1:
        return torch.mm(at[0], g[0])
    return torch.bmm(at, g).sum(0)

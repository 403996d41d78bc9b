"""The six skinny products of an adapted layer, taken in blocks of rows.

A product (rows, n)·(n, r) with many rows and few columns is bound by the way a BLAS cuts it up, not by arithmetic or memory.
Two things together nearly halve its time: the rows are cut into blocks, one product each in one batch, and what has r columns is
kept transposed, the bases (r, n) and (r, m) as well as all that passes between the two sides of a layer: an array
(B, r, rows / B), which :func:`down` makes and :func:`up`, :func:`add_up` and :func:`gradient` use.

A single block is treated as one matrix and kept row by row: transposed, or as a batch of one, its products take longer.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["add_up", "down", "gradient", "row_blocks", "up"]

LEAST_ROWS = 256
"""Rows of the smallest block: with fewer, the batch costs more than it saves."""


def row_blocks(x: Tensor) -> Tensor:
    """x (…, n) as (B, rows / B, n), a view of contiguous x; B is the largest power of two that cuts it evenly and not too small.

    One block for 16-bit numbers: a sum over blocks would round every part to 16 bits, one product rounds the sum alone.
    """
    rows, blocks = math.prod(x.shape[:-1]), 1
    if x.element_size() > 2:
        while _known(rows % (2 * blocks) == 0) and _known(rows // (2 * blocks) >= LEAST_ROWS):
            blocks *= 2
    return x.reshape(blocks, rows // blocks, x.shape[-1])


def _known(condition: bool | torch.SymBool) -> bool:
    """The condition; under ``torch.compile`` with sizes that may change, whether it holds for all of them."""
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

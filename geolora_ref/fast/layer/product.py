"""The product with a frozen weight, x Wᵀ + bias: most of what a layer costs, by whichever library of torch takes less time.

In float32 torch calls MKL for it.  On processors of AMD oneDNN, which torch has as well, takes 0.9 of that time for thousands of
rows, half of it for a few.  torch has no setting for this; ``torch.ops.mkldnn._linear_pointwise`` is what its own compiler
calls.  ``torch.backends.mkldnn.enabled = False`` is respected.

oneDNN compiles a product for each size, and torch keeps that for the life of the process: half a MiB a size on average, several
hundred for batches of ever new lengths.  So oneDNN gets the first ``MOST_SIZES`` sizes of a process and no others.
"""

from __future__ import annotations

import platform
from functools import cache

import torch
from torch import Tensor
from torch.utils._python_dispatch import is_in_torch_dispatch_mode

from geolora_ref.fast.layer.skinny import add_up, up

__all__ = ["input_gradient", "product", "takes_onednn"]

LEAST_WORK = 2**24
"""Multiplications from which on oneDNN is faster; what it does before the first of them takes some 10 µs."""
MOST_SIZES = 64
"""Twenty lengths of a batch, for a network with three kinds of layers."""
_sizes: set[tuple[int, int, int]] = set()
"""Rows, m and n of what went to oneDNN: like what torch keeps of them, of the whole process."""


def product(x: Tensor, W: Tensor, bias: Tensor | None = None) -> Tensor:
    """x Wᵀ + bias, (…, m), of x (…, n) and W (m, n)."""
    if takes_onednn(x, W):
        y: Tensor = torch.ops.mkldnn._linear_pointwise(x, W, bias, "none", [], "")
        return y
    return torch.nn.functional.linear(x, W, bias)


def input_gradient(g: Tensor, W: Tensor, bt: Tensor, Lt: Tensor) -> Tensor:
    """g W + b Lᵀ, (rows, n) in the blocks of g or in none, of g (B, rows / B, m), W (m, n), bᵀ (B, r, rows / B) and Lᵀ (r, n).

    The big product is accumulated, which spares a pass over the result, where it takes no longer for that.
    """
    if g.element_size() == 2 or takes_onednn(g, W.mT):
        return add_up(product(g, W.mT), bt, Lt, 1.0)
    return up(bt, Lt).view(-1, W.shape[1]).addmm_(g.reshape(-1, W.shape[0]), W)


def takes_onednn(x: Tensor, W: Tensor) -> bool:
    """Whether x Wᵀ goes to oneDNN: a large one of plain float32 tensors which nobody will differentiate, compile, or watch by
    the names of its operations (flop counters, policies of checkpoints), and no W with gaps between its rows.
    """
    return (
        not torch.compiler.is_compiling()
        and x.dtype == W.dtype == torch.float32
        and x.device.type == W.device.type == "cpu"
        and x.numel() * W.shape[0] >= LEAST_WORK
        and not torch.is_grad_enabled()
        and onednn_is_faster()
        and bool(torch.backends.mkldnn.enabled)
        and not is_in_torch_dispatch_mode()
        and all(type(X) in (Tensor, torch.nn.Parameter) for X in (x, W))
        and (W.is_contiguous() or W.mT.is_contiguous())
        and _has_a_place((x.numel() // W.shape[1], *W.shape))
    )


def _has_a_place(size: tuple[int, int, int]) -> bool:
    """Whether the size is among the first ``MOST_SIZES`` of the process; a new one is counted."""
    if len(_sizes) < MOST_SIZES:
        _sizes.add(size)
    return size in _sizes


@cache
def onednn_is_faster() -> bool:
    """A processor of AMD, and a torch with both libraries; not measured elsewhere."""
    return torch.backends.mkl.is_available() and torch.backends.mkldnn.is_available() and "AuthenticAMD" in _processor()


def _processor() -> str:
    """What the system tells of the first processor, its maker included."""
    try:
        with open("/proc/cpuinfo", encoding="ascii", errors="replace") as file:
            return file.read(4096)
    except OSError:  # not Linux
        return platform.processor()

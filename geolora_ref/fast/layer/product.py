"""The product with a frozen weight, x Wᵀ + bias, by the faster of torch's libraries: it is most of
a layer's cost.

In float32 torch calls MKL.  On AMD processors oneDNN, which torch ships too, takes 0.9 of MKL's
time for thousands of rows, and half of it for a few rows.  torch has no setting to choose oneDNN,
so this module calls ``torch.ops.mkldnn._linear_pointwise``, as torch's own compiler does.
``torch.backends.mkldnn.enabled = False`` is respected.

oneDNN compiles a kernel for each size, and torch keeps every kernel for the life of the process:
half a MiB a size on average, several hundred MiB for batches of ever new lengths.  So oneDNN gets
only the first ``MOST_SIZES`` sizes of a process.
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
"""The number of multiplications from which on oneDNN is faster; its fixed cost per call is some 10 µs."""
MOST_SIZES = 64
"""The most sizes that go to oneDNN: twenty batch lengths for a network with three kinds of layers."""
_sizes: set[tuple[int, int, int]] = set()
"""Sizes (rows, m, n) that went to oneDNN, for the whole process, like the kernels that torch keeps
for them.
"""


def product(x: Tensor, W: Tensor, bias: Tensor | None = None) -> Tensor:
    """x Wᵀ + bias, (…, m), of x (…, n) and W (m, n)."""
    if takes_onednn(x, W):
        y: Tensor = torch.ops.mkldnn._linear_pointwise(x, W, bias, "none", [], "")
        return y
    return torch.nn.functional.linear(x, W, bias)


def input_gradient(g: Tensor, W: Tensor, bt: Tensor, Lt: Tensor) -> Tensor:
    """g W + b Lᵀ from g (B, rows / B, m), W (m, n), bᵀ (B, r, rows / B) and Lᵀ (r, n); (rows, n),
    or in the blocks of g.

    The big product is accumulated into the small one where that costs no time: it saves a pass over
    the result.
    """
    if g.element_size() == 2 or takes_onednn(g, W.mT):
        return add_up(product(g, W.mT), bt, Lt, 1.0)
    return up(bt, Lt).view(-1, W.shape[1]).addmm_(g.reshape(-1, W.shape[0]), W)


def takes_onednn(x: Tensor, W: Tensor) -> bool:
    """Return whether x Wᵀ goes to oneDNN: a large product of plain float32 CPU tensors with a W
    without gaps, outside of autograd, of ``torch.compile`` and of dispatch modes, which know
    operations by name (flop counters, checkpoint policies).
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
    """Return whether the size is among the first ``MOST_SIZES`` of the process; a new size is added
    while there is room.
    """
    if len(_sizes) < MOST_SIZES:
        _sizes.add(size)
    return size in _sizes


@cache
def onednn_is_faster() -> bool:
    """Return whether this is an AMD processor and torch has both libraries; other processors were
    not measured.
    """
    return (
        torch.backends.mkl.is_available()
        and torch.backends.mkldnn.is_available()
        and "AuthenticAMD" in _processor()
    )


def _processor() -> str:
    """The system's description of the first processor, which includes its vendor."""
    try:
        with open("/proc/cpuinfo", encoding="ascii", errors="replace") as file:
            return file.read(4096)
    except OSError:  # not Linux
        return platform.processor()

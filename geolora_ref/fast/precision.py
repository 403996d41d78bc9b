"""Contexts for products in the full precision of their factors: without autocast, and float32
without TensorFloat-32.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch

__all__ = ["autocasts", "float32_is_whole", "no_autocast", "own_precision", "whole_products"]

WHOLE = ("ieee", "none")
"""Values of a backend's ``fp32_precision`` that mean all 24 bits."""


def autocasts(device: str) -> bool:
    """Return whether autocast is on for this type of device; for types without autocast, such as
    meta, torch's own query raises.
    """
    return _has_autocast(device) and torch.is_autocast_enabled(device)


def no_autocast(device: str) -> AbstractContextManager[Any]:
    """Within this context autocast is off.  Where it is off already the context costs nothing."""
    is_on = _has_autocast(device) if torch.compiler.is_compiling() else autocasts(device)
    return torch.autocast(device, enabled=False) if is_on else nullcontext()


def _has_autocast(device: str) -> bool:
    """Return whether a type of device has autocast.  Compiled code cannot ask torch in 2.9: there,
    all types but meta count.
    """
    return (
        device != "meta"
        if torch.compiler.is_compiling()
        else torch.amp.is_autocast_available(device)
    )


def own_precision(device: torch.device) -> AbstractContextManager[Any]:
    """Within this context products have the dtype of their factors and all of its bits: no
    autocast, no TensorFloat-32.

    Bases that are updated by products with fewer bits would not stay orthonormal.  In compiled
    code, which runs with the settings that it was compiled for, autocast alone is switched off.
    """
    uncast = no_autocast(device.type)
    return uncast if torch.compiler.is_compiling() else whole_products(uncast)


def float32_is_whole() -> bool:
    """Return whether float32 products on the CPU have all 24 bits by the present settings."""
    if not hasattr(torch.backends.mkldnn, "matmul"):
        return torch.get_float32_matmul_precision() == "highest"
    return torch.backends.mkldnn.matmul.fp32_precision in WHOLE


@contextmanager
def whole_products(within: AbstractContextManager[Any] | None = None) -> Iterator[None]:
    """Within this context, and ``within`` inside it, float32 products have all 24 bits, even if
    ``torch.set_float32_matmul_precision`` or a backend's ``fp32_precision`` allows 11 or 8 bits.

    The setting is global to the process and is restored afterwards: a backend that inherited a more
    general setting inherits it again.
    """
    before = _allowed()
    try:
        for backend in before:
            _allow(backend, "highest" if backend is torch else "ieee")
        with within or nullcontext():
            yield
    finally:
        for backend, precision in before.items():
            if (
                backend is not torch
            ):  # an inherited value reads like one of its own: inherit, then compare
                _allow(backend, "none")
            if backend is torch or backend.fp32_precision != precision:
                _allow(backend, precision)


def _allowed() -> dict[Any, str]:
    """The backends whose float32 products may have fewer bits, with their settings; ``torch``
    itself before release 2.9.
    """
    if not hasattr(torch.backends.mkldnn, "matmul"):
        precision = torch.get_float32_matmul_precision()
        return {} if precision == "highest" else {torch: precision}
    backends = (torch.backends.cuda.matmul, torch.backends.mkldnn.matmul)
    return {
        backend: backend.fp32_precision
        for backend in backends
        if backend.fp32_precision not in WHOLE
    }


def _allow(backend: Any, precision: str) -> None:
    if backend is torch:
        torch.set_float32_matmul_precision(precision)
    else:
        backend.fp32_precision = precision

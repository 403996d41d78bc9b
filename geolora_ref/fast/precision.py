"""Products of float32 with all of its bits, whatever torch has been allowed to do elsewhere."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch

__all__ = ["float32_is_whole", "whole_products"]

WHOLE = ("ieee", "none")
"""What a backend says that has all bits."""


def float32_is_whole() -> bool:
    """Whether products on the processor have all 24 bits as things are."""
    if not hasattr(torch.backends.mkldnn, "matmul"):
        return torch.get_float32_matmul_precision() == "highest"
    return torch.backends.mkldnn.matmul.fp32_precision in WHOLE


@contextmanager
def whole_products(within: AbstractContextManager[Any] | None = None) -> Iterator[None]:
    """Products of float32 have all 24 bits here, also where ``torch.set_float32_matmul_precision`` or a backend's
    ``fp32_precision`` allows 11 or 8 of them, and inside another context.

    The setting is that of the process, and is what it was afterwards; where a backend followed a more general setting, it does
    so again (as it does if it was told by itself what that one says as well).
    """
    before = _allowed()
    try:
        for backend in before:
            _allow(backend, "highest" if backend is torch else "ieee")
        with within or nullcontext():
            yield
    finally:
        for backend, precision in before.items():
            if backend is not torch:  # what it inherits is told like what it was told
                _allow(backend, "none")
            if backend is torch or backend.fp32_precision != precision:
                _allow(backend, precision)


def _allowed() -> dict[Any, str]:
    """Where products of float32 may have fewer bits, and what is set there; ``torch`` itself stands for releases before 2.9."""
    if not hasattr(torch.backends.mkldnn, "matmul"):
        precision = torch.get_float32_matmul_precision()
        return {} if precision == "highest" else {torch: precision}
    backends = (torch.backends.cuda.matmul, torch.backends.mkldnn.matmul)
    return {backend: backend.fp32_precision for backend in backends if backend.fp32_precision not in WHOLE}


def _allow(backend: Any, precision: str) -> None:
    if backend is torch:
        torch.set_float32_matmul_precision(precision)
    else:
        backend.fp32_precision = precision

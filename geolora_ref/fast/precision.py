"""Whether products of float32 have all of its bits: torch may be told to take fewer, where processors have such products."""

from __future__ import annotations

import torch

__all__ = ["float32_is_whole"]


def float32_is_whole() -> bool:
    """Whether torch has not been told to take fewer on the processor."""
    if not hasattr(torch.backends.mkldnn, "matmul"):  # releases before 2.9
        return torch.get_float32_matmul_precision() == "highest"
    return torch.backends.mkldnn.matmul.fp32_precision in ("ieee", "none")

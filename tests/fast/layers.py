"""Layers and updates that the tests of the fast path share."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from geolora_ref.fast.update.bank import LayerFactors

__all__ = ["defect", "random_layer", "random_layers", "random_update"]

SHAPES = ((24, 16), (16, 24), (24, 24), (16, 16), (31, 16))


def random_layer(
    m: int, n: int, r: int, generator: torch.Generator, dtype: torch.dtype = torch.float64
) -> LayerFactors:
    """Orthonormal U, V, column by column, and a dense S."""
    U, V = (
        torch.linalg.qr(torch.randn(k, r, generator=generator, dtype=torch.float64))[0]
        for k in (m, n)
    )
    S = torch.randn(r, r, generator=generator, dtype=torch.float64)
    return U.mT.contiguous().mT.to(dtype), S.to(dtype), V.mT.contiguous().mT.to(dtype)


def random_layers(
    ranks: Sequence[int], generator: torch.Generator, dtype: torch.dtype = torch.float64
) -> list[LayerFactors]:
    """A layer of each rank, the shapes in turn."""
    return [
        random_layer(*SHAPES[i % len(SHAPES)], r, generator, dtype) for i, r in enumerate(ranks)
    ]


def random_update(
    factors: LayerFactors, generator: torch.Generator, size: float = 0.1
) -> LayerFactors:
    """ΔK, ΔL, ΔS that are no projections of one gradient, as momentum leaves them."""
    U, S, V = factors
    return tuple(
        size * torch.randn(X.shape, generator=generator, dtype=torch.float64).to(X.dtype)
        for X in (U, V, S)
    )  # type: ignore[return-value]


def defect(U: Tensor) -> float:
    """max |UᵀU − I|, in float64."""
    U = U.double()
    return float((U.mT @ U - torch.eye(U.shape[1], dtype=U.dtype, device=U.device)).abs().max())

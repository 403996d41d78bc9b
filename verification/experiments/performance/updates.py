"""The update alone: how long one step of all layers takes, and how it grows with m, r and the number of layers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from geolora_ref import LowRank, ProjectedGradients, geolora_step
from geolora_ref.fast import LayerBank
from geolora_ref.fast.bank import Factors

__all__ = ["GRID", "SIDE_BY_SIDE", "Size", "fitted_exponent", "update_rows"]


@dataclass(frozen=True)
class Size:
    """``layers`` square layers of size m and rank r."""

    layers: int
    m: int
    r: int


SIDE_BY_SIDE = tuple(Size(36, 384, r) for r in (4, 8, 16, 32))
GRID = {
    "m": tuple(Size(12, m, r) for r in (4, 16, 64) for m in (256, 512, 1024, 2048, 4096, 8192)),
    "r": tuple(Size(12, m, r) for m in (1024, 4096) for r in (4, 8, 16, 32, 64)),
    "layers": tuple(Size(layers, 768, 8) for layers in (1, 4, 12, 36, 100, 200)),
}
"""One growing axis each; exponents are fitted along it."""


def layers_of(size: Size) -> tuple[list[Factors], list[Factors]]:
    """Layers and updates of them, λ times gradients of full rank, column by column."""
    generator = torch.Generator().manual_seed(0)
    draw: Callable[..., torch.Tensor] = lambda *shape: torch.randn(shape, generator=generator)  # noqa: E731
    layers, updates = [], []
    for _ in range(size.layers):
        U, V = (torch.linalg.qr(draw(size.m, size.r))[0].mT.contiguous().mT for _ in range(2))
        layers.append((U, torch.diag(torch.linspace(1.0, 0.2, size.r)), V))
        dK, dL = (0.01 * draw(size.r, size.m).mT / size.m**0.5 for _ in range(2))
        updates.append((dK, dL, U.mT @ dK))
    return layers, updates


def update_rows(size: Size, *, reference: bool) -> dict[str, Callable[[], None]]:
    """The fast step at fixed rank, AdamW on the two factors of LoRA, and the reference step layer by layer."""
    layers, updates = layers_of(size)
    bank = LayerBank.of(layers, capacity=size.r)
    delta_K, delta_L, delta_S = (list(X) for X in zip(*updates, strict=True))
    parameters = [nn.Parameter(torch.zeros(size.r, size.m)) for _ in range(2 * size.layers)]
    for parameter in parameters:
        parameter.grad = torch.randn(size.r, size.m, generator=torch.Generator().manual_seed(1))
    optimizer = torch.optim.AdamW(parameters, lr=1e-6, foreach=True)

    def fast() -> None:
        bank.update_(delta_K, delta_L, delta_S, tau=0.0, min_rank=size.r, max_rank=size.r)

    def adamw() -> None:
        optimizer.step()

    def slow() -> None:
        for (U, S, V), (dK, dL, dS) in zip(layers, updates, strict=True):
            gradients = ProjectedGradients(dK=dK, dL=dL, dS=dS)
            geolora_step(LowRank(U, S, V), gradients, learning_rate=1.0, tau=0.0, max_rank=size.r)

    rows = {"adamw": adamw, "fast": fast}
    return rows | {"reference": slow} if reference else rows


def fitted_exponent(sizes: Sequence[float], seconds: Sequence[float]) -> float:
    """The slope of log(seconds) over log(size), least squares."""
    return float(np.polyfit(np.log(sizes), np.log(seconds), 1)[0])

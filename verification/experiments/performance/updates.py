"""The update alone: how long one step of all layers takes, and how it grows with m, r and the number of layers."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from geolora_ref import LowRank, ProjectedGradients, geolora_step
from geolora_ref.fast import LayerBank
from geolora_ref.fast.update.bank import Factors

__all__ = ["GRID", "SIDE_BY_SIDE", "Size", "unguarded_step", "update_rows"]


RATE = 0.01


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
    """Layers and gradients of them, of full rank, column by column."""
    generator = torch.Generator().manual_seed(0)
    draw: Callable[..., torch.Tensor] = lambda *shape: torch.randn(shape, generator=generator)  # noqa: E731
    layers, gradients = [], []
    for _ in range(size.layers):
        U, V = (torch.linalg.qr(draw(size.m, size.r))[0].mT.contiguous().mT for _ in range(2))
        layers.append((U, torch.diag(torch.linspace(1.0, 0.2, size.r)), V))
        dK, dL = (draw(size.r, size.m).mT / size.m**0.5 for _ in range(2))
        gradients.append((dK, dL, U.mT @ dK))
    return layers, gradients


@torch.no_grad()
def unguarded_step(bases: Tensor, S: Tensor, updates: Tensor, delta_S: Tensor) -> tuple[Tensor, Tensor]:
    """(bases, S) after the shortest step at fixed rank, for comparison: what it saves is what makes the fast step safe.

    ``bases``, ``updates`` (2L, r, m) : all U, then all V, and ΔK, ΔL, transposed; S, ΔS (L, r, r).  In their own precision: the
    residual is orthonormalised by one Cholesky factor, which does not exist where it is rank-deficient, and the defect of the
    bases is held by one Newton–Schulz polish.
    """
    layers, r = len(S), S.shape[1]
    residual = torch.baddbmm(updates, updates @ bases.mT, bases, alpha=-1.0)
    factor, _ = torch.linalg.cholesky_ex(residual @ residual.mT)
    upper = torch.cat([S - delta_S, -factor[layers:]], dim=2)
    lower = torch.cat([-factor[:layers].mT, torch.zeros_like(S)], dim=2)
    P, sigma, Qt = torch.linalg.svd(torch.cat([upper, lower], dim=1))
    kept = torch.cat([P[:, :, :r], Qt[:, :r].mT])
    new = torch.linalg.solve_triangular(factor.mT, kept[:, r:], upper=True).mT @ residual
    new = torch.baddbmm(new, kept[:, :r].mT, bases)
    return torch.baddbmm(new, new @ new.mT, new, beta=1.5, alpha=-0.5), torch.diag_embed(sigma[:, :r])


def update_rows(size: Size, *, others: bool) -> dict[str, Callable[[], None]]:
    """AdamW on the two factors of LoRA and the fast step at fixed rank; the unguarded step and the reference as well.

    All of them begin with gradients: λ is part of the step.  The fast step, which works in place, goes to and fro, so that every
    round finds the layers as the first one did; the others do so anyway.
    """
    layers, gradients = layers_of(size)
    bank = LayerBank.of(layers, capacity=size.r)
    dK, dL, dS = (list(X) for X in zip(*gradients, strict=True))
    directions = itertools.cycle([(dK, dL), tuple([-X for X in of] for of in (dK, dL))])
    parameters = [nn.Parameter(torch.zeros(size.r, size.m)) for _ in range(2 * size.layers)]
    for parameter in parameters:
        parameter.grad = torch.randn(size.r, size.m, generator=torch.Generator().manual_seed(1))
    optimizer = torch.optim.AdamW(parameters, lr=1e-6, foreach=True)

    def fast() -> None:
        bank.update_(*next(directions), learning_rate=RATE, tau=0.0, min_rank=size.r, max_rank=size.r)

    def adamw() -> None:
        optimizer.step()

    def slow() -> None:
        for (U, S, V), (of_K, of_L, of_S) in zip(layers, gradients, strict=True):
            given = ProjectedGradients(dK=of_K, dL=of_L, dS=of_S)
            geolora_step(LowRank(U, S, V), given, learning_rate=RATE, tau=0.0, max_rank=size.r)

    bases = torch.stack([U.mT for U, _, _ in layers] + [V.mT for _, _, V in layers])
    cores = torch.stack([S for _, S, _ in layers])

    def unguarded() -> None:
        updates, delta_S = (torch.stack(X).mul_(RATE) for X in ([X.mT for X in (*dK, *dL)], dS))
        unguarded_step(bases, cores, updates, delta_S)

    rows = {"adamw": adamw, "fast": fast}
    return rows | {"unguarded": unguarded, "reference": slow} if others else rows

"""A start from the gradient: bases turned towards its leading singular vectors, W left as it is."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from geolora_ref import checks
from geolora_ref.nn.layers.adapt import adapters

__all__ = ["orient"]


def orient(model: nn.Module, closure: Callable[[], object], sweeps: int = 1) -> None:
    """U ← orth(GV), V ← orth(GᴴU) for every adapter, ``sweeps`` times: subspace iteration on G = ∇L.

    While S = 0 the bases do not enter W, so G stays the same, and GV and GᴴU are the gradients ∇_K
    and ∇_L of one backward pass each: no singular value decomposition and no dense gradient. The
    angles to the leading singular vectors fall by σ_{r+1}/σ_r at each of the 2·sweeps updates. At
    these vectors the first plain step is −λ times the best approximation of G of rank r.

    ``closure`` : sets the gradients to zero, evaluates the loss on the same data each time, and
    calls ``backward``. Gradients are left at zero.

    Raises ``ValueError`` for a model without adapters, an S that is not 0, a number of sweeps below
    1, gradients by the published route (which are 0 at S = 0), and a closure that leaves none.
    """
    found = {name: layer.adapter for name, layer in adapters(model).items()}
    if not found:
        raise ValueError("model: expected adapters, found none; see adapt(model)")
    for name, adapter in found.items():
        if bool(adapter.S.detach().any()):
            raise ValueError(
                f"{name}: expected S = 0, where the bases may turn without changing W, found another S"
            )
        if adapter.gradients != "projected":
            raise ValueError(
                f"{name}: expected gradients='projected', found {adapter.gradients!r}, which vanish at S = 0"
            )
    for _ in range(checks.integer("sweeps", sweeps, 1)):
        for side in ("U", "V"):
            closure()
            for name, adapter in found.items():
                gradients = adapter.bare_gradients()
                if gradients is None:
                    raise ValueError(
                        f"closure: expected a backward pass through {name}, found no gradient"
                    )
                basis = torch.linalg.qr(gradients.K if side == "U" else gradients.L).Q
                U, V = (basis, adapter.V) if side == "U" else (adapter.U, basis)
                adapter.assign_factors(
                    U, torch.zeros_like(adapter.S.detach()[: adapter.rank, : adapter.rank]), V
                )
                adapter.written_orthonormal()
    for adapter in found.values():
        for parameter in adapter.parameters():
            parameter.grad = None

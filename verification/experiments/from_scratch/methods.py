"""Dense, factorised and geometric low-rank training from one and the same start.

Every low-rank method starts at the best approximation of rank r of the weights that dense training
starts at, so that methods differ by their updates alone.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from geolora_ref import LowRank
from geolora_ref.finetune.methods import GeoLoRAMethod, Prepared
from geolora_ref.finetune.model import Model
from geolora_ref.nn import adapters
from geolora_ref.nn.layers.adapter import LowRankAdapter
from geolora_ref.nn.layers.functions import projected_weight
from verification.experiments.finetuning.methods import adamw
from verification.experiments.from_scratch.networks import LAYERS

__all__ = [
    "DenseMethod",
    "FactorisedMethod",
    "ScratchMethod",
    "compressed",
    "condition_penalty",
    "core_penalty",
    "spectral_start",
]


def spectral_start(weight: Tensor, rank: int) -> tuple[Tensor, Tensor, Tensor]:
    """(U, σ, V) of the best approximation of a weight, as a matrix (outputs x the rest), of at most
    this rank.
    """
    U, sigma, Vt = torch.linalg.svd(weight.detach().flatten(1), full_matrices=False)
    return U[:, :rank], sigma[:rank], Vt[:rank].mT


def layers_of(encoder: nn.Module) -> dict[str, nn.Linear | nn.Conv2d]:
    """The layers that low-rank methods compress, by name."""
    return {
        name: module
        for name, module in encoder.named_modules()
        if isinstance(module, nn.Linear | nn.Conv2d)
    }


def compressed(model: Model, rank: int) -> int:
    """Replace every layer by its truncated SVD, in place; returns the number of parameters of the
    factors.
    """
    total = 0
    for layer in layers_of(model.encoder).values():
        U, sigma, V = spectral_start(layer.weight, rank)
        with torch.no_grad():
            layer.weight.copy_((U * sigma @ V.mT).view_as(layer.weight))
        total += U.numel() + V.numel()
    return total


@dataclass(frozen=True)
class DenseMethod:
    """All weights, by AdamW."""

    lr: float
    head_lr: float = 1e-3
    name: str = "dense"

    def prepare(self, model: Model, generator: torch.Generator, steps: int) -> Prepared:
        """Nothing is compressed."""
        weights = list(model.encoder.parameters())
        return Prepared(
            adamw(model, self.lr, self.head_lr, weights),
            dict,
            lambda: sum(W.numel() for W in weights),
        )


class Product(nn.Module):
    """W = A Bᵀ with A (m x r) and B (n x r), arranged like the weight of the layer."""

    def __init__(self, shape: torch.Size, rank: int) -> None:
        super().__init__()
        self.shape, self.rank = shape, rank

    def forward(self, A: Tensor, B: Tensor) -> Tensor:
        """The weight."""
        return (A @ B.mT).view(self.shape)

    def right_inverse(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Balanced factors U √Σ and V √Σ of the best approximation of a weight."""
        U, sigma, V = spectral_start(weight, self.rank)
        return U * sigma.sqrt(), V * sigma.sqrt()


@dataclass(frozen=True)
class FactorisedMethod:
    """W = A Bᵀ, both factors by AdamW."""

    lr: float
    rank: int
    head_lr: float = 1e-3
    name: str = "factorised"

    def prepare(self, model: Model, generator: torch.Generator, steps: int) -> Prepared:
        """Put a product in the place of every weight."""
        layers = layers_of(model.encoder)
        for layer in layers.values():
            parametrize.register_parametrization(
                layer, "weight", Product(layer.weight.shape, self.rank)
            )
        factors = list(model.encoder.parameters())
        ranks = dict.fromkeys(layers, self.rank)
        return Prepared(
            adamw(model, self.lr, self.head_lr, factors),
            lambda: ranks,
            lambda: sum(X.numel() for X in factors),
        )


def condition_penalty(S: Tensor) -> Tensor:
    """R(S) = ‖SᵀS − α²I‖ with α² = ‖S‖²/r, which bounds the condition: κ(S)² ≤ 1 + √2 R/σ_r².

    σ_i² − α² are the eigenvalues of SᵀS − α²I, and (a − b)² ≤ 2(a² + b²), so σ₁² − σ_r² ≤ √2 R; hence
    also κ ≤ exp(R/(√2 σ_r²)).  R = 0 just where all singular values are equal.  Source: [SYS25].
    """
    r = S.shape[0]
    penalty: Tensor = torch.linalg.matrix_norm(
        S.mT @ S - S.square().sum() / r * torch.eye(r, dtype=S.dtype)
    )
    return penalty


def core_penalty(adapter: LowRankAdapter) -> Tensor:
    """R of the core of an adapter, with H = ∇R(S) in all three gradients: ∇_K = U H, ∇_L = V Hᵀ, ∇_S = H.

    R depends on W = U S Vᵀ by its singular values alone, so its gradient is U H Vᵀ: a tangent vector
    without a part that turns the bases.  H in ∇_S alone would be no such vector: in the tangent
    gradient ∇_K Vᵀ + U ∇_Lᵀ − U ∇_S Vᵀ it would count with the wrong sign.
    """
    return condition_penalty(adapter.U.mT @ projected_weight(*adapter.in_forward()) @ adapter.V)


@dataclass(frozen=True)
class ScratchMethod(GeoLoRAMethod):
    """GeoLoRA without a dense base: α U S Vᵀ is the whole weight of a layer.

    ``beta`` : the weight of :func:`core_penalty`, summed over the layers, in the loss.
    """

    target_modules: str | tuple[str, ...] = LAYERS
    beta: float = 0.0

    def adapt(self, model: Model, generator: torch.Generator) -> None:
        """Adapters of an empty base that hold the start."""
        starts = {
            name: layer.weight.detach().clone() for name, layer in layers_of(model.encoder).items()
        }
        super().adapt(model, generator)
        for name, layer in adapters(model.encoder).items():
            U, sigma, V = spectral_start(starts[name], layer.adapter.rank)
            layer.adapter.assign(LowRank(U, torch.diag(sigma / layer.alpha), V))
            with torch.no_grad():
                layer.base_weight.zero_()

    def prepare(self, model: Model, generator: torch.Generator, steps: int) -> Prepared:
        """Adapters and optimizer, and the penalty where it has a weight."""
        prepared, layers = (
            super().prepare(model, generator, steps),
            adapters(model.encoder).values(),
        )
        if self.beta == 0.0:
            return prepared
        return replace(
            prepared,
            penalty=lambda: (
                self.beta * torch.stack([core_penalty(layer.adapter) for layer in layers]).sum()
            ),
        )

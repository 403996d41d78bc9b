"""Small models and data for the tests of adapters, in double precision, drawn from a seed."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from geolora_ref import LowRank
from geolora_ref.nn import AdaptedLayer, adapt, adapters
from geolora_ref.nn.layers.adapter import GradientRoute, LowRankAdapter

__all__ = ["LAYERS", "adapted_layer", "difference", "fill", "network", "regression", "train"]

LAYERS: dict[str, tuple[Callable[[], nn.Module], Callable[[], Tensor]]] = {
    "linear": (lambda: nn.Linear(7, 5), lambda: torch.randn(2, 3, 7)),
    "linear without bias": (lambda: nn.Linear(5, 7, bias=False), lambda: torch.randn(4, 5)),
    "convolution": (
        lambda: nn.Conv2d(3, 6, (3, 2), stride=(2, 1), padding=(1, 0)),
        lambda: torch.randn(2, 3, 7, 6),
    ),
    "convolution, same": (
        lambda: nn.Conv2d(2, 5, 4, padding="same", dilation=2),
        lambda: torch.randn(2, 2, 8, 7),
    ),
    "convolution, reflect": (
        lambda: nn.Conv2d(2, 5, 3, padding=2, padding_mode="reflect"),
        lambda: torch.randn(1, 2, 5, 6),
    ),
    "convolution of a sequence": (
        lambda: nn.Conv1d(3, 6, 4, stride=3, padding=2),
        lambda: torch.randn(2, 3, 9),
    ),
    "convolution of a volume": (
        lambda: nn.Conv3d(2, 5, (2, 3, 1), dilation=(1, 2, 1)),
        lambda: torch.randn(2, 2, 4, 6, 3),
    ),
    "convolution, one image": (
        lambda: nn.Conv2d(2, 5, 3, padding=1, stride=2),
        lambda: torch.randn(2, 7, 6),
    ),
    "embedding": (lambda: nn.Embedding(9, 6), lambda: torch.tensor([[0, 3, 3], [8, 1, 0]])),
    "embedding with padding": (
        lambda: nn.Embedding(9, 6, padding_idx=3),
        lambda: torch.tensor([[0, 3, 3], [8, 1, 0]]),
    ),
}


def fill(adapter: LowRankAdapter, *, zero: bool = False) -> None:
    """A dense, ill-conditioned S (or S = 0) in place of the start value."""
    Y = adapter.factors()
    r = Y.rank
    S = torch.randn(r, r, dtype=Y.S.dtype) * 10.0 ** -torch.arange(r, dtype=Y.S.dtype)
    adapter.assign(LowRank(Y.U, (S * 0.0 if zero else S).to(Y.S.device), Y.V))


def adapted_layer(
    name: str,
    *,
    rank: int = 3,
    zero: bool = False,
    gradients: GradientRoute = "projected",
    device: str = "cpu",
) -> tuple[AdaptedLayer, Tensor]:
    """A layer of the table with an adapter, and an input for it."""
    make, data = LAYERS[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        model = nn.Sequential(make().double()).to(device)
        layer = adapt(model, ["0"], rank, gradients=gradients, alpha=0.7)["0"]
        fill(layer.adapter, zero=zero)
        x = data().to(device)
    return layer, x.double() if x.is_floating_point() else x


def network(
    *, seed: int = 0, rank: int = 3, max_rank: int = 8, gradients: GradientRoute = "projected"
) -> nn.Sequential:
    """Two adapted layers of different shape and a head that is trained as a whole."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = nn.Sequential(
            nn.Linear(12, 20), nn.Tanh(), nn.Linear(20, 10), nn.Tanh(), nn.Linear(10, 4)
        ).double()
        adapt(model, rank=rank, max_rank=max_rank, train=["4"], gradients=gradients)
    return model


def regression(
    *, count: int = 64, seed: int = 1, device: torch.device | str = "cpu"
) -> tuple[Tensor, Tensor]:
    """Inputs and targets."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(count, 12, dtype=torch.float64, generator=generator).to(device)
    return x, torch.sin(x[:, :4] * x[:, 4:8]) + x[:, 8:]


def train(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    steps: int,
    *,
    call: Callable[[Tensor], Tensor] | None = None,
) -> list[tuple[int, ...]]:
    """Gradient steps on the whole data; the ranks after each."""
    x, target = regression(device=next(model.parameters()).device)
    ranks = []
    for _ in range(steps):
        optimizer.zero_grad()
        ((call or model)(x) - target).square().mean().backward()
        optimizer.step()
        ranks.append(tuple(layer.adapter.rank for layer in adapters(model).values()))
    return ranks


def difference(found: Tensor, expected: Tensor) -> float:
    """‖found − expected‖ / ‖expected‖."""
    return float((found - expected).detach().norm() / expected.detach().norm())

"""Identities of adapted layers and of their optimizers, as functions that say whether they hold on
a device.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from geolora_ref import LowRank, ProjectedGradients, geolora_step
from geolora_ref.nn import GeoLoRA, adapt, adapters, parameter_count
from geolora_ref.nn.layers.adapter import LowRankAdapter
from verification.network_defects.models import LAYERS, adapted_layer, fill, network, regression

METHODS: tuple[Any, ...] = ("reference", "fast")
ROUNDING = 1e3 * torch.finfo(torch.float64).eps
"""Sums of at most 44 terms in a few layers, with room for 10 times that where terms cancel."""


def alike(X: Tensor, Y: Tensor) -> bool:
    """Equal within rounding."""
    return float((X - Y).detach().norm()) <= ROUNDING * float(Y.detach().norm())


TINY = 1e-30
"""A factor of the loss that leaves gradients below all rounding, and not 0, at which adapters stand
still.
"""


def _backward(model: nn.Module, scale: float = 1.0) -> None:
    x, target = regression(device=next(model.parameters()).device)
    model.zero_grad()
    (scale * (model(x) - target).square().mean()).backward()


def truncation_of_zeros_changes_no_output(device: str = "cpu") -> bool:
    """A step along next to no gradient cuts singular values of zero off: the same function."""
    holds = True
    for method in METHODS:
        model, (x, _) = network(rank=4).to(device), regression(device=device)
        for layer in adapters(model).values():
            U, S, V = layer.adapter.factors()
            layer.adapter.assign(
                LowRank(
                    U,
                    torch.diag(torch.tensor([1.0, 0.5, 0.0, 0.0], dtype=S.dtype, device=S.device)),
                    V,
                )
            )
        before = model(x)
        _backward(model, scale=TINY)
        GeoLoRA(model, lr=0.1, theta=1e-12, update="sgd", method=method).step()
        assert [layer.adapter.rank for layer in adapters(model).values()] == [2, 2]
        holds &= alike(model(x), before)
    return holds


def momentum_moves_with_the_bases(device: str = "cpu") -> bool:
    """With next to no gradient, heavy ball continues along β times its last direction, projected
    onto the new tangent space; the optimizer itself refuses a memory that is not tangent there.
    """
    holds, beta = True, 0.5
    for method in METHODS:
        model = network(rank=3, max_rank=3).to(device)
        for layer in adapters(model).values():
            fill(layer.adapter)
        optimizer = GeoLoRA(
            model, lr=0.1, tau=0.0, min_rank=3, update="heavy-ball", momentum=beta, method=method
        )
        _backward(model)
        before = {name: _state(layer.adapter) for name, layer in adapters(model).items()}
        optimizer.step()
        now = {
            name: LowRank(*(X.clone() for X in layer.adapter.factors()))
            for name, layer in adapters(model).items()
        }
        _backward(model, scale=TINY)
        try:
            optimizer.step()
        except RuntimeError:
            return False
        for name, layer in adapters(model).items():
            (U0, _, V0), g = before[name]
            M = g.dK @ V0.mT + U0 @ g.dL.mT - U0 @ g.dS @ V0.mT
            remembered = ProjectedGradients.from_dense(now[name], beta * M)
            expected = geolora_step(
                now[name], remembered, learning_rate=0.1, tau=0.0, min_rank=3, max_rank=3
            )
            holds &= alike(layer.adapter.full(), expected.Y.full())
    return holds


def _state(adapter: LowRankAdapter) -> tuple[LowRank, ProjectedGradients]:
    """Copies of the factors and of the gradients."""
    found = adapter.collected_gradients()
    assert isinstance(found, ProjectedGradients)
    return LowRank(*(X.clone() for X in adapter.factors())), found


def adapted_is_the_model_at_the_start(device: str = "cpu") -> bool:
    """With S = 0 every kind of layer computes what its base does, bit for bit."""
    holds = True
    for make, data in LAYERS.values():
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model, x = nn.Sequential(make()).to(device), data().to(device)
            before = model(x)
            adapt(model, ["0"], rank=3, fused=False)
        holds &= torch.equal(model(x), before)
    return holds


def merged_is_forward(device: str = "cpu") -> bool:
    """A merged base computes what base and update did together."""
    holds = True
    for name in LAYERS:
        layer, x = adapted_layer(name, device=device)
        before = layer(x)
        layer.merge()
        holds &= alike(layer(x), before)
    return holds


def whatever_has_a_gradient_moves(device: str = "cpu") -> bool:
    """A step moves every parameter outside the adapters, weights and biases alike."""
    holds = True
    for method in METHODS:
        model = network().to(device)
        optimizer = GeoLoRA(model, lr=0.05, method=method)
        _backward(model)
        rest = [
            p for group in optimizer.param_groups if not group["adapters"] for p in group["params"]
        ]
        assert all(p.grad is not None and bool(p.grad.any()) for p in rest)
        before = [p.detach().clone() for p in rest]
        optimizer.step()
        holds &= not any(torch.equal(X, Y) for X, Y in zip(rest, before, strict=True))
    return holds


def reloaded_is_the_model(device: str = "cpu") -> bool:
    """A state gives a fresh model, made for another rank, the same function."""
    model, fresh = (network(seed=seed, rank=rank).to(device) for seed, rank in ((0, 5), (1, 2)))
    x, _ = regression(device=device)
    for layer in adapters(model).values():
        fill(layer.adapter)
    fresh.load_state_dict(model.state_dict())
    return torch.equal(fresh(x), model(x))


def counted_are_the_numbers_of_the_state(device: str = "cpu") -> bool:
    """The reported number of parameters is the count of the numbers in a state."""
    model = network().to(device)
    stored: list[int] = [X.numel() for name, X in model.state_dict().items() if ".adapter." in name]
    return parameter_count(model) == sum(stored)


def overflow_of_a_scaled_loss_changes_nothing(device: str = "cpu") -> bool:
    """A step that overflows leaves model and memory bit for bit and halves the scale; once the
    scale fits, training continues.
    """
    holds = True
    for method in METHODS:
        model = network().to(device).float()
        optimizer = GeoLoRA(model, lr=0.05, method=method)
        scaler = torch.amp.GradScaler(device, init_scale=2.0**10)
        x, target = (X.float() for X in regression(device=device))
        states = []
        for factor in (1.0, 1e38, 1.0):
            optimizer.zero_grad()
            scaler.scale((model(x) - target).square().mean() * factor).backward()
            scaler.step(optimizer)
            scaler.update()
            memory = [
                X.clone()
                for state in optimizer.state.values()
                for X in state.values()
                if isinstance(X, Tensor)
            ]
            states.append([*(X.clone() for X in model.state_dict().values()), *memory])
        first, skipped, last = states
        holds &= scaler.get_scale() == 2.0**9 and _same(first, skipped) and not _same(skipped, last)
    return holds


def _same(states: list[Tensor], others: list[Tensor]) -> bool:
    return len(states) == len(others) and all(
        torch.equal(X, Y) for X, Y in zip(states, others, strict=True)
    )

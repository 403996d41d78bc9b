"""Shared by the tests of the optimizer: a model before a step, and a comparison of two states."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from geolora_ref.nn import GeoLoRA
from geolora_ref.nn.optim.adapter_optimizer import AdapterOptimizer
from geolora_ref.nn.optim.baselines import Dlrt, SimultaneousDescent
from verification.network_defects.models import regression

__all__ = ["MAKES", "METHODS", "OPTIMIZERS", "WAYS", "backward", "head_of", "same", "snapshot"]


def snapshot(model: nn.Module, optimizer: AdapterOptimizer) -> tuple[list[Tensor], dict[str, Any]]:
    """All tensors of a model, and the optimizer's state, copied."""
    return [X.clone() for X in model.state_dict().values()], copy.deepcopy(optimizer.state_dict())


def same(a: Any, b: Any) -> bool:
    """Bit for bit, through dicts and lists."""
    if isinstance(a, Tensor):
        return isinstance(b, Tensor) and torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return bool(a == b)


METHODS: tuple[Literal["reference", "fast"], ...] = ("reference", "fast")


def head_of(model: nn.Sequential) -> nn.Linear:
    """The layer that is trained as a whole."""
    head = model[4]
    assert isinstance(head, nn.Linear)
    return head


def backward(model: nn.Module, *, scale: float = 1.0) -> None:
    x, target = regression()
    (scale * (model(x) - target).square().mean()).backward()


WAYS: list[dict[str, Any]] = [
    {"tau": 0.3, "update": "adam", "lr": 0.05},
    {"tau": 0.25, "update": "adam-published"},
    {"tau": 0.1, "update": "spectral", "lr": 0.05},
    {"tau": 0.0, "max_rank": 6, "update": "spectral", "smoothing": 0.0},
    {"tau": 0.2, "update": "preconditioned", "lr": 0.01},
    {"edge": 0.5, "noise": 4.0},
    {"theta": 1e-3, "update": "sgd", "lr": 0.3},
    {"tau": 0.1, "update": "heavy-ball"},
    {"tau": 0.1, "lr": 0.03, "update": "normalised", "weight_decay": 0.01},
    {"budget": 9, "coefficient_steps": 2},
    {"budget": 400, "unit": "parameters"},
    {"tau": 0.1, "coefficient_steps": 3, "truncate": "after the cycle"},
    {"budget": 12, "coefficient_steps": 1, "truncate": "after the cycle"},
    {"theta": 1e-3, "min_rank": 3, "coefficient_steps": 1, "truncate": "after the cycle"},
    {"tau": 0.1, "max_rank": 4, "coefficient_steps": 1, "truncate": "after the cycle"},
    {"tau": 0.0, "max_rank": 4},
    {"budget": 20, "max_rank": 2},
    {"budget": 4, "min_rank": 2},
    {"tau": 0.1, "weight_decay": 0.2},
    {"tau": 0.1, "weight_decay": 0.2, "update": "sgd", "lr": 0.1},
]


OPTIMIZERS: dict[str, Callable[[nn.Module], AdapterOptimizer]] = {
    **{method: partial(GeoLoRA, lr=0.01, method=method) for method in METHODS},
    "descent": partial(SimultaneousDescent, lr=0.01),
    "dlrt": partial(Dlrt, lr=0.01),
}


MAKES: dict[str, Callable[[Any], AdapterOptimizer]] = {
    "reference": partial(GeoLoRA, lr=0.1, tau=0.1),
    "fast": partial(GeoLoRA, lr=0.1, tau=0.1, method="fast"),
    "in groups": lambda model: GeoLoRA(
        [{"module": model[k]} for k in (0, 2, 4)], lr=0.1, tau=0.1, method="fast"
    ),
    "simultaneous": partial(SimultaneousDescent, lr=0.1),
    "dlrt": partial(Dlrt, lr=0.1, tau=0.1),
}

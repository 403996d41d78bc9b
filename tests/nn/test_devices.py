"""Adapters and optimizers on a device: the identities hold there, and training is that of the
reference on the CPU.
"""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

from geolora_ref.nn import GeoLoRA, adapters
from tests.devices import DEVICES
from verification.network_defects.defects import DEFECTS, Defect
from verification.network_defects.models import network, train
from verification.parity.measure import BOUNDS

pytestmark = [
    pytest.mark.usefixtures("module_unchecked"),
    pytest.mark.parametrize("device", DEVICES),
]

METHODS = ("reference", "fast")
STEPS = 10
OPTIONS: dict[str, Any] = {"lr": 0.02, "tau": 0.2}


def differs(model: nn.Module, other: nn.Module) -> float:
    """The largest relative difference of W between two models, wherever they are."""
    pairs = zip(adapters(model).values(), adapters(other).values(), strict=True)
    both = [(a.adapter.full().cpu(), b.adapter.full().cpu()) for a, b in pairs]
    return max(float((W - other).norm() / W.norm()) for W, other in both)


@pytest.mark.parametrize("defect", DEFECTS, ids=lambda defect: defect.id)
def test_identities_hold(device: str, defect: Defect) -> None:
    assert defect.identity(device)


@pytest.mark.parametrize(("update", "tau"), [("sgd", 0.2), ("adam", 0.2), ("spectral", 0.35)])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("form", ["plain", "fused"])
def test_a_whole_training_is_that_of_the_reference_on_the_cpu(
    device: str, method: Any, update: Any, tau: float, form: str
) -> None:
    """The same ranks, which change, and W within the bound of parity for 100 steps; of another rate
    it is not.
    """
    options = OPTIONS | {"update": update, "tau": tau}
    cpu, model, other = network(rank=2), network(rank=2).to(device), network(rank=2).to(device)
    for layer in adapters(cpu).values():
        layer.fused = False
    for layer in adapters(model).values():
        layer.fused = form == "fused"
    expected = train(cpu, GeoLoRA(cpu, method="reference", **options), 2 * STEPS)
    assert len(set(expected)) > 1
    assert train(model, GeoLoRA(model, method=method, **options), 2 * STEPS) == expected
    assert differs(cpu, model) <= BOUNDS[torch.float64]
    assert {X.device.type for X in model.state_dict().values()} == {device}
    train(other, GeoLoRA(other, method=method, **options | {"lr": 0.02 * (1.0 + 1e-6)}), 2 * STEPS)
    assert differs(cpu, other) > BOUNDS[torch.float64]


@pytest.mark.parametrize("method", METHODS)
def test_a_training_goes_on_on_another_device(device: str, method: Any) -> None:
    """From the states of model and optimizer, or moved as it is; there and back again."""
    straight = network(rank=2)
    train(straight, GeoLoRA(straight, method=method, **OPTIONS), 3 * STEPS)
    model = network(rank=2)
    optimizer = GeoLoRA(model, method=method, **OPTIONS)
    train(model, optimizer, STEPS)
    moved, moved_optimizer = copy.deepcopy((model, optimizer))
    for where in (device, "cpu"):
        fresh = network(seed=3).to(where)
        fresh_optimizer = GeoLoRA(fresh, method=method, **OPTIONS)
        fresh.load_state_dict(model.state_dict())
        fresh_optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
        model, optimizer = fresh, fresh_optimizer
        moved.to(where)
        moved_optimizer.load_state_dict(moved_optimizer.state_dict())
        for each, its in ((model, optimizer), (moved, moved_optimizer)):
            train(each, its, STEPS)
            assert {X.device.type for X in each.state_dict().values()} == {where}
    assert differs(straight, model) <= BOUNDS[torch.float64]
    assert differs(straight, moved) <= BOUNDS[torch.float64]

"""The fused layer is the plain one, and steps aside for what it does not know."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from geolora_ref import LowRank
from geolora_ref.nn import adapt
from tests.nn.kinds import _hooked, _patched, single
from verification.network_defects.models import difference, fill


@pytest.mark.parametrize("fused", [False, True])
def test_a_rank_that_fills_the_storage_has_the_gradients_of_any_other(fused: bool) -> None:
    """From the parameters themselves, and not from views of them; the numbers are the same."""
    torch.manual_seed(3)
    x, base = torch.randn(6, 7, dtype=torch.float64), nn.Linear(7, 5).double()
    U, V = (torch.linalg.qr(torch.randn(k, 3, dtype=torch.float64))[0] for k in (5, 7))
    Y, found = LowRank(U, torch.randn(3, 3, dtype=torch.float64), V), []
    for max_rank in (3, 4):
        layer = adapt(nn.Sequential(copy.deepcopy(base)), ["0"], 3, max_rank=max_rank, fused=fused)[
            "0"
        ]
        layer.adapter.assign(Y)
        given = layer.adapter.in_forward()
        assert [
            X is own
            for X, own in zip(
                given, (layer.adapter.Ut, layer.adapter.S, layer.adapter.Vt), strict=True
            )
        ] == [max_rank == 3] * 3
        layer(x).square().sum().backward()
        found.append([X.grad for X in layer.adapter.parameters()])
    for whole, view in zip(*found, strict=True):
        terms = (
            7 + 7 + 3 + 3 + 5 + 6
        )  # of the sums on the way: x W₀ᵀ, x V, times S, times U, g U, over the rows
        assert (
            difference(view[tuple(map(slice, whole.shape))], whole)
            < terms * torch.finfo(torch.float64).eps
        )


@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("gradients", ["projected", "published"])
def test_the_fused_layer_is_the_plain_one(gradients: Any, dropout: float) -> None:
    """Output and all gradients, in training with the same dropout."""
    results = []
    for fused in (False, True):
        torch.manual_seed(0)
        model = single(nn.Linear(9, 6).double())
        layer = adapt(model, rank=3, alpha=0.7, gradients=gradients, dropout=dropout, fused=fused)[
            "0"
        ]
        fill(layer.adapter)
        assert layer.fused == fused
        x = torch.randn(2, 5, 9, dtype=torch.float64, requires_grad=True)
        y = model(x)
        y.sin().sum().backward()
        results.append(
            (y, x.grad, layer.adapter.Ut.grad, layer.adapter.S.grad, layer.adapter.Vt.grad)
        )
    for plain, quick in zip(*results, strict=True):
        torch.testing.assert_close(quick, plain, rtol=1e-12, atol=1e-13)


def _evaluated_with_dropout(model: nn.Module) -> None:
    """Evaluate with dropout, as Monte Carlo methods do."""
    model.eval()
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.train()


def _without_dropout(model: nn.Module) -> None:
    """Remove the dropout of a layer that trains."""
    layer: Any = model[0]  # type: ignore[index]
    layer.dropout = nn.Identity()


@pytest.mark.parametrize(
    ("change", "drops"), [(_evaluated_with_dropout, True), (_without_dropout, False)]
)
def test_the_fused_layer_drops_where_the_plain_one_does(
    change: Callable[[nn.Module], None], drops: bool
) -> None:
    results = []
    for fused in (False, True):
        torch.manual_seed(0)
        model = single(nn.Linear(9, 6).double())
        fill(adapt(model, rank=3, dropout=0.5, fused=fused)["0"].adapter)
        change(model)
        x = torch.randn(4, 9, dtype=torch.float64)
        results.append((model(x), model(x)))
    torch.testing.assert_close(results[1], results[0], rtol=1e-12, atol=1e-13)
    assert torch.equal(*results[0]) != drops


def _prehooked(base: nn.Module) -> None:
    base.register_forward_pre_hook(lambda module, inputs: (2.0 * inputs[0],))


def _unfrozen(base: nn.Module) -> None:
    base.weight.requires_grad_()


@pytest.mark.parametrize("change", [_hooked, _prehooked, _patched, _unfrozen])
def test_a_base_that_does_more_than_its_product_is_called(
    change: Callable[[nn.Module], None],
) -> None:
    results = []
    for fused in (False, True):
        torch.manual_seed(0)
        model = single(nn.Linear(9, 6).double())
        layer = adapt(model, rank=3, fused=fused)["0"]
        fill(layer.adapter)
        change(layer.base)
        x = torch.ones(2, 9, dtype=torch.float64, requires_grad=True)
        model(x).sin().sum().backward()
        results.append((model(x), x.grad, layer.base.weight.grad, layer.adapter.Ut.grad))
    for plain, quick in zip(*results, strict=True):
        torch.testing.assert_close(quick, plain, rtol=1e-12, atol=1e-13)


def test_adapters_keep_their_precision_within_autocast() -> None:
    """Bases that were multiplied in half precision looked wrong, and what was read of W was rounded."""
    torch.manual_seed(0)
    model = single(nn.Linear(40, 30))
    with torch.autocast("cpu", torch.bfloat16):
        adapter = adapt(model, rank=4)["0"].adapter
    fill(adapter)
    before, W = copy.deepcopy(adapter), adapter.full()
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(adapter.full(), W)
        assert adapter.factors().rank == 4
        adapter.orthonormalise()
    before.orthonormalise()
    assert torch.equal(adapter.full(), before.full())


def test_autocast_runs_the_products_in_half_precision_and_leaves_gradients_in_single() -> None:
    torch.manual_seed(0)
    model = single(nn.Linear(40, 30))
    layer = adapt(model, rank=4)["0"]
    fill(layer.adapter)
    x = torch.randn(20, 40)
    exact = model(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = model(x)
        loss = y.float().square().mean()
    assert y.dtype == torch.bfloat16
    assert 1e-4 < float((y - exact).detach().norm() / exact.detach().norm()) < 2e-2
    loss.backward()
    gradients = layer.adapter.collected_gradients()
    assert gradients is not None
    assert gradients.dS.dtype == torch.float32

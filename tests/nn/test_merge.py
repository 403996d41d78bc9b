"""Adapters merged into their bases, and taken out again, bit for bit."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import prune

from geolora_ref.nn import (
    AdaptedLayer,
    adapt,
    adapters,
    disabled,
    merge,
    unmerge,
)
from tests.nn.kinds import single
from verification.network_defects.models import LAYERS, adapted_layer, fill, network, regression


class StandardisedConvolution(nn.Conv2d):
    """BiT's convolution, by its weight less the mean, divided by the deviation."""

    def forward(self, x: Tensor) -> Tensor:
        W = self.weight
        centred = W - W.mean((1, 2, 3), keepdim=True)
        y: Tensor = self._conv_forward(x, centred / centred.std((1, 2, 3), keepdim=True), self.bias)
        return y


class NormalisedConvolution(nn.Conv2d):
    """Likewise, one method further in."""

    def _conv_forward(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        y: Tensor = super()._conv_forward(x, weight / weight.norm(), bias)
        return y


class DoubledLinear(nn.Linear):
    """Its weight counts twice, an update of it once."""

    def forward(self, x: Tensor) -> Tensor:
        return 2.0 * super().forward(x)


@pytest.mark.parametrize("name", LAYERS)
def test_merged_and_adapted_agree(name: str) -> None:
    layer, x = adapted_layer(name)
    before, weight = layer(x), layer.base_weight.clone()
    assert not torch.allclose(before, layer.base(x))
    layer.merge()
    assert layer.merged
    assert float((layer(x) - before).detach().norm() / before.detach().norm()) < 1e-14
    layer.unmerge()
    assert torch.equal(layer.base_weight, weight)
    assert torch.equal(layer(x), before)


def test_an_adapter_is_merged_or_disabled_and_not_both() -> None:
    """The one would add nothing, and the other would leave what was added."""
    model = network()
    with (
        disabled(model),
        pytest.raises(
            RuntimeError, match="merge: expected an adapter that is enabled, found one that is dis"
        ),
    ):
        merge(model)
    assert not adapters(model)["0"].merged
    merge(model)
    one = "disabled: expected an adapter that is not merged, found one that is; unmerge it first$"
    with pytest.raises(RuntimeError, match=f"^{one}"), disabled(model):
        pass
    assert adapters(model)["0"].enabled


def test_a_weight_that_is_computed_is_not_merged() -> None:
    """The next call would compute it again, without the adapter."""
    for make in (
        nn.utils.parametrizations.weight_norm,
        partial(prune.l1_unstructured, name="weight", amount=3),
    ):
        model = nn.Sequential()
        model.add_module("only", make(nn.Linear(6, 5)))
        layer = adapt(model, ["only"], rank=2)["only"]
        fill(layer.adapter)
        x = torch.ones(2, 6)
        before = model(x)
        with pytest.raises(
            RuntimeError, match=r"^only: merge: expected a base whose weight is a parameter"
        ):
            merge(model)
        assert torch.equal(model(x), before)
        assert not layer.merged


@pytest.mark.parametrize(
    ("make", "x"),
    [
        (partial(StandardisedConvolution, 2, 3, 3), torch.ones(1, 2, 5, 5)),
        (partial(NormalisedConvolution, 2, 3, 3), torch.ones(1, 2, 5, 5)),
        (partial(DoubledLinear, 4, 4), torch.ones(2, 4)),
    ],
)
def test_a_base_that_may_use_its_weight_otherwise_is_not_merged(
    make: Callable[[], nn.Module], x: Tensor
) -> None:
    torch.manual_seed(0)
    model = single(make())
    layer = adapt(model, ["0"], rank=2, alpha=1.0)["0"]
    fill(layer.adapter)
    before, kind = model(x), type(layer.base).__name__
    with pytest.raises(
        RuntimeError,
        match=rf"^0: merge: expected a base that uses its weight as it is, found {kind} with a forw",
    ):
        merge(model)
    assert torch.equal(model(x), before)
    with torch.no_grad():  # why: what a merged layer would compute is something else
        layer.base_weight.copy_(layer.weight)
    assert float((layer.base(x) - before).detach().norm() / before.detach().norm()) > 0.01


def test_an_interrupt_while_merging_leaves_nothing_merged(monkeypatch: pytest.MonkeyPatch) -> None:
    """It comes when the second layer is merged already."""
    model = nn.Sequential(nn.Linear(6, 5), nn.Linear(5, 4))
    layers = adapt(model, rank=2)
    before = [layer.base_weight.clone() for layer in layers.values()]
    whole = AdaptedLayer.merge

    def interrupted(layer: AdaptedLayer) -> None:
        whole(layer)
        if layer is layers["1"]:
            raise KeyboardInterrupt

    monkeypatch.setattr(AdaptedLayer, "merge", interrupted)
    with pytest.raises(KeyboardInterrupt):
        merge(model)
    assert not any(layer.merged for layer in layers.values())
    assert all(
        torch.equal(layer.base_weight, weight)
        for layer, weight in zip(layers.values(), before, strict=True)
    )


def test_all_adapters_are_merged_or_none() -> None:
    model = nn.Sequential()
    model.add_module("first", nn.Linear(6, 5))
    model.add_module("second", nn.utils.parametrizations.weight_norm(nn.Linear(5, 4)))
    layers = adapt(model, ["first", "second"], rank=2)
    for layer in layers.values():
        fill(layer.adapter)
    before = layers["first"].base_weight.clone()
    with pytest.raises(
        RuntimeError, match=r"^second: merge: expected a base whose weight is a parameter.*"
    ):
        merge(model)
    assert not any(layer.merged for layer in layers.values())
    assert torch.equal(layers["first"].base_weight, before)
    layers["first"].merge()
    with pytest.raises(
        RuntimeError, match=r"^merge: expected no layer to be merged, found that first is$"
    ):
        merge(model)
    with pytest.raises(
        RuntimeError, match=r"^unmerge: expected all layers to be merged, found that second is not$"
    ):
        unmerge(model)
    assert layers["first"].merged


def test_a_state_that_is_saved_or_loaded_while_merged_counts_the_adapter_once() -> None:
    model, fresh, x = network(seed=0), network(seed=1), regression()[0]
    for each in (model, fresh):
        for layer in adapters(each).values():
            fill(layer.adapter)
    expected, state = model(x), model.state_dict()
    merge(model)
    merged = copy.deepcopy(model.state_dict())
    assert merged.keys() == state.keys()
    merge(fresh)
    fresh.load_state_dict(merged)
    torch.testing.assert_close(fresh(x), expected, rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(model(x), expected, rtol=1e-12, atol=1e-12)
    assert adapters(model)["0"].merged
    assert not adapters(fresh)["0"].merged


class Quantised(Tensor):
    """A tensor that knows fewer operations, as packages for quantised weights have them."""

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in (torch.addmm, Tensor.addmm_, Tensor.copy_):
            raise NotImplementedError(func.__name__)
        return super().__torch_function__(func, types, args, kwargs or {})  # type: ignore[no-untyped-call]

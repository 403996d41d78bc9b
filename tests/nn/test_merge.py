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
    GeoLoRA,
    LowRankAdapter,
    adapt,
    adapters,
    disabled,
    merge,
    unmerge,
)
from tests.nn.kinds import _hooked, _patched, single
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


class NamedLinear(nn.Linear):
    """Another class that computes the same."""


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


def test_merged_and_adapted_agree_in_single_precision() -> None:
    torch.manual_seed(0)
    model = single(nn.Linear(300, 200))
    layer = adapt(model, rank=8)["0"]
    fill(layer.adapter)
    x = torch.randn(50, 300)
    before = model(x)
    merge(model)
    assert float((model(x) - before).detach().norm() / before.detach().norm()) < 1e-6
    unmerge(model)
    assert torch.equal(model(x), before)


def test_two_adapters_of_one_base_are_unmerged_in_the_reverse_order() -> None:
    base = nn.Linear(5, 4).requires_grad_(False)
    weight = base.weight.clone()
    both = nn.ModuleList(AdaptedLayer(base, LowRankAdapter((4, 5), 2, 2)) for _ in range(2))
    for layer in both:
        fill(layer.adapter)  # type: ignore[arg-type]
    merge(both)
    assert not torch.equal(base.weight, weight)
    unmerge(both)
    assert torch.equal(base.weight, weight)


def test_a_base_that_is_taken_out_merged_is_a_layer_like_any_other() -> None:
    """Nothing is left in it, neither a copy of its weight nor that it was merged: it can be adapted
    again.
    """
    model = single(nn.Linear(5, 4))
    before = set(vars(model.get_submodule("0")))
    layer = adapt(model, rank=2)["0"]
    fill(layer.adapter)
    layer.merge()
    model.set_submodule("0", layer.base)
    assert set(vars(layer.base)) == before
    adapt(model, rank=2)
    model(torch.ones(3, 5)).sum().backward()
    GeoLoRA(model, lr=0.1).step()


def test_merging_twice_is_refused() -> None:
    layer, _ = adapted_layer("linear")
    with pytest.raises(RuntimeError, match="not merged"):
        layer.unmerge()
    layer.merge()
    with pytest.raises(RuntimeError, match="merged already"):
        layer.merge()


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


@pytest.mark.parametrize("change", [_hooked, _patched])
@pytest.mark.parametrize("make", [nn.Linear, NamedLinear])
def test_a_base_with_something_after_its_product_is_merged(
    make: Callable[[int, int], nn.Module], change: Callable[[nn.Module], None]
) -> None:
    model = single(make(9, 6).double())
    layer = adapt(model, rank=3)["0"]
    fill(layer.adapter)
    change(layer.base)
    x = torch.ones(2, 9, dtype=torch.float64)
    before = model(x)
    merge(model)
    torch.testing.assert_close(model(x), before, rtol=1e-13, atol=1e-13)


def test_the_linear_layer_of_falcon_is_merged() -> None:
    """Its forward is a product of its own writing."""
    falcon = pytest.importorskip(
        "transformers.models.falcon.modeling_falcon", reason="transformers is not installed"
    )
    model, x = single(falcon.FalconLinear(6, 5).double()), torch.ones(2, 6, dtype=torch.float64)
    fill(adapt(model, rank=2)["0"].adapter)
    before = model(x)
    merge(model)
    torch.testing.assert_close(model(x), before, rtol=1e-14, atol=1e-14)


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


@pytest.mark.parametrize("part", ["adapter", "base"])
def test_a_part_of_a_state_that_is_loaded_while_merged_unmerges(part: str) -> None:
    model, x = network(), regression()[0]
    for layer in adapters(model).values():
        fill(layer.adapter)
    expected, state = (
        model(x),
        {key: value for key, value in model.state_dict().items() if f".{part}." in key},
    )
    for layer in adapters(model).values():
        fill(layer.adapter)
    if part == "base":
        expected = model(x)
    merge(model)
    model.load_state_dict(state, strict=False)
    torch.testing.assert_close(model(x), expected, rtol=1e-13, atol=1e-13)


def test_a_state_of_other_layers_leaves_them_merged() -> None:
    model = network()
    merge(model)
    model.load_state_dict(
        {key: value for key, value in model.state_dict().items() if key.startswith("4.")},
        strict=False,
    )
    assert all(layer.merged for layer in adapters(model).values())


class Quantised(Tensor):
    """A tensor that knows fewer operations, as packages for quantised weights have them."""

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in (torch.addmm, Tensor.addmm_, Tensor.copy_):
            raise NotImplementedError(func.__name__)
        return super().__torch_function__(func, types, args, kwargs or {})  # type: ignore[no-untyped-call]


def test_a_weight_of_another_kind_takes_the_plain_way_and_is_not_merged() -> None:
    torch.manual_seed(0)
    plain, quantised = nn.Linear(6, 5), nn.Linear(5, 4)
    quantised.weight = nn.Parameter(quantised.weight.detach().as_subclass(Quantised))
    model = nn.Sequential(plain, quantised)
    with pytest.raises(
        ValueError, match=r"^1: fused: expected nn.Linear with a weight of the factors' dtype"
    ):
        adapt(model, rank=2, fused=True)
    adapt(model, rank=2)
    for layer in adapters(model).values():
        fill(layer.adapter)
    before = copy.deepcopy(plain.state_dict())
    model(torch.randn(7, 6)).sum().backward()
    assert all(layer.adapter.S.grad is not None for layer in adapters(model).values())
    with pytest.raises(
        RuntimeError, match="expected a weight that is a tensor of its entries, found a Quantised"
    ):
        merge(model)
    assert all(torch.equal(before[name], X) for name, X in plain.state_dict().items())

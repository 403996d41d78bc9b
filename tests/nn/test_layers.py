"""Adapted layers: nothing changes at the start, merging is exact, state dicts carry the rank, bad layers are refused."""

from __future__ import annotations

import copy
import re
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import prune

from geolora_ref import LowRank
from geolora_ref.nn import AdaptedLayer, GeoLoRA, LowRankAdapter, adapt, adapters, disabled, merge, parameter_count, unmerge
from verification.network_defects.models import LAYERS, adapted_layer, difference, fill, network, regression, train


class ScaledEmbedding(nn.Embedding):
    """As in Gemma: what is looked up is multiplied by a constant."""


class StandardisedConvolution(nn.Conv2d):
    """As in BiT: it convolves with its weight less the mean and over the deviation."""

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


def single(layer: nn.Module) -> nn.Sequential:
    return nn.Sequential(layer)


@pytest.mark.parametrize("name", LAYERS)
def test_an_adapted_model_starts_as_the_model_it_was(name: str) -> None:
    """S = 0: not a bit differs, in single precision."""
    torch.manual_seed(0)
    make, data = LAYERS[name]
    model, x = single(make()), data()
    before = model(x)
    adapt(model, ["0"], rank=3)
    assert torch.equal(model(x), before)


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


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")
def test_padding_that_is_not_the_same_on_both_sides_is_that_of_the_base() -> None:
    """Even kernels have one row or column more behind the image than before it."""
    torch.manual_seed(0)
    model = single(nn.Conv2d(2, 5, (4, 2), padding="same").double())
    layer, x = adapt(model, ["0"], rank=3)["0"], torch.randn(2, 2, 6, 7, dtype=torch.float64)
    fill(layer.adapter)
    before = layer(x)
    layer.merge()
    assert difference(layer(x), before) < 1e-14


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
    """Nothing is left in it, neither a copy of its weight nor that it was merged: it can be adapted anew."""
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


def test_disabled_is_the_base() -> None:
    model = network()
    x, _ = regression()
    base_only = model(x)
    for layer in adapters(model).values():
        fill(layer.adapter)
    adapted = model(x)
    with disabled(model):
        assert torch.equal(model(x), base_only)
        assert all(layer.weight is layer.base_weight for layer in adapters(model).values())
    assert torch.equal(model(x), adapted)
    assert not torch.equal(adapted, base_only)


def test_disabled_ends_as_it_began() -> None:
    """Nested, and by an exception."""
    model = network()
    layers = adapters(model).values()
    with disabled(model):
        with disabled(model):
            pass
        assert not any(layer.enabled for layer in layers)
    with pytest.raises(ZeroDivisionError), disabled(model):
        raise ZeroDivisionError
    assert all(layer.enabled for layer in layers)


def test_a_state_of_merged_layers_has_the_dtype_and_the_device_of_the_module() -> None:
    model = network()
    for layer in adapters(model).values():
        fill(layer.adapter)
    expected = {name: X.clone() for name, X in model.state_dict().items()}
    merge(model)
    state = model.float().state_dict()
    assert {X.dtype for X in state.values() if X.is_floating_point()} == {torch.float32}
    assert all(torch.equal(state[name], expected[name].float()) for name in state if name.endswith("base.weight"))
    assert {X.device.type for X in model.to("meta").state_dict().values()} == {"meta"}


def test_a_state_stays_what_it_was_when_it_was_taken() -> None:
    """At full capacity too, where what is saved is all of the storage."""
    model = network(rank=3, max_rank=3)
    optimizer = GeoLoRA(model, lr=0.1, tau=0.0)
    state = model.state_dict()
    before = {name: X.clone() for name, X in state.items() if "adapter" in name}
    train(model, optimizer, 2)
    assert all(torch.equal(state[name], X) for name, X in before.items())


def test_ranks_may_grow_to_four_times_the_start_unless_a_limit_is_given() -> None:
    model = nn.Sequential(nn.Linear(40, 30))
    assert adapt(model, rank=3)["0"].adapter.max_rank == 12


def test_an_adapter_is_merged_or_disabled_and_not_both() -> None:
    """The one would add nothing, and the other would leave what was added."""
    model = network()
    with disabled(model), pytest.raises(RuntimeError, match="merge: expected an adapter that is enabled, found one that is dis"):
        merge(model)
    assert not adapters(model)["0"].merged
    merge(model)
    one = "disabled: expected an adapter that is not merged, found one that is; unmerge it first$"
    with pytest.raises(RuntimeError, match=f"^{one}"), disabled(model):
        pass
    assert adapters(model)["0"].enabled


def test_whoever_reads_the_weight_gets_the_effective_one() -> None:
    """nn.MultiheadAttention never calls its output layer; it multiplies by the layer's weight."""
    torch.manual_seed(0)
    attention = nn.MultiheadAttention(8, 2, batch_first=True).double()
    x = torch.randn(3, 5, 8, dtype=torch.float64)
    before = attention(x, x, x)[0]
    layer = adapt(attention, ["out_proj"], rank=2)["out_proj"]
    torch.testing.assert_close(attention(x, x, x)[0], before, rtol=1e-14, atol=1e-14)
    fill(layer.adapter)
    adapted = attention(x, x, x)[0]
    assert not torch.allclose(adapted, before)
    adapted.square().sum().backward()
    gradients = layer.adapter.collected_gradients()
    assert gradients is not None
    merge(attention)
    torch.testing.assert_close(attention(x, x, x)[0], adapted, rtol=1e-13, atol=1e-13)


def test_the_transposed_linear_layer_of_transformers() -> None:
    pytorch_utils = pytest.importorskip("transformers.pytorch_utils", reason="transformers is not installed")
    torch.manual_seed(0)
    layer = pytorch_utils.Conv1D(6, 9).double()
    with pytest.raises(ValueError, match=r"layers that can be adapted: 0 \(Conv1D\)$"):
        adapt(single(layer), target_modules=["query"])
    twin = nn.Linear(9, 6).double()
    with torch.no_grad():
        twin.weight.copy_(layer.weight.mT)
        twin.bias.copy_(layer.bias)
    model, model2 = single(layer), single(twin)
    one, two = (adapt(each, rank=3, generator=torch.Generator().manual_seed(3))["0"] for each in (model, model2))
    assert one.adapter.shape == two.adapter.shape == (6, 9)
    fill(one.adapter)
    two.adapter.assign(one.adapter.factors())
    x = torch.randn(4, 9, dtype=torch.float64)
    torch.testing.assert_close(model(x), model2(x), rtol=1e-14, atol=1e-14)
    merge(model)
    torch.testing.assert_close(model(x), model2(x), rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize("fused", [False, True])
def test_a_rank_that_fills_the_storage_has_the_gradients_of_any_other(fused: bool) -> None:
    """From the parameters themselves, and not from views of them; the numbers are the same."""
    torch.manual_seed(3)
    x, base = torch.randn(6, 7, dtype=torch.float64), nn.Linear(7, 5).double()
    U, V = (torch.linalg.qr(torch.randn(k, 3, dtype=torch.float64))[0] for k in (5, 7))
    Y, found = LowRank(U, torch.randn(3, 3, dtype=torch.float64), V), []
    for max_rank in (3, 4):
        layer = adapt(nn.Sequential(copy.deepcopy(base)), ["0"], 3, max_rank=max_rank, fused=fused)["0"]
        layer.adapter.assign(Y)
        given = layer.adapter.in_forward()
        assert [X is own for X, own in zip(given, (layer.adapter.Ut, layer.adapter.S, layer.adapter.Vt), strict=True)] == [
            max_rank == 3
        ] * 3
        layer(x).square().sum().backward()
        found.append([X.grad for X in layer.adapter.parameters()])
    for whole, view in zip(*found, strict=True):
        terms = 7 + 7 + 3 + 3 + 5 + 6  # of the sums on the way: x W₀ᵀ, x V, times S, times U, g U, over the rows
        assert difference(view[tuple(map(slice, whole.shape))], whole) < terms * torch.finfo(torch.float64).eps


def test_dropout_acts_on_the_update_only() -> None:
    model = single(nn.Linear(50, 40).double())
    layer = adapt(model, rank=4, dropout=0.5)["0"]
    x = torch.randn(10, 50, dtype=torch.float64)
    assert torch.equal(model(x), layer.base(x))
    fill(layer.adapter)
    assert not torch.equal(model(x), model(x))
    model.eval()
    assert torch.equal(model(x), model(x))


@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("gradients", ["projected", "published"])
def test_the_fused_layer_is_the_plain_one(gradients: Any, dropout: float) -> None:
    """Output and all gradients, in training with the same dropout."""
    results = []
    for fused in (False, True):
        torch.manual_seed(0)
        model = single(nn.Linear(9, 6).double())
        layer = adapt(model, rank=3, alpha=0.7, gradients=gradients, dropout=dropout, fused=fused)["0"]
        fill(layer.adapter)
        assert layer.fused == fused
        x = torch.randn(2, 5, 9, dtype=torch.float64, requires_grad=True)
        y = model(x)
        y.sin().sum().backward()
        results.append((y, x.grad, layer.adapter.Ut.grad, layer.adapter.S.grad, layer.adapter.Vt.grad))
    for plain, quick in zip(*results, strict=True):
        torch.testing.assert_close(quick, plain, rtol=1e-12, atol=1e-13)


def _evaluated_with_dropout(model: nn.Module) -> None:
    """As Monte Carlo methods do it."""
    model.eval()
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.train()


def _without_dropout(model: nn.Module) -> None:
    """Of a layer that may drop, and that trains."""
    layer: Any = model[0]  # type: ignore[index]
    layer.dropout = nn.Identity()


@pytest.mark.parametrize(("change", "drops"), [(_evaluated_with_dropout, True), (_without_dropout, False)])
def test_the_fused_layer_drops_where_the_plain_one_does(change: Callable[[nn.Module], None], drops: bool) -> None:
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


@pytest.mark.parametrize("options", [{"fused": False}, {"fused": True}])
def test_a_layer_is_called_as_that_of_torch(options: dict[str, bool], unchecked: None) -> None:
    """By the name of its argument, with sequences of different lengths, and while it is traced."""
    torch.manual_seed(0)
    model = single(nn.Linear(9, 6).double())
    layer = adapt(model, rank=3, **options)["0"]  # type: ignore[arg-type]
    fill(layer.adapter)
    x = torch.randn(5, 9, dtype=torch.float64)
    y = layer(input=x)
    assert torch.equal(y, layer(x))
    with warnings.catch_warnings(action="ignore"):  # torch deprecates both
        several = torch.nested.nested_tensor([x[:2], x[2:]], layout=torch.jagged)
        traced = torch.jit.trace(model, x, check_trace=False)
    torch.testing.assert_close(torch.cat(list(layer(several).unbind())), y, rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(traced(x), y, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("layout", [torch.jagged, torch.strided])
@pytest.mark.parametrize("options", [{}, {"fused": True}, {"gradients": "published"}], ids=str)
def test_sequences_of_different_lengths_have_the_gradients_of_their_rows(options: dict[str, Any], layout: torch.layout) -> None:
    torch.manual_seed(0)
    layer = adapt(single(nn.Linear(9, 6).double()), rank=3, alpha=0.7, **options)["0"]
    fill(layer.adapter)
    x, found = torch.randn(5, 9, dtype=torch.float64), []
    for rows in (x, None):
        layer.zero_grad()
        with warnings.catch_warnings(action="ignore"):  # torch calls them a prototype
            several = rows if rows is not None else torch.nested.nested_tensor([x[:2], x[2:]], layout=layout)
            outputs = [layer(several)] if rows is not None else layer(several).unbind()
        torch.autograd.backward(sum((y.square().sum() for y in outputs), torch.zeros((), dtype=x.dtype)))
        found.append([X.grad for X in layer.adapter.parameters()])
    for X, Y in zip(*found, strict=True):
        torch.testing.assert_close(X, Y, rtol=1e-11, atol=1e-12)


def test_hooks_that_look_at_a_state_before_it_is_loaded_are_asked() -> None:
    model = single(nn.Linear(9, 6))
    adapter, asked = adapt(model, rank=3)["0"].adapter, []
    adapter.register_load_state_dict_pre_hook(lambda module, state, prefix, *rest: asked.append(prefix))  # type: ignore[no-untyped-call, unused-ignore]
    model.load_state_dict(model.state_dict())
    assert asked == ["0.adapter."]


def test_what_global_hooks_keep_stays_as_it_is() -> None:
    """They never see the base of a fused layer: what it returns is changed in place."""
    model, seen = single(nn.Linear(9, 6)), list[nn.Module]()
    layer = adapt(model, rank=3, fused=True, dropout=0.5)["0"]
    hook = nn.modules.module.register_module_forward_hook(lambda module, inputs, output: seen.append(module))
    try:
        model(torch.ones(2, 9))
    finally:
        hook.remove()
    assert layer in seen
    assert layer.base not in seen


def _hooked(base: nn.Module) -> None:
    base.register_forward_hook(lambda module, inputs, output: output + 1.0)


def _prehooked(base: nn.Module) -> None:
    base.register_forward_pre_hook(lambda module, inputs: (2.0 * inputs[0],))


def _patched(base: nn.Module) -> None:
    """As offloading does it."""
    forward = base.forward
    base.forward = lambda x: forward(x) - 3.0


def _unfrozen(base: nn.Module) -> None:
    base.weight.requires_grad_()


@pytest.mark.parametrize("change", [_hooked, _prehooked, _patched, _unfrozen])
def test_a_base_that_does_more_than_its_product_is_called(change: Callable[[nn.Module], None]) -> None:
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


@pytest.mark.parametrize("kind", ["register_full_backward_hook", "register_full_backward_pre_hook"])
def test_a_backward_hook_of_the_base_is_called(kind: str) -> None:
    model, seen = single(nn.Linear(9, 6)), []
    layer = adapt(model, rank=3, fused=True)["0"]
    getattr(layer.base, kind)(lambda module, *gradients: seen.append(module))
    model(torch.ones(2, 9, requires_grad=True)).sum().backward()
    assert seen == [layer.base]


def test_a_base_of_another_precision_is_called() -> None:
    """A fused layer, whose function wants one: its products are those of the layer that is not."""
    torch.manual_seed(0)
    model = single(nn.Linear(9, 6).bfloat16())
    layer = adapt(model, rank=3, dtype=torch.float32)["0"]
    fill(layer.adapter)
    x = torch.randn(4, 9).bfloat16()
    plain = layer(x)
    layer.fused = True
    assert torch.equal(layer(x), plain)
    assert torch.equal(layer.weight, layer.base_weight + layer.adapter.full().bfloat16())


def test_an_adapted_model_trains_or_not_as_the_model_did() -> None:
    model = single(nn.Linear(9, 6)).eval()
    layer = adapt(model, rank=3, dropout=0.5)["0"]
    fill(layer.adapter)
    x = torch.randn(4, 9)
    assert not any(module.training for module in layer.modules())
    assert torch.equal(layer(x), layer(x))


def test_the_output_of_a_fused_layer_may_be_changed_in_place() -> None:
    results = []
    for fused in (False, True):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(9, 6), nn.ReLU(inplace=True), nn.Linear(6, 4)).double()
        adapt(model, rank=3, fused=fused)
        x = torch.ones(2, 5, 9, dtype=torch.float64, requires_grad=True)
        y = model(x)
        y += 1.0
        y.sin().sum().backward()
        results.append((y, x.grad))
    torch.testing.assert_close(results[1], results[0], rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("target", ["all-linear", ["a"], ["b"], ".*b"])
def test_a_module_of_two_names_is_adapted_under_both(target: Any) -> None:
    model = nn.Module()
    model.a = nn.Linear(6, 6)
    model.inner = nn.Sequential(model.a)
    model.b = model.a
    found = adapt(model, target, rank=2)
    assert list(found) == ["a"]
    assert [model.a, model.b, model.inner[0]] == 3 * [found["a"]]
    assert [name for name, _ in model.named_parameters() if name.startswith("a.base")] == ["a.base.weight", "a.base.bias"]


def test_a_layer_inside_of_what_is_trained_is_refused() -> None:
    model = nn.Sequential(nn.Sequential(nn.Linear(6, 5)), nn.Linear(5, 4))
    with pytest.raises(ValueError, match=r"^target_modules: 0.0 lies in 0.0, which is trained as a whole$"):
        adapt(model, ["0.0"], rank=2, train=["0"])


def test_the_effective_weight_has_the_precision_of_the_factors_under_autocast() -> None:
    """Its readers are not called, so that autocast would round W and not what its backward pass is made of."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.TransformerEncoderLayer(16, 4, 32, dropout=0.0, batch_first=True))
    layer = adapt(model, ["out_proj"], rank=2)["0.self_attn.out_proj"]
    fill(layer.adapter)
    exact = layer.weight
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(layer.weight, exact)
        model(torch.randn(3, 5, 16)).float().square().mean().backward()
        merge(model)
    assert layer.adapter.S.grad is not None
    assert torch.equal(layer.base_weight, exact)


def test_a_weight_that_is_computed_is_not_merged() -> None:
    """The next call would compute it anew, without the adapter."""
    for make in (nn.utils.parametrizations.weight_norm, partial(prune.l1_unstructured, name="weight", amount=3)):
        model = nn.Sequential()
        model.add_module("only", make(nn.Linear(6, 5)))
        layer = adapt(model, ["only"], rank=2)["only"]
        fill(layer.adapter)
        x = torch.ones(2, 6)
        before = model(x)
        with pytest.raises(RuntimeError, match=r"^only: merge: expected a base whose weight is a parameter"):
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
def test_a_base_that_may_use_its_weight_otherwise_is_not_merged(make: Callable[[], nn.Module], x: Tensor) -> None:
    torch.manual_seed(0)
    model = single(make())
    layer = adapt(model, ["0"], rank=2)["0"]
    fill(layer.adapter)
    before, kind = model(x), type(layer.base).__name__
    with pytest.raises(
        RuntimeError, match=rf"^0: merge: expected a base that uses its weight as it is, found {kind} with a forw"
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
    falcon = pytest.importorskip("transformers.models.falcon.modeling_falcon", reason="transformers is not installed")
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
    assert all(torch.equal(layer.base_weight, weight) for layer, weight in zip(layers.values(), before, strict=True))


def test_all_adapters_are_merged_or_none() -> None:
    model = nn.Sequential()
    model.add_module("first", nn.Linear(6, 5))
    model.add_module("second", nn.utils.parametrizations.weight_norm(nn.Linear(5, 4)))
    layers = adapt(model, ["first", "second"], rank=2)
    for layer in layers.values():
        fill(layer.adapter)
    before = layers["first"].base_weight.clone()
    with pytest.raises(RuntimeError, match=r"^second: merge: expected a base whose weight is a parameter.*"):
        merge(model)
    assert not any(layer.merged for layer in layers.values())
    assert torch.equal(layers["first"].base_weight, before)
    layers["first"].merge()
    with pytest.raises(RuntimeError, match=r"^merge: expected no layer to be merged, found that first is$"):
        merge(model)
    with pytest.raises(RuntimeError, match=r"^unmerge: expected all layers to be merged, found that second is not$"):
        unmerge(model)
    assert layers["first"].merged


def test_a_fused_model_starts_as_the_model_it_was() -> None:
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(30, 40), nn.Tanh(), nn.Linear(40, 7)), torch.randn(8, 30)
    before = model(x)
    adapt(model, rank=3, fused=True)
    assert torch.equal(model(x), before)


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


@pytest.mark.parametrize("fused", [False, True])
def test_autocast_leaves_double_precision_alone(fused: bool) -> None:
    """As it leaves the base."""
    torch.manual_seed(0)
    model = single(nn.Linear(40, 30).double())
    fill(adapt(model, rank=4, fused=fused)["0"].adapter)
    x = torch.randn(20, 40, dtype=torch.float64)
    exact = model(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(model(x), exact)


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


# --- state ------------------------------------------------------------------------------------------------------------


def test_a_state_dict_restores_ranks_in_a_fresh_model() -> None:
    model, fresh = network(seed=0), network(seed=1)
    for layer, rank in zip(adapters(model).values(), (5, 1), strict=True):
        layer.adapter.reset(rank)
        fill(layer.adapter)
    state = model.state_dict()
    assert state["0.adapter.U"].shape == (20, 5)
    assert state["2.adapter.S"].shape == (1, 1)
    assert all(X.is_contiguous() for X in state.values())
    fresh.load_state_dict(state)
    x, _ = regression()
    assert torch.equal(fresh(x), model(x))
    assert [layer.adapter.rank for layer in adapters(fresh).values()] == [5, 1]
    assert parameter_count(fresh) == 5 * (20 + 12 + 5) + 1 * (10 + 20 + 1)


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
    expected, state = model(x), {key: value for key, value in model.state_dict().items() if f".{part}." in key}
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
    model.load_state_dict({key: value for key, value in model.state_dict().items() if key.startswith("4.")}, strict=False)
    assert all(layer.merged for layer in adapters(model).values())


def test_a_state_is_assigned_to_a_model_without_storage() -> None:
    """As large models are loaded: drawn on no device, then given what is in the file."""
    source = single(nn.Linear(9, 6).double())
    fill(adapt(source, rank=3, fused=True)["0"].adapter)
    empty = single(nn.Linear(9, 6).double())
    adapt(empty, rank=2, max_rank=5, fused=True)
    empty.to("meta")
    with (
        warnings.catch_warnings(action="ignore"),  # torch's own, of the base
        pytest.raises(RuntimeError, match=r"0\.adapter: expected storage for the factors, .*; load with assign=True"),
    ):
        empty.load_state_dict(source.state_dict())
    empty.load_state_dict(source.state_dict(), assign=True)
    x = torch.randn(4, 9, dtype=torch.float64)
    assert {parameter.device.type for parameter in empty.parameters()} == {"cpu"}
    assert torch.equal(empty(x), source(x))


def test_functional_call_takes_the_parameters_and_no_state() -> None:
    """A state has S under the name of the parameter, and the bases not."""
    model, x = network(), regression()[0]
    parameters = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    expected, state = model(x), model.state_dict()
    for layer in adapters(model).values():
        fill(layer.adapter)
    assert torch.equal(torch.func.functional_call(model, parameters, (x,)), expected)
    for names, message in (
        ("USV", "U: expected the storage Ut in its place"),
        ("V", r"V: expected the storage Vt in its place, found \(\d+, \d+\)"),
        ("S", r"S: expected the storage, 8 x 8, found \(3, 3\)"),
    ):
        part = {name: X for name, X in state.items() if name[-1] in names or "adapter" not in name}
        with pytest.raises(ValueError, match=message + ".*; give torch.func.functional_call the named"):
            torch.func.functional_call(model, part, (x,))
    assert torch.equal(torch.func.functional_call(model, parameters, (x,)), expected)


def test_transforms_of_torch_go_with_the_published_form() -> None:
    model, x = network(gradients="published"), regression()[0]
    torch.testing.assert_close(torch.vmap(model)(x), model(x), rtol=1e-13, atol=1e-14)
    assert torch.func.jacrev(model)(x[0]).shape == (4, 12)
    with pytest.raises(RuntimeError, match=r"autograd\.Function with functorch transforms"):
        torch.vmap(network())(x)


def test_a_state_dict_goes_through_safetensors(tmp_path: Any) -> None:
    safetensors = pytest.importorskip("safetensors.torch", reason="safetensors is not installed")
    model, fresh = network(seed=0), network(seed=1)
    for layer in adapters(model).values():
        fill(layer.adapter)
    safetensors.save_file(model.state_dict(), tmp_path / "model.safetensors")
    fresh.load_state_dict(safetensors.load_file(tmp_path / "model.safetensors"))
    x, _ = regression()
    assert torch.equal(fresh(x), model(x))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda state: state.update({"0.adapter.U": torch.zeros(20, 9), "0.adapter.S": torch.zeros(9, 9)}),
            "rank 1 to 8, found shapes",
        ),
        (lambda state: state.update({"0.adapter.U": torch.zeros(19, 3)}), r"a \(20, 12\) matrix .* found shapes \(\(19, 3\)"),
        (lambda state: state.pop("0.adapter.S"), 'Missing key.*"0.adapter.S"'),
        (lambda state: state.update({"0.adapter.inverse": torch.zeros(3)}), 'Unexpected key.*"0.adapter.inverse"'),
    ],
)
def test_a_state_dict_of_another_shape_is_refused(change: Any, message: str) -> None:
    model = network()
    state = model.state_dict()
    change(state)
    with pytest.raises(RuntimeError, match=re.compile(message, re.DOTALL)):
        model.load_state_dict(state)


def test_a_copy_is_a_copy() -> None:
    model = network()
    twin = copy.deepcopy(model)
    fill(next(iter(adapters(model).values())).adapter)
    x, _ = regression()
    assert not torch.equal(model(x), twin(x))


def test_a_copy_of_a_layer_on_a_parametrised_base_has_its_adapter() -> None:
    """torch gives such a base a ``__deepcopy__``, which copies the base."""
    model = nn.Sequential()
    model.add_module("only", nn.utils.parametrizations.weight_norm(nn.Linear(7, 5).double()))
    fill(adapt(model, ["only"], rank=3)["only"].adapter)
    x = torch.randn(4, 7, dtype=torch.float64)
    twin, before = copy.deepcopy(model), model(x)
    assert torch.equal(twin(x), before)
    fill(adapters(twin)["only"].adapter)
    assert not torch.equal(twin(x), before)
    assert torch.equal(model(x), before)


def test_factors_are_stored_at_the_capped_rank() -> None:
    model = single(nn.Linear(1000, 800))
    layer = adapt(model, rank=4, max_rank=6)["0"]
    assert sum(p.numel() for p in layer.adapter.parameters()) == 6 * (1000 + 800 + 6)


# --- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (nn.Conv2d(4, 4, 3, groups=2), "expected a convolution with groups = 1, found groups = 2"),
        (nn.LSTM(3, 4), "expected a layer with a weight, found LSTM"),
        (nn.LayerNorm(4), "expected nn.Linear, .* found LayerNorm"),
        (nn.Embedding(5, 3, max_norm=1.0), "expected an embedding without max_norm, scale_grad_by_freq and sparse gradients$"),
        (nn.Embedding(5, 3, scale_grad_by_freq=True), "expected an embedding without max_norm, scale_grad_by_freq and"),
        (nn.Embedding(5, 3, sparse=True), "expected an embedding without max_norm, scale_grad_by_freq and sparse gradients$"),
        (ScaledEmbedding(5, 3), "expected nn.Embedding itself, found ScaledEmbedding"),
        (nn.Linear(3, 3, device="meta"), "expected a weight with values, found one on the meta device; load the model first$"),
    ],
)
def test_a_layer_that_cannot_be_adapted_is_named(layer: nn.Module, message: str) -> None:
    with pytest.raises(ValueError, match=f"^0: {message}"):
        adapt(single(layer), ["0"])


def test_a_quantised_weight_is_refused() -> None:
    layer = nn.Linear(3, 3)
    layer.weight = nn.Parameter(torch.zeros(3, 3, dtype=torch.uint8), requires_grad=False)
    with pytest.raises(ValueError, match=r"weight of floating point, found torch.uint8"):
        adapt(single(layer))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target_modules": ["query"]}, "no module is called 'query'; layers that can be adapted: 0 .Linear., 2"),
        ({"target_modules": r"layer\d+"}, "no module name matches"),
        ({"target_modules": []}, "at least one name"),
        ({"train": ["head"]}, "train: no module is called 'head'"),
        ({"exclude": ["head"]}, "exclude: no module is called 'head'"),
        ({"exclude": ["0", "2"]}, "exclude: expected some of the target modules to be left, found all of them excluded; layers"),
        ({"train": "4"}, "expected a sequence of names, found the string"),
        ({"rank": 0}, "^rank: expected an integer >= 1, found 0"),
        ({"rank": 2.0}, "^rank: expected an integer >= 1, found 2.0"),
        ({"rank": True}, "^rank: expected an integer >= 1, found True"),
        ({"alpha": "x"}, "^0: alpha: expected a finite number, found 'x'"),
        ({"dropout": float("nan")}, "^0: dropout: expected 0 <= dropout < 1, found nan"),
        ({"dropout": 1.0}, "^0: dropout: expected 0 <= dropout < 1, found 1.0"),
        ({"dropout": "0"}, "^0: dropout: expected 0 <= dropout < 1, found '0'"),
        ({"target_modules": None}, "^target_modules: expected a sequence of names, found None"),
        ({"target_modules": [0]}, r"^target_modules: expected a sequence of names, found \[0\]"),
        ({"train": None}, "^train: expected a sequence of names, found None"),
        ({"max_rank": "8"}, "^max_rank: expected an integer >= 1, found '8'"),
        ({"alpha": float("nan")}, "^0: alpha: expected a finite number, found nan"),
        ({"target_modules": "("}, r"^target_modules: expected a regular expression, found '\('"),
        ({"rank": 5, "max_rank": 4}, "found 5, max_rank 4"),
        ({"dtype": torch.bfloat16}, "expected torch.float32 or torch.float64, found torch.bfloat16"),
        ({"gradients": "exact"}, "^0: gradients: expected 'projected' or 'published', found 'exact'$"),
        ({"target_modules": ""}, "the model itself"),
    ],
)
def test_bad_options_change_nothing(options: dict[str, Any], message: str, unchecked: None) -> None:
    model = nn.Sequential(nn.Linear(12, 20), nn.Tanh(), nn.Linear(20, 10))
    with pytest.raises(ValueError, match=message):
        adapt(model, **options)
    assert not adapters(model)
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_a_shared_weight_is_refused_unless_the_layer_is_excluded() -> None:
    model = nn.Sequential(nn.Embedding(9, 5), nn.Sequential(nn.Linear(5, 5)), nn.Linear(5, 9))
    model[2].weight = model[0].weight
    with pytest.raises(ValueError, match=r"2: .*shares with 0; exclude the layer"):
        adapt(model, rank=2)
    assert list(adapt(model, rank=2, exclude=["2"])) == ["1.0"]
    assert not model[0].weight.requires_grad


def test_what_lies_in_an_excluded_module_is_left_as_it_is() -> None:
    model = nn.ModuleDict({"a": nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 3)), "b": nn.Linear(4, 4)})
    assert list(adapt(model, ".*[0b]", rank=2, exclude=["a"])) == ["b"]


def test_adapting_twice_is_refused() -> None:
    model = network()
    with pytest.raises(ValueError, match="without adapters, found '0'"):
        adapt(model)


def test_an_adapter_of_another_shape_is_refused() -> None:
    with pytest.raises(ValueError, match=r"expected the shape \(5, 7\)"):
        AdaptedLayer(nn.Linear(7, 5), LowRankAdapter((7, 5), 2, 2))


def test_factors_that_do_not_fit_are_refused() -> None:
    adapter = LowRankAdapter((7, 5), 2, 3, dtype=torch.float64)
    before = adapter.full().clone()
    with pytest.raises(ValueError, match="rank 1 to 3"):
        adapter.assign(
            LowRank(torch.eye(7, 4, dtype=torch.float64), torch.eye(4, dtype=torch.float64), torch.eye(5, 4, dtype=torch.float64))
        )
    assert torch.equal(adapter.full(), before)


def test_dropout_on_a_projection_that_is_never_called_is_refused() -> None:
    model = nn.Sequential(nn.TransformerEncoderLayer(16, 4, 32, dropout=0.0, batch_first=True))
    with pytest.raises(ValueError, match=r"^0.self_attn.out_proj: dropout: expected 0 .*MultiheadAttention.* found 0.5"):
        adapt(model, rank=2, dropout=0.5)
    assert adapters(model) == {}
    assert len(adapt(model, rank=2, dropout=0.5, exclude=["out_proj"])) == 2


def test_factors_that_do_not_fit_into_memory_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    adapter = LowRankAdapter((7, 5), 2, 3, dtype=torch.float64)
    fill(adapter)
    before, asked = [X.detach().clone() for X in adapter.active()], iter([True, False])

    def once(X: Tensor, zeros_like: Callable[[Tensor], Tensor] = torch.zeros_like) -> Tensor:
        if next(asked):
            return zeros_like(X)
        raise torch.OutOfMemoryError("out of memory")

    monkeypatch.setattr(torch, "zeros_like", once)
    with pytest.raises(torch.OutOfMemoryError):
        adapter.assign(LowRank(*(torch.eye(k, 1, dtype=torch.float64) for k in (7, 1, 5))))
    assert all(torch.equal(X, Y) for X, Y in zip(adapter.active(), before, strict=True))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"train": ["0"]},
            r"^target_modules: expected a model with linear layers outside of train=\['0'\] for 'all-linear', found none",
        ),
        ({"fused": "no"}, "^fused: expected 'auto', True or False, found 'no'"),
        ({"generator": 3}, "^0: generator: expected a torch.Generator, found int"),
    ],
)
def test_options_that_are_none_are_refused_by_name(options: dict[str, Any], message: str, unchecked: None) -> None:
    model = single(nn.Linear(9, 6))
    with pytest.raises(ValueError, match=message):
        adapt(model, rank=3, **options)
    assert type(model[0]) is nn.Linear


def test_targets_by_regular_expression_and_by_suffix() -> None:
    def model() -> nn.Module:
        inner = nn.ModuleDict({"query": nn.Linear(4, 4), "value": nn.Linear(4, 4)})
        return nn.ModuleDict({"first": inner, "second": nn.ModuleDict({"query": nn.Linear(4, 4)}), "subquery": nn.Linear(4, 4)})

    assert set(adapt(model(), ["query"], rank=2)) == {"first.query", "second.query"}
    assert set(adapt(model(), r"first\..*", rank=2)) == {"first.query", "first.value"}
    assert set(adapt(model(), "all-linear", rank=2, train=["first"])) == {"second.query", "subquery"}


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_shapes_can_be_counted_on_the_meta_device(fused: bool, dropout: float) -> None:
    """It has no autocast, and torch refuses to be asked whether it is on."""
    model = nn.Sequential(nn.Linear(7, 5))
    adapt(model, rank=2, fused=fused, dropout=dropout)
    y = model.to("meta")(torch.empty(3, 7, device="meta"))
    assert (tuple(y.shape), y.device.type) == ((3, 5), "meta")
    y.sum().backward()


def test_distributed_checkpoints_find_every_name_of_a_state() -> None:
    """They look each one up as an attribute of its module."""
    from torch.distributed.checkpoint.state_dict import get_model_state_dict, set_model_state_dict

    model, other = network(rank=2), network(rank=4)
    state = get_model_state_dict(other)
    assert state.keys() == other.state_dict().keys()
    set_model_state_dict(model, state)
    x, _ = regression()
    assert torch.equal(model(x), other(x))


def test_factors_come_together_or_not_at_all() -> None:
    model = network()
    state = {name: X for name, X in model.state_dict().items() if name != "0.adapter.V"}
    with pytest.raises(RuntimeError, match=r"0\.adapter: expected U, S and V together, found U, S alone"):
        model.load_state_dict(state, strict=False)


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
    with pytest.raises(ValueError, match=r"^1: fused: expected nn.Linear with a weight of the factors' dtype"):
        adapt(model, rank=2, fused=True)
    adapt(model, rank=2)
    for layer in adapters(model).values():
        fill(layer.adapter)
    before = copy.deepcopy(plain.state_dict())
    model(torch.randn(7, 6)).sum().backward()
    assert all(layer.adapter.S.grad is not None for layer in adapters(model).values())
    with pytest.raises(RuntimeError, match="expected a weight that is a tensor of its entries, found a Quantised"):
        merge(model)
    assert all(torch.equal(before[name], X) for name, X in plain.state_dict().items())

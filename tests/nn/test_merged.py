"""Forward passes by one merged matrix a layer: the plain function within rounding, and never an older one."""

from __future__ import annotations

import copy
import math
import weakref
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector, vector_to_parameters
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

from geolora_ref.fast import merge as formed
from geolora_ref.nn import AdaptedLayer, GeoLoRA, LowRankAdapter, adapt, adapters, disabled, merge, unmerge
from geolora_ref.nn.optim.baselines import Dlrt, SimultaneousDescent
from tests.devices import DEVICES
from tests.nn.models import fill, network, regression, train

pytestmark = pytest.mark.usefixtures("module_unchecked")

EPS = torch.finfo(torch.float64).eps
M, N, R, ALPHA = 6, 9, 3, 0.7
STEPS = 20
ROUNDING = 1e3 * EPS
"""Of a network: two layers of sums of 20 + 3·8 terms at most and a head, with room for 10 times that where terms cancel."""


def single(*, merged: bool, gradients: Any = "projected") -> AdaptedLayer:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(N, M).double())
    layer = adapt(model, rank=R, alpha=ALPHA, gradients=gradients, fused=True, merged=merged)["0"]
    fill(layer.adapter)
    return layer


def merged_network(**options: Any) -> nn.Sequential:
    """Fused layers with a merged forward pass, and dense factors."""
    model = network(**options)
    for layer in adapters(model).values():
        layer.fused = layer.merged_forward = True
        fill(layer.adapter)
    return model


def plain(model: nn.Module, x: Tensor) -> Tensor:
    """What the model computes now, by its factors."""
    twin = copy.deepcopy(model)
    for layer in adapters(twin).values():
        layer.fused = layer.merged_forward = False
    result: Tensor = twin(x)
    return result.detach()


def results(layer: AdaptedLayer, x: Tensor, dy: Tensor) -> list[Tensor]:
    """y, ∇x and what is left in the places of U, S, V."""
    x = x.clone().requires_grad_()
    y = layer(x)
    factors = (layer.adapter.Ut, layer.adapter.S, layer.adapter.Vt)
    return [y.detach(), *torch.autograd.grad(y, (x, *factors), dy)]


def absolute(layer: AdaptedLayer) -> AdaptedLayer:
    """The layer of the absolute values: what its sums are when nothing cancels."""
    twin = copy.deepcopy(layer)
    with torch.no_grad():
        for X in twin.parameters():
            X.copy_(X.abs())
    return twin


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("gradients", ["projected", "published"])
def test_output_and_gradients_are_those_of_the_unmerged_layer(device: str, gradients: Any) -> None:
    """Entry by entry: two ways to add up at most k terms differ by at most k·eps times the sum of their absolute values."""
    torch.manual_seed(1)
    x, dy = (torch.randn(4, 5, size, dtype=torch.float64).to(device) for size in (N, M))
    merged, unmerged = (single(merged=merged, gradients=gradients).to(device) for merged in (True, False))
    found, expected = results(merged, x, dy), results(unmerged, x, dy)
    size = results(absolute(merged), x.abs(), dy.abs())
    k = 20 + M + N + 3 * R
    for X, Y, Z in zip(found, expected, size, strict=True):
        assert bool(((X - Y).abs() <= k * EPS * Z).all())
    merged.alpha = 1.0
    assert bool(((results(merged, x, dy)[0] - expected[0]).abs() > k * EPS * size[0]).any())


@pytest.mark.parametrize("method", ["reference", "fast"])
@pytest.mark.parametrize("update", ["sgd", "adam", "heavy-ball"])
def test_a_whole_training_is_the_unmerged_one(method: Any, update: Any) -> None:
    """The same ranks, and W within the criteria's 30·4√(m + n)·eps a step."""
    models = network(rank=2), network(rank=2)
    for merged, model in zip((False, True), models, strict=True):
        for layer in adapters(model).values():
            layer.fused, layer.merged_forward = True, merged
    ranks = [train(model, GeoLoRA(model, lr=0.02, tau=0.15, update=update, method=method), STEPS) for model in models]
    assert ranks[0] == ranks[1]
    assert len(set(ranks[0])) > 1
    for one, other in zip(*(adapters(model).values() for model in models), strict=True):
        W, found = one.adapter.full(), other.adapter.full()
        assert float((found - W).norm()) <= STEPS * 30 * 4 * math.sqrt(sum(W.shape)) * EPS * float(W.norm())


# --- nothing is older than the factors --------------------------------------------------------------------------------


def _backward(model: nn.Module) -> None:
    x, target = regression()
    model.zero_grad()
    (model(x) - target).square().mean().backward()


def _stepped(make: Callable[[nn.Module], torch.optim.Optimizer]) -> Callable[[nn.Module], None]:
    def change(model: nn.Module) -> None:
        optimizer = make(model)
        for _ in range(2):  # the second one finds what the first one left
            _backward(model)
            optimizer.step()

    return change


def _dlrt(model: nn.Module) -> None:
    x, target = regression()

    def closure() -> float:
        loss = (model(x) - target).square().mean()
        loss.backward()
        return float(loss.detach())

    Dlrt(model, lr=0.05).step(closure)


def _scaled_through_data(model: nn.Module) -> None:
    """Which no version counter notices."""
    for layer in adapters(model).values():
        layer.adapter.S.data.mul_(2.0)


def _base_through_data(model: nn.Module) -> None:
    adapters(model)["0"].base_weight.data.mul_(2.0)


def _base(model: nn.Module) -> None:
    with torch.no_grad():
        adapters(model)["0"].base_weight.mul_(2.0)


def _vector(model: nn.Module) -> None:
    """At the same addresses with other numbers."""
    factors = [layer.adapter.S for layer in adapters(model).values()]
    vector = parameters_to_vector(factors).detach()
    vector_to_parameters(vector, factors)
    model(regression()[0])
    vector.mul_(2.0)


def _alpha(model: nn.Module) -> None:
    for layer in adapters(model).values():
        layer.alpha = 0.5


def _assigned(model: nn.Module) -> None:
    for layer in adapters(model).values():
        fill(layer.adapter)


def _reset(model: nn.Module) -> None:
    for layer in adapters(model).values():
        layer.adapter.reset(5)
        fill(layer.adapter)


def _loaded(model: nn.Module) -> None:
    other = merged_network(seed=3, rank=4)
    model.load_state_dict(other.state_dict())


def _rounded(model: nn.Module) -> None:
    """To single precision and back, by which tensors may come to lie where others were."""
    model.float().double()


def _merged_in_place(model: nn.Module) -> None:
    adapters(model)["0"].alpha = 0.5
    merge(model)


def _unmerged_again(model: nn.Module) -> None:
    merge(model)
    model(regression()[0])
    unmerge(model)
    _assigned(model)


CHANGES: dict[str, Callable[[nn.Module], None]] = {
    "GeoLoRA, reference": _stepped(lambda model: GeoLoRA(model, lr=0.05)),
    "GeoLoRA, fast": _stepped(lambda model: GeoLoRA(model, lr=0.05, method="fast")),
    "GeoLoRA, fast, S alone": _stepped(lambda model: GeoLoRA(model, lr=0.05, method="fast", coefficient_steps=1)),
    "simultaneous descent": _stepped(lambda model: SimultaneousDescent(model, lr=0.05)),
    "DLRT": _dlrt,
    "another optimizer": _stepped(lambda model: torch.optim.SGD(model.parameters(), lr=0.05)),
    "factors through .data": _scaled_through_data,
    "the frozen weight": _base,
    "the frozen weight through .data": _base_through_data,
    "a vector of parameters": _vector,
    "alpha": _alpha,
    "assigned": _assigned,
    "another rank": _reset,
    "a state": _loaded,
    "another dtype and back": _rounded,
    "merged": _merged_in_place,
    "unmerged": _unmerged_again,
}


def deviation(model: nn.Module, change: Callable[[nn.Module], None]) -> tuple[float, float]:
    """How far the merged forward pass is from the plain one after a change, and from what it was before."""
    x, _ = regression()
    before = model(x).detach()
    change(model)
    now, found = plain(model, x), model(x).detach()
    return float((found - now).norm() / now.norm()), float((now - before).norm() / now.norm())


@pytest.mark.parametrize("change", CHANGES)
def test_whatever_changes_the_next_forward_pass_knows(change: str) -> None:
    found, moved = deviation(merged_network(), CHANGES[change])
    assert found <= ROUNDING < moved


class _Kept:
    """The control: merged weights that are kept until ``stamp`` says that something has changed."""

    def __init__(self, stamp: Callable[..., Any]) -> None:
        self.stamp = stamp
        self.kept: dict[int, tuple[Any, Tensor]] = {}

    def __call__(self, merged: Tensor, weight: Tensor, U: Tensor, S: Tensor, V: Tensor, scale: float) -> Tensor:
        now, then = self.stamp(weight, U, S, V, scale), self.kept.get(id(weight))
        if then is None or then[0] != now:
            self.kept[id(weight)] = now, formed(merged, weight, U, S, V, scale)
        return self.kept[id(weight)][1]


def _versions(*given: Any) -> list[Any]:
    """By the counters of autograd, addresses, shapes and types."""
    return [(X._version, X.data_ptr(), X.shape, X.dtype) if isinstance(X, Tensor) else X for X in given]


MISSED = {
    "never": (lambda *_: 0, set(CHANGES) - {"merged"}),
    "by version counters": (
        _versions,
        {"factors through .data", "the frozen weight through .data", "a vector of parameters"},
    ),
}


@pytest.mark.parametrize("renewed", MISSED)
def test_a_merged_weight_that_is_kept_would_be_older_than_the_factors(renewed: str, monkeypatch: pytest.MonkeyPatch) -> None:
    stamp, missed = MISSED[renewed]
    stale = set()
    for name, change in CHANGES.items():
        monkeypatch.setattr("geolora_ref.nn.layers.adapted.merge", _Kept(stamp))
        found, _ = deviation(merged_network(), change)
        stale |= {name} if found > ROUNDING else set()
    assert missed <= stale, "each of these is noticed by the test above"


@pytest.mark.parametrize("method", ["reference", "fast"])
def test_a_step_that_was_skipped_or_raised_changes_nothing(method: Any) -> None:
    model, (x, _) = merged_network(), regression()
    optimizer = GeoLoRA(model, lr=0.05, method=method)
    before = model(x).detach()
    for on_nonfinite in ("skip", "raise"):
        _backward(model)
        gradient = adapters(model)["2"].adapter.S.grad
        assert gradient is not None
        gradient.fill_(math.nan)
        optimizer.on_nonfinite = on_nonfinite
        if on_nonfinite == "skip":
            optimizer.step()
        else:
            with pytest.raises(FloatingPointError, match="gradients are not finite: 2"):
                optimizer.step()
        assert torch.equal(model(x), before)


def test_a_copy_and_parameters_that_are_handed_over_are_computed_with() -> None:
    model, other, (x, _) = merged_network(), merged_network(seed=3), regression()
    expected, others = model(x).detach(), other(x).detach()
    twin = copy.deepcopy(model)
    _assigned(twin)
    assert torch.equal(model(x), expected)
    assert not torch.equal(twin(x), expected)
    assert torch.equal(torch.func.functional_call(model, dict(other.named_parameters()), (x,)), others)
    assert torch.equal(model(x), expected)


def test_a_graph_from_before_a_change_is_refused() -> None:
    layer, x = single(merged=True), torch.randn(4, N, dtype=torch.float64)
    loss = layer(x).square().sum()
    fill(layer.adapter)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


# --- what goes with it ------------------------------------------------------------------------------------------------


def test_one_copy_of_the_weight_lives_from_the_forward_to_the_backward_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    alive: list[weakref.ref[Tensor]] = []

    def recorded(*given: Any) -> Tensor:
        alive.append(weakref.ref(result := formed(*given)))
        return result

    monkeypatch.setattr("geolora_ref.nn.layers.adapted.merge", recorded)
    layer, x = single(merged=True), torch.randn(4, N, dtype=torch.float64, requires_grad=True)
    state = set(layer.state_dict())
    loss = layer(x).square().sum()
    (one,) = alive
    merged = one()
    assert merged is not None
    torch.testing.assert_close(merged, layer.weight, rtol=1e-14, atol=1e-14)
    del merged
    loss.backward()
    assert one() is None
    assert set(layer.state_dict()) == state == set(single(merged=False).state_dict())
    assert not list(layer.buffers())
    layer(x.detach())
    assert len(alive) == 2


@pytest.mark.parametrize("kept", [lambda op: op.overloadpacket is torch.ops.aten.addmm, lambda op: "mm" in str(op)])
def test_a_checkpoint_may_keep_the_results_of_products(kept: Callable[[Any], bool]) -> None:
    """It refuses results that are changed in place afterwards, such as a matrix that was there before it was merged into."""

    def policy(_: Any, op: Any, *given: Any, **options: Any) -> CheckpointPolicy:
        return CheckpointPolicy.MUST_SAVE if kept(op) else CheckpointPolicy.PREFER_RECOMPUTE

    model, (x, _) = merged_network(), regression()
    gradients = []
    for run in (
        model,
        partial(checkpoint, model, use_reentrant=False, context_fn=partial(create_selective_checkpoint_contexts, policy)),
    ):
        model.zero_grad()
        run(x).square().sum().backward()
        gradients.append([X.grad.clone() for X in model.parameters() if X.grad is not None])
    assert gradients[0]
    assert all(torch.equal(X, Y) for X, Y in zip(*gradients, strict=True))


def test_merged_and_disabled_as_every_layer() -> None:
    model, (x, _) = merged_network(), regression()
    before = model(x)
    with disabled(model):
        off = plain(model, x)
        assert torch.equal(model(x), off)
    assert not torch.allclose(before, off)
    merge(model)
    torch.testing.assert_close(model(x), before, rtol=1e-13, atol=1e-13)
    unmerge(model)
    assert torch.equal(model(x), before)


def test_autocast_forms_the_matrix_in_the_precision_of_the_factors() -> None:
    layer, x = single(merged=True).float(), torch.randn(4, N)
    with torch.autocast("cpu", torch.bfloat16):
        y = layer(x)
    assert y.dtype == torch.bfloat16
    assert torch.equal(y, nn.functional.linear(x.bfloat16(), layer.weight.bfloat16(), layer.bias.bfloat16()))
    y.float().sum().backward()
    assert layer.adapter.S.grad is not None
    assert layer.adapter.S.grad.dtype == torch.float32


def test_a_layer_that_cannot_be_fused_takes_the_plain_way() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 3, 2), nn.Flatten(), nn.Linear(12, 5)).double()
    layers = adapt(model, ["0", "2"], rank=2, fused=True, merged=True)
    for layer in layers.values():
        fill(layer.adapter)
    layers["2"].base.register_forward_hook(lambda module, inputs, output: 2.0 * output)
    x = torch.randn(4, 2, 3, 3, dtype=torch.float64)
    assert torch.equal(model(x), plain(model, x))


def test_a_model_with_merged_forward_passes_starts_as_the_model_it_was() -> None:
    model, x = nn.Sequential(nn.Linear(30, 40), nn.Tanh(), nn.Linear(40, 7)), torch.randn(8, 30)
    before = model(x)
    adapt(model, rank=3, fused=True, merged=True)
    assert torch.equal(model(x), before)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "merged: expected fused=True beside it, found fused=False"),
        (
            {"fused": True, "dropout": 0.1},
            "merged: expected dropout=0 beside it, which acts on the input of the adapter alone, found 0.1",
        ),
    ],
)
def test_what_does_not_go_together_is_refused(options: dict[str, Any], message: str) -> None:
    model, generator = nn.Sequential(nn.Linear(N, M)), torch.Generator().manual_seed(1)
    before = generator.get_state()
    with pytest.raises(ValueError, match=f"^{message}$"):
        adapt(model, rank=R, merged=True, generator=generator, **options)
    assert isinstance(model[0], nn.Linear)
    assert torch.equal(generator.get_state(), before)
    with pytest.raises(ValueError, match=f"^{message}$"):
        AdaptedLayer(nn.Linear(N, M), LowRankAdapter((M, N), R, R), merged=True, **options)

"""A step that fails leaves all as it was, whether gradients, heads, memories or factors cannot take it."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

from geolora_ref.nn import GeoLoRA, adapters
from geolora_ref.nn.optim.adapter_optimizer import AdapterOptimizer
from geolora_ref.nn.optim.baselines import Dlrt, SimultaneousDescent
from tests.nn.steps import MAKES, METHODS, backward, head_of, same, snapshot
from verification.network_defects.models import network, regression, train

pytestmark = pytest.mark.usefixtures(
    "module_unchecked"
)  # whole trainings: the tests of the core check its shapes


@pytest.mark.parametrize("poison", [float("nan"), float("inf")])
@pytest.mark.parametrize("where", ["adapter", "head"])
def test_gradients_that_are_not_finite_change_nothing(where: str, poison: float) -> None:
    model = network()
    optimizer = GeoLoRA(model, lr=0.05, tau=0.1)
    train(model, optimizer, 2)
    before = snapshot(model, optimizer)
    backward(model)
    victim = adapters(model)["2"].adapter.Vt if where == "adapter" else head_of(model).bias
    assert isinstance(victim, nn.Parameter)
    assert victim.grad is not None
    victim.grad[0] = poison
    name = "2" if where == "adapter" else r"4\.bias"
    with pytest.raises(
        FloatingPointError,
        match=f"gradients are not finite: {name} .1 in all.; nothing was changed",
    ):
        optimizer.step()
    assert same(before, snapshot(model, optimizer))
    optimizer.on_nonfinite = "skip"
    optimizer.step()
    assert optimizer.skipped == 1
    assert same(before, snapshot(model, optimizer))


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("method", ["reference", "fast"])
def test_an_overflow_inside_the_step_changes_nothing(method: Any, groups: int) -> None:
    """The last layer fails after the first one has been computed."""
    model = network()
    parts: Any = (
        model if groups == 1 else [{"module": model[0]}, {"module": model[2]}, {"module": model[4]}]
    )
    optimizer = GeoLoRA(parts, lr=1e300, tau=0.1, update="sgd", method=method)
    before = snapshot(model, optimizer)
    backward(model)
    last = adapters(model)["2"].adapter.Ut
    assert last.grad is not None
    last.grad.mul_(1e200)
    where = {
        ("fast", 1): r"the range of its dtype, in \['2'\]; nothing",
        ("reference", 1): "^2: line 3: K_new overflowed",
    }
    with pytest.raises(
        FloatingPointError,
        match=where.get((method, groups), "the range of its dtype|overflowed the range"),
    ):
        optimizer.step()
    assert same(before, snapshot(model, optimizer))


@pytest.mark.parametrize("method", METHODS)
def test_a_refusal_in_a_later_group_undoes_the_earlier_ones(method: Any) -> None:
    """Whatever it is: here the last adapter has another rank than its memory."""
    model = network()
    optimizer = GeoLoRA([{"module": model[0]}, {"module": model[2]}], lr=0.05, method=method)
    x, target = regression()
    ((model(x) - target).square().mean()).backward()
    optimizer.step()
    adapters(model)["2"].adapter.reset(2)
    optimizer.zero_grad()
    backward(model)
    before = snapshot(model, optimizer)
    with pytest.raises(RuntimeError, match="remembers rank"):
        optimizer.step()
    assert same(before, snapshot(model, optimizer))


HEADS_THAT_FAIL: dict[str, tuple[dict[str, Any], str]] = {
    "a rate beyond single precision": (
        {"lr": 1e39},
        "parameters outside the adapters: expected ones that AdamW can step, found",
    ),
    "a first step beyond it": (
        {"lr": 1e38},
        "parameters outside the adapters: .*without overflow; nothing was changed",
    ),
    "no number": ({"lr": float("nan")}, "lr: expected a finite number >= 0, found nan"),
    "negative": ({"lr": -1.0}, "lr: expected a finite number >= 0, found -1.0"),
    "two rates": (
        {"lr": torch.ones(2)},
        r"lr: expected a finite number >= 0, found tensor\(\[1., 1.\]\)",
    ),
    "no betas": ({"betas": None}, "betas: expected two numbers >= 0 and < 1, found None"),
    "one beta": ({"betas": 1.5}, "betas: expected two numbers >= 0 and < 1, found 1.5"),
    "eps": ({"eps": float("nan")}, "eps: expected a finite number >= 0, found nan"),
    "weight_decay": (
        {"weight_decay": float("inf")},
        "weight_decay: expected a finite number >= 0, found inf",
    ),
    "momentum of another rule": (
        {"momentum": -1.0},
        "momentum: expected 0 <= momentum < 1, found -1.0",
    ),
    "smoothing of another rule": (
        {"smoothing": float("nan")},
        "smoothing: expected a finite number >= 0, found nan",
    ),
}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("case", HEADS_THAT_FAIL)
def test_a_head_that_cannot_take_its_step_changes_nothing(case: str, method: Any) -> None:
    """The adapters come first in a step; options may be changed by all code that holds the groups."""
    model = network().float()
    optimizer = GeoLoRA(model, lr=0.05, method=method)
    x, target = (X.float() for X in regression())
    (model(x) - target).square().mean().backward()
    changed, message = HEADS_THAT_FAIL[case]
    optimizer.param_groups[1].update(changed)
    before = snapshot(model, optimizer)
    before[1]["param_groups"][1].pop(*changed)  # NaN is not equal to itself
    with pytest.raises(ValueError, match=message):
        optimizer.step()
    after = snapshot(model, optimizer)
    after[1]["param_groups"][1].pop(*changed)
    assert same(before, after)


@pytest.mark.parametrize("method", METHODS)
def test_gradients_whose_squares_overflow_change_nothing(method: Any) -> None:
    model = network().float()
    optimizer = GeoLoRA(model, lr=0.05, update="adam", method=method)
    x, target = (X.float() for X in regression())
    for is_first in (True, False):
        optimizer.zero_grad()
        ((model(x) - target).square().mean()).backward()
        if is_first:
            optimizer.step()
    before = snapshot(model, optimizer)
    for parameter in (adapters(model)["2"].adapter.Ut, adapters(model)["2"].adapter.S):
        assert parameter.grad is not None
        parameter.grad.add_(1e25)
    named = (
        r"second moments overflowed .* in \['2'\]; nothing"
        if method == "fast"
        else "^2: .*second moment"
    )
    with pytest.raises(FloatingPointError, match=named):
        optimizer.step()
    assert same(before, snapshot(model, optimizer))


def test_a_loss_scaler_that_finds_an_overflow_skips_everything() -> None:
    model = network().float()
    optimizer = GeoLoRA(model, lr=0.05, tau=0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    x, target = (X.float() for X in regression())

    def step(factor: float) -> None:
        optimizer.zero_grad()
        scaler.scale((model(x) - target).square().mean() * factor).backward()
        scaler.step(optimizer)
        scaler.update()

    step(1.0)
    before = snapshot(model, optimizer)
    step(1e38)
    assert same(before, snapshot(model, optimizer))
    assert scaler.get_scale() == 2.0**9
    step(1.0)
    assert not same(before, snapshot(model, optimizer))


@pytest.mark.parametrize("method", METHODS)
def test_sparse_gradients_are_refused_and_nothing_is_changed(method: Any) -> None:
    table = nn.Embedding(9, 12, sparse=True, dtype=torch.float64)
    model = nn.Sequential(table, network())
    for parameter in model.parameters():
        parameter.requires_grad_(True)
    optimizer = GeoLoRA(model, method=method)
    model(torch.tensor([1, 4])).sum().backward()
    before = snapshot(model, optimizer)
    with pytest.raises(
        ValueError, match=r"dense ones, found torch.sparse_coo of 0\.weight; nothing"
    ):
        optimizer.step()
    assert same(before, snapshot(model, optimizer))


REPORTED: dict[type[AdapterOptimizer], set[str]] = {
    GeoLoRA: {"reports", "truncations", "exact"},
    SimultaneousDescent: set(),
    Dlrt: {"reports"},
}


@pytest.mark.parametrize("make", MAKES)
@pytest.mark.parametrize(
    "place", ["the second adapter", "the second parameter of the head", "the last line"]
)
@pytest.mark.parametrize("error", [torch.OutOfMemoryError, KeyboardInterrupt])
def test_what_fails_while_a_step_is_written_changes_nothing(
    make: str, place: str, error: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = network()
    optimizer = MAKES[make](model)

    def closure() -> float:
        optimizer.zero_grad()
        backward(model)
        return 0.0

    for _ in range(2):
        closure()
        optimizer.step(closure)
    reported = {name: copy.copy(getattr(optimizer, name)) for name in REPORTED[type(optimizer)]}
    before = snapshot(model, optimizer)
    remember, finish, written = AdapterOptimizer.remember, AdapterOptimizer.finish, []

    def fails_to_remember(self: AdapterOptimizer, adapter: Any, moments: Any) -> None:
        written.append(adapter)
        if len(written) == 2:
            raise error("in the middle")
        remember(self, adapter, moments)

    def fails_to_finish(self: AdapterOptimizer, heads: Any) -> None:
        finish(self, heads if place == "the last line" else heads[:1])
        raise error("in the middle")

    if place == "the second adapter":
        monkeypatch.setattr(AdapterOptimizer, "remember", fails_to_remember)
    else:
        monkeypatch.setattr(AdapterOptimizer, "finish", fails_to_finish)
    closure()
    with pytest.raises(error, match="in the middle"):
        optimizer.step(closure)
    assert same(before, snapshot(model, optimizer))
    assert reported == {name: getattr(optimizer, name) for name in reported}
    monkeypatch.undo()
    optimizer.step(closure)
    assert not same(before, snapshot(model, optimizer))

"""The torch optimizer: the step is the reference's, nothing is half done, states round trip, and torch's tools work with it."""

from __future__ import annotations

import copy
import re
import subprocess
import sys
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import pytest
import torch
from torch import Tensor, nn

from geolora_ref import LowRank, ProjectedGradients, geolora_step
from geolora_ref.nn import GeoLoRA, adapt, adapters, disabled, merge, unmerge
from geolora_ref.nn.optim.adapter_optimizer import AdapterOptimizer
from geolora_ref.nn.optim.baselines import Dlrt, SimultaneousDescent
from geolora_ref.nn.optim.heads import finite
from verification.network_defects.models import fill, network, regression, train


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


pytestmark = pytest.mark.usefixtures("module_unchecked")  # whole trainings: the tests of the core check its shapes
METHODS: tuple[Literal["reference", "fast"], ...] = ("reference", "fast")


def head_of(model: nn.Sequential) -> nn.Linear:
    """The layer that is trained as a whole."""
    head = model[4]
    assert isinstance(head, nn.Linear)
    return head


def backward(model: nn.Module, *, scale: float = 1.0) -> None:
    x, target = regression()
    (scale * (model(x) - target).square().mean()).backward()


def test_the_step_of_every_layer_is_the_reference_step() -> None:
    model = network()
    for layer in adapters(model).values():
        fill(layer.adapter)
    optimizer = GeoLoRA(model, lr=0.1, tau=0.2, update="sgd", method="reference")
    backward(model)
    expected = {}
    for name, layer in adapters(model).items():
        gradients = layer.adapter.collected_gradients()
        assert isinstance(gradients, ProjectedGradients)
        expected[name] = geolora_step(layer.adapter.factors(), gradients, learning_rate=0.1, tau=0.2, max_rank=8)
    optimizer.step()
    for name, layer in adapters(model).items():
        step = expected[name]
        assert layer.adapter.rank == step.Y.rank
        torch.testing.assert_close(layer.adapter.full(), step.Y.full(), rtol=1e-13, atol=1e-14)
        report = optimizer.reports[name]
        assert (report.rank, report.rank_rule, report.theta) == (step.Y.rank, step.rank_rule, step.theta)


def test_the_head_is_trained_by_adamw() -> None:
    model, twin = network(), network()
    optimizer = GeoLoRA(model, lr=0.01, tau=0.1, weight_decay=0.1, betas=(0.8, 0.99), eps=1e-3)
    head = [p for p in twin.parameters() if p.requires_grad][-2:]
    adamw = torch.optim.AdamW(head, lr=0.01, weight_decay=0.1, betas=(0.8, 0.99), eps=1e-3)
    for _ in range(3):
        backward(model)
        for mine, theirs in zip((p for p in head_of(model).parameters()), head, strict=True):
            assert mine.grad is not None
            theirs.grad = mine.grad.clone()
        optimizer.step()
        optimizer.zero_grad()
        adamw.step()
    for mine, theirs in zip(head_of(model).parameters(), head, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-14, atol=1e-14)


WAYS: list[dict[str, Any]] = [
    {"tau": 0.3, "update": "adam", "lr": 0.05},
    {"tau": 0.25, "update": "adam", "core": "own"},
    {"theta": 1e-3, "update": "sgd", "lr": 0.3},
    {"tau": 0.1, "update": "heavy-ball"},
    {"tau": 0.1, "update": "normalised", "weight_decay": 0.01},
    {"budget": 9, "coefficient_steps": 2},
    {"budget": 400, "unit": "parameters"},
    {"tau": 0.1, "coefficient_steps": 3, "truncate": "after the cycle"},
    {"budget": 12, "coefficient_steps": 1, "truncate": "after the cycle"},
    {"theta": 1e-3, "min_rank": 3, "coefficient_steps": 1, "truncate": "after the cycle"},
    {"tau": 0.1, "max_rank": 4, "coefficient_steps": 1, "truncate": "after the cycle"},
    {"tau": 0.0, "max_rank": 4},
    {"budget": 20, "max_rank": 2},
    {"budget": 4, "min_rank": 2},
    {"tau": 0.1, "weight_decay": 0.2, "core": "own"},
    {"tau": 0.1, "weight_decay": 0.2, "update": "sgd", "lr": 0.1},
]


@pytest.mark.parametrize("options", WAYS, ids=str)
def test_the_fast_method_is_the_reference_within_rounding(options: dict[str, Any]) -> None:
    """25 steps in which ranks change; the same ranks, reports and function."""
    options = {"lr": 0.02} | options
    models = network(rank=2), network(rank=2)
    reference = GeoLoRA(models[0], method="reference", **options)
    fast = GeoLoRA(models[1], method="fast", **options)
    ranks = [train(model, optimizer, 25) for model, optimizer in zip(models, (reference, fast), strict=True)]
    x, _ = regression()
    assert ranks[0] == ranks[1]
    torch.testing.assert_close(models[0](x), models[1](x), rtol=1e-10, atol=1e-11)
    for name, report in reference.reports.items():
        found = fast.reports[name]
        assert (found.rank, found.rank_rule) == (report.rank, report.rank_rule)
        # θ = τ‖Ŝ‖ is off by its own rounding, what is discarded, a small part of Ŝ, by that of Ŝ: 2e-15 and 4e-13 here
        assert found.theta == pytest.approx(report.theta, rel=1e-13, abs=0.0)
        assert found.discarded == pytest.approx(report.discarded, rel=1e-11, abs=0.0)


@pytest.mark.parametrize("change", ["memory", "weights", "none"])
def test_a_memory_that_is_loaded_and_weights_that_change_count_in_the_next_step(change: str) -> None:
    """As in a copy of model and optimizer, which has nothing but their states."""
    model = network()
    optimizer = GeoLoRA(model, lr=0.02, tau=0.0, max_rank=3, method="fast")
    train(model, optimizer, 2)
    early = optimizer.state_dict()
    train(model, optimizer, 3)
    unchanged = copy.deepcopy((model, optimizer))
    if change == "memory":
        optimizer.load_state_dict(early)
    for group in optimizer.param_groups if change == "weights" else ():
        group["betas"] = (0.3, 0.8)
    twin = copy.deepcopy((model, optimizer))
    for pair in ((model, optimizer), twin, unchanged):
        train(*pair, 2)
    states = [[X.clone() for X in one.state_dict().values()] for one in (model, twin[0], unchanged[0])]
    assert same(states[0], states[1])
    assert same(states[0], states[2]) == (change == "none")


@pytest.mark.parametrize("singular", ["0", "2"])
def test_the_reports_say_which_layers_went_through_householders_qr(singular: str) -> None:
    """One layer keeps a singular value that a Gram matrix of float32 bases does not show."""
    model = network(rank=3, max_rank=3).float()
    for name, layer in adapters(model).items():
        layer.adapter.orthonormalise()
        U, _, V = layer.adapter.factors()
        layer.adapter.assign(LowRank(U, torch.diag(torch.tensor([1.0, 1.0, 1e-5 if name == singular else 1.0])), V))
    x, target = (X.float() for X in regression())
    optimizer = GeoLoRA(model, lr=1e-6, theta=0.0, update="sgd", method="fast")
    (model(x) - target).square().mean().backward()
    optimizer.step()
    assert {name: report.exact for name, report in optimizer.reports.items()} == {"0": singular == "0", "2": singular == "2"}
    assert (optimizer.truncations, optimizer.exact) == (2, 1)
    twin = copy.deepcopy(optimizer)
    assert (twin.truncations, twin.exact, twin.reports) == (2, 1, optimizer.reports)


@pytest.mark.parametrize("method", METHODS)
def test_in_double_precision_every_truncation_is_by_householders_qr(method: Any) -> None:
    """The reference knows no other way; steps of S alone truncate nothing and are not counted."""
    model = network()
    optimizer = GeoLoRA(model, lr=0.05, method=method, coefficient_steps=1)
    train(model, optimizer, 4)
    assert all(report.exact for report in optimizer.reports.values())
    assert (optimizer.truncations, optimizer.exact) == (4, 4)


@pytest.mark.parametrize("method", ["reference", "fast"])
def test_the_least_rank_is_kept_within_the_cycle_too(method: Any) -> None:
    """A target of 0 from W = 0: no gradient, and nothing but ``min_rank`` keeps columns."""
    model = network(rank=2)
    optimizer = GeoLoRA(model, lr=0.1, tau=0.3, method=method, min_rank=4, coefficient_steps=1, truncate="after the cycle")
    x, _ = regression()
    (0.0 * model(x).sum()).backward()
    optimizer.step()
    assert {report.rank for report in optimizer.reports.values()} == {4}


@pytest.mark.parametrize("method", ["reference", "fast"])
@pytest.mark.parametrize("options", WAYS, ids=str)
def test_every_way_of_training_reduces_the_loss_and_survives_a_reload(options: dict[str, Any], method: Any) -> None:
    """20 steps, saved and loaded into fresh objects in the middle: bit for bit those without the interruption."""
    options = {"lr": 0.02, "method": method, **options}
    x, target = regression()
    model = network()
    optimizer = GeoLoRA(model, **options)
    start = float((model(x) - target).square().mean().detach())
    train(model, optimizer, 11)
    fresh = network(seed=5)
    fresh_optimizer = GeoLoRA(fresh, **options)
    fresh.load_state_dict(model.state_dict())
    fresh_optimizer.load_state_dict(optimizer.state_dict())  # a copy: the other training goes on before it is read
    copied, copied_optimizer = copy.deepcopy((model, optimizer))
    ranks = [train(*pair, 9) for pair in ((model, optimizer), (fresh, fresh_optimizer), (copied, copied_optimizer))]
    assert ranks[0] == ranks[1] == ranks[2]
    assert same(snapshot(model, optimizer), snapshot(fresh, fresh_optimizer))
    assert same(snapshot(model, optimizer), snapshot(copied, copied_optimizer))
    assert float((model(x) - target).square().mean().detach()) < 0.8 * start


def test_ranks_change_in_training() -> None:
    """Without this the tests of reloading and compiling would prove little."""
    model = network(rank=2)
    ranks = train(model, GeoLoRA(model, lr=0.05, tau=0.3), 20)
    assert len(set(ranks)) >= 3
    assert max(max(r) for r in ranks) > 2


def test_gradient_accumulation_is_the_gradient_of_the_sum() -> None:
    whole, parts = network(), network()
    optimizers = GeoLoRA(whole, lr=0.05, tau=0.1, update="sgd"), GeoLoRA(parts, lr=0.05, tau=0.1, update="sgd")
    x, target = regression()
    for _ in range(5):
        for optimizer in optimizers:
            optimizer.zero_grad()
        (whole(x) - target).square().mean().backward()
        for piece in range(4):
            chosen = slice(16 * piece, 16 * (piece + 1))
            ((parts(x[chosen]) - target[chosen]).square().mean() / 4).backward()
        for optimizer in optimizers:
            optimizer.step()
    torch.testing.assert_close(whole(x), parts(x), rtol=1e-13, atol=1e-14)  # another order of summation: one eps here


def test_clipping_bounds_the_norm_that_the_text_says() -> None:
    model = network()
    for layer in adapters(model).values():
        fill(layer.adapter)
    optimizer = GeoLoRA(model, lr=0.1, tau=0.1)
    backward(model, scale=100.0)
    squares = {name: (layer.adapter.collected_gradients(), layer.adapter.factors()) for name, layer in adapters(model).items()}
    total = sum(float(p.grad.square().sum()) for p in head_of(model).parameters() if p.grad is not None)
    for g, Y in squares.values():
        assert isinstance(g, ProjectedGradients)
        tangent = Y.U @ g.dL.mT + (g.dK - Y.U @ g.dS) @ Y.V.mT
        mine = float(g.dK.square().sum() + g.dL.square().sum() + g.dS.square().sum())
        assert mine == pytest.approx(float(tangent.square().sum() + 2 * g.dS.square().sum()), rel=1e-12)
        total += mine
    norm = torch.nn.utils.clip_grad_norm_([p for group in optimizer.param_groups for p in group["params"]], 1.0)
    assert float(norm) == pytest.approx(total**0.5, rel=1e-12)


def test_schedulers_set_the_rate_of_every_group() -> None:
    model = network()
    optimizer = GeoLoRA(model, lr=0.1, head_lr=0.01, tau=0.1, update="sgd")
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda epoch: 0.0 if epoch == 1 else 1.0)
    assert [group["lr"] for group in optimizer.param_groups] == [0.1, 0.01]
    backward(model)
    optimizer.step()
    scheduler.step()
    before = {name: layer.adapter.full().clone() for name, layer in adapters(model).items()}
    head = model.get_parameter("4.weight").detach().clone()
    backward(model)
    optimizer.step()  # λ = 0, of the head as well
    assert all(torch.equal(adapters(model)[name].adapter.full(), W) for name, W in before.items())
    assert torch.equal(model.get_parameter("4.weight"), head)


def test_groups_have_options_of_their_own() -> None:
    model = network()
    optimizer = GeoLoRA(
        [{"module": model[0], "lr": 0.0, "update": "sgd"}, {"module": model[2], "max_rank": 2}, {"module": model[4]}],
        lr=0.05,
        tau=0.0,
    )
    first, second = adapters(model).values()
    before, head = first.adapter.full().clone(), head_of(model).weight.detach().clone()
    train(model, optimizer, 3)
    assert torch.equal(first.adapter.full(), before)
    assert second.adapter.rank == 2
    assert not torch.equal(head_of(model).weight, head)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("update", "option", "value"),
    [
        ("adam", "betas", (0.0, 0.5)),
        ("adam", "eps", 1.0),
        ("normalised", "betas", (0.0, 0.5)),
        ("normalised", "eps", 1.0),
        ("heavy-ball", "momentum", 0.2),
        ("sgd", "weight_decay", 0.5),
    ],
)
def test_every_option_of_an_update_counts(update: Any, option: str, value: Any, method: Any) -> None:
    models = network(), network()
    for model, more in zip(models, ({}, {option: value}), strict=True):
        train(model, GeoLoRA(model, lr=0.05, tau=0.1, update=update, method=method, **more), 2)
    one, other = (next(iter(adapters(model).values())).adapter.full() for model in models)
    assert float((one - other).norm()) > 1e-3 * float(one.norm())


def test_a_part_may_have_a_rate_of_its_own_for_its_head() -> None:
    model = network()
    optimizer = GeoLoRA([{"module": model[0]}, {"module": model[2]}, {"module": model[4], "head_lr": 0.5}], head_lr=0.3)
    assert [group["lr"] for group in optimizer.param_groups if not group["adapters"]] == [0.5]


@pytest.mark.parametrize("tau", [None, 0.2])
def test_a_group_has_its_own_threshold_in_place_of_the_common_one(tau: float | None) -> None:
    model = network()
    parts: list[dict[str, Any]] = [{"module": model[0], "theta": 0.01}, {"module": model[2], "budget": 3}, {"module": model[4]}]
    optimizer = GeoLoRA(parts, tau=tau)
    found = [tuple(group[name] for name in ("tau", "theta", "budget")) for group in optimizer.param_groups if group["adapters"]]
    assert found == [(None, 0.01, None), (None, None, 3)]
    assert GeoLoRA(model, tau=tau).param_groups[0]["tau"] == (tau or 0.1)
    assert Dlrt([{"module": network(), "theta": 0.01}], tau=tau).param_groups[0]["theta"] == 0.01
    with pytest.raises(ValueError, match=r"found tau=0\.1, theta=0\.2$"):
        GeoLoRA([{"module": model, "tau": 0.1, "theta": 0.2}])


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
    with pytest.raises(FloatingPointError, match=f"gradients are not finite: {name} .1 in all.; nothing was changed"):
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
    parts: Any = model if groups == 1 else [{"module": model[0]}, {"module": model[2]}, {"module": model[4]}]
    optimizer = GeoLoRA(parts, lr=1e300, tau=0.1, update="sgd", method=method)
    before = snapshot(model, optimizer)
    backward(model)
    last = adapters(model)["2"].adapter.Ut
    assert last.grad is not None
    last.grad.mul_(1e200)
    where = {("fast", 1): r"the range of its dtype, in \['2'\]; nothing", ("reference", 1): "^2: line 3: K_new overflowed"}
    with pytest.raises(FloatingPointError, match=where.get((method, groups), "the range of its dtype|overflowed the range")):
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
    "a rate beyond single precision": ({"lr": 1e39}, "parameters beside the adapters: expected ones that AdamW can step, found"),
    "a first step beyond it": ({"lr": 1e38}, "parameters beside the adapters: .*without overflow; nothing was changed"),
    "no number": ({"lr": float("nan")}, "lr: expected a finite number >= 0, found nan"),
    "negative": ({"lr": -1.0}, "lr: expected a finite number >= 0, found -1.0"),
    "two rates": ({"lr": torch.ones(2)}, r"lr: expected a finite number >= 0, found tensor\(\[1., 1.\]\)"),
    "no betas": ({"betas": None}, "betas: expected two numbers >= 0 and < 1, found None"),
    "one beta": ({"betas": 1.5}, "betas: expected two numbers >= 0 and < 1, found 1.5"),
    "eps": ({"eps": float("nan")}, "eps: expected a finite number >= 0, found nan"),
    "weight_decay": ({"weight_decay": float("inf")}, "weight_decay: expected a finite number >= 0, found inf"),
}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("case", HEADS_THAT_FAIL)
def test_a_head_that_cannot_take_its_step_changes_nothing(case: str, method: Any) -> None:
    """The adapters come first in a step; options may be changed by whoever holds the groups."""
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
def test_a_head_that_does_not_fit_into_memory_changes_nothing(method: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever halves the batch then waits for torch's own error."""

    def fails(*_: Any, **__: Any) -> None:
        raise torch.OutOfMemoryError("out of memory")

    model = network()
    optimizer = GeoLoRA(model, lr=0.05, method=method)
    backward(model)
    monkeypatch.setattr("geolora_ref.nn.optim.heads.adamw", fails)
    before = snapshot(model, optimizer)
    with pytest.raises(torch.OutOfMemoryError, match="out of memory"):
        optimizer.step()
    assert same(before, snapshot(model, optimizer))


@pytest.mark.parametrize("where", ["optim.fast_group.LayerMemory.transported", "optim.fast_group.LayerBank.turns"])
def test_a_memory_that_cannot_be_moved_changes_nothing(where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The fast step has written its factors by then, with other ranks."""

    def fails(*_: Any, **__: Any) -> None:
        raise torch.OutOfMemoryError("out of memory")

    model = network()
    optimizer = GeoLoRA(model, lr=0.05, tau=0.3, method="fast")
    train(model, optimizer, 2)
    backward(model)
    before = snapshot(model, optimizer)
    with monkeypatch.context() as patch:
        patch.setattr(f"geolora_ref.nn.{where}", fails)
        patch.setattr(torch, "zeros_like", fails)  # nor is there memory for new tensors when the factors are put back
        with pytest.raises(torch.OutOfMemoryError):
            optimizer.step()
    assert same(before, snapshot(model, optimizer))
    optimizer.step()


@pytest.mark.parametrize("wrapped", [partial(torch.compile, backend="eager"), lambda model: nn.DataParallel(model).cpu()])
def test_a_state_is_that_of_the_model_inside(wrapped: Callable[[nn.Module], nn.Module]) -> None:
    """What is compiled or data-parallel names its adapters as the bare model does, and so do reports and states."""
    model, bare = network(), network()
    around = wrapped(model)
    optimizer, other = GeoLoRA(around, lr=0.05, method="fast"), GeoLoRA(bare, lr=0.05, method="fast")
    assert list(adapters(around)) == list(adapters(bare)) == ["0", "2"]
    train(model, optimizer, 2)
    bare.load_state_dict(model.state_dict())
    other.load_state_dict(optimizer.state_dict())
    assert list(optimizer.reports) == ["0", "2"]
    assert same(optimizer.state_dict(), other.state_dict())


def test_what_is_not_finite_is_not_called_an_overflow() -> None:
    """Factors that something has spoilt are theirs to be told of, as by the reference; 0/0 in Adam without ε is no number."""
    model = network()
    optimizer = GeoLoRA(model, lr=0.05, tau=0.1, update="sgd", method="fast")
    backward(model)
    adapters(model)["2"].adapter.S.data[0, 0] = float("nan")
    with pytest.raises(ValueError, match=r"S: expected finite entries"):
        optimizer.step()
    model = network()
    optimizer = GeoLoRA(model, lr=0.05, tau=0.1, eps=0.0, method="fast")
    backward(model)
    gradient = adapters(model)["0"].adapter.Ut.grad
    assert gradient is not None
    gradient[:, 0] = 0.0
    with pytest.raises(
        FloatingPointError, match=r"the update is not finite, or leaves the range of its dtype, in \['0'\]; nothing"
    ):
        optimizer.step()


def test_a_core_that_overflows_in_a_coefficient_step_is_named() -> None:
    model = network()
    optimizer = GeoLoRA(model, lr=1e300, tau=0.1, update="sgd", method="fast", coefficient_steps=2)
    backward(model)
    optimizer.param_groups[0]["iteration"] = 1
    gradient = adapters(model)["2"].adapter.S.grad
    assert gradient is not None
    gradient.mul_(1e200)
    with pytest.raises(FloatingPointError, match=r"in \['2'\]; nothing was changed"):
        optimizer.step()


@pytest.mark.parametrize("method", METHODS)
def test_a_head_whose_memory_is_of_another_dtype_changes_nothing(method: Any) -> None:
    model = network().float()
    optimizer = GeoLoRA(model, lr=0.05, update="sgd", method=method)
    x, target = regression()
    (model(x.float()) - target.float()).square().mean().backward()
    optimizer.step()
    model.double()
    for layer in adapters(model).values():
        layer.adapter.orthonormalise()
    optimizer.zero_grad()
    (model(x) - target).square().mean().backward()
    before = snapshot(model, optimizer)
    message = r"^4\.weight: the optimizer remembers torch.float32 on cpu, the parameter has torch.float64 .* it remembers$"
    with pytest.raises(RuntimeError, match=message):
        optimizer.step()
    assert same(before, snapshot(model, optimizer))


@pytest.mark.parametrize("method", METHODS)
def test_gradients_whose_squares_overflow_change_nothing(method: Any) -> None:
    model = network().float()
    optimizer = GeoLoRA(model, lr=0.05, method=method)
    x, target = (X.float() for X in regression())
    ((model(x) - target).square().mean()).backward()
    optimizer.step()
    before = snapshot(model, optimizer)
    for parameter in (adapters(model)["2"].adapter.Ut, adapters(model)["2"].adapter.S):
        assert parameter.grad is not None
        parameter.grad.add_(1e25)
    named = r"second moments overflowed .* in \['2'\]; nothing" if method == "fast" else "^2: .*second moment"
    with pytest.raises(FloatingPointError, match=named):
        optimizer.step()
    assert same(before, snapshot(model, optimizer))


OPTIMIZERS: dict[str, Callable[[nn.Module], AdapterOptimizer]] = {
    **{method: partial(GeoLoRA, lr=0.01, method=method) for method in METHODS},
    "descent": partial(SimultaneousDescent, lr=0.01),
    "dlrt": partial(Dlrt, lr=0.01),
}


@pytest.mark.parametrize("defect", ["second moments beyond the range", "second moments and eps below it", "none"])
@pytest.mark.parametrize("method", OPTIMIZERS)
def test_a_head_that_overflows_in_its_step_changes_nothing(method: str, defect: str) -> None:
    """1e25 has no square in single precision, 1e-5 none in half, where eps = 1e-8 is 0; smaller gradients and 1e-3 have one."""
    model = network(max_rank=6).float()
    half = defect.endswith("below it")
    if half:
        head_of(model).bias.data = head_of(model).bias.data.half()
    optimizer, (x, target) = OPTIMIZERS[method](model), (X.float() for X in regression())
    shift = {"second moments beyond the range": 1e25, "second moments and eps below it": 1e-5, "none": 1e-3}

    def closure() -> float:
        optimizer.zero_grad()
        hidden = model[:4](x)
        loss = (nn.functional.linear(hidden, head_of(model).weight, head_of(model).bias.float()) - target).square().mean()
        loss.backward()
        head_of(model).bias.grad = torch.full_like(head_of(model).bias, shift[defect])
        return float(loss.detach())

    before = snapshot(model, optimizer)
    if defect == "none":
        optimizer.step(closure)
        assert not same(before, snapshot(model, optimizer))
        return
    dtype, cure = ("16", r" \(half precision needs a larger eps; .* in float32\)") if half else ("32", "")
    with pytest.raises(FloatingPointError, match=rf"for 4\.bias, torch.float{dtype} \(1 in all\){cure}; nothing was changed"):
        optimizer.step(closure)
    assert same(before, snapshot(model, optimizer))


def test_of_many_heads_the_first_four_are_named() -> None:
    model = nn.Sequential(nn.Linear(3, 3), *(nn.LayerNorm(3) for _ in range(3)))
    adapt(model, rank=1, train=["1", "2", "3"])
    optimizer = GeoLoRA(model)
    model(torch.ones(2, 3)).sum().backward()
    for name, parameter in model.named_parameters():
        if name.startswith(("1", "2", "3")):
            parameter.grad = torch.full_like(parameter, 1e25)
    named = "; ".join(f"{name}, torch.float32" for name in ("1.weight", "1.bias", "2.weight", "2.bias"))
    with pytest.raises(FloatingPointError, match=rf"^optimizer: .* not finite for {re.escape(named)} \(6 in all\); nothing"):
        optimizer.step()
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, float("nan")) if parameter.requires_grad else None
    named = ", ".join(("0", "1.weight", "1.bias", "2.weight"))
    with pytest.raises(FloatingPointError, match=rf"^gradients are not finite: {re.escape(named)} \(7 in all\); nothing"):
        optimizer.step()


def stepped_in_single(method: Any, update: Any, *, autocast: bool) -> tuple[nn.Module, GeoLoRA]:
    """Three steps, each alone in autocast or not; the gradients are taken outside of it."""
    model = network().float()
    optimizer = GeoLoRA(model, lr=0.05, tau=0.1, method=method, update=update)
    x, target = (X.float() for X in regression())
    for _ in range(3):
        optimizer.zero_grad()
        (model(x) - target).square().mean().backward()
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            optimizer.step()
    return model, optimizer


@pytest.mark.parametrize("update", ["sgd", "adam", "heavy-ball", "normalised"])
@pytest.mark.parametrize("method", METHODS)
def test_a_step_within_autocast_is_the_step_outside_of_it(method: Any, update: Any) -> None:
    """The reference found bases that were not orthonormal, the fast method remembered in half precision."""
    within, outside = (snapshot(*stepped_in_single(method, update, autocast=autocast)) for autocast in (True, False))
    assert same(within, outside)


@pytest.mark.parametrize("method", METHODS)
def test_a_parameter_without_entries_takes_its_step(method: Any) -> None:
    model = network()
    model.register_parameter("nothing", nn.Parameter(torch.zeros(0, 4)))
    optimizer = GeoLoRA(model, method=method)
    backward(model)
    model.get_parameter("nothing").sum().backward()
    before = head_of(model).weight.detach().clone()
    optimizer.step()
    assert not torch.equal(head_of(model).weight, before)


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


def test_a_layer_that_took_no_part_is_left_alone() -> None:
    model = network()
    optimizer = GeoLoRA(model, lr=0.05, tau=0.1)
    before = [layer.adapter.full().clone() for layer in adapters(model).values()]
    with disabled(model):
        backward(model)
    optimizer.step()
    assert all(torch.equal(layer.adapter.full(), W) for layer, W in zip(adapters(model).values(), before, strict=True))


def test_what_is_behind_a_rank_that_has_shrunk_is_zero() -> None:
    """Compiled code takes the whole storage."""
    for method in METHODS:
        model = network()
        optimizer = GeoLoRA(model, lr=0.05, tau=0.0, method=method)
        train(model, optimizer, 3)
        optimizer.param_groups[0]["tau"] = 0.6
        (ranks,) = train(model, optimizer, 1)
        for layer, rank in zip(adapters(model).values(), ranks, strict=True):
            assert rank < 8
            adapter = layer.adapter
            assert torch.equal(
                adapter.Ut.mT @ adapter.S @ adapter.Vt, adapter.Ut[:rank].mT @ adapter.S[:rank, :rank] @ adapter.Vt[:rank]
            )
            for X in (adapter.Ut[rank:], adapter.S[rank:], adapter.S[:, rank:], adapter.Vt[rank:]):
                assert not X.any()


@pytest.mark.parametrize("unit", ["ranks", "parameters"])
@pytest.mark.parametrize("method", METHODS)
def test_an_adapter_without_gradients_counts_in_the_budget(method: Any, unit: Any) -> None:
    budget = 7 if unit == "ranks" else 200
    model = network(rank=2)
    optimizer = GeoLoRA(model, lr=0.05, budget=budget, unit=unit, method=method)
    layers = adapters(model)
    x, target = regression()
    for k in range(12):
        optimizer.zero_grad()
        ((model(x) - target).square().mean()).backward()
        if k % 3 == 2:  # the first one takes no part
            for X in layers["0"].adapter.parameters():
                X.grad = None
        optimizer.step()
        ranks = [layer.adapter.rank for layer in layers.values()]
        assert (sum(ranks) if unit == "ranks" else sum(layer.adapter.parameter_count for layer in layers.values())) <= budget
    layers["0"].adapter.reset(8)
    optimizer = GeoLoRA(model, lr=0.05, budget=budget, unit=unit, method=method, min_rank=2)
    optimizer.zero_grad()
    backward(model)
    for X in layers["0"].adapter.parameters():
        X.grad = None
    optimizer.step()
    assert layers["2"].adapter.rank == 2
    optimizer.zero_grad()
    optimizer.step()  # nobody takes part


@pytest.mark.parametrize("before", ["sgd", "adam", "heavy-ball", "normalised"])
@pytest.mark.parametrize("method", METHODS)
def test_another_update_begins_without_a_memory(method: Any, before: Any) -> None:
    """Its step is that of a new optimizer; ranks have changed since the first memory was made."""
    for after in [update for update in ("sgd", "adam", "heavy-ball", "normalised") if update != before]:
        model = network()
        optimizer = GeoLoRA(model, lr=0.02, tau=0.2, update=before, method=method)
        assert len(set(train(model, optimizer, 6))) > 1
        twin = copy.deepcopy(model)
        optimizer.param_groups[0]["update"] = after
        train(model, optimizer, 1)
        train(twin, GeoLoRA(twin, lr=0.02, tau=0.2, update=after, method=method), 1)
        for found, expected in zip(adapters(model).values(), adapters(twin).values(), strict=True):
            torch.testing.assert_close(found.adapter.full(), expected.adapter.full(), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("method", METHODS)
def test_a_warm_up_that_begins_at_zero_leaves_the_adapters_alone(method: Any) -> None:
    """The algorithm would truncate S = 0 to the least rank, and the bases would be lost."""
    model = network(rank=4)
    optimizer = GeoLoRA(model, lr=0.05, head_lr=0.05, tau=0.1, method=method)
    warm_up = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda k: min(1.0, k / 4))
    before = [X.detach().clone() for layer in adapters(model).values() for X in layer.adapter.parameters()]
    backward(model)
    optimizer.step()
    warm_up.step()
    after = [X for layer in adapters(model).values() for X in layer.adapter.parameters()]
    assert all(torch.equal(X, Y) for X, Y in zip(before, after, strict=True))
    assert [layer.adapter.rank for layer in adapters(model).values()] == [4, 4]
    backward(model)
    optimizer.step()
    assert not torch.equal(before[1], after[1])


def test_an_adapter_that_is_frozen_in_part_is_refused() -> None:
    for name in ("Ut", "S", "Vt"):
        model = network()
        getattr(adapters(model)["2"].adapter, name).requires_grad_(False)
        with pytest.raises(
            ValueError, match=r"^model: expected all factors of an adapter to be trainable or none, found some of 2$"
        ):
            GeoLoRA(model, lr=0.05)


@pytest.mark.parametrize("make", [GeoLoRA, Dlrt])
def test_a_step_while_adapters_are_merged_is_refused(make: Any) -> None:
    """They have no gradients then, and the merged weight would not see what a step makes of older ones."""
    model = network()
    optimizer = make(model, lr=0.02)

    def closure() -> float:
        model.zero_grad()
        backward(model)
        return 0.0

    merge(model)
    before = copy.deepcopy(model.state_dict())
    for one in (optimizer, copy.deepcopy((model, optimizer))[1]):
        with pytest.raises(
            RuntimeError,
            match=r"^step: expected adapters that are not merged, found that 0, 2 is, or another of its base; unmerge first$",
        ):
            one.step(closure)
    assert all(torch.equal(X, before[name]) for name, X in model.state_dict().items())
    unmerge(model)
    optimizer.step(closure)
    assert any(not torch.equal(X, before[name]) for name, X in model.state_dict().items())


def test_groups_of_single_layers_have_names() -> None:
    """A layer that is a group of its own has no name in it."""
    model = network()
    optimizer = GeoLoRA([{"module": layer} for layer in adapters(model).values()], lr=0.02)
    assert [group["adapters"] for group in optimizer.param_groups] == [["layer"], ["layer (1)"]]
    adapters(model)["2"].adapter.S.grad = torch.full_like(adapters(model)["2"].adapter.S, torch.nan)
    with pytest.raises(FloatingPointError, match=r"gradients are not finite: layer \(1\)"):
        optimizer.step()


def test_groups_that_come_later_are_refused() -> None:
    optimizer = GeoLoRA(network(), lr=0.05)
    for group in ({"params": [torch.nn.Parameter(torch.ones(2))]}, {"module": network()}):
        with pytest.raises(ValueError, match=r"^add_param_group: expected all groups in the constructor"):
            optimizer.add_param_group(group)
    assert len(optimizer.param_groups) == 2


COMPILED = """
from functools import partial
import torch
from geolora_ref.nn import GeoLoRA, adapters
from geolora_ref.nn.optim.baselines import Dlrt, SimultaneousDescent
from verification.network_defects.models import network, regression, train

plain, model = network(rank=2), network(rank=2)
compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
expected = train(plain, GeoLoRA(plain, lr=0.02, tau=0.15, update="sgd"), 12)
found = train(model, GeoLoRA(model, lr=0.02, tau=0.15, update="sgd"), 12, call=compiled)
assert found == expected, (found, expected)
assert len(set(found)) > 1, found
assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1
x, _ = regression()
torch.testing.assert_close(model(x), plain(x), rtol=1e-11, atol=1e-12)

torch._dynamo.reset()
compiled = torch.compile(model, backend="aot_eager", fullgraph=True, dynamic=True)
for alpha in (1.0, 0.5, 0.25):  # a number that is kept open, as rows are
    for layer in adapters(model).values():
        layer.fused, layer.alpha = True, alpha
    torch.testing.assert_close(compiled(x), model(x), rtol=1e-11, atol=1e-12)

torch._dynamo.reset()
trained = network(rank=2)
for layer in adapters(trained).values():
    layer.fused = True
compiled = torch.compile(trained, backend="aot_eager", fullgraph=True)
assert train(trained, GeoLoRA(trained, lr=0.02, tau=0.15, update="sgd"), 12, call=compiled) == expected
torch.testing.assert_close(trained(x), plain(x), rtol=1e-11, atol=1e-12)

x, target = regression()
for make in (GeoLoRA, partial(GeoLoRA, method="fast"), SimultaneousDescent, Dlrt):  # the step as well
    models = [network(rank=2) for _ in range(2)]
    for model, compile_it in zip(models, (lambda call: call, partial(torch.compile, backend="eager")), strict=True):
        torch._dynamo.reset()
        optimizer = make(model, lr=0.02)

        def evaluated():
            optimizer.zero_grad()
            loss = torch.nn.functional.mse_loss(model(x), target)
            loss.backward()
            return loss

        def once():
            if make is not Dlrt:
                evaluated()
            return optimizer.step(evaluated if make is Dlrt else None), model.state_dict()

        for _ in range(4):
            _, state = compile_it(once)()
        assert {name: X.shape for name, X in state.items()} == {name: X.shape for name, X in model.state_dict().items()}
    torch.testing.assert_close(models[1](x), models[0](x), rtol=1e-9, atol=1e-10)
    ranks = [[layer.adapter.rank for layer in adapters(model).values()] for model in models]
    assert ranks[0] == ranks[1], (make, ranks)
"""


def test_a_compiled_model_trains_alike_and_is_compiled_once() -> None:
    """Ranks change on the way; the whole storage takes part in compiled code, and its zero rows change rounding only.

    In a process of its own: the run-time type checker of the tests cannot be compiled.
    """
    done = subprocess.run([sys.executable, "-c", COMPILED], capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-2000:]


def test_the_published_route_trains_alike_from_an_invertible_start() -> None:
    models = network(gradients="projected"), network(gradients="published")
    for model in models:
        torch.manual_seed(3)
        for layer in adapters(model).values():
            Y = layer.adapter.factors()
            layer.adapter.assign(LowRank(Y.U, torch.diag(torch.tensor([1.0, 0.8, 0.6], dtype=torch.float64)), Y.V))
        train(model, GeoLoRA(model, lr=0.01, tau=0.0, max_rank=3, update="sgd"), 5)
    x, _ = regression()
    torch.testing.assert_close(models[0](x), models[1](x), rtol=1e-13, atol=1e-14)  # S has a condition below 2: two eps here


def test_the_fast_method_needs_projected_gradients() -> None:
    expected = r"^method: 'fast' expects .* gradients='projected' in each group, found 0: torch.float64, cpu, published$"
    with pytest.raises(ValueError, match=expected):
        GeoLoRA(network(gradients="published"), method="fast")
    model = network()
    optimizer = GeoLoRA(model, method="fast")
    adapters(model)["2"].adapter.gradients = "published"
    backward(model)
    with pytest.raises(ValueError, match="the fast path expects 'projected', found 'published'"):
        optimizer.step()


@pytest.mark.parametrize("method", METHODS)
def test_factors_in_half_precision_are_refused(method: Any) -> None:
    """Bases that are rounded to it do not stay orthonormal."""
    model = network()
    optimizer = GeoLoRA(model, lr=0.05, method=method)
    model.bfloat16()
    x, target = (X.bfloat16() for X in regression())
    (model(x) - target).square().mean().backward()
    with pytest.raises(ValueError, match=r"torch\.bfloat16"):
        optimizer.step()


def test_the_fast_method_needs_one_dtype_in_a_group() -> None:
    model = network()
    adapters(model)["2"].float()
    with pytest.raises(ValueError, match=r"found 0: torch.float64, cpu, projected; 2: torch.float32, cpu, projected$"):
        GeoLoRA(model, method="fast")
    GeoLoRA([{"module": model[0]}, {"module": model[2]}], method="fast")
    adapted = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)).double()
    adapt(adapted, rank=2)
    adapters(adapted)["1"].float()
    with pytest.raises(ValueError, match=r"found .*: torch.float64, cpu, projected; 1: torch.float32, cpu, projected$"):
        GeoLoRA([{"module": network()}, {"module": adapted}], method="fast")


@pytest.mark.parametrize("moved", ["Ut", "S", "Vt", None])
def test_the_fast_method_keeps_its_buffers_and_takes_in_what_left_them(moved: str | None) -> None:
    """Such as a parameter whose ``data`` others have set; autograd counts no change then."""
    models = network(), network()
    optimizers = [GeoLoRA(model, lr=0.05, tau=0.1, method="fast") for model in models]
    for model, optimizer in zip(models, optimizers, strict=True):
        train(model, optimizer, 2)
    adapter = adapters(models[0])["2"].adapter
    places = [X.data_ptr() for X in (adapter.Ut, adapter.S, adapter.Vt)]
    if moved is not None:
        parameter = getattr(adapter, moved)
        parameter.data = parameter.data.clone()
    ranks = [train(model, optimizer, 2) for model, optimizer in zip(models, optimizers, strict=True)]
    assert ranks[0] == ranks[1]
    assert all(torch.equal(X, Y) for X, Y in zip(*(model.state_dict().values() for model in models), strict=True))
    kept = [X.data_ptr() == place for X, place in zip((adapter.Ut, adapter.S, adapter.Vt), places, strict=True)]
    assert kept == 3 * [moved is None]


def test_a_first_fast_step_in_inference_mode_leaves_a_model_that_can_be_trained() -> None:
    model = network()
    optimizer = GeoLoRA(model, lr=0.05, method="fast")
    backward(model)
    with torch.inference_mode():
        optimizer.step()
    optimizer.zero_grad()
    backward(model)
    optimizer.step()


@pytest.mark.parametrize("method", METHODS)
def test_a_graph_from_before_the_step_is_refused_after_it(method: Literal["reference", "fast"]) -> None:
    """Its gradients would mix old activations and new factors; autograd says so, also where the factors are written in a bank."""
    model, x = nn.Sequential(nn.Linear(7, 5), nn.Tanh(), nn.Linear(5, 3)).double(), torch.randn(4, 7, dtype=torch.float64)
    adapt(model, rank=2)
    optimizer = GeoLoRA(model, lr=0.1, tau=0.2, update="sgd", method=method)
    for _ in range(2):
        loss = model(x).square().mean()
        loss.backward(retain_graph=True)
        loss.backward(retain_graph=True)
        optimizer.step()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


@pytest.mark.parametrize("method", METHODS)
def test_every_factor_counts_as_written_by_a_step(method: Any) -> None:
    """Each alone is what a graph from before may have kept."""
    model = network()
    optimizer = GeoLoRA(model, lr=0.05, method=method)
    train(model, optimizer, 1)
    adapter = adapters(model)["0"].adapter
    before = [X._version for X in (adapter.Ut, adapter.S, adapter.Vt)]
    train(model, optimizer, 1)
    assert all(X._version > version for X, version in zip((adapter.Ut, adapter.S, adapter.Vt), before, strict=True))


@pytest.mark.parametrize("name", ["Ut", "S", "Vt"])
def test_the_fast_method_follows_one_parameter_that_was_moved(name: str) -> None:
    """Its numbers are the same, its place is another: a step is written where the parameter is."""
    moved, stayed = network(), network()
    for model in (moved, stayed):
        optimizer = GeoLoRA(model, lr=0.05, tau=0.1, method="fast")
        train(model, optimizer, 2)
        if model is moved:
            parameter = getattr(adapters(model)["2"].adapter, name)
            parameter.data = parameter.data.clone()
        train(model, optimizer, 2)
    x, _ = regression()
    assert torch.equal(moved(x), stayed(x))


def test_the_fast_method_follows_parameters_that_were_moved() -> None:
    """Factors assigned from outside between two steps, to another rank as well."""
    models = network(), network()
    optimizers = [GeoLoRA(model, lr=0.05, tau=0.1, update="sgd", method=m) for model, m in zip(models, METHODS, strict=True)]
    for model, optimizer in zip(models, optimizers, strict=True):
        train(model, optimizer, 2)
        torch.manual_seed(11)
        adapters(model)["2"].adapter.reset(1)
        train(model, optimizer, 2)
    x, _ = regression()
    torch.testing.assert_close(models[0](x), models[1](x), rtol=1e-13, atol=1e-14)  # rounding of four steps: one eps here


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_one_entry_that_is_not_finite_is_found(bad: float) -> None:
    tensors = [torch.full((3, 2), 3e38), torch.zeros(4), torch.zeros(()), torch.zeros(0, 4)]
    assert finite(tensors)
    tensors[1][2] = bad
    assert not finite(tensors)


# --- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lr": -1.0}, "^lr: expected a finite number >= 0"),
        ({"lr": "0.1"}, "^lr: expected a finite number >= 0"),
        ({"head_lr": -1.0}, "^head_lr: expected a finite number >= 0"),
        ({"betas": (0.9, 1.0)}, r"^betas: expected two numbers >= 0 and < 1, found \(0.9, 1.0\)$"),
        ({"betas": (0.9,), "update": "sgd"}, "^betas: expected two numbers"),
        ({"betas": 0.9}, "^betas: expected two numbers"),
        ({"eps": -1e-8}, "^eps: expected a finite number >= 0"),
        ({"momentum": -0.1, "update": "heavy-ball"}, "^momentum: expected a finite number >= 0"),
        ({"min_rank": 0}, "^min_rank: expected an integer >= 1, found 0"),
        ({"min_rank": 13}, r"^0: min_rank: expected at most min\(m, n\) = 12, found 13"),
        ({"min_rank": 9}, "^0: min_rank: expected at most 8, what the adapter's storage allows, found 9"),
        ({"max_rank": 2, "min_rank": 3}, "^max_rank: expected at least min_rank = 3, found 2"),
        ({"budget": 3, "min_rank": 2}, "^budget: expected at least 4 ranks for min_rank = 2 in every adapter, found 3"),
        ({"budget": 63, "unit": "parameters"}, "^budget: expected at least 64 parameters for min_rank = 1"),
        ({"budget": 2.5}, "^budget: expected an integer >= 1, found 2.5"),
        ({"budget": 20, "unit": "bytes"}, "^unit: expected 'ranks' or 'parameters', found 'bytes'"),
        ({"coefficient_steps": 1.5}, "^coefficient_steps: expected an integer >= 0, found 1.5"),
        ({"tau": 0.1, "theta": 0.1}, "exactly one of the two thresholds"),
        ({"tau": 0.1, "budget": 10}, "no threshold beside it"),
        ({"update": "adamw"}, "update: expected 'adam' or 'sgd' or 'heavy-ball' or 'normalised', found 'adamw'"),
        ({"method": "fused"}, "method: expected 'auto' or 'fast' or 'reference'"),
        ({"on_nonfinite": "ignore"}, "^on_nonfinite: expected 'raise' or 'skip'"),
    ],
)
def test_bad_options(options: dict[str, Any], message: str, unchecked: None) -> None:
    with pytest.raises(ValueError, match=message):
        GeoLoRA(network(), **options)


def test_a_model_without_adapters_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^model: expected one with trainable adapters"):
        GeoLoRA(nn.Linear(3, 3))
    frozen = network()
    frozen.requires_grad_(False)
    with pytest.raises(ValueError, match="expected one with trainable adapters"):
        GeoLoRA(frozen)


@pytest.mark.parametrize(
    ("make", "found"),
    [
        (lambda model: model.parameters(), "Parameter"),
        (lambda model: model.named_parameters(), "tuple"),
        (lambda model: {"module": model}, "str"),
        (lambda model: None, "NoneType"),
    ],
)
def test_parameters_in_place_of_a_model_are_refused(make: Any, found: str, unchecked: None) -> None:
    message = f"^model: expected a model or groups {{'module': a part of it, …}}, found {found}; adapters are stepped by layers"
    with pytest.raises(ValueError, match=message):
        GeoLoRA(make(network()))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lr": torch.ones(2)}, r"lr: expected a finite number >= 0, found tensor\(\[1., 1.\]\)"),
        ({"update": []}, r"update: expected 'adam' or 'sgd' or 'heavy-ball' or 'normalised', found \[\]"),
        ({"min_rank": True}, "min_rank: expected an integer >= 1, found True"),
    ],
)
def test_options_of_a_wrong_kind_are_named(options: dict[str, Any], message: str, unchecked: None) -> None:
    with pytest.raises(ValueError, match=message):
        GeoLoRA(network(), **options)


def test_unknown_group_options_are_refused() -> None:
    model = network()
    with pytest.raises(ValueError, match=r"found \['rate'\]"):
        GeoLoRA([{"module": model, "rate": 0.1}])


def test_a_state_of_other_adapters_or_another_format_is_refused() -> None:
    model = network()
    optimizer = GeoLoRA(model)
    other = nn.Sequential(nn.Linear(12, 20), nn.Tanh(), nn.Linear(20, 4)).double()
    adapt(other, ["0"], rank=3, train=["2"])
    with pytest.raises(ValueError, match=re.escape("expected (format, adapters) of each group")):
        optimizer.load_state_dict(GeoLoRA(other).state_dict())
    state = optimizer.state_dict()
    assert [group["format"] for group in state["param_groups"]] == [2] * len(state["param_groups"])
    state["param_groups"][0]["format"] = 1
    with pytest.raises(ValueError, match=re.escape("found [(1, ['0', '2'])")):
        optimizer.load_state_dict(state)


@pytest.mark.parametrize("method", METHODS)
def test_a_state_that_a_hook_has_wrapped_stays_as_it_is(method: Any) -> None:
    """Hooks get the copy; a second state has a hook no more."""
    model = network()
    optimizer = GeoLoRA(model, lr=0.05, method=method)
    train(model, optimizer, 2)
    hook = optimizer.register_state_dict_post_hook(lambda _, state: {"wrapped": state})
    saved = optimizer.state_dict()
    before = copy.deepcopy(saved)
    hook.remove()
    train(model, optimizer, 3)
    assert saved.keys() == {"wrapped"}
    assert same(saved, before)
    assert optimizer.state_dict().keys() == {"state", "param_groups"}


def test_hooks_see_a_state_before_it_is_looked_at() -> None:
    """As one converts a state that was saved under other names; what they make of it is checked like any."""
    models = [network() for _ in range(2)]
    optimizers = [GeoLoRA(model, lr=0.05) for model in models]
    train(models[0], optimizers[0], 2)
    saved = optimizers[0].state_dict()
    hook = optimizers[1].register_load_state_dict_pre_hook(lambda _, state: state["wrapped"])
    optimizers[1].load_state_dict({"wrapped": saved})
    assert same(optimizers[1].state_dict(), saved)
    with pytest.raises(ValueError, match=r"^state_dict: expected \(format, adapters\)"):
        optimizers[1].load_state_dict({"wrapped": {"state": {}, "param_groups": []}})
    hook.remove()
    with pytest.raises(ValueError, match=r"^state_dict: expected \(format, adapters\)"):
        optimizers[1].load_state_dict({"state": {}, "param_groups": []})
    assert same(optimizers[1].state_dict(), saved)


@pytest.mark.parametrize("part", [{}, {"lr": torch.tensor(0.04)}])
def test_a_rate_that_is_a_tensor_is_one_of_each_group(part: dict[str, Any]) -> None:
    """Schedules write into it: a factor would be applied once a group, and groups would have one rate."""
    optimizer = GeoLoRA([{"module": network(), **part}], lr=torch.tensor(0.04))
    torch.optim.lr_scheduler.LambdaLR(optimizer, [lambda epoch: 1.0, lambda epoch: 0.25])
    assert [float(group["lr"]) for group in optimizer.param_groups] == pytest.approx([0.04, 0.01])


def test_a_rate_that_is_a_tensor_stays_that_of_the_caller() -> None:
    model, lr = network(), torch.tensor(0.04)
    optimizer = GeoLoRA([{"module": model[k]} for k in (0, 2)] + [{"module": model[4], "lr": lr}], lr=lr)
    rates = [group["lr"] for group in optimizer.param_groups]
    assert len({id(rate) for rate in (lr, *rates)}) == 1 + len(rates) == 4


@pytest.mark.parametrize("make", [GeoLoRA, partial(GeoLoRA, method="fast"), SimultaneousDescent])
def test_gradients_that_want_gradients_are_taken_for_their_values(make: Callable[..., Any]) -> None:
    models = [network() for _ in range(2)]
    x, target = regression()
    for model, graph in zip(models, (False, True), strict=True):
        optimizer = make(model, lr=0.05)
        with warnings.catch_warnings(action="ignore"):  # of memory that such a graph keeps
            torch.nn.functional.mse_loss(model(x), target).backward(create_graph=graph)  # type: ignore[no-untyped-call, unused-ignore]
        optimizer.step()
    assert same(models[0].state_dict(), models[1].state_dict())


def test_a_rate_may_be_a_tensor() -> None:
    models = [network() for _ in range(2)]
    for model, lr in zip(models, (0.05, torch.tensor(0.05, dtype=torch.float64)), strict=True):
        optimizer = GeoLoRA([{"module": model, "lr": lr}], tau=0.1)
        train(model, optimizer, 2)
    assert same(models[0].state_dict(), models[1].state_dict())


@pytest.mark.parametrize("method", METHODS)
def test_sparse_gradients_are_refused_and_nothing_is_changed(method: Any) -> None:
    table = nn.Embedding(9, 12, sparse=True, dtype=torch.float64)
    model = nn.Sequential(table, network())
    for parameter in model.parameters():
        parameter.requires_grad_(True)
    optimizer = GeoLoRA(model, method=method)
    model(torch.tensor([1, 4])).sum().backward()
    before = snapshot(model, optimizer)
    with pytest.raises(ValueError, match=r"dense ones, found torch.sparse_coo of 0\.weight; nothing"):
        optimizer.step()
    assert same(before, snapshot(model, optimizer))


@pytest.mark.parametrize("method", METHODS)
def test_training_goes_on_in_double_precision_once_everything_is(method: Any) -> None:
    """Single precision leaves a defect that a double-precision step refuses; the memory has to follow, too."""
    model = network().float()
    optimizer = GeoLoRA(model[:4], lr=0.02, tau=0.1, method=method)
    x, target = regression()

    def step() -> float:
        optimizer.zero_grad()
        dtype = next(model.parameters()).dtype
        loss = (model(x.to(dtype)) - target.to(dtype)).square().mean()
        loss.backward()
        optimizer.step()
        return float(loss.detach())

    first = step()
    model.double()
    if method == "reference":
        with pytest.raises(ValueError, match=r"^0: U: expected orthonormal columns.*lower precision: adapter.orthonormalise\(\)"):
            step()
    before, Ut = model(x), adapters(model)["0"].adapter.active()[0].detach().clone()
    for layer in adapters(model).values():
        layer.adapter.orthonormalise()
    torch.testing.assert_close(model(x), before, rtol=1e-13, atol=1e-14)
    torch.testing.assert_close(adapters(model)["0"].adapter.active()[0].detach(), Ut, rtol=0.0, atol=1e-6)  # no sign is turned
    with pytest.raises(
        RuntimeError, match=r"0: the optimizer remembers torch.float32 on cpu, the adapter has torch.float64 on cpu"
    ):
        step()
    optimizer.load_state_dict(optimizer.state_dict())
    assert [step() for _ in range(5)][-1] < first


@pytest.mark.parametrize("basis", ["U", "V"])
@pytest.mark.parametrize("steps", [0, 2])
@pytest.mark.parametrize("method", METHODS)
def test_bases_that_another_method_left_are_refused(method: Any, steps: int, basis: str) -> None:
    """The fast step of such bases is no step of the algorithm; it may have stepped these adapters before."""
    model = network()
    optimizer = GeoLoRA(model, lr=0.05, method=method)
    train(model, optimizer, steps)
    for layer in adapters(model).values():
        getattr(layer.adapter, f"{basis}t").detach()[:3].mul_(2.0)
    backward(model)
    before = snapshot(model, optimizer)
    with pytest.raises(ValueError, match=rf"^0: {basis}: expected orthonormal columns"):
        optimizer.step()
    assert same(before, snapshot(model, optimizer))


@pytest.mark.parametrize("method", [*METHODS, "descent"])
def test_a_memory_of_another_rank_is_refused(method: str) -> None:
    model = network()
    optimizer = OPTIMIZERS[method](model)
    train(model, optimizer, 1)
    remembered = adapters(model)["0"].adapter.rank
    adapters(model)["0"].adapter.reset(2)
    backward(model)
    with pytest.raises(RuntimeError, match=f"^0: the optimizer remembers rank {remembered}, the adapter has rank 2; load the "):
        optimizer.step()


@pytest.mark.parametrize("frozen", [("U",), ("S",), ("V",), ("U", "V")], ids=", ".join)
@pytest.mark.parametrize("method", OPTIMIZERS)
def test_gradients_of_some_of_the_factors_are_refused(method: str, frozen: tuple[str, ...]) -> None:
    """A factor that is frozen once the optimizer is made would keep the whole adapter from being trained, without a word."""
    model = network()
    optimizer = OPTIMIZERS[method](model)
    for name in frozen:
        getattr(adapters(model)["2"].adapter, {"U": "Ut", "S": "S", "V": "Vt"}[name]).requires_grad_(False)

    def closure() -> float:
        backward(model)
        return 0.0

    before = snapshot(model, optimizer)
    expected = f"2: gradients: expected those of U, S and V or none, found none of {', '.join(frozen)}"
    with pytest.raises(ValueError, match=f"^{expected}$"):
        optimizer.step(closure)
    assert same(before, snapshot(model, optimizer))


def test_an_adapter_without_its_layer_is_refused() -> None:
    """AdamW would step its factors one by one."""
    model = network()
    with pytest.raises(ValueError, match="expected adapters in their layers, found an adapter without its layer"):
        GeoLoRA([{"module": model[0]}, {"module": adapters(model)["2"].adapter}])


MAKES: dict[str, Callable[[Any], AdapterOptimizer]] = {
    "reference": partial(GeoLoRA, lr=0.1, tau=0.1),
    "fast": partial(GeoLoRA, lr=0.1, tau=0.1, method="fast"),
    "in groups": lambda model: GeoLoRA([{"module": model[k]} for k in (0, 2, 4)], lr=0.1, tau=0.1, method="fast"),
    "simultaneous": partial(SimultaneousDescent, lr=0.1),
    "dlrt": partial(Dlrt, lr=0.1, tau=0.1),
}


TOLD: dict[type[AdapterOptimizer], set[str]] = {
    GeoLoRA: {"reports", "truncations", "exact"},
    SimultaneousDescent: set(),
    Dlrt: {"reports"},
}


@pytest.mark.parametrize("make", MAKES)
def test_a_step_returns_the_loss_of_its_closure_and_none_without_one(make: str) -> None:
    model = network()
    optimizer = MAKES[make](model)
    values = iter([3.5, 2.5, 1.5])  # Dlrt evaluates three times: at W, and twice after it has moved

    def closure() -> float:
        optimizer.zero_grad()
        backward(model)
        return next(values)

    assert optimizer.step(closure) == 3.5
    if make != "dlrt":
        backward(model)
        assert optimizer.step() is None


@pytest.mark.parametrize("make", MAKES)
@pytest.mark.parametrize("place", ["the second adapter", "the second parameter of the head", "the last line"])
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
    told = {name: copy.copy(getattr(optimizer, name)) for name in TOLD[type(optimizer)]}
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
    assert told == {name: getattr(optimizer, name) for name in told}
    monkeypatch.undo()
    optimizer.step(closure)
    assert not same(before, snapshot(model, optimizer))


@pytest.mark.parametrize("names", [("0", "2"), ("2",)])
@pytest.mark.parametrize("method", METHODS)
def test_parameters_that_came_without_their_ranks_are_refused(method: Any, names: tuple[str, ...]) -> None:
    """As the broadcast leaves them with which data-parallel training begins, where one process has loaded other ranks."""
    here, there = network(rank=2), network(rank=4)
    optimizer = GeoLoRA(here, method=method)
    with torch.no_grad():
        for name in names:
            mine, theirs = (adapters(model)[name].adapter.parameters() for model in (here, there))
            for own, other in zip(mine, theirs, strict=True):
                own.copy_(other)
    backward(here)
    before = snapshot(here, optimizer)
    with pytest.raises(ValueError, match=r"expected zeros behind rank 2, found others: .*; load a state_dict, in every process$"):
        optimizer.step()
    assert same(before, snapshot(here, optimizer))
    here.load_state_dict(there.state_dict())
    optimizer.step()


def test_a_state_of_another_optimizer_is_refused() -> None:
    model = network()
    optimizer = GeoLoRA(model)
    before = snapshot(model, optimizer)
    with pytest.raises(ValueError, match=r"expected that of a GeoLoRA, found one without budget, .*tau, "):
        optimizer.load_state_dict(SimultaneousDescent(model).state_dict())
    assert same(before, snapshot(model, optimizer))


@pytest.mark.parametrize("method", ["reference", "fast"])
def test_a_state_is_loaded_where_a_schedule_keeps_options_of_its_own(method: Any) -> None:
    model = network()
    state = GeoLoRA(model, method=method).state_dict()
    optimizer = GeoLoRA(model, method=method)
    torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.1, total_steps=9)
    optimizer.param_groups[0]["name"] = "adapters"
    optimizer.load_state_dict(state)

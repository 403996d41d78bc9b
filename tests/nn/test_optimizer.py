"""The torch optimizer: the step is the reference's, nothing is half done, states round trip, and
torch's tools work with it.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper

from geolora_ref import ProjectedGradients, geolora_step
from geolora_ref.nn import GeoLoRA, adapt, adapters, disabled
from geolora_ref.nn.optim.groups import UpdateRule
from tests.nn.steps import METHODS, WAYS, backward, head_of, same, snapshot
from verification.network_defects.models import fill, network, regression, train

pytestmark = pytest.mark.usefixtures(
    "module_unchecked"
)  # whole trainings: the tests of the core check its shapes


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
        expected[name] = geolora_step(
            layer.adapter.factors(), gradients, learning_rate=0.1, tau=0.2, max_rank=8
        )
    optimizer.step()
    for name, layer in adapters(model).items():
        step = expected[name]
        assert layer.adapter.rank == step.Y.rank
        torch.testing.assert_close(layer.adapter.full(), step.Y.full(), rtol=1e-13, atol=1e-14)
        report = optimizer.reports[name]
        assert (report.rank, report.rank_rule, report.theta) == (
            step.Y.rank,
            step.rank_rule,
            step.theta,
        )


def test_the_head_is_trained_by_adamw() -> None:
    model, twin = network(), network()
    optimizer = GeoLoRA(
        model, lr=0.05, head_lr=0.01, tau=0.1, weight_decay=0.1, betas=(0.8, 0.99), eps=1e-3
    )
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


@pytest.mark.parametrize("method", ["reference", "fast"])
def test_the_least_rank_is_kept_within_the_cycle_too(method: Any) -> None:
    """At τ = 0.99 nothing but ``min_rank`` keeps more than one column."""
    model = network(rank=2)
    options: Any = {"min_rank": 4, "coefficient_steps": 1, "truncate": "after the cycle"}
    optimizer = GeoLoRA(model, lr=0.1, tau=0.99, method=method, **options)
    backward(model)
    optimizer.step()
    assert {report.rank for report in optimizer.reports.values()} == {4}


@pytest.mark.parametrize("method", ["reference", "fast"])
@pytest.mark.parametrize("options", WAYS, ids=str)
def test_every_way_of_training_reduces_the_loss_and_survives_a_reload(
    options: dict[str, Any], method: Any
) -> None:
    """20 steps, saved and loaded into fresh objects in the middle: bit for bit those without the
    interruption.
    """
    options = {"lr": 0.02, "method": method, **options}
    x, target = regression()
    model = network()
    optimizer = GeoLoRA(model, **options)
    start = float((model(x) - target).square().mean().detach())
    train(model, optimizer, 11)
    fresh = network(seed=5)
    fresh_optimizer = GeoLoRA(fresh, **options)
    fresh.load_state_dict(model.state_dict())
    fresh_optimizer.load_state_dict(
        optimizer.state_dict()
    )  # a copy: the other training continues before it is read
    copied, copied_optimizer = copy.deepcopy((model, optimizer))
    ranks = [
        train(*pair, 9)
        for pair in ((model, optimizer), (fresh, fresh_optimizer), (copied, copied_optimizer))
    ]
    assert ranks[0] == ranks[1] == ranks[2]
    assert same(snapshot(model, optimizer), snapshot(fresh, fresh_optimizer))
    assert same(snapshot(model, optimizer), snapshot(copied, copied_optimizer))
    assert float((model(x) - target).square().mean().detach()) < 0.8 * start


def test_ranks_change_in_training() -> None:
    """Without this the tests of reloading and compiling would prove little."""
    model = network()
    ranks = train(model, GeoLoRA(model, lr=0.02, tau=0.15), 30)
    assert len(set(ranks)) >= 3
    assert max(max(r) for r in ranks) > 2


def test_gradient_accumulation_is_the_gradient_of_the_sum() -> None:
    whole, parts = network(), network()
    optimizers = (
        GeoLoRA(whole, lr=0.05, tau=0.1, update="sgd"),
        GeoLoRA(parts, lr=0.05, tau=0.1, update="sgd"),
    )
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
    torch.testing.assert_close(
        whole(x), parts(x), rtol=1e-13, atol=1e-14
    )  # another order of summation: one eps here


def test_clipping_bounds_the_norm_that_the_text_says() -> None:
    model = network()
    for layer in adapters(model).values():
        fill(layer.adapter)
    optimizer = GeoLoRA(model, lr=0.1, tau=0.1)
    backward(model, scale=100.0)
    squares = {
        name: (layer.adapter.collected_gradients(), layer.adapter.factors())
        for name, layer in adapters(model).items()
    }
    total = sum(
        float(p.grad.square().sum()) for p in head_of(model).parameters() if p.grad is not None
    )
    for g, Y in squares.values():
        assert isinstance(g, ProjectedGradients)
        tangent = Y.U @ g.dL.mT + (g.dK - Y.U @ g.dS) @ Y.V.mT
        mine = float(g.dK.square().sum() + g.dL.square().sum() + g.dS.square().sum())
        assert mine == pytest.approx(
            float(tangent.square().sum() + 2 * g.dS.square().sum()), rel=1e-12
        )
        total += mine
    norm = torch.nn.utils.clip_grad_norm_(
        [p for group in optimizer.param_groups for p in group["params"]], 1.0
    )
    assert float(norm) == pytest.approx(total**0.5, rel=1e-12)


def test_schedulers_set_the_rate_of_every_group() -> None:
    model = network()
    optimizer = GeoLoRA(model, lr=0.1, head_lr=0.01, tau=0.1, update="sgd")
    scheduler = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda epoch: 0.0 if epoch == 1 else 1.0
    )
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


@pytest.mark.parametrize(
    "wrapped", [partial(torch.compile, backend="eager"), lambda model: nn.DataParallel(model).cpu()]
)
def test_a_state_is_that_of_the_model_inside(wrapped: Callable[[nn.Module], nn.Module]) -> None:
    """Compiled and data-parallel models name their adapters as the bare model does, and so do
    reports and states.
    """
    model, bare = network(), network()
    around = wrapped(model)
    optimizer, other = (
        GeoLoRA(around, lr=0.05, method="fast"),
        GeoLoRA(bare, lr=0.05, method="fast"),
    )
    assert list(adapters(around)) == list(adapters(bare)) == ["0", "2"]
    train(model, optimizer, 2)
    bare.load_state_dict(model.state_dict())
    other.load_state_dict(optimizer.state_dict())
    assert list(optimizer.reports) == ["0", "2"]
    assert same(optimizer.state_dict(), other.state_dict())


@pytest.mark.parametrize("wrap", [partial(torch.compile, backend="eager"), checkpoint_wrapper])
def test_a_state_has_the_names_without_wrappers_of_parts(
    wrap: Callable[[nn.Module], nn.Module],
) -> None:
    """One that was saved with activation checkpoints, or with compiled parts, is loaded without them."""
    model, bare = network(), network()
    for name in ("2", "4"):  # a layer and the head
        model.set_submodule(name, wrap(model.get_submodule(name)))
    optimizer, other = GeoLoRA(model, lr=0.05, tau=0.1), GeoLoRA(bare, lr=0.05, tau=0.1)
    with torch.compiler.set_stance("force_eager"):  # names alone are looked at
        for X, one in ((model, optimizer), (bare, other)):
            train(X, one, 2)
    assert list(adapters(model)) == list(optimizer.reports) == ["0", "2"]
    assert same(optimizer.state_dict(), other.state_dict())
    other.load_state_dict(optimizer.state_dict())


def test_a_layer_that_took_no_part_is_left_alone() -> None:
    model = network()
    optimizer = GeoLoRA(model, lr=0.05, tau=0.1)
    before = [layer.adapter.full().clone() for layer in adapters(model).values()]
    with disabled(model):
        backward(model)
    optimizer.step()
    assert all(
        torch.equal(layer.adapter.full(), W)
        for layer, W in zip(adapters(model).values(), before, strict=True)
    )


def test_what_is_beyond_a_rank_that_has_shrunk_is_zero() -> None:
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
                adapter.Ut.mT @ adapter.S @ adapter.Vt,
                adapter.Ut[:rank].mT @ adapter.S[:rank, :rank] @ adapter.Vt[:rank],
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
        assert (
            sum(ranks)
            if unit == "ranks"
            else sum(layer.adapter.parameter_count for layer in layers.values())
        ) <= budget
    layers["0"].adapter.reset(8)
    optimizer = GeoLoRA(model, lr=0.05, budget=budget, unit=unit, method=method, min_rank=2)
    optimizer.zero_grad()
    backward(model)
    for X in layers["0"].adapter.parameters():
        X.grad = None
    optimizer.step()
    assert layers["2"].adapter.rank == 2
    optimizer.zero_grad()
    optimizer.step()  # no adapter takes part


UPDATES: tuple[UpdateRule, ...] = (
    "sgd",
    "adam",
    "heavy-ball",
    "spectral",
    "preconditioned",
    "adam-published",
)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("before", UPDATES)
def test_another_update_begins_without_a_memory(method: Any, before: Any) -> None:
    """Its step is that of a new optimizer; ranks have changed since the first memory was made.  Two
    rules have one memory.
    """
    for after in [
        update
        for update in UPDATES
        if update != before and {update, before} != {"heavy-ball", "spectral"}
    ]:
        model = network()
        optimizer = GeoLoRA(model, lr=0.02, tau=0.2, update=before, method=method)
        assert len(set(train(model, optimizer, 6))) > 1
        twin = copy.deepcopy(model)
        optimizer.param_groups[0]["update"] = after
        train(model, optimizer, 1)
        train(twin, GeoLoRA(twin, lr=0.02, tau=0.2, update=after, method=method), 1)
        for found, expected in zip(adapters(model).values(), adapters(twin).values(), strict=True):
            torch.testing.assert_close(
                found.adapter.full(), expected.adapter.full(), rtol=1e-12, atol=1e-12
            )


@pytest.mark.parametrize("method", METHODS)
def test_a_warm_up_that_begins_at_zero_leaves_the_adapters_alone(method: Any) -> None:
    """The algorithm would truncate S = 0 to the least rank, and the bases would be lost."""
    model = network(rank=4)
    optimizer = GeoLoRA(model, lr=0.05, head_lr=0.05, tau=0.1, method=method)
    warm_up = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda k: min(1.0, k / 4))
    before = [
        X.detach().clone() for layer in adapters(model).values() for X in layer.adapter.parameters()
    ]
    backward(model)
    optimizer.step()
    warm_up.step()
    after = [X for layer in adapters(model).values() for X in layer.adapter.parameters()]
    assert all(torch.equal(X, Y) for X, Y in zip(before, after, strict=True))
    assert [layer.adapter.rank for layer in adapters(model).values()] == [4, 4]
    backward(model)
    optimizer.step()
    assert not torch.equal(before[1], after[1])


@pytest.mark.parametrize("method", METHODS)
def test_adapters_wait_for_a_gradient_that_is_not_zero(method: Any) -> None:
    """Below a head of zeros it comes in the second step; at S = 0 the algorithm would truncate to
    the least rank.  A layer that is not used later stands still, where a normalised memory would continue.
    """
    model = network(rank=4)
    torch.nn.init.zeros_(head_of(model).weight)
    optimizer = GeoLoRA(model, lr=0.05, head_lr=0.05, method=method)
    before = [
        X.detach().clone() for layer in adapters(model).values() for X in layer.adapter.parameters()
    ]
    for moved in (False, True):
        optimizer.zero_grad()
        backward(model)
        optimizer.step()
        after = [X for layer in adapters(model).values() for X in layer.adapter.parameters()]
        assert all(torch.equal(X, Y) for X, Y in zip(before, after, strict=True)) is not moved
        assert bool(optimizer.reports) is moved
    first, last = adapters(model).values()
    kept = [layer.adapter.full().clone() for layer in (first, last)]
    optimizer.zero_grad()
    backward(model)
    for X in first.adapter.parameters():
        assert X.grad is not None
        X.grad.zero_()
    optimizer.step()
    assert torch.equal(first.adapter.full(), kept[0])
    assert not torch.equal(last.adapter.full(), kept[1])


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("unit", ["ranks", "parameters"])
def test_a_budget_keeps_their_share_for_adapters_that_wait(method: Any, unit: Any) -> None:
    """Two of four equal adapters at rank 8 wait for one step: the others are not cut for ranks that
    the two may never need.
    """
    model = nn.ModuleList([nn.Linear(32, 32, bias=False) for _ in range(4)]).double()
    adapt(model, rank=8)
    optimizer = GeoLoRA(
        model, budget=16 if unit == "ranks" else 4 * 4 * (32 + 32 + 4), unit=unit, method=method
    )
    x = (
        torch.eye(32, dtype=torch.float64)
        + torch.linspace(-1.0, 1.0, 32 * 32, dtype=torch.float64).reshape(32, 32).sin()
    )
    for used in (2, 4):
        optimizer.zero_grad()
        torch.stack(
            [(layer(x) * (k < used)).square().sum() for k, layer in enumerate(model)]
        ).sum().backward()
        optimizer.step()
        found = [layer.adapter.rank for layer in adapters(model).values()]
        assert 4 * used - 1 <= sum(found[:used]) <= 4 * used
        assert found[used:] == [8] * (4 - used)


def _another_steps(model: nn.Module, optimizer: GeoLoRA) -> None:
    train(model, GeoLoRA(model, lr=0.05, min_rank=4, max_rank=4), 1)


def _another_steps_and_the_state_is_loaded(model: nn.Module, optimizer: GeoLoRA) -> None:
    state = optimizer.state_dict()
    _another_steps(model, optimizer)
    optimizer.load_state_dict(state)


def _the_model_alone_is_rewound(model: nn.Module, optimizer: GeoLoRA) -> None:
    state = copy.deepcopy(model.state_dict())
    train(model, optimizer, 3)
    model.load_state_dict(state)


def _the_adapters_begin_anew(model: nn.Module, optimizer: GeoLoRA) -> None:
    for layer in adapters(model).values():
        layer.adapter.reset(4)


def _the_data_are_replaced(model: nn.Module, optimizer: GeoLoRA) -> None:
    """Replace the data as ``vector_to_parameters`` does, which autograd does not count as a write."""
    kept = [parameter.detach().clone() for parameter in model.parameters()]
    train(model, optimizer, 3)
    for parameter, data in zip(model.parameters(), kept, strict=True):
        parameter.data = data


HAPPENS = [
    _another_steps,
    _another_steps_and_the_state_is_loaded,
    _the_model_alone_is_rewound,
    _the_adapters_begin_anew,
    _the_data_are_replaced,
]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("happens", HAPPENS)
@pytest.mark.parametrize("update", ["spectral", "adam", "preconditioned"])
def test_a_memory_of_other_bases_is_refused(
    happens: Callable[[nn.Module, GeoLoRA], None], update: Any, method: Any
) -> None:
    """Also where ranks stay as they are: a memory is a tangent vector at the bases that it was made at."""
    model = network(rank=4)
    optimizer = GeoLoRA(model, lr=0.05, min_rank=4, max_rank=4, update=update, method=method)
    train(model, optimizer, 2)
    happens(model, optimizer)
    backward(model)
    with pytest.raises(RuntimeError, match="the optimizer remembers other bases"):
        optimizer.step()
    train(
        model, GeoLoRA(model, lr=0.05, min_rank=4, max_rank=4, update=update, method=method), 2
    )  # a new one begins


@pytest.mark.parametrize("coefficient_steps", [0, 2])
@pytest.mark.parametrize("method", METHODS)
def test_the_memory_of_gradients_in_half_precision_is_loaded(
    method: Any, coefficient_steps: int
) -> None:
    """They are no tangent vectors but for 1e-2 of their size."""
    model = network(rank=4).float()
    options: dict[str, Any] = {"method": method, "coefficient_steps": coefficient_steps}
    optimizer = GeoLoRA(model, **options)
    x, target = (X.float() for X in regression())
    for _ in range(6):
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = (model(x) - target).square().mean()
        loss.backward()
        optimizer.load_state_dict(optimizer.state_dict())
        optimizer.step()
    model.bfloat16().float()
    for layer in adapters(model).values():
        layer.adapter.orthonormalise()
    optimizer.zero_grad()
    (model(x) - target).square().mean().backward()
    optimizer.step()


@pytest.mark.parametrize("method", METHODS)
def test_training_goes_on_in_double_precision_once_everything_is(method: Any) -> None:
    """Single precision leaves a defect that a double-precision step refuses; the memory has to
    follow, too.
    """
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
        with pytest.raises(
            ValueError,
            match=r"^0: U: expected orthonormal columns.*lower precision: adapter.orthonormalise\(\)",
        ):
            step()
    before, Ut = model(x), adapters(model)["0"].adapter.active()[0].detach().clone()
    for layer in adapters(model).values():
        layer.adapter.orthonormalise()
    torch.testing.assert_close(model(x), before, rtol=1e-13, atol=1e-14)
    torch.testing.assert_close(
        adapters(model)["0"].adapter.active()[0].detach(), Ut, rtol=0.0, atol=1e-6
    )  # no sign is turned
    with pytest.raises(
        RuntimeError,
        match=r"0: the optimizer remembers torch.float32 on cpu, the adapter has torch.float64 on cpu",
    ):
        step()
    optimizer.load_state_dict(optimizer.state_dict())
    assert [step() for _ in range(5)][-1] < first

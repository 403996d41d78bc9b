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

from geolora_ref import ProjectedGradients, geolora_step
from geolora_ref.nn import GeoLoRA, adapters, disabled
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


UPDATES: tuple[UpdateRule, ...] = (
    "sgd",
    "adam",
    "heavy-ball",
    "spectral",
    "preconditioned",
    "adam-published",
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

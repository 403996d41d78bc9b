"""The fast method of the optimizer is the reference within rounding, and keeps its buffers."""

from __future__ import annotations

import copy
import subprocess
import sys
from typing import Any, Literal

import pytest
import torch
from torch import nn

from geolora_ref import LowRank
from geolora_ref.nn import GeoLoRA, adapt, adapters
from tests.nn.steps import METHODS, WAYS, same
from verification.network_defects.models import network, regression, train
from verification.support.machine import ROOT

pytestmark = pytest.mark.usefixtures(
    "module_unchecked"
)  # whole trainings: the tests of the core check its shapes


@pytest.mark.parametrize("options", WAYS, ids=str)
def test_the_fast_method_is_the_reference_within_rounding(options: dict[str, Any]) -> None:
    """25 steps in which ranks change; the same ranks, reports and function."""
    options = {"lr": 0.02} | options
    models = network(rank=2), network(rank=2)
    reference = GeoLoRA(models[0], method="reference", **options)
    fast = GeoLoRA(models[1], method="fast", **options)
    ranks = [
        train(model, optimizer, 25)
        for model, optimizer in zip(models, (reference, fast), strict=True)
    ]
    x, _ = regression()
    assert ranks[0] == ranks[1]
    torch.testing.assert_close(models[0](x), models[1](x), rtol=1e-10, atol=1e-11)
    for name, report in reference.reports.items():
        found = fast.reports[name]
        assert (found.rank, found.rank_rule) == (report.rank, report.rank_rule)
        # θ = τ‖Ŝ‖ is off by its own rounding, what is discarded, a small part of Ŝ, by that of Ŝ:
        # 2e-15 and 4e-13 here
        assert found.theta == pytest.approx(report.theta, rel=1e-13, abs=0.0)
        assert found.discarded == pytest.approx(report.discarded, rel=1e-11, abs=0.0)


@pytest.mark.parametrize("change", ["memory", "weights", "none"])
def test_a_memory_that_is_loaded_and_weights_that_change_count_in_the_next_step(
    change: str,
) -> None:
    """A copy of model and optimizer has nothing but their states."""
    model = network()
    optimizer = GeoLoRA(model, lr=0.02, tau=0.0, max_rank=3, method="fast")
    train(model, optimizer, 2)
    train(model, optimizer, 3)
    unchanged = copy.deepcopy((model, optimizer))
    if change == "memory":
        half = copy.deepcopy(optimizer.state_dict())
        for memory in half["state"].values():  # a half of a tangent vector is one as well
            memory |= {"first": 0.5 * memory["first"]} if "first" in memory else {}
        optimizer.load_state_dict(half)
    for group in optimizer.param_groups if change == "weights" else ():
        group["betas"] = (0.3, 0.8)
    twin = copy.deepcopy((model, optimizer))
    for pair in ((model, optimizer), twin, unchanged):
        train(*pair, 2)
    states = [
        [X.clone() for X in one.state_dict().values()] for one in (model, twin[0], unchanged[0])
    ]
    assert same(states[0], states[1])
    assert same(states[0], states[2]) == (change == "none")


@pytest.mark.parametrize("singular", ["0", "2"])
def test_the_reports_say_which_layers_went_through_householders_qr(singular: str) -> None:
    """One layer keeps a singular value that a Gram matrix of float32 bases does not show."""
    model = network(rank=3, max_rank=3).float()
    for name, layer in adapters(model).items():
        layer.adapter.orthonormalise()
        U, _, V = layer.adapter.factors()
        layer.adapter.assign(
            LowRank(U, torch.diag(torch.tensor([1.0, 1.0, 1e-5 if name == singular else 1.0])), V)
        )
    x, target = (X.float() for X in regression())
    optimizer = GeoLoRA(model, lr=1e-6, theta=0.0, update="sgd", method="fast")
    (model(x) - target).square().mean().backward()
    optimizer.step()
    assert {name: report.exact for name, report in optimizer.reports.items()} == {
        "0": singular == "0",
        "2": singular == "2",
    }
    assert (optimizer.truncations, optimizer.exact) == (2, 1)
    twin = copy.deepcopy(optimizer)
    assert (twin.truncations, twin.exact, twin.reports) == (2, 1, optimizer.reports)


COMPILED = """
from functools import partial
import torch
from geolora_ref.nn import GeoLoRA, adapters
from geolora_ref.nn.optim.baselines import Dlrt, SimultaneousDescent
from tests.nightly import NIGHTLY
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
for make in (partial(GeoLoRA, method="fast"), Dlrt, *((GeoLoRA, SimultaneousDescent) if NIGHTLY else ())):  # the step as well
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
    """Ranks change on the way; the whole storage takes part in compiled code, and its zero rows
    change rounding only.

    In a process of its own: the run-time type checker of the tests cannot be compiled.
    """
    done = subprocess.run(
        [sys.executable, "-c", COMPILED], cwd=ROOT, capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr[-2000:]


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
    with pytest.raises(
        ValueError,
        match=r"found 0: torch.float64, cpu, projected; 2: torch.float32, cpu, projected$",
    ):
        GeoLoRA(model, method="fast")
    GeoLoRA([{"module": model[0]}, {"module": model[2]}], method="fast")
    adapted = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)).double()
    adapt(adapted, rank=2)
    adapters(adapted)["1"].float()
    with pytest.raises(
        ValueError,
        match=r"found .*: torch.float64, cpu, projected; 1: torch.float32, cpu, projected$",
    ):
        GeoLoRA([{"module": network()}, {"module": adapted}], method="fast")


@pytest.mark.parametrize("method", METHODS)
def test_a_graph_from_before_the_step_is_refused_after_it(
    method: Literal["reference", "fast"],
) -> None:
    """Its gradients would mix old activations and new factors; autograd says so, also where the
    factors are written in a bank.
    """
    model, x = (
        nn.Sequential(nn.Linear(7, 5), nn.Tanh(), nn.Linear(5, 3)).double(),
        torch.randn(4, 7, dtype=torch.float64),
    )
    adapt(model, rank=2)
    optimizer = GeoLoRA(model, lr=0.1, tau=0.2, update="sgd", method=method)
    for _ in range(2):
        loss = model(x).square().mean()
        loss.backward(retain_graph=True)
        loss.backward(retain_graph=True)
        optimizer.step()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_the_fast_method_follows_parameters_that_were_moved() -> None:
    """Factors assigned from outside between two steps, to another rank as well."""
    models = network(), network()
    optimizers = [
        GeoLoRA(model, lr=0.05, tau=0.1, update="sgd", method=m)
        for model, m in zip(models, METHODS, strict=True)
    ]
    for model, optimizer in zip(models, optimizers, strict=True):
        train(model, optimizer, 2)
        torch.manual_seed(11)
        adapters(model)["2"].adapter.reset(1)
        train(model, optimizer, 2)
    x, _ = regression()
    torch.testing.assert_close(
        models[0](x), models[1](x), rtol=1e-13, atol=1e-14
    )  # rounding of four steps: one eps here

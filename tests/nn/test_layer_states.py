"""States, copies and targets of adapted layers, and what is refused by name."""

from __future__ import annotations

import copy
import re
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from geolora_ref import LowRank
from geolora_ref.nn import LowRankAdapter, adapt, adapters, parameter_count
from tests.nn.kinds import single
from verification.network_defects.models import fill, network, regression


class ScaledEmbedding(nn.Embedding):
    """Gemma's embedding: rows are multiplied by a constant."""


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


def test_a_state_is_assigned_to_a_model_without_storage() -> None:
    """Large models are loaded so: made on the meta device, then filled from the file."""
    source = single(nn.Linear(9, 6).double())
    fill(adapt(source, rank=3, fused=True)["0"].adapter)
    empty = single(nn.Linear(9, 6).double())
    adapt(empty, rank=2, max_rank=5, fused=True)
    empty.to("meta")
    with (
        warnings.catch_warnings(action="ignore"),  # torch's own, of the base
        pytest.raises(
            RuntimeError,
            match=r"0\.adapter: expected storage for the factors, .*; load with assign=True",
        ),
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
        with pytest.raises(
            ValueError, match=message + ".*; give torch.func.functional_call the named"
        ):
            torch.func.functional_call(model, part, (x,))
    assert torch.equal(torch.func.functional_call(model, parameters, (x,)), expected)


def test_a_state_of_another_alpha_is_refused() -> None:
    """Also a copy, and whatever is strict; a state of tensors alone says nothing of alpha."""

    def model(alpha: Any) -> nn.Module:
        made = nn.Sequential(nn.Linear(8, 2), nn.Linear(2, 8))
        adapt(made, rank=2, alpha=alpha)
        return made

    state = copy.deepcopy(model(1.0).state_dict())
    for strict in (True, False):
        other = model("rms")
        before = adapters(other)["0"].adapter.factors()
        with pytest.raises(
            RuntimeError, match=r"^0\.alpha: expected 0\.5, found a state of a layer with 1$"
        ):
            other.load_state_dict(state, strict=strict)
        assert all(
            torch.equal(X, Y)
            for X, Y in zip(adapters(other)["0"].adapter.factors(), before, strict=True)
        )
    model(1.0).load_state_dict(state)
    model("rms").load_state_dict(model("rms").state_dict())
    model("rms").load_state_dict(dict(state))


UNFIT: list[tuple[Callable[[Tensor], Any], str]] = [
    (lambda U: U * 1j, "U: expected a dense matrix of real numbers, found torch.complex128"),
    (lambda U: U.to(torch.int64), "U: expected a dense matrix of real numbers, found torch.int64"),
    (
        lambda U: U.to_sparse(),
        "U: expected a dense matrix of real numbers, found torch.float64, torch.sparse_coo",
    ),
    (lambda U: U.to("meta"), "U: expected a matrix with entries, found one on the meta device"),
    (lambda U: U[0, 0], r"U: expected a dense matrix .* \(\)"),
    (lambda U: U[None], r"U: expected a dense matrix .* \(1, 20, 3\)"),
    (lambda U: U.numpy(), "(U: expected a tensor, found ndarray|expected torch.Tensor)"),
    (lambda U: None, "(U: expected a tensor, found NoneType|expected torch.Tensor)"),
]
"""In place of U."""


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda state: state.update(
                {"0.adapter.U": torch.zeros(20, 9), "0.adapter.S": torch.zeros(9, 9)}
            ),
            "rank 1 to 8, found shapes",
        ),
        (
            lambda state: state.update({"0.adapter.U": torch.zeros(19, 3)}),
            r"a \(20, 12\) matrix .* found shapes \(\(19, 3\)",
        ),
        *(
            (
                lambda state, value=value: state.update(
                    {"0.adapter.U": value(state["0.adapter.U"])}
                ),
                refusal,
            )
            for value, refusal in UNFIT
        ),
        (
            lambda state: state.update({"0.adapter.S": torch.tensor(1.0)}),
            r"S: expected a dense matrix .* \(\)",
        ),
        (lambda state: state.pop("0.adapter.S"), 'Missing key.*"0.adapter.S"'),
        (
            lambda state: state.update({"0.adapter.inverse": torch.zeros(3)}),
            'Unexpected key.*"0.adapter.inverse"',
        ),
    ],
)
def test_a_state_dict_of_another_shape_is_refused(change: Any, message: str) -> None:
    model = network()
    state = model.state_dict()
    change(state)
    adapter = adapters(model)["0"].adapter
    before = adapter.full()
    with pytest.raises(RuntimeError, match=re.compile(message, re.DOTALL)):
        model.load_state_dict(state)
    assert torch.equal(adapter.full(), before)


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (nn.Conv2d(4, 4, 3, groups=2), "expected a convolution with groups = 1, found groups = 2"),
        (nn.LSTM(3, 4), "expected a layer with a weight, found LSTM"),
        (nn.LayerNorm(4), "expected nn.Linear, .* found LayerNorm"),
        (
            nn.Embedding(5, 3, max_norm=1.0),
            "expected an embedding without max_norm, scale_grad_by_freq and sparse gradients$",
        ),
        (
            nn.Embedding(5, 3, scale_grad_by_freq=True),
            "expected an embedding without max_norm, scale_grad_by_freq and",
        ),
        (
            nn.Embedding(5, 3, sparse=True),
            "expected an embedding without max_norm, scale_grad_by_freq and sparse gradients$",
        ),
        (ScaledEmbedding(5, 3), "expected nn.Embedding itself, found ScaledEmbedding"),
        (
            nn.Linear(3, 3, device="meta"),
            "expected a weight with values, found one on the meta device; load the model first$",
        ),
    ],
)
def test_a_layer_that_cannot_be_adapted_is_named(layer: nn.Module, message: str) -> None:
    with pytest.raises(ValueError, match=f"^0: {message}"):
        adapt(single(layer), ["0"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"target_modules": ["query"]},
            "no module is called 'query'; layers that can be adapted: 0 .Linear., 2",
        ),
        ({"target_modules": r"layer\d+"}, "no module name matches"),
        ({"target_modules": []}, "at least one name"),
        ({"train": ["head"]}, "train: no module is called 'head'"),
        ({"exclude": ["head"]}, "exclude: no module is called 'head'"),
        (
            {"exclude": ["0", "2"]},
            "exclude: expected some of the target modules to be left, found all of them excluded; layers",
        ),
        ({"train": "4"}, "expected a sequence of names, found the string"),
        ({"rank": 0}, "^rank: expected an integer >= 1, found 0"),
        ({"rank": 2.0}, "^rank: expected an integer >= 1, found 2.0"),
        ({"rank": True}, "^rank: expected an integer >= 1, found True"),
        ({"alpha": "x"}, "^0: alpha: expected a finite number or 'rms', found 'x'"),
        ({"dropout": float("nan")}, "^0: dropout: expected 0 <= dropout < 1, found nan"),
        ({"dropout": 1.0}, "^0: dropout: expected 0 <= dropout < 1, found 1.0"),
        ({"dropout": "0"}, "^0: dropout: expected 0 <= dropout < 1, found '0'"),
        ({"target_modules": None}, "^target_modules: expected a sequence of names, found None"),
        ({"target_modules": [0]}, r"^target_modules: expected a sequence of names, found \[0\]"),
        ({"train": None}, "^train: expected a sequence of names, found None"),
        ({"max_rank": "8"}, "^max_rank: expected an integer >= 1, found '8'"),
        ({"alpha": float("nan")}, "^0: alpha: expected a finite number or 'rms', found nan"),
        ({"target_modules": "("}, r"^target_modules: expected a regular expression, found '\('"),
        ({"rank": 5, "max_rank": 4}, "found 5, max_rank 4"),
        (
            {"dtype": torch.bfloat16},
            "expected torch.float32 or torch.float64, found torch.bfloat16",
        ),
        (
            {"gradients": "exact"},
            "^0: gradients: expected 'projected' or 'published', found 'exact'$",
        ),
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


def test_adapting_twice_is_refused() -> None:
    model = network()
    with pytest.raises(ValueError, match="without adapters, found '0'"):
        adapt(model)


def test_factors_that_do_not_fit_are_refused() -> None:
    adapter = LowRankAdapter((7, 5), 2, 3, dtype=torch.float64)
    before = adapter.full().clone()
    with pytest.raises(ValueError, match="rank 1 to 3"):
        adapter.assign(
            LowRank(
                torch.eye(7, 4, dtype=torch.float64),
                torch.eye(4, dtype=torch.float64),
                torch.eye(5, 4, dtype=torch.float64),
            )
        )
    assert torch.equal(adapter.full(), before)


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
def test_options_that_are_none_are_refused_by_name(
    options: dict[str, Any], message: str, unchecked: None
) -> None:
    model = single(nn.Linear(9, 6))
    with pytest.raises(ValueError, match=message):
        adapt(model, rank=3, **options)
    assert type(model[0]) is nn.Linear


def test_targets_by_regular_expression_and_by_suffix() -> None:
    def model() -> nn.Module:
        inner = nn.ModuleDict({"query": nn.Linear(4, 4), "value": nn.Linear(4, 4)})
        return nn.ModuleDict(
            {
                "first": inner,
                "second": nn.ModuleDict({"query": nn.Linear(4, 4)}),
                "subquery": nn.Linear(4, 4),
            }
        )

    assert set(adapt(model(), ["query"], rank=2)) == {"first.query", "second.query"}
    assert set(adapt(model(), r"first\..*", rank=2)) == {"first.query", "first.value"}
    assert set(adapt(model(), "all-linear", rank=2, train=["first"])) == {
        "second.query",
        "subquery",
    }


def test_distributed_checkpoints_find_every_name_of_a_state() -> None:
    """They look each one up as an attribute of its module."""
    from torch.distributed.checkpoint.state_dict import get_model_state_dict, set_model_state_dict

    model, other = network(rank=2), network(rank=4)
    state = get_model_state_dict(other)
    assert state.keys() == other.state_dict().keys()
    set_model_state_dict(model, state)
    x, _ = regression()
    assert torch.equal(model(x), other(x))

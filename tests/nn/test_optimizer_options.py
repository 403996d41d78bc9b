"""Options, groups, states and rates of the optimizer: what counts, and what is refused by name."""

from __future__ import annotations

import copy
import re
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from geolora_ref.nn import GeoLoRA, adapt, adapters, merge, unmerge
from geolora_ref.nn.layers.adapter import LowRankAdapter
from geolora_ref.nn.optim.baselines import Dlrt
from tests.nn.steps import METHODS, OPTIMIZERS, backward, head_of, same, snapshot
from verification.network_defects.models import network, train

pytestmark = pytest.mark.usefixtures(
    "module_unchecked"
)  # whole trainings: the tests of the core check its shapes


def test_groups_have_options_of_their_own() -> None:
    model = network()
    optimizer = GeoLoRA(
        [
            {"module": model[0], "lr": 0.0, "update": "sgd"},
            {"module": model[2], "max_rank": 2},
            {"module": model[4]},
        ],
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
        ("preconditioned", "betas", (0.0, 0.5)),
        ("preconditioned", "eps", 1.0),
        ("spectral", "smoothing", 2.0),
        ("spectral", "noise", 4.0),
        ("normalised", "momentum", 0.2),
        ("heavy-ball", "momentum", 0.2),
        ("sgd", "weight_decay", 0.5),
    ],
)
def test_every_option_of_an_update_counts(
    update: Any, option: str, value: Any, method: Any
) -> None:
    models = network(), network()
    for model, more in zip(models, ({}, {option: value}), strict=True):
        train(model, GeoLoRA(model, lr=0.05, tau=0.1, update=update, method=method, **more), 2)
    one, other = (next(iter(adapters(model).values())).adapter.full() for model in models)
    assert float((one - other).norm()) > 1e-3 * float(one.norm())


def test_an_adapter_that_is_frozen_in_part_is_refused() -> None:
    for name in ("Ut", "S", "Vt"):
        model = network()
        getattr(adapters(model)["2"].adapter, name).requires_grad_(False)
        with pytest.raises(
            ValueError,
            match=r"^model: expected all factors of an adapter to be trainable or none, found some of 2$",
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


def test_groups_that_come_later_are_refused() -> None:
    optimizer = GeoLoRA(network(), lr=0.05)
    for group in ({"params": [torch.nn.Parameter(torch.ones(2))]}, {"module": network()}):
        with pytest.raises(
            ValueError, match=r"^add_param_group: expected all groups in the constructor"
        ):
            optimizer.add_param_group(group)
    assert len(optimizer.param_groups) == 2


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
        (
            {"momentum": -0.1, "update": "heavy-ball"},
            "^momentum: expected 0 <= momentum < 1, found -0.1",
        ),
        ({"momentum": 1.0}, "^momentum: expected 0 <= momentum < 1, found 1.0"),
        ({"smoothing": -0.1}, "^smoothing: expected a finite number >= 0, found -0.1"),
        ({"noise": -1.0}, "^noise: expected a finite number >= 0, found -1.0"),
        ({"edge": 1.0}, r"^edge: expected 0 <= edge < 1, found 1\.0"),
        ({"edge": -0.5}, "^edge: expected a finite number >= 0, found -0.5"),
        (
            {"edge": 0.5, "update": "adam"},
            "^edge: expected update='spectral' or 'normalised', found 'adam'",
        ),
        (
            {"noise": 4.0, "update": "sgd"},
            "^noise: expected update='spectral', whose weights it lowers, found 'sgd'",
        ),
        (
            {"edge": 0.5, "tau": 0.1},
            "^tau, theta, share, edge, budget: expected exactly one of them",
        ),
        ({"min_rank": 0}, "^min_rank: expected an integer >= 1, found 0"),
        ({"min_rank": 13}, r"^0: min_rank: expected at most min\(m, n\) = 12, found 13"),
        (
            {"min_rank": 9},
            "^0: min_rank: expected at most 8, what the adapter's storage allows, found 9",
        ),
        ({"max_rank": 2, "min_rank": 3}, "^max_rank: expected at least min_rank = 3, found 2"),
        (
            {"budget": 3, "min_rank": 2},
            "^budget: expected at least 4 ranks for min_rank = 2 in every adapter, found 3",
        ),
        (
            {"budget": 63, "unit": "parameters"},
            "^budget: expected at least 64 parameters for min_rank = 1",
        ),
        ({"budget": 2.5}, "^budget: expected an integer >= 1, found 2.5"),
        ({"budget": 20, "unit": "bytes"}, "^unit: expected 'ranks' or 'parameters', found 'bytes'"),
        ({"coefficient_steps": 1.5}, "^coefficient_steps: expected an integer >= 0, found 1.5"),
        (
            {"tau": 0.1, "theta": 0.1},
            "^tau, theta, share, edge, budget: expected exactly one of them",
        ),
        (
            {"tau": 35.0},
            r"^tau: expected a share of ‖Ŝ‖ below 1, found 35; every rank would be min_rank$",
        ),
        ({"tau": 0.1, "budget": 10}, "expected exactly one of them"),
        (
            {"update": "adamw"},
            "update: expected 'adam' or .* or 'adam-published', found 'adamw'",
        ),
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
    ("options", "message"),
    [
        ({"lr": torch.ones(2)}, r"lr: expected a finite number >= 0, found tensor\(\[1., 1.\]\)"),
        (
            {"update": []},
            r"update: expected 'adam' or .* or 'adam-published', found \[\]",
        ),
        ({"min_rank": True}, "min_rank: expected an integer >= 1, found True"),
    ],
)
def test_options_of_a_wrong_kind_are_named(
    options: dict[str, Any], message: str, unchecked: None
) -> None:
    with pytest.raises(ValueError, match=message):
        GeoLoRA(network(), **options)


def test_a_state_of_other_adapters_or_another_format_is_refused() -> None:
    model = network()
    optimizer = GeoLoRA(model)
    other = nn.Sequential(nn.Linear(12, 20), nn.Tanh(), nn.Linear(20, 4)).double()
    adapt(other, ["0"], rank=3, train=["2"])
    with pytest.raises(ValueError, match=re.escape("expected (format, adapters) of each group")):
        optimizer.load_state_dict(GeoLoRA(other).state_dict())
    state = optimizer.state_dict()
    assert [group["format"] for group in state["param_groups"]] == ["GeoLoRA 4"] * len(
        state["param_groups"]
    )
    state["param_groups"][0]["format"] = "GeoLoRA 2"
    with pytest.raises(ValueError, match=re.escape("found [('GeoLoRA 2', ['0', '2'])")):
        optimizer.load_state_dict(state)
    with pytest.raises(
        ValueError, match=r"that of an optimizer of adapters, found that of another optimizer$"
    ):
        optimizer.load_state_dict(torch.optim.AdamW(model.parameters()).state_dict())


def _first(state: dict[str, Any], number: int, value: Any) -> None:
    state["state"][number]["first"] = value


MALFORMED: dict[str, tuple[Any, str]] = {
    "nothing": (lambda state: state.clear(), r"state_dict\['state'\]: expected a dict"),
    "no groups": (lambda state: state.update(param_groups=3), "param_groups'\\]: expected a list"),
    "groups that are none": (lambda state: state.update(param_groups=[3, 4]), "expected groups"),
    "no parameters": (
        lambda state: state["param_groups"][0].pop("params"),
        "expected 6 parameters in a group, found None",
    ),
    "a memory that is none": (
        lambda state: state["state"].update({0: 3}),
        "expected a dict for each parameter, found int",
    ),
    "a part is missing": (
        lambda state: state["state"].pop(1),
        "expected the memory of U, S and V of each adapter alike",
    ),
    "a moment is missing": (lambda state: state["state"][1].pop("first"), "of each adapter alike"),
    "another age": (lambda state: state["state"][1].update(step=7), "or of another age"),
    "no age": (
        lambda state: state["state"][1].update(step="x"),
        "expected a number of steps, found 'x'",
    ),
    "a negative age": (
        lambda state: state["state"][1].update(step=-1),
        "expected a number of steps, found -1",
    ),
    "a number": (lambda state: _first(state, 0, 1.0), "found float as 'first'"),
    "complex": (
        lambda state: _first(state, 0, state["state"][0]["first"] * 1j),
        "found torch.complex128",
    ),
    "sparse": (
        lambda state: _first(state, 0, state["state"][0]["first"].to_sparse()),
        "torch.sparse_coo",
    ),
    "meta": (
        lambda state: _first(state, 0, state["state"][0]["first"].to("meta")),
        "on meta as 'first'",
    ),
    "0-d": (
        lambda state: _first(state, 0, torch.tensor(1.0)),
        "expected first moments of one rank",
    ),
    "another rank": (
        lambda state: _first(state, 0, torch.zeros(20, 5)),
        "expected first moments of one rank",
    ),
    "a head of another shape": (
        lambda state: state["state"][6].update(exp_avg=torch.zeros(3)),
        "exp_avg of the shape",
    ),
    "half a head": (
        lambda state: state["state"][6].pop("exp_avg_sq"),
        "expected .'exp_avg', 'exp_avg_sq'. and 'step'",
    ),
}


@pytest.mark.parametrize("frozen", [("U",), ("S",), ("V",), ("U", "V")], ids=", ".join)
@pytest.mark.parametrize("method", OPTIMIZERS)
def test_gradients_of_some_of_the_factors_are_refused(method: str, frozen: tuple[str, ...]) -> None:
    """A factor that is frozen once the optimizer is made would keep the whole adapter from being
    trained, without a word.
    """
    model = network()
    optimizer = OPTIMIZERS[method](model)
    for name in frozen:
        getattr(
            adapters(model)["2"].adapter, {"U": "Ut", "S": "S", "V": "Vt"}[name]
        ).requires_grad_(False)

    def closure() -> float:
        backward(model)
        return 0.0

    before = snapshot(model, optimizer)
    expected = (
        f"2: gradients: expected those of U, S and V or none, found none of {', '.join(frozen)}"
    )
    with pytest.raises(ValueError, match=f"^{expected}$"):
        optimizer.step(closure)
    assert same(before, snapshot(model, optimizer))


def test_groups_of_tensors_find_their_adapters() -> None:
    """The same training as with the model, also of a copy; an adapter is in one group whole."""
    changes: list[Callable[[nn.Sequential], Any]] = [copy.copy, copy.deepcopy]
    for change in changes:
        models = [change(network()) for _ in range(2)]
        tensors = [p for p in models[1].parameters() if p.requires_grad]
        ranks = [
            train(model, GeoLoRA(given, lr=0.05, tau=0.2), 3)
            for model, given in zip(
                models, (models[0], [{"params": tensors, "weight_decay": 0.0}]), strict=True
            )
        ]
        assert ranks[0] == ranks[1]
        assert same(models[0].state_dict(), models[1].state_dict())
    every = [
        GeoLoRA(given).param_groups for given in (models[1].parameters(), [{"params": tensors}])
    ]
    assert [[group["params"] for group in groups] for groups in every] == [
        [tensors[:-2], tensors[-2:]]
    ] * 2
    apart = adapters(models[0])["0"].adapter
    assert [
        group["adapters"] for group in GeoLoRA([{"params": apart.parameters()}]).param_groups
    ] == [["adapter 0"]]
    head = [{"params": models[0][4].parameters(), "lr": 0.1}]
    for given, message in (
        (
            [{"params": [apart.Ut]}, {"params": [apart.S, apart.Vt]}],
            "all factors of an adapter in one group",
        ),
        ([{"params": ["weight"]}], "expected tensors, found str"),
        (
            [{"params": LowRankAdapter((5, 4), 2, 2).parameters()}],
            "in their layers, found one without its layer",
        ),
        (head, "model: expected one with trainable adapters"),
        ([{"module": models[0], "params": tensors, "rate": 1.0}], r"found \['rate'\]"),
    ):
        with pytest.raises(ValueError, match=message):
            GeoLoRA(given)


class Part(torch.Tensor):
    """A parameter in pieces, like FSDP2's."""

    def to_local(self) -> torch.Tensor:
        """The piece of this process."""
        return self


def collected(X: torch.Tensor) -> torch.Tensor:
    """A parameter like FSDP1's, while the pieces are together."""
    whole = torch.nn.Parameter(X.detach())
    whole._fsdp_flattened = True  # type: ignore[attr-defined]
    return whole


SHARDS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "FSDP1": lambda X: torch.nn.Parameter(X.detach().flatten()[:7]),
    "FSDP1, collected": collected,
    "FSDP2": lambda X: torch.nn.Parameter(X.detach().as_subclass(Part)),
}


@pytest.mark.parametrize("shard", SHARDS)
def test_parts_of_factors_are_refused_with_what_leaves_them_whole(shard: str) -> None:
    """Before the optimizer is made, and after it."""
    model = network()
    optimizer = GeoLoRA(model, lr=0.05)
    backward(model)
    adapter = adapters(model)["2"].adapter
    adapter.Ut = SHARDS[shard](adapter.Ut)  # type: ignore[assignment]
    message = r"^2: expected whole factors in every process, found (Parameter|Part) .*; .*ignored_params=.*ignored_states="
    with pytest.raises(ValueError, match=message):
        GeoLoRA(model, lr=0.05)
    with pytest.raises(ValueError, match=message):
        optimizer.step()
    if "FSDP1" in shard:  # which looks for the names of parameters in a state
        with pytest.raises(ValueError, match=message.replace("2", "2.adapter", 1)):
            model.state_dict()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"lr": 2e-4},
            r"^lr = 0\.0002 with update='spectral': a step moves the outputs of a layer by about 0\.0002 times its inputs",
        ),
        ({"lr": 1.0}, r"^lr = 1 with update='spectral'"),
        ({"tau": 0.95}, r"^tau = 0\.95: after 50 steps every adapter has rank 1"),
    ],
)
@pytest.mark.parametrize("method", METHODS)
def test_habits_of_other_methods_get_a_word_once(
    options: dict[str, Any], message: str, method: Any
) -> None:
    model = network()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        train(model, GeoLoRA(model, method=method, **options), 55)
    assert [bool(re.match(message, str(warning.message))) for warning in caught] == [True]
    assert caught[0].filename == train.__code__.co_filename, (
        "the line that calls step, not the wrappers of torch"
    )


USUAL: list[dict[str, Any]] = [
    {},
    {"lr": 0.02},
    {"lr": 1e-3},
    {"tau": 0.35},
    {"theta": 1e-3},
    {"share": 0.5},
    {"budget": 4},
    {"min_rank": 2, "max_rank": 2},
    {"coefficient_steps": 2},
    {"update": "adam", "lr": 2e-4},
    {"update": "sgd", "lr": 1e-4},
    {"update": "heavy-ball", "lr": 1e-4},
    {"update": "preconditioned", "lr": 3e-3},
]


def _another_steps_in_turn(model: nn.Module, optimizer: GeoLoRA) -> None:
    train(model, GeoLoRA(model), 1)
    backward(model)
    optimizer.step()


def _another_steps_from_the_same_gradients(model: nn.Module, optimizer: GeoLoRA) -> None:
    GeoLoRA(model).step()


def _it_steps_again(model: nn.Module, optimizer: GeoLoRA) -> None:
    optimizer.step()


def _it_is_frozen_and_steps(model: nn.Module, optimizer: GeoLoRA) -> None:
    optimizer.zero_grad()
    model.requires_grad_(False)
    optimizer.step()


MISUSES: dict[str, tuple[Callable[[nn.Module, GeoLoRA], None], type[Exception], str]] = {
    "two optimizers": (
        _another_steps_in_turn,
        RuntimeError,
        "remembers .*; another optimizer has stepped since, and an adapter",
    ),
    "two of one backward pass": (
        _another_steps_from_the_same_gradients,
        UserWarning,
        "^step: another optimizer has used these",
    ),
    "two steps after one": (
        _it_steps_again,
        UserWarning,
        r"^step: an earlier step has used these gradients and .* \(0, 2\)",
    ),
    "frozen": (
        _it_is_frozen_and_steps,
        UserWarning,
        r"^step: nothing is stepped, every adapter .* is frozen \(0, 2\)",
    ),
}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("misuse", MISUSES)
def test_a_step_that_trains_something_else_is_not_silent(misuse: str, method: Any) -> None:
    model = network(rank=4)
    optimizer = GeoLoRA(model, method=method)
    train(model, optimizer, 2)
    act, kind, message = MISUSES[misuse]
    with pytest.raises(kind, match=message):  # a warning is an error in these tests
        act(model, optimizer)


@pytest.mark.parametrize("set_to_none", [True, False])
@pytest.mark.parametrize("method", METHODS)
def test_nothing_is_said_of_gradients_that_are_new(set_to_none: bool, method: Any) -> None:
    """Accumulated over passes, with a rate of 0 in between, on a copy, and by a later optimizer."""
    model = network(rank=4)
    optimizer = GeoLoRA(model, method=method)
    for lr in (1e-2, 0.0, 1e-2):
        optimizer.param_groups[0]["lr"] = lr
        optimizer.zero_grad(set_to_none=set_to_none)
        for _ in range(2):
            backward(model)
        optimizer.step()
    other = copy.deepcopy(model)
    train(other, GeoLoRA(other, method=method), 2)
    model.zero_grad()
    train(model, GeoLoRA(model, method=method), 2)
    assert copy.deepcopy(adapters(model)["0"].adapter).rank == adapters(model)["0"].adapter.rank


WORDS_OF_LORA: dict[str, tuple[dict[str, Any], str]] = {
    "rank": (
        {"r": 8},
        r"^adapt: expected options of its own, found \{'r': 8\}: r is called rank \(where .*, next to max_rank$",
    ),
    "heads": ({"modules_to_save": ["4"]}, ": modules_to_save is called train here$"),
    "start": (
        {"init_lora_weights": True},
        ": init_lora_weights has no counterpart: S = 0 at the start$",
    ),
    "no word of LoRA": ({"ranks": 8}, "^adapt: got an unexpected keyword argument 'ranks'$"),
}


@pytest.mark.parametrize(
    ("option", "message"),
    [
        (
            "learning_rate",
            r"^GeoLoRA: expected options of its own, found \{'learning_rate': 0.1\}: learning_rate is called lr here$",
        ),
        ("rate", "^GeoLoRA: got an unexpected keyword argument 'rate'$"),
    ],
)
def test_an_option_of_other_optimizers_is_answered_with_ours(option: str, message: str) -> None:
    options: dict[str, Any] = {option: 0.1}
    with pytest.raises(TypeError, match=message):
        GeoLoRA(network(), **options)

"""GeoLoRA as a method of PEFT: everything that PEFT's users do with an adapter."""

from __future__ import annotations

import copy
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

REASON = "the extra peft is not installed"
peft = pytest.importorskip("peft", reason=REASON)
transformers = pytest.importorskip("transformers", reason=REASON)
pytorch_utils = pytest.importorskip("transformers.pytorch_utils", reason=REASON)
safetensors_torch = pytest.importorskip("safetensors.torch", reason=REASON)

from geolora_ref.nn import GeoLoRA, adapt, adapters, parameter_count  # noqa: E402
from geolora_ref.nn.exchange.export import export_lora  # noqa: E402
from geolora_ref.nn.exchange.peft_tuner import GeoLoraConfig, GeoLoraLayer  # noqa: E402
from verification.network_defects.models import difference, fill, regression  # noqa: E402

pytestmark = [
    pytest.mark.usefixtures("module_unchecked"),
    pytest.mark.filterwarnings(
        "ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"
    ),  # PEFT calls transformers so
]

SHOWN = "base_model.model.{}.geolora_active"


def base_model(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    layers = {
        "first": nn.Linear(12, 20),
        "tanh": nn.Tanh(),
        "second": nn.Linear(20, 10),
        "head": nn.Linear(10, 4),
    }
    model = nn.Sequential()
    for name, layer in layers.items():
        model.add_module(name, layer)
    return model.double()


def config(**options: Any) -> GeoLoraConfig:
    defaults: dict[str, Any] = {"rank": 3, "max_rank": 8, "modules_to_save": ["head"]}
    return GeoLoraConfig(**(defaults | options))


def wrapped(**options: Any) -> Any:
    return peft.get_peft_model(base_model(), config(**options))


def train(model: nn.Module, steps: int = 12) -> GeoLoRA:
    """A plain loop whose ranks move."""
    x, target = regression()
    optimizer = GeoLoRA(model, lr=0.05, tau=0.2, update="adam-published")
    for _ in range(steps):
        optimizer.zero_grad()
        (model(x) - target).square().mean().backward()
        optimizer.step()
    return optimizer


def ranks(model: nn.Module) -> list[int]:
    return [layer.adapter.rank for layer in adapters(model).values()]


def test_the_wrapped_model_trains_like_the_adapted_one() -> None:
    """Bit for bit: it is the same layer and the same optimizer."""
    x, _ = regression()
    adapted, tuned = base_model(), wrapped()
    adapt(adapted, rank=3, max_rank=8, train=["head"])
    for ours, theirs in zip(adapters(adapted).values(), adapters(tuned).values(), strict=True):
        theirs.adapter.assign(ours.adapter.factors())
    train(adapted)
    train(tuned)
    assert ranks(adapted) == ranks(tuned) != [3, 3]
    assert torch.equal(adapted(x), tuned(x))


def test_only_adapters_and_heads_are_trained(capsys: pytest.CaptureFixture[str]) -> None:
    model = wrapped()
    trainable = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    factors = {
        f"base_model.model.{layer}.geolora_adapter.default.{X}"
        for layer in ("first", "second")
        for X in ("Ut", "S", "Vt")
    }
    assert trainable == factors | {
        f"base_model.model.head.modules_to_save.default.{X}" for X in ("weight", "bias")
    }
    model.print_trainable_parameters()  # the storage, not the ranks in use
    storage = 8 * (12 + 20 + 8) + 8 * (20 + 10 + 8) + 44
    assert f"trainable params: {storage:,}" in capsys.readouterr().out
    assert parameter_count(model) == 3 * (12 + 20 + 3) + 3 * (20 + 10 + 3)


def test_the_fused_path_is_a_field_of_the_configuration_that_is_saved(tmp_path: Path) -> None:
    """The layer takes it, a loaded adapter too, and it trains as the plain one within rounding."""
    (x, _), models = regression(), (wrapped(fused=False), wrapped(fused=True))
    for plain, quick in zip(*(adapters(model).values() for model in models), strict=True):
        assert (plain.fused, quick.fused) == (False, True)
        quick.adapter.assign(plain.adapter.factors())
    for model in models:
        train(model)
    assert ranks(models[0]) == ranks(models[1]) != [3, 3]
    assert 0.0 < difference(models[1](x), models[0](x)) < 1e-11
    models[1].save_pretrained(tmp_path)
    loaded = peft.PeftModel.from_pretrained(base_model(), tmp_path)
    assert all(layer.fused for layer in adapters(loaded).values())
    torch.testing.assert_close(loaded(x), models[1](x), rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("low_memory", [False, True])
def test_saved_and_loaded(tmp_path: Path, low_memory: bool) -> None:
    x, _ = regression()
    model = wrapped(alpha=0.3)
    train(model)
    model.eval()
    model.save_pretrained(tmp_path)
    loaded = peft.PeftModel.from_pretrained(
        base_model(), tmp_path, low_cpu_mem_usage=low_memory
    ).eval()
    assert ranks(loaded) == ranks(model) != [3, 3]
    assert torch.equal(loaded(x), model(x))
    assert not [name for name, parameter in loaded.named_parameters() if parameter.requires_grad]
    saved = safetensors_torch.load_file(tmp_path / "adapter_model.safetensors")
    assert set(saved) == {
        f"base_model.model.{layer}.geolora_adapter.{X}"
        for layer in ("first", "second")
        for X in "USV"
    } | {
        "base_model.model.head.weight",
        "base_model.model.head.bias",
    }
    assert saved["base_model.model.first.geolora_adapter.S"].shape == (ranks(model)[0],) * 2
    assert (
        json.loads((tmp_path / "adapter_config.json").read_text(encoding="utf-8"))["peft_type"]
        == "GEOLORA"
    )


def test_the_model_card_says_what_loading_needs(tmp_path: Path) -> None:
    """Its lines run in a process of their own, where PEFT knows no such method before the import."""
    model = wrapped()
    for _ in range(2):  # once, however often it is saved
        model.save_pretrained(tmp_path)
    card = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert card.count("import geolora_ref") == 1
    lines = re.findall(
        "```python\n(.*?)```", card.partition("## How to Get Started with the Model")[2], re.DOTALL
    )[0]
    program = f"""
import peft
from collections import OrderedDict
from torch import nn
layers = ("first", nn.Linear(12, 20)), ("tanh", nn.Tanh()), ("second", nn.Linear(20, 10)), ("head", nn.Linear(10, 4))
base_model = nn.Sequential(OrderedDict(layers)).double()
try:
    peft.PeftModel.from_pretrained(base_model, ".")
except KeyError:
    pass
else:
    raise SystemExit("loaded without the import")
{lines.replace("this folder", ".")}
"""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr


def test_a_loaded_adapter_trains_on(tmp_path: Path) -> None:
    """Loading changes nothing that training sees: two runs from the same file and from memory stay
    equal.
    """
    x, _ = regression()
    model = wrapped()
    train(model)
    model.save_pretrained(tmp_path)
    loaded = peft.PeftModel.from_pretrained(base_model(), tmp_path, is_trainable=True)
    train(loaded)
    train(model)
    assert torch.equal(loaded(x), model(x))


def test_an_adapter_that_does_not_fit_is_an_error(tmp_path: Path) -> None:
    """The negative control of loading: nothing is skipped in silence."""
    model = wrapped()
    model.save_pretrained(tmp_path)
    path = tmp_path / "adapter_config.json"
    path.write_text(
        json.dumps(json.loads(path.read_text(encoding="utf-8")) | {"rank": 1, "max_rank": 2}),
        encoding="utf-8",
    )
    with pytest.raises(
        RuntimeError, match=r"first\.geolora_adapter\.default: expected factors .* of rank 1 to 2"
    ):
        peft.PeftModel.from_pretrained(base_model(), tmp_path)


def two_adapters() -> Any:
    """ "default" trained, and "other" on one layer only, filled."""
    model = wrapped(modules_to_save=None, exclude_modules=["head"])
    train(model)
    model.add_adapter("other", config(rank=2, modules_to_save=None, target_modules=["second"]))
    fill(model.get_submodule("base_model.model.second").geolora_adapter["other"])
    return model.eval()


def test_adapters_are_switched() -> None:
    x, _ = regression()
    model = two_adapters()
    first = model(x)
    assert sorted(adapters(model)) == [SHOWN.format("first"), SHOWN.format("second")]
    model.set_adapter("other")
    second = model(x)
    assert list(adapters(model)) == [SHOWN.format("second")]
    assert ranks(model) == [2]
    assert difference(second, first) > 1e-3
    with model.disable_adapter():
        assert torch.equal(model(x), base_model()(x))
    model.set_adapter("default")
    assert torch.equal(model(x), first)


def test_the_optimizer_trains_the_active_adapter_alone() -> None:
    model = two_adapters().train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    model.set_adapter("other")
    train(model, 2)
    changed = {
        key
        for key, value in model.state_dict().items()
        if value.shape != before[key].shape or not value.equal(before[key])
    }
    assert changed == {f"base_model.model.second.geolora_adapter.other.{X}" for X in "USV"}


def test_merged_and_unmerged() -> None:
    x, _ = regression()
    model = two_adapters()
    before, weights = model(x), {key: value.clone() for key, value in model.state_dict().items()}
    base_layer = model.get_submodule("base_model.model.first.base_layer")
    model.merge_adapter()
    assert difference(model(x), before) < 1e-14
    assert not torch.equal(base_layer.weight, weights["base_model.model.first.base_layer.weight"])
    model.unmerge_adapter()
    assert all(torch.equal(value, weights[key]) for key, value in model.state_dict().items())
    assert torch.equal(base_layer.weight, weights["base_model.model.first.base_layer.weight"])


MERGED: tuple[list[str], ...] = (["default"], ["other"], ["default", "other"])


@pytest.mark.parametrize("names", MERGED, ids=" and ".join)
def test_a_state_that_is_saved_or_loaded_while_merged_counts_the_adapters_once(
    names: list[str],
) -> None:
    x, _ = regression()
    model, fresh = two_adapters(), two_adapters()
    expected, weights = model(x), copy.deepcopy(model.state_dict())
    model.merge_adapter(names)
    merged = model.state_dict()
    assert merged.keys() == weights.keys()
    assert all(torch.equal(value, weights[key]) for key, value in merged.items())
    for layer in adapters(fresh).values():
        fill(layer.adapter)
    fresh.merge_adapter(names)
    fresh.load_state_dict(merged)
    assert torch.equal(fresh(x), expected)
    assert not [
        layer for layer in fresh.modules() if isinstance(layer, GeoLoraLayer) and layer.merged
    ]


def test_an_adapter_for_each_row_is_refused() -> None:
    """PEFT would drop the names and compute all rows with the active adapter."""
    x, _ = regression()
    model = wrapped().eval()
    with pytest.raises(
        ValueError, match=r"^adapter_names: expected none .*, found one for each row$"
    ):
        model(x, adapter_names=["default"] * (len(x) - 1) + ["__base__"])
    model(x)


@pytest.mark.parametrize("merge", ["merge_and_unload", "merge_adapter"])
def test_nothing_is_merged_where_one_layer_cannot_be(merge: str) -> None:
    """PEFT goes from layer to layer, and what it has unloaded is gone."""
    base = base_model()
    nn.utils.parametrizations.weight_norm(base.get_submodule("second"))
    model: Any = peft.get_peft_model(base, config())
    x, _ = regression()
    first = model.get_submodule("base_model.model.first")
    before, weight = model(x), first.base_layer.weight.clone()
    with pytest.raises(RuntimeError, match=r"second: .*computed from others"):
        getattr(model, merge)()
    assert model.get_submodule("base_model.model.first") is first
    assert torch.equal(first.base_layer.weight, weight)
    assert torch.equal(model(x), before)


def test_a_safe_merge_refuses_broken_factors() -> None:
    """And leaves the layers before them as they are."""
    model = wrapped()
    with torch.no_grad():
        model.get_submodule("base_model.model.second").geolora_adapter["default"].S[0, 0] = float(
            "nan"
        )
    with pytest.raises(
        ValueError, match="The adapter default seems to be broken: expected finite factors"
    ):
        model.merge_adapter(safe_merge=True)
    with pytest.raises(
        ValueError, match="The adapter default seems to be broken: expected finite factors"
    ):
        model.merge_and_unload(safe_merge=True)
    assert not model.get_submodule("base_model.model.first").merged
    with pytest.raises(
        ValueError, match="The adapter default seems to be broken: expected finite factors"
    ):
        model.get_submodule("base_model.model.second").merge(safe_merge=True)
    model.get_submodule("base_model.model.second").merge()  # without the option for safety
    assert model.get_submodule("base_model.model.second").merged


def test_deleted() -> None:
    x, _ = regression()
    model = two_adapters()
    before = model(x)
    model.delete_adapter("other")
    assert torch.equal(model(x), before)
    assert not [key for key in model.state_dict() if "other" in key]
    model.delete_adapter("default")
    assert torch.equal(model.base_model.model(x), base_model()(x))
    assert not adapters(model)


def test_a_step_of_the_adapter_that_is_not_active_is_not_silent() -> None:
    model = two_adapters()
    optimizer = GeoLoRA(model)
    model.set_adapter("other")
    optimizer.zero_grad()
    x, target = regression()
    (model(x) - target).square().mean().backward()
    with pytest.warns(
        UserWarning,
        match="every adapter .* is frozen .*: another adapter is active since set_adapter",
    ) as caught:
        optimizer.step()
    assert [warning.filename for warning in caught] == [__file__]
    train(model, 2)  # the one that is active: a warning would be an error


KINDS: dict[str, tuple[Callable[[], nn.Module], Callable[[], Tensor]]] = {
    "Conv1D": (lambda: pytorch_utils.Conv1D(9, 6), lambda: torch.randn(2, 5, 6)),
    "Conv1d": (lambda: nn.Conv1d(3, 5, 4, stride=2), lambda: torch.randn(2, 3, 9)),
    "Conv2d": (lambda: nn.Conv2d(2, 5, 3, padding=1), lambda: torch.randn(2, 2, 5, 4)),
    "Conv3d": (lambda: nn.Conv3d(2, 5, (2, 3, 1), padding=1), lambda: torch.randn(2, 2, 4, 5, 3)),
    "Embedding": (lambda: nn.Embedding(9, 6, padding_idx=1), lambda: torch.tensor([[0, 1, 8]])),
}


def test_a_copy_is_a_model_of_its_own() -> None:
    x, _ = regression()
    model = wrapped()
    train(model)
    other, before = copy.deepcopy(model), model(x)
    train(other, 3)
    assert torch.equal(model(x), before)
    assert not torch.equal(other(x), before)
    other.merge_adapter()
    assert not [
        layer for layer in model.modules() if isinstance(layer, GeoLoraLayer) and layer.merged
    ]


def test_exported_as_plain_lora(tmp_path: Path) -> None:
    x, _ = regression()
    model = wrapped(alpha=0.7)
    train(model)
    model.eval()
    export_lora(model, tmp_path)
    plain = peft.PeftModel.from_pretrained(base_model(), tmp_path).eval()
    assert type(plain.base_model).__name__ == "LoraModel"
    assert difference(plain(x), model(x)) < 1e-13


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "rank": ({"rank": 0}, "rank: expected an integer >= 1, found 0"),
    "part of a rank": ({"rank": 2.5}, "rank: expected an integer >= 1, found 2.5"),
    "rank in words": ({"rank": "3"}, "rank: expected an integer >= 1, found '3'"),
    "rank that is a truth": ({"rank": True}, "rank: expected an integer >= 1, found True"),
    "max_rank in words": ({"max_rank": "8"}, "max_rank: expected an integer >= 1, found '8'"),
    "one module to save": (
        {"modules_to_save": "head"},
        "modules_to_save: expected a sequence of names, found the string 'head'",
    ),
    "dropout in words": ({"dropout": "0"}, "dropout: expected 0 <= dropout < 1, found '0'"),
    "max_rank": ({"rank": 4, "max_rank": 3}, "found 4, max_rank 3"),
    "dropout": ({"dropout": 1.0}, "dropout: expected 0 <= dropout < 1"),
    "alpha, a word": ({"alpha": "RMS"}, "alpha: expected a finite number or 'rms', found 'RMS'"),
    "alpha, nothing": ({"alpha": None}, "alpha: expected a finite number or 'rms', found None"),
    "layers_pattern": ({"layers_pattern": "layers"}, "expected layers_to_transform"),
    "gradients": (
        {"gradients": "numerical"},
        "first: gradients: expected 'projected' or 'published'",
    ),
    "an activation": (
        {"target_modules": ["tanh"]},
        "tanh: expected a layer with a weight, found Tanh",
    ),
    "dtype": ({"dtype": "bfloat16"}, "^dtype: expected 'float32' or 'float64', found 'bfloat16'$"),
    "dtype of torch": (
        {"dtype": torch.float32},
        "^dtype: expected 'float32' or 'float64', found torch.float32$",
    ),
    "no such module": (
        {"target_modules": ["query"], "modules_to_save": None},
        re.escape("{'query'} not found"),
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_bad_configurations_are_refused(case: str) -> None:
    options, message = REFUSED[case]
    with pytest.raises(ValueError, match=message):
        wrapped(**options)


def test_a_weight_that_another_module_shares_is_refused() -> None:
    """Merged, it would change the other one as well."""

    def tied() -> nn.Module:
        model = nn.Sequential(nn.Embedding(9, 5), nn.Linear(5, 5), nn.Linear(5, 9, bias=False))
        model[2].weight = model[0].weight
        return model

    for name in ("0", "2"):
        with pytest.raises(
            ValueError,
            match=rf"{name}: expected a weight of its own, found one that it shares with {2 - int(name)}",
        ):
            peft.get_peft_model(tied(), GeoLoraConfig(rank=2, target_modules=[name]))
    model = peft.get_peft_model(tied(), GeoLoraConfig(rank=2, target_modules=["1"]))
    model.add_adapter(
        "second", GeoLoraConfig(rank=3, target_modules=["1"])
    )  # on the same weight, which is its own
    assert len(adapters(model)) == 1


WORDS: dict[str, tuple[dict[str, Any], str]] = {
    "rank and scale": (
        {"r": 8, "lora_alpha": 16},
        r"found \{'r': 8, 'lora_alpha': 16\}: r is called rank .*; lora_alpha is called alpha here",
    ),
    "dropout": ({"rank": 2, "lora_dropout": 0.1}, ": lora_dropout is called dropout here$"),
    "patterns": (
        {"rank_pattern": {"fc": 2}},
        ": rank_pattern has no counterpart: all layers start with one rank",
    ),
    "one alpha": (
        {"alpha_pattern": {"fc": 2}},
        ": alpha_pattern has no counterpart: alpha is 'rms', or one number for all layers$",
    ),
    "others": (
        {"bias": "all", "init_lora_weights": True},
        ": bias has no counterpart: modules_to_save .*; init_lora_weights is called init_weights here$",
    ),
    "experts": (
        {"target_parameters": ["experts.w"]},
        ": target_parameters has no counterpart: target_modules names layers$",
    ),
}


class Quantised(nn.Linear):
    """Its weight is no matrix of real numbers."""

    def __init__(self) -> None:
        super().__init__(4, 4)
        self.weight = nn.Parameter(torch.zeros(8, dtype=torch.uint8), requires_grad=False)


class Tied(nn.Module):
    """An embedding and an output layer with one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.out = nn.Embedding(9, 4), nn.Linear(4, 9, bias=False)
        self.out.weight = self.table.weight


def one_layer(layer: nn.Module, name: str = "0") -> Any:
    base = layer if isinstance(layer, Tied) else nn.Sequential(layer)
    return peft.get_peft_model(base, GeoLoraConfig(rank=2, target_modules=[name]))


def hot_swapped() -> None:
    from peft.utils.hotswap import hotswap_adapter

    model = wrapped()
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        hotswap_adapter(model, folder, "default")


class ScaledEmbedding(nn.Embedding):
    """Gemma's embedding."""


def on_meta() -> Any:
    with torch.device("meta"):
        layer = nn.Linear(4, 4)
    return one_layer(layer)


def compiled_layer() -> Any:
    whole: Any = torch.compile(nn.Linear(4, 4), backend="eager")
    return peft.get_peft_model(nn.Sequential(whole), GeoLoraConfig(target_modules=["_orig_mod"]))


NOT_HERE: dict[str, tuple[Callable[[], Any], str]] = {
    "a transposed convolution": (
        lambda: one_layer(nn.ConvTranspose1d(3, 4, 2)),
        "^0: expected nn.Linear, .* found ConvTransp",
    ),
    "groups": (
        lambda: one_layer(nn.Conv1d(4, 4, 2, groups=2)),
        "^0: expected a convolution with groups = 1, found groups = 2",
    ),
    "attention itself": (
        lambda: one_layer(nn.MultiheadAttention(8, 2)),
        "^0: expected a layer with a weight",
    ),
    "quantised": (
        lambda: one_layer(Quantised()),
        r"^0: expected a weight of floating point, found torch\.uint8",
    ),
    "compiled": (compiled_layer, "expected a layer that is not compiled by itself"),
    "a tied embedding": (
        lambda: one_layer(Tied(), "table"),
        "^table: expected a weight of its own, .* shares with out",
    ),
    "a tied output": (
        lambda: one_layer(Tied(), "out"),
        "^out: expected a weight of its own, .* shares with table",
    ),
    "a scaled embedding": (
        lambda: one_layer(ScaledEmbedding(9, 4)),
        "^0: expected nn.Embedding itself, .* may scale what",
    ),
    "a base without values": (
        on_meta,
        "^0: expected a weight with values, found one on the meta device; load the model first",
    ),
    "a weighted sum": (
        lambda: two_adapters().add_weighted_adapter(["default", "other"], [1.0, 1.0], "sum"),
        "merge_adapter",
    ),
    "hot swapping": (hot_swapped, "only supports LORA"),
    "mixed methods": (
        lambda: peft.get_peft_model(base_model(), config(), mixed=True),
        "not compatible with the `PeftMixedModel`",
    ),
}


@pytest.mark.parametrize("case", NOT_HERE)
def test_what_other_methods_of_peft_have_is_refused(case: str) -> None:
    ask, message = NOT_HERE[case]
    with pytest.raises(ValueError, match=message):
        ask()


class Experts(nn.Module):
    """A mixture with its matrices in one parameter, next to a router."""

    def __init__(self) -> None:
        super().__init__()
        self.router, self.gate_up = nn.Linear(4, 3), nn.Parameter(torch.randn(3, 8, 4))


PUT_IN: dict[str, Callable[[nn.Module], Any]] = {
    "adapt": lambda model: adapt(model, rank=2),
    "peft": lambda model: peft.get_peft_model(model, GeoLoraConfig(rank=2)),
}


@pytest.mark.parametrize("way", PUT_IN)
def test_all_linear_says_which_experts_stay(way: str, caplog: pytest.LogCaptureFixture) -> None:
    PUT_IN[way](nn.Sequential(Experts()))
    assert caplog.messages == [
        "all-linear: 1 parameters of several matrices each stay as they are: 0.gate_up"
    ]
    caplog.clear()
    PUT_IN[way](nn.Sequential(nn.Linear(4, 4), nn.Conv1d(3, 4, 2)))
    assert not caplog.messages


TOKENS = torch.arange(12).view(2, 6)


def transformer() -> Any:
    size = {
        "vocab_size": 20,
        "hidden_size": 8,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 8,
    }
    return transformers.BertModel(transformers.BertConfig(**size))


def test_transformers_loads_an_adapter_right_or_refuses(tmp_path: Path) -> None:
    """From version 5 on ``load_adapter`` sets parameters one by one, each of its own shape, and
    ranks are shapes.
    """
    base = transformer().eval()
    peft.get_peft_model(
        copy.deepcopy(base), GeoLoraConfig(rank=2, init_weights=False)
    ).save_pretrained(tmp_path)
    expected = peft.PeftModel.from_pretrained(copy.deepcopy(base), tmp_path)(
        TOKENS
    ).last_hidden_state
    if int(transformers.__version__.split(".")[0]) >= 5:
        with pytest.raises(ValueError, match=r"PeftModel\.from_pretrained"):
            base.load_adapter(tmp_path)
    else:
        base.load_adapter(tmp_path)
        assert torch.equal(base.eval()(TOKENS).last_hidden_state, expected)


def test_what_peft_asks_of_every_method_is_answered() -> None:
    model = two_adapters()
    status = peft.get_model_status(model)
    assert status.available_adapters == ["default", "other"]
    assert peft.get_layer_status(model)[0].active_adapters == ["default"]
    injected = peft.inject_adapter_in_model(config(), base_model())
    assert len(adapters(injected)) == 2
    x, _ = regression()
    assert torch.equal(model.unload()(x), base_model()(x))

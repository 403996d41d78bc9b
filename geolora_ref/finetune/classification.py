"""The task "classification": labelled texts, or pairs of them; a head on the mean of the token states."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from geolora_ref import checks
from geolora_ref.finetune.adapter_file import ADAPTER, FineTuned, save_adapter
from geolora_ref.finetune.batches import encode
from geolora_ref.finetune.data import Row, digest_of_rows, read_rows, shown, split
from geolora_ref.finetune.job import Data, Job
from geolora_ref.finetune.labels import Labels, fit_labels, with_sign
from geolora_ref.finetune.methods import GeoLoRAMethod
from geolora_ref.finetune.model import Classifier, check_length, load_encoder, try_out
from geolora_ref.finetune.plan import default_kind
from geolora_ref.finetune.run_options import RunOptions
from geolora_ref.finetune.task import Say, Task

__all__ = ["classification"]


def classification(options: RunOptions, say: Say) -> Task:
    """The task with the rows that the options name; with sign labels, rows labelled 0 are left out
    with a message.

    Raises ``ValueError`` for rows that :func:`read_rows` and :func:`split` refuse.
    """
    columns, pairs = options.columns, options.columns.pair is not None

    def read(paths: Sequence[Path]) -> list[Row]:
        found = (read_rows(path, columns) for path in paths)
        return [
            row
            for rows in found
            for row in (_signed(rows, say) if options.labels == "sign" else rows)
        ]

    train, dev = read(options.data), read(options.dev)
    digests = {"data": digest_of_rows(train), "dev": digest_of_rows(dev) if dev else None}
    if not dev:
        train, dev = split(train, options.dev_fraction, options.plan.seed)
    labels = fit_labels(train, options.labels or default_kind(options.plan.metric))

    def data(tokenizer: Any) -> Data:
        check_length(tokenizer, options.max_length, pairs=pairs)
        say(_counts(train, dev, labels))
        say(_first(train[0]))
        for doubt in _doubts(train, labels):
            say(doubt, "yellow")
        examples, measured = (
            encode(rows, tokenizer, labels, options.max_length) for rows in (train, dev)
        )
        return Data(examples, {"dev": measured}, labels)

    def write(
        output: Path, job: Job, tokenizer: Any, method: GeoLoRAMethod, place: Path
    ) -> list[str]:
        """Write adapter, head and the meaning of the outputs, which a plain LoRA checkpoint cannot hold."""
        longest = max(
            int(part.lengths.max()) for part in (job.data.train, *job.data.evaluation.values())
        )
        save_adapter(
            output / ADAPTER,
            FineTuned(job.model, tokenizer, labels, options.max_length, pairs, longest),
            method,
            place,
        )
        return [ADAPTER]

    return Task(
        peft="FEATURE_EXTRACTION",
        yardstick=("loss", "a constant prediction"),
        digests=digests,
        load=load_encoder,
        data=data,
        try_out=try_out,
        model=lambda pretrained, generator: Classifier(pretrained, labels.outputs, generator),
        baseline=lambda job: labels.baseline,
        reached=lambda job: job.history.late_loss,
        write=write,
    )


def _signed(rows: list[Row], say: Say) -> list[Row]:
    """The rows of a file whose label has a sign; ``ValueError`` if there are none."""
    kept, left_out = with_sign(rows)
    path = rows[0].path
    if not kept:
        raise ValueError(
            f"{path}: expected labels with a sign, found 0 in all {len(rows)} examples"
        )
    if left_out:
        say(
            f"{path}: {left_out} of {len(rows)} examples have the label 0, which has no sign, and are left out"
        )
    return kept


def _counts(train: Sequence[Row], dev: Sequence[Row], labels: Labels) -> str:
    """The line with the number of examples and how their labels were understood."""
    examples = f"{len(train)} examples for the training, {len(dev)} for the metric"
    if not labels.classes:
        return f"{examples}; labels are numbers, mean {labels.mean:.4g}, standard deviation {labels.scale:.4g}"
    counts = Counter(labels.encode(train).tolist())
    rarest = sorted(
        range(len(labels.classes)), key=counts.__getitem__
    )  # a header read as an example comes first
    return f"{examples}; classes (and how often): " + checks.first_few(
        [f"{shown(labels.classes[i])} ({counts[i]})" for i in rarest]
    )


def _first(row: Row) -> str:
    """The line that shows the first example as it was understood."""
    given = [row.text] if row.pair is None else [row.text, row.pair]
    texts = " | ".join(shown(text, 80) for text in given)
    return f"first example: {texts} -> {shown(row.label)}"


def _doubts(rows: Sequence[Row], labels: Labels) -> Iterator[str]:
    """Questions to the user where the columns look wrongly chosen."""
    if all(re.fullmatch(r"[\s\d.,+-]*", row.text) for row in rows):
        yield "all texts are numbers: is --text-column the right one?"
    if labels.classes and len(rows) > 10 and len(labels.classes) > len(rows) // 2:
        yield f"{len(labels.classes)} classes for {len(rows)} examples: is --label-column the right one?"

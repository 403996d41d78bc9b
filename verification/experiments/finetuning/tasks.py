"""The tasks of the campaign: their files and columns, their metrics, and the examples that are drawn."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from geolora_ref.finetune.data import Columns, Row, read_rows
from geolora_ref.finetune.plan import Metric

__all__ = ["BATCH", "LIMITS", "PLAIN_TEXT", "TASKS", "TEXTS", "Pictures", "PlainText", "Task"]

BATCH = 16
LIMITS = {"train": 2000, "dev": 500, "test": 1000}
"""At most so many examples of each part: those whose digests are smallest, because files are sorted
by source or by score.
"""


@dataclass(frozen=True)
class Task:
    """A task on texts: its metric, columns and files; without a file "dev" the first drawn training
    examples are set aside.
    """

    metric: Metric
    columns: Columns = field(default_factory=Columns)
    train: str = "train.tsv"
    dev: str | None = "dev.tsv"
    test: tuple[str, ...] = ("test.tsv",)
    batch: int = BATCH

    def rows(self, folder: Path, limits: Mapping[str, int] = LIMITS) -> dict[str, list[Row]]:
        """The examples of each part, in the order of their digests; ``ValueError`` that names a
        file that cannot be used.
        """
        train = drawn(read_rows(folder / self.train, self.columns))
        if self.dev is None:
            dev, train = train[: limits["dev"]], train[limits["dev"] :]
        else:
            dev = drawn(read_rows(folder / self.dev, self.columns))
        test = drawn([row for name in self.test for row in read_rows(folder / name, self.columns)])
        if not train:
            raise ValueError(
                f"{folder / self.train}: expected more than {limits['dev']} examples, of which {limits['dev']} are dev's"
            )
        parts = {"train": train, "dev": dev, "test": test}
        return {name: rows[: limits[name]] for name, rows in parts.items()}


@dataclass(frozen=True)
class Pictures:
    """Archives ``train.zip`` and ``test.zip`` with pictures ``part/class/name``, for a network of
    its own.
    """

    metric: Metric = "accuracy"
    batch: int = BATCH


@dataclass(frozen=True)
class PlainText:
    """A plain text ``input.txt``, for a decoder of its own; ``limits`` are numbers of blocks."""

    metric: Metric = "perplexity"
    batch: int = 2
    limits: Mapping[str, int] = field(
        default_factory=lambda: {"train": 200, "dev": 40, "test": 100}
    )


def drawn(rows: Sequence[Row]) -> list[Row]:
    """The examples in the order of the SHA-256 of their contents: a shuffle that depends on no
    generator.
    """
    return sorted(
        rows,
        key=lambda row: hashlib.sha256(
            f"{row.text}\t{row.pair or ''}\t{row.label}".encode()
        ).digest(),
    )


TEXTS = {
    "sst2": Task("accuracy"),
    "trec": Task("accuracy"),
    "sst5": Task("accuracy"),
    "subj": Task("accuracy"),
    "cola": Task(
        "matthews",
        Columns("4", "2"),
        "in_domain_train.tsv",
        None,
        ("in_domain_dev.tsv", "out_of_domain_dev.tsv"),
    ),
    "stsb": Task("spearman", Columns("1", "3", pair="2")),
}
PLAIN_TEXT = PlainText()
TASKS: Mapping[str, Task | Pictures | PlainText] = {
    **TEXTS,
    "cifar10": Pictures(),
    "shakespeare": PLAIN_TEXT,
}
"""The tasks by the names of their folders."""

"""Runs as rows of a CSV: read, select, append, and choose a rate by the development figures."""

from __future__ import annotations

import csv
import io
import os
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

__all__ = ["FIGURES", "Row", "append", "best_rate", "figures", "markdown", "pick", "read"]

Row = Mapping[str, Any]
"""A run: its configuration and its results; an empty cell is None."""
FIGURES = Path(__file__).parent / "figures"
"""The stored runs, one file a campaign."""


def read(path: Path) -> list[Row]:
    """Return the rows of a file.

    A last line without its end is the trace of an interrupted write, and is left out.  Raises
    ``ValueError`` that names a line with another number of cells than the head.
    """
    text = path.read_text(encoding="utf-8")
    head, *lines = csv.reader(io.StringIO(text[: text.rfind("\n") + 1]))
    for number, line in enumerate(lines, 2):
        if len(line) != len(head):
            raise ValueError(f"{path}, line {number}: expected {len(head)} cells, found {line}")
    return [dict(zip(head, map(_value, line), strict=True)) for line in lines]


def figures(campaign: str) -> list[Row]:
    """Return the stored rows of a campaign."""
    return read(FIGURES / f"{campaign}.csv")


def append(path: Path, row: Row) -> None:
    """Append a row, after removing what an interrupted write left; a new file gets a head first.

    Raises ``ValueError`` if the file has other columns.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    whole = text[: text.rfind("\n") + 1]
    head = next(csv.reader(io.StringIO(whole)), None)
    if head is not None and head != list(row):
        raise ValueError(f"{path}: expected the columns {list(row)}, found {head}")
    lines = io.StringIO()
    writer = csv.writer(lines, lineterminator="\n")
    if head is None:
        writer.writerow(row)
    writer.writerow(row.values())
    with path.open("r+" if text else "w", encoding="utf-8") as file:
        file.seek(len(whole.encode()))
        file.write(lines.getvalue())
        file.truncate()
        file.flush()
        os.fsync(file.fileno())


def pick(rows: Sequence[Row], **wanted: Any) -> list[Row]:
    """Return the rows with these values; a tuple stands for any of its items."""
    return [
        row
        for row in rows
        if all(
            row[name] in value if isinstance(value, tuple) else row[name] == value
            for name, value in wanted.items()
        )
    ]


def best_rate(rows: Sequence[Row], *, lower: bool = False, column: str = "rate") -> float:
    """Return the rate with the best mean of ``dev``, the smaller one of equals.

    Only rates with as many runs as the most frequent one count.  A run without a figure diverged.
    ``lower`` : smaller figures are better.  Raises ``ValueError`` if there is no run.
    """
    if not rows:
        raise ValueError("rows: expected runs to choose a rate by, found none")
    found: dict[float, list[float]] = {}
    for row in rows:
        value = float("-inf") if row["dev"] is None else -row["dev"] if lower else row["dev"]
        found.setdefault(row[column], []).append(value)
    most = max(map(len, found.values()))
    means = {
        rate: statistics.fmean(found[rate]) for rate in sorted(found) if len(found[rate]) == most
    }
    return max(means, key=means.__getitem__)


def markdown(rows: Sequence[Sequence[object]]) -> str:
    """Return rows as a table in Markdown; the first one is the head."""
    head, *rest = rows
    lines = (head, ["---"] * len(head), *rest)
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def _value(text: str) -> Any:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text or None

"""Labelled text from a tab-separated file: one example a line, nothing quoted, every complaint with
its line number.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np

from geolora_ref.support.files import digest

__all__ = ["Columns", "Row", "digest_of_rows", "read_rows", "read_text", "split"]


class Placed(Protocol):
    """An example that knows the file it comes from."""

    @property
    def path(self) -> Path: ...


Example = TypeVar("Example", bound=Placed)


@dataclass(frozen=True)
class Columns:
    """The columns of text, label and second text: a number from 1 on, or a name if the first line
    is a header.
    """

    text: str = "1"
    label: str = "2"
    pair: str | None = None
    header: bool = False


@dataclass(frozen=True)
class Row:
    """One example: its place, its text (or pair of texts) and its label, still as written."""

    path: Path
    line: int
    text: str
    pair: str | None
    label: str

    @property
    def place(self) -> str:
        """``FILE, line N``, as messages give it."""
        return f"{self.path}, line {self.line}"


def read_rows(path: Path, columns: Columns) -> list[Row]:
    """All examples of a UTF-8 file of tab-separated columns without quoting; empty lines at its end
    are skipped.

    Raises ``ValueError`` for a file that cannot be read, holds no example, is not UTF-8, lacks a
    column, or has a line with another number of columns, without text or without label (the message
    has the line number), and for one column in two roles.
    """
    records = _records(path)
    if columns.header and not records:
        raise ValueError(f"{path}: expected a header and examples, found an empty file")
    header = records.pop(0)[1] if columns.header else None
    if not records:
        raise ValueError(f"{path}: expected at least one example, found none")
    width = len(header or records[0][1])
    text, label = _index(path, "text", columns.text, width, header), _index(path, "label", columns.label, width, header)
    pair = None if columns.pair is None else _index(path, "pair", columns.pair, width, header)
    if text == label or pair in (text, label):
        raise ValueError(f"{path}: expected a column for each of text, label and pair, found one column for two of them")
    rows = []
    for line, fields in records:
        if len(fields) != width:
            raise ValueError(f"{path}, line {line}: expected {width} tab-separated columns, found {len(fields)}")
        row = Row(path, line, fields[text].strip(), None if pair is None else fields[pair].strip(), fields[label].strip())
        if not row.text or row.pair == "" or not row.label:
            what = "text" if not row.text else "label" if not row.label else "second text"
            raise ValueError(f"{row.place}: expected a {what}, found an empty column")
        rows.append(row)
    return rows


def digest_of_rows(rows: Sequence[Row]) -> str:
    """SHA-256 of the texts and labels that were read, in order; files and lines do not matter, and
    files may change later.
    """
    return digest(json.dumps([[row.text, row.pair, row.label] for row in rows]))


def read_text(path: Path) -> str:
    """The text of a UTF-8 file, line ends unchanged; ``ValueError`` if it cannot be read, or with
    the line that is not UTF-8.
    """
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise ValueError(f"{path}: expected a readable file, found: {error.strerror}") from error
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise ValueError(f"{path}, line {line}: expected UTF-8 text, found the byte {raw[error.start]:#04x}") from error


def _records(path: Path) -> list[tuple[int, list[str]]]:
    """The line number and the fields of every line."""
    text = read_text(path).rstrip("\r\n")
    lines = re.split("\r\n|\n|\r", text) if text else []
    if lines and not lines[0]:
        raise ValueError(f"{path}, line 1: expected tab-separated columns, found an empty line")
    return [(number, line.split("\t") if line else []) for number, line in enumerate(lines, start=1)]


def _index(path: Path, what: str, column: str, width: int, header: Sequence[str] | None) -> int:
    """The place of a column, counted from 0, by its name in the header or by its number."""
    if header is not None and column in header:
        if header.count(column) > 1:
            raise ValueError(
                f"{path}: {what} column: expected one named {column!r}, found {header.count(column)}; give its number"
            )
        place = header.index(column)
        if column.isdecimal() and 1 <= int(column) <= width and int(column) - 1 != place:
            raise ValueError(f"{path}: {what} column: expected one column, found {column!r} as the name of column {place + 1}")
        return place
    if column.isdecimal() and 1 <= int(column) <= width:
        return int(column) - 1
    names = f"a name out of {', '.join(header)} or " if header is not None else ""
    raise ValueError(f"{path}: {what} column: expected {names}a number from 1 to {width}, found {column!r}")


def split(rows: Sequence[Example], fraction: float, seed: int) -> tuple[list[Example], list[Example]]:
    """Training and development examples: the given fraction, drawn by seed, is set aside for development.

    Raises ``ValueError`` unless both parts get at least one.
    """
    held_out = round(fraction * len(rows)) if 0.0 < fraction < 1.0 else 0
    if not 0 < held_out < len(rows):
        raise ValueError(
            f"{rows[0].path}: dev_fraction: expected a number between 0 and 1 that leaves examples on both sides, "
            f"found {fraction:g} of {len(rows)} examples"
        )
    order = np.random.default_rng(seed).permutation(len(rows))
    train, dev = sorted(order[held_out:].tolist()), sorted(order[:held_out].tolist())
    return [rows[i] for i in train], [rows[i] for i in dev]

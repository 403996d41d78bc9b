"""Labelled texts from a file of tab-separated columns, of CSV, or of JSON lines; every complaint
names file and line.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np

from geolora_ref.support.files import digest

__all__ = ["Columns", "Row", "digest_of_rows", "read_rows", "read_text", "shown", "split"]


class Placed(Protocol):
    """An example that knows the file it comes from."""

    @property
    def path(self) -> Path: ...


Example = TypeVar("Example", bound=Placed)


@dataclass(frozen=True)
class Columns:
    """The columns of text, label and second text: a number from 1 on, or a name if the first line
    is a header.  Columns of JSON lines have names alone.

    ``text``, ``label`` : None is the first and the second column, or "text" and "label" in JSON lines.
    """

    text: str | None = None
    label: str | None = None
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

    @property
    def doubt(self) -> str:
        """A question for messages about the label: was a header, which .jsonl never has, read as the example?"""
        return (
            "; is line 1 a header? --header" if self.line == 1 and not _is_json(self.path) else ""
        )


def read_rows(path: Path, columns: Columns) -> list[Row]:
    """All examples of a UTF-8 file; its name decides the format.

    - ``.csv``: columns separated by commas; fields may be quoted and then span lines;
    - ``.jsonl``: a JSON object a line, whose values are texts, numbers or booleans;
    - any other name: columns separated by tabs, without quoting.

    Empty lines at the end are skipped.  Raises ``ValueError`` for a file that cannot be read, holds
    no example, is not UTF-8, or lacks a column, and for one column in two roles.  With the line
    number, it refuses a line with another number of columns, without text or without label, one
    that is no CSV, and one that is no JSON object with the wanted names.
    """
    text = read_text(path).rstrip("\r\n")
    read = _rows_of_json if _is_json(path) else _rows_of_table
    rows = read(path, text, columns)
    for row in rows:
        if not row.text or row.pair == "" or not row.label:
            what = "text" if not row.text else "label" if not row.label else "second text"
            raise ValueError(f"{row.place}: expected a {what}, found an empty column")
    if not rows:
        raise ValueError(f"{path}: expected at least one example, found none")
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
        raise ValueError(
            f"{path}, line {line}: expected UTF-8 text, found the byte {raw[error.start]:#04x}"
        ) from error


def shown(text: str, longest: int = 60) -> str:
    """A text shortened for a message: with a wrongly chosen column, labels are whole texts."""
    return text if len(text) <= longest else text[:longest] + "…"


def _is_json(path: Path) -> bool:
    return path.suffix.lower() == ".jsonl"


def _rows_of_table(path: Path, text: str, columns: Columns) -> list[Row]:
    is_csv = path.suffix.lower() == ".csv"
    separated = "comma-separated" if is_csv else "tab-separated"
    records = _of_csv(path, text) if is_csv else _of_lines(text)
    if columns.header and not records:
        raise ValueError(f"{path}: expected a header and examples, found an empty file")
    if not records:
        return []
    first = records[0][1]
    if not first:
        raise ValueError(f"{path}, line 1: expected {separated} columns, found an empty line")
    if len(first) == 1:
        other = (
            "other names are read with tabs"
            if is_csv
            else "a name that ends in .csv is read with commas"
        )
        raise ValueError(
            f"{path}, line 1: expected at least 2 {separated} columns ({other}), found 1: {shown(first[0])!r}"
        )
    header = records.pop(0)[1] if columns.header else None
    width = len(first)
    chosen = [
        _index(path, what, column, width, header)
        for what, column in _roles(columns, "1", "2").items()
    ]
    _refuse_shared(path, chosen)
    rows = []
    for line, fields in records:
        if len(fields) != width:
            raise ValueError(
                f"{path}, line {line}: expected {width} {separated} columns, found {len(fields)}"
            )
        rows.append(_row(path, line, [fields[place] for place in chosen]))
    return rows


def _rows_of_json(path: Path, text: str, columns: Columns) -> list[Row]:
    roles = _roles(columns, "text", "label")
    names = list(roles.values())
    _refuse_shared(path, names)
    rows = []
    for line, written in enumerate(text.split("\n") if text else [], start=1):
        try:
            values = json.loads(written)
            found = [values[name] for name in names]
            if not all(isinstance(value, str | int | float) for value in found):
                raise TypeError
            fields = [value if isinstance(value, str) else json.dumps(value) for value in found]
            "".join(fields).encode()  # a lone surrogate is no text
        except (ValueError, LookupError, TypeError, RecursionError) as error:
            wanted = f"an object with {' and '.join(f'the {what} column {name!r}' for what, name in roles.items())}"
            raise ValueError(
                f"{path}, line {line}: expected {wanted} (texts, numbers or booleans), "
                f"found {shown(written.strip(), 120) or 'an empty line'}"
            ) from error
        rows.append(_row(path, line, fields))
    return rows


def _roles(columns: Columns, text: str, label: str) -> dict[str, str]:
    """The column of each role, with the defaults of a format."""
    roles = {
        "text": text if columns.text is None else columns.text,
        "label": label if columns.label is None else columns.label,
    }
    return roles if columns.pair is None else roles | {"pair": columns.pair}


def _refuse_shared(path: Path, chosen: Sequence[int | str]) -> None:
    if len(set(chosen)) < len(chosen):
        raise ValueError(
            f"{path}: expected a column for each of text, label and pair, found one column for two of them"
        )


def _row(path: Path, line: int, fields: Sequence[str]) -> Row:
    """The example with text, label and perhaps second text, without the space around them."""
    text, label, *pair = (field.strip() for field in fields)
    return Row(path, line, text, pair[0] if pair else None, label)


def _of_lines(text: str) -> list[tuple[int, list[str]]]:
    """The line number and the fields of every line."""
    lines = re.split("\r\n|\n|\r", text) if text else []
    return [
        (number, line.split("\t") if line else []) for number, line in enumerate(lines, start=1)
    ]


def _of_csv(path: Path, text: str) -> list[tuple[int, list[str]]]:
    """The number of its first line and the fields of every record."""
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    records, line = [], 1
    try:
        for fields in reader:
            records.append((line, fields))
            line = reader.line_num + 1
    except csv.Error as error:
        raise ValueError(
            f"{path}, line {line}: expected comma-separated columns, found: {error}"
        ) from error
    return records


def _index(path: Path, what: str, column: str, width: int, header: Sequence[str] | None) -> int:
    """The place of a column, counted from 0, by its name in the header or by its number."""
    if header is not None and column in header:
        if header.count(column) > 1:
            raise ValueError(
                f"{path}: {what} column: expected one named {column!r}, found {header.count(column)}; give its number"
            )
        place = header.index(column)
        if column.isdecimal() and 1 <= int(column) <= width and int(column) - 1 != place:
            raise ValueError(
                f"{path}: {what} column: expected one column, found {column!r} as the name of column {place + 1}"
            )
        return place
    if column.isdecimal() and 1 <= int(column) <= width:
        return int(column) - 1
    names = f"a name out of {', '.join(header)} or " if header is not None else ""
    needed = "" if header is not None or column.isdecimal() else " (names need --header)"
    raise ValueError(
        f"{path}: {what} column: expected {names}a number from 1 to {width}{needed}, found {column!r}"
    )


def split(
    rows: Sequence[Example], fraction: float, seed: int
) -> tuple[list[Example], list[Example]]:
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

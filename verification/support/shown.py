"""Results of other commands, laid out for a page; nothing is judged again.

Every item names the command that makes it.  An item without a file is shown as not run, one with a
damaged file as damaged.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from geolora_ref.support.files import read_json
from verification.support.machine import sources

__all__ = ["UNREADABLE", "Item", "Page", "Rows", "Shown", "markdown_table", "overview", "unshown"]

Rows = list[list[str]]
UNREADABLE = (ValueError, LookupError, TypeError, AttributeError, OSError)
"""The exceptions of a file that is damaged, missing or of another form."""


@dataclass(frozen=True)
class Shown:
    """One item as its page shows it: an outcome (None: there is none), one line, tables whose first
    row is the head, a picture.

    ``run``: whether it was measured; the outcome None then means figures that are neither right nor
    wrong.  ``origin``: where and when it was measured, and whether with the sources that are here.
    ``stored``: whether the figures are those stored in the repository, and not measured here.
    """

    passed: bool | None
    line: str
    tables: Mapping[str, Rows] = field(default_factory=dict)
    image: str = ""
    run: bool = True
    origin: str = ""
    stored: bool = False

    @property
    def verdict(self) -> str:
        """The outcome in a word or two."""
        word = {True: "passed", False: "failed", None: "measured" if self.run else "not run"}[
            self.passed
        ]
        return f"{word}, stored" if self.stored else word


@dataclass(frozen=True)
class Item:
    """An item: its file, the command that writes it, what it is about, and how its data is shown.

    ``stored``: a file of the repository that is shown where nothing was measured here.
    """

    id: str
    title: str
    file: str
    command: str
    about: str
    show: Callable[[dict[str, Any]], Shown]
    stored: Path | None = None


@dataclass(frozen=True)
class Page:
    """A page next to the report: its short name, its title, what it is about, its file, and its items."""

    name: str
    title: str
    about: str
    file: str
    items: tuple[Item, ...]


def overview(items: Iterable[Item], folder: Path) -> list[tuple[Item, Shown]]:
    """Every item with the results in its file of this folder."""
    return [(item, _shown(item, folder)) for item in items]


def _shown(item: Item, folder: Path) -> Shown:
    path = folder / item.file
    if not path.exists():
        if item.stored is None:
            return Shown(None, f"Not run here. It is run by: {item.command}", run=False)
        path = item.stored
    try:
        data = read_json(path)
        return replace(item.show(data), origin=_origin(data), stored=path == item.stored)
    except UNREADABLE as error:
        return unshown(path, error, item.command)


def unshown(path: Path, error: Exception, command: str) -> Shown:
    """The text of a page in place of an unreadable file: the reason, and the command that makes the
    file again.
    """
    return Shown(
        False,
        f"{path} cannot be shown ({type(error).__name__}: {error}). To make it again: {command}",
    )


def _origin(data: Mapping[str, Any]) -> str:
    """On which machine results were made, when, and whether the sources have changed since, in words."""
    machine, made_with = data.get("machine"), data.get("sources")
    where = (
        f"{machine['date']}, commit {machine['commit']}, {machine['processor']}: "
        if machine
        else ""
    )
    if not made_with:
        return f"{where or 'The figures are '}made with sources that the file does not name."
    changed = [
        folder for folder, digest in sources(*made_with).items() if digest != made_with[folder]
    ]
    made = (
        f"other sources ({', '.join(changed)} changed since)"
        if changed
        else "the sources that are here"
    )
    return f"{where}made with {made}."


def markdown_table(rows: Sequence[Sequence[Any]]) -> str:
    """Rows as a table in Markdown; the first one is the head."""
    head, *rest = rows
    return "\n".join(
        "| " + " | ".join(map(str, row)) + " |" for row in (head, ["---"] * len(head), *rest)
    )

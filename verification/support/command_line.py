"""Shared parts of the command lines: types of arguments, and the progress bar."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)

from geolora_ref.support.files import require_writable
from geolora_ref.support.options import nonempty_path

__all__ = ["ProgressBar", "integer_from", "writable_folder"]

SILENCE = 30.0
"""Seconds between two lines of progress in a log."""


def integer_from(least: int) -> Callable[[str], int]:
    """A type for argparse: an integer ≥ ``least``.  For others argparse names the option and ends
    with status 2.
    """

    def integer(text: str) -> int:
        try:
            number = int(text)
        except ValueError:
            number = least - 1
        if number < least:
            raise argparse.ArgumentTypeError(f"expected an integer >= {least}, found {text!r}")
        return number

    return integer


def writable_folder(text: str) -> Path:
    """A type for argparse: a folder for results, made if it is not there; refused before the work
    if it cannot be written.
    """
    folder = nonempty_path(text)
    try:
        require_writable(folder / "results")
    except OSError as error:
        raise argparse.ArgumentTypeError(
            f"expected a folder that can be written, found {text!r} ({error.strerror})"
        ) from error
    return folder


class ProgressBar(Progress):
    """A progress bar: description (at least ``width`` characters), bar, count of total, the unit
    ``what``, elapsed time.

    Without a terminal ``update`` also writes a line, at most one every ``SILENCE`` seconds.
    """

    def __init__(self, console: Console, *, width: int = 0, what: str = "", **options: Any) -> None:
        unit = [TextColumn(what)] if what else []
        columns = (
            TextColumn(f"{{task.description:<{width}}}"),
            BarColumn(),
            MofNCompleteColumn(),
            *unit,
            TimeElapsedColumn(),
        )
        super().__init__(*columns, console=console, **options)
        self.what, self.written = what, time.monotonic()

    def update(self, task_id: TaskID, **changes: Any) -> None:
        """Change a task as rich does, and write the line."""
        super().update(task_id, **changes)
        if self.console.is_terminal or time.monotonic() - self.written < SILENCE:
            return
        self.written = time.monotonic()
        task = next(task for task in self.tasks if task.id == task_id)
        count = (
            f"{task.completed:.0f}"
            if task.total is None
            else f"{task.completed:.0f} of {task.total:.0f}"
        )
        self.console.print(f"{task.description}: {count} {self.what}".rstrip(), markup=False)

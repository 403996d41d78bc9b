"""Shared parts of the command lines: types of arguments, and the progress bar."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from geolora_ref.support.files import require_writable

__all__ = ["integer_from", "progress_bar", "writable_folder"]


def integer_from(least: int) -> Callable[[str], int]:
    """A type for argparse: an integer ≥ ``least``.  For others argparse names the option and ends with status 2."""

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
    """A type for argparse: a folder for results, made if it is not there; refused before the work if it cannot be written."""
    folder = Path(text)
    try:
        require_writable(folder / "results")
    except OSError as error:
        raise argparse.ArgumentTypeError(f"expected a folder that can be written, found {text!r} ({error.strerror})") from error
    return folder


def progress_bar(console: Console, *, width: int = 0, what: str = "", **options: Any) -> Progress:
    """A progress bar: description (at least ``width`` characters), bar, count of total, the unit ``what``, elapsed time."""
    unit = [TextColumn(what)] if what else []
    columns = (TextColumn(f"{{task.description:<{width}}}"), BarColumn(), MofNCompleteColumn(), *unit, TimeElapsedColumn())
    return Progress(*columns, console=console, **options)

"""The standard streams of a command, which may lack characters that its reports have."""

from __future__ import annotations

import io
import os
import sys
from typing import IO

__all__ = ["escape_missing_characters", "let_go", "tell", "write_nothing_more"]


def escape_missing_characters() -> None:
    """From now on stdout and stderr write what their encoding lacks as escape sequences: no verdict is lost to a character."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def tell(text: str) -> None:
    """A text and a line end to stdout, at once; nothing where there is none, or its reader has gone."""
    if sys.stdout is None:  # closed by the caller
        return
    try:
        sys.stdout.write(f"{text}\n")
        sys.stdout.flush()
    except BrokenPipeError:
        write_nothing_more(sys.stdout)


def let_go(stream: IO[str]) -> None:
    """What cannot be written to it, on a full disk say, is lost; without this the end of the process would fail on it again."""
    try:
        stream.flush()
    except OSError:
        write_nothing_more(stream)


def write_nothing_more(stream: IO[str]) -> None:
    """Its reader has gone, as ``head`` goes: what is written from now on is lost, and disturbs nobody."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())

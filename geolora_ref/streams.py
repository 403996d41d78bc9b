"""The standard streams of a command, which may lack characters that its reports have."""

from __future__ import annotations

import io
import os
import sys

__all__ = ["escape_missing_characters", "tell"]


def escape_missing_characters() -> None:
    """From now on stdout and stderr write what their encoding lacks as escape sequences: no verdict is lost to a character."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def tell(text: str) -> None:
    """A text and a line end to stdout, at once; where its reader has gone, as ``head`` goes, nothing is written from now on."""
    try:
        sys.stdout.write(f"{text}\n")
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())

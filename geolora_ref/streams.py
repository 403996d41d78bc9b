"""The standard streams of a command, which may lack characters that its reports have."""

from __future__ import annotations

import io
import sys

__all__ = ["escape_missing_characters"]


def escape_missing_characters() -> None:
    """From now on stdout and stderr write what their encoding lacks as escape sequences: no verdict is lost to a character."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")

"""Protect the standard streams of a command: missing characters, closed or replaced streams,
readers that have gone.
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import IO

__all__ = ["escape_missing_characters", "kept", "let_go", "tell", "write_nothing_more"]


def escape_missing_characters() -> None:
    """Make stdout and stderr write characters that their encoding lacks as escape sequences, so
    that no report is lost.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


@contextmanager
def kept() -> Iterator[None]:
    """Restore stdout and stderr after this context, whatever foreign code has closed, replaced or
    redirected.
    """
    with ExitStack() as stack:
        for name in ("stdout", "stderr"):
            stack.enter_context(_kept(name))
        yield


@contextmanager
def _kept(name: str) -> Iterator[None]:
    stream: IO[str] | None = getattr(sys, name)
    try:
        number = stream.fileno() if stream else -1
    except (AttributeError, OSError, ValueError):  # a stream without a file descriptor
        number = -1
    copy = os.dup(number) if number >= 0 else -1
    encoding, errors = (getattr(stream, part, None) for part in ("encoding", "errors"))
    try:
        yield
    finally:
        with suppress(OSError, ValueError):
            if stream:
                stream.flush()
        if copy >= 0:
            os.dup2(copy, number)
            os.close(copy)
            if not _is_open(stream):
                stream = open(number, "w", encoding=encoding, errors=errors, closefd=False)  # noqa: SIM115
        setattr(sys, name, stream)


def _is_open(stream: IO[str] | None) -> bool:
    """Return whether a stream can be written to.

    A stream whose buffer was detached is not open; even its attribute ``closed`` raises.
    """
    try:
        return stream is not None and not stream.closed
    except ValueError:
        return False


def tell(text: str) -> None:
    """Write a text and a line end to stdout and flush; do nothing without stdout, or if its reader
    has gone.
    """
    if sys.stdout is None:  # closed by the caller
        return
    try:
        sys.stdout.write(f"{text}\n")
        sys.stdout.flush()
    except BrokenPipeError:
        write_nothing_more(sys.stdout)


def let_go(stream: IO[str]) -> None:
    """Flush a stream and give up what cannot be written (full disk): otherwise the exit of the
    process would fail on it again.
    """
    try:
        stream.flush()
    except OSError:
        write_nothing_more(stream)


def write_nothing_more(stream: IO[str]) -> None:
    """Redirect a stream whose reader has gone (such as ``head``) to the null device, so that later
    writes raise no error.
    """
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())

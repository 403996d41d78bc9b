"""Describe exceptions of foreign code (a backend, a field, a callback) for messages."""

from __future__ import annotations

import importlib
import traceback
from types import ModuleType

__all__ = ["place", "words"]


def words(problem: BaseException, longest: int = 2000) -> str:
    """The class of an exception and the first line of its message, cut after ``longest`` characters.

    Control characters, which could act on a terminal, become escape sequences.  If reading the
    message raises an error, the text says so.
    """
    try:
        line = str(problem).strip().partition("\n")[0]
    except Exception as error:
        line = f"(its message raised {type(error).__name__})"
    text = _printable(line)
    return f"{type(problem).__name__}: {text if len(text) <= longest else text[:longest] + '…'}"


def place(problem: BaseException, module: ModuleType | None = None) -> str:
    """The place where an exception was raised, as ``file:line``: the deepest frame in the file of
    ``module``, else the last frame.

    The frame that caught it and frames of the import system do not count; the place is empty if no
    other frame is left.
    """
    if isinstance(problem, SyntaxError) and problem.filename:
        return _printable(f"{problem.filename}:{problem.lineno}")
    frames = [
        (frame.filename, frame.lineno) for frame in traceback.extract_tb(problem.__traceback__)[1:]
    ]
    frames = [
        frame
        for frame in frames
        if frame[0] != importlib.__file__ and not frame[0].startswith("<frozen importlib")
    ]
    own = [frame for frame in frames if frame[0] == getattr(module, "__file__", None)]
    return _printable("{}:{}".format(*(own or frames)[-1])) if frames else ""


def _printable(text: str) -> str:
    """The text with control characters as escape sequences."""
    return "".join(
        character if character.isprintable() else repr(character)[1:-1] for character in text
    )

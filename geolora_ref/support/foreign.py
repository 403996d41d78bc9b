"""What an exception of foreign code says: of a backend, a field, a callback."""

from __future__ import annotations

import importlib
import traceback
from types import ModuleType

__all__ = ["place", "words"]


def words(problem: BaseException, longest: int = 2000) -> str:
    """Its class and the first line of its message, cut after ``longest`` characters.

    Control characters, which would steer a terminal, are escape sequences; a message that cannot be read is told as such.
    """
    try:
        line = str(problem).strip().partition("\n")[0]
    except Exception as error:
        line = f"(its message raised {type(error).__name__})"
    text = _printable(line)
    return f"{type(problem).__name__}: {text if len(text) <= longest else text[:longest] + '…'}"


def place(problem: BaseException, module: ModuleType | None = None) -> str:
    """Where it was raised, as file:line: in the file of a module, as deep as possible, or else in the last frame.

    The frame that catches it, and those of the import system, are none; an empty string if no other is left.
    """
    if isinstance(problem, SyntaxError) and problem.filename:
        return _printable(f"{problem.filename}:{problem.lineno}")
    frames = [(frame.filename, frame.lineno) for frame in traceback.extract_tb(problem.__traceback__)[1:]]
    frames = [frame for frame in frames if frame[0] != importlib.__file__ and not frame[0].startswith("<frozen importlib")]
    own = [frame for frame in frames if frame[0] == getattr(module, "__file__", None)]
    return _printable("{}:{}".format(*(own or frames)[-1])) if frames else ""


def _printable(text: str) -> str:
    """With control characters as escape sequences."""
    return "".join(character if character.isprintable() else repr(character)[1:-1] for character in text)

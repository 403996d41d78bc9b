"""What an exception of foreign code says: of a backend, a field, a callback."""

from __future__ import annotations

__all__ = ["words"]


def words(problem: BaseException, longest: int = 2000) -> str:
    """Its class and the first line of its message, cut after ``longest`` characters.

    Control characters, which would steer a terminal, are escape sequences; a message that cannot be read is told as such.
    """
    try:
        line = str(problem).strip().partition("\n")[0]
    except Exception as error:
        line = f"(its message raised {type(error).__name__})"
    text = "".join(character if character.isprintable() else repr(character)[1:-1] for character in line)
    return f"{type(problem).__name__}: {text if len(text) <= longest else text[:longest] + '…'}"

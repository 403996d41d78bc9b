"""Messages that tell how to install a missing library."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["how_to_install", "noting_how_to_install"]

EXTRAS = {
    "torch": "torch",
    "peft": "peft",
    "safetensors": "peft",
    "jsonschema": "oracle",
    "mpmath": "oracle",
    "pytest": "oracle",
}
ELSEWHERE = {"jax": "pip install jax", "cupy": "see cupy.dev"}


def how_to_install(missing: ModuleNotFoundError, *, extra: str | None = None) -> str:
    """The end of a message: the extra that has the missing library, or the given ``extra``; empty
    for an unknown library.
    """
    library = (missing.name or "").partition(".")[0]
    if library in ELSEWHERE:
        return f"; it is not among the extras: {ELSEWHERE[library]}"
    extra = extra or EXTRAS.get(library)
    return f"; it needs the extra: pip install 'geolora-ref[{extra}]'" if extra else ""


@contextmanager
def noting_how_to_install() -> Iterator[None]:
    """Within this context a failing import gets a note below its traceback that says how to
    install the library.
    """
    try:
        yield
    except ModuleNotFoundError as missing:
        if how := how_to_install(missing):
            missing.add_note(how.removeprefix("; "))
        raise

"""What to do about a library that is not there."""

from __future__ import annotations

__all__ = ["how_to_install"]

EXTRAS = {"torch": "torch", "jsonschema": "oracle", "mpmath": "oracle", "pytest": "oracle"}
ELSEWHERE = {"jax": "pip install jax", "cupy": "see cupy.dev"}


def how_to_install(missing: ModuleNotFoundError, *, extra: str | None = None) -> str:
    """The end of a message: the extra that has the library, which a command may know better; nothing for an unknown library."""
    library = (missing.name or "").partition(".")[0]
    if library in ELSEWHERE:
        return f"; it is not among the extras: {ELSEWHERE[library]}"
    extra = extra or EXTRAS.get(library)
    return f"; it needs the extra: pip install 'geolora-ref[{extra}]'" if extra else ""

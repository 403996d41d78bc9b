"""Recognise a function that is no backend, rule or stages at all: nearly every call ends in the same
exception, or returns another form.

Such a function has another signature, or expects arrays of another library.  Judging hundreds of
cases then says nothing about its step.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TypeVar

__all__ = ["misuse", "others", "refused"]

Case = TypeVar("Case")

PROBED = 40
"""The number of further cases that are run before a function counts as misused."""
SHARE = 0.9
"""The least share of the calls that end in the same exception.

The others end in exceptions of their own, as calls with special arguments do.  One in 37 of the probed
calls, at most, has lazily negated tensors, which NumPy does not read.
"""
WRONG_CALL = ("TypeError: ", "AttributeError: ", "ValueError: ")
"""The exceptions that a wrong call ends in."""
OTHER_FORM = ("expected ((D_K, D_L, D_S), memory)", "expected a mapping with ")
"""The beginnings of errors of rules and stages that return no result of theirs."""
RAISED, OF_STAGES, PLACE = "raised ", "stages: ", " (at "
LIBRARIES = {"torch": ("torch", "Tensor"), "jax": ("jax", "JAX"), "cupy": ("cupy",)}
"""The words in a message that name an array library."""


def refused(error: str, step: int) -> bool:
    """Return whether the first call of a case raised, or returned another form."""
    return step == 0 and error.removeprefix(OF_STAGES).startswith((RAISED, *OTHER_FORM))


def others(cases: Sequence[Case]) -> list[Case]:
    """Cases from all parts of the chosen ones, the first one excluded."""
    rest = cases[1:]
    return [*rest[:: -(-len(rest) // PROBED)]] if rest else []


def misuse(what: str, signature: str, library: str, calls: Iterable[tuple[str, int]]) -> str:
    """The common error of the calls and the likely remedy, if all calls are refused, and nearly all in
    the same words; otherwise an empty string.

    ``what`` : the function in words.  ``signature`` : the expected one.  ``library`` : of its arguments.
    ``calls`` : the error of each case, with the place of an exception, and the number of the step; they
    are read up to the first call that is not refused.
    """
    errors: list[str] = []
    for error, step in calls:
        if not refused(error, step):
            return ""
        errors.append(error)
    [(error, count)] = Counter(errors).most_common(1)
    if len(errors) < 2 or count < SHARE * len(errors):
        return ""
    if error.startswith(OF_STAGES):
        what, error, signature = (
            "stages",
            error.removeprefix(OF_STAGES),
            signature.replace("step(", "stages("),
        )
    alike = (
        f"each of {count} calls"
        if count == len(errors)
        else f"{count} of {len(errors)} calls (the others fail, too)"
    )
    if error.startswith(OTHER_FORM):
        return f"{what}: {alike}: {error}"
    wrong_call = error.removeprefix(RAISED).startswith(WRONG_CALL)
    return f"{what}: {alike} {error}{_remedy(error, signature, library)}" if wrong_call else ""


def _remedy(error: str, signature: str, library: str) -> str:
    """The likely remedy: a signature, or another array library; an empty string if neither is likely."""
    if PLACE not in error and error.startswith(f"{RAISED}TypeError"):
        return f"; expected a function {signature}"
    named = [
        name
        for name, words in LIBRARIES.items()
        if name != library and any(word in error for word in words)
    ]
    if named:
        return f"; the arguments are arrays of {library}: for {named[0]} choose --array {named[0]} (array={named[0]!r})"
    if library == "numpy":
        return (
            "; the arguments are NumPy arrays: another library is chosen by --array (array=…)"
            if "ndarray" in error
            else ""
        )
    if any(word in error for word in ("numpy", "ndarray", *LIBRARIES[library])):
        return f"; the arguments are arrays of {library}: for a function of NumPy arrays leave out --array (array=…)"
    return ""

"""Recognise a function that cannot be called as a backend at all: every call ends in the same exception.

Such a function has another signature, or expects arrays of another library.  Judging hundreds of
cases then says nothing about its step.
"""

from __future__ import annotations

from collections.abc import Sequence

from geolora_ref.oracle.cases.case import ConformanceCase
from geolora_ref.oracle.reports.report import Row
from geolora_ref.oracle.trial.harness import Harness

__all__ = ["misuse", "others", "refused"]

KINDS = ("raised TypeError: ", "raised AttributeError: ", "raised ValueError: ")
"""The beginnings of errors that a wrong call has."""
PROBED = 40
"""The number of further cases that are run before a function counts as no backend."""
LIMITS = "*, learning_rate, tau, theta, min_rank, max_rank"
LIBRARIES = {"torch": ("torch", "Tensor"), "jax": ("jax",), "cupy": ("cupy",)}
"""The words in a message that name an array library."""


def refused(row: Row) -> bool:
    """Return whether the first call of a case ended as a wrong call does."""
    return row.error.startswith(KINDS) and row.step == 0


def others(cases: Sequence[ConformanceCase]) -> list[ConformanceCase]:
    """Cases from all parts of the chosen ones, the first one excluded."""
    rest = cases[1:]
    return [*rest[:: -(-len(rest) // PROBED)]] if rest else []


def misuse(harness: Harness, rows: Sequence[Row]) -> str:
    """The exception of every call and the expected form of a call, if all rows end in the same
    exception at the same place; otherwise an empty string.
    """
    first = rows[0]
    if len(rows) < 2 or any((row.error, row.where) != (first.error, first.where) or not refused(row) for row in rows):
        return ""
    at = f" (at {first.where})" if first.where else ""
    return f"backend: each of {len(rows)} calls {first.error}{at}{_hint(harness, first)}"


def _hint(harness: Harness, row: Row) -> str:
    """The likely remedy: a signature, or another array library; an empty string if neither is likely."""
    library = harness.conversion.array
    if not row.where and row.error.startswith("raised TypeError"):
        arrays = "gradients" if harness.whole else "dK, dL, dS"
        return f"; expected a function step(U, S, V, {arrays}, {LIMITS})"
    named = [name for name, words in LIBRARIES.items() if name != library and any(word in row.error for word in words)]
    if named:
        return f"; the arguments are arrays of {library}: for {named[0]} choose --array {named[0]} (array={named[0]!r})"
    if library == "numpy" and "ndarray" in row.error:
        return "; the arguments are NumPy arrays: another library is chosen by --array (array=…)"
    return ""

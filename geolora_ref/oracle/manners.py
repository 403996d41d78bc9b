"""What a backend may not do to its caller: change global state, or keep what it has handed out."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np

from geolora_ref.arrays import Array

__all__ = ["shortened", "spoil", "watched"]

LONGEST = 200
"""Characters of an exception's first line that a report has room for."""


def shortened(problem: BaseException) -> str:
    """The first line of what an exception says."""
    text = str(problem).strip().partition("\n")[0]
    return text if len(text) <= LONGEST else text[:LONGEST] + "…"


def spoil(arrays: Iterable[Array]) -> None:
    """Overwrite arrays whose owner needs them no longer; what cannot be written to stays as it is.

    A backend that returns an array which it keeps for itself computes with this from now on.
    """
    for X in arrays:
        with contextlib.suppress(ValueError, TypeError, RuntimeError, AttributeError):  # read-only, JAX, inference tensors
            if isinstance(X, np.ndarray):
                X[...] = np.nan
            elif hasattr(X, "detach"):
                X.detach().fill_(np.nan)
            else:
                X.fill(np.nan)


@contextlib.contextmanager
def watched() -> Iterator[list[str]]:
    """Afterwards the list says which global state was changed inside; all of it is put back."""
    settings = _settings()
    kept = [read() for _, read, _ in settings]
    touched: list[str] = []
    try:
        yield touched
        touched += [said for (said, read, _), before in zip(settings, kept, strict=True) if not _same(read(), before)]
    finally:
        for (_, _, write), before in zip(settings, kept, strict=True):
            write(before)


Setting = tuple[str, Callable[[], Any], Callable[[Any], Any]]
"""What is wrong if it has changed, how to read it, how to put it back."""


RANDOMNESS = "seeded or used {} global random generator: the caller's randomness changes"


def _settings() -> list[Setting]:
    """NumPy's generator and, where it is loaded, what torch has; Python's is left out, run-time type checkers draw from it."""
    settings: list[Setting] = [(RANDOMNESS.format("NumPy's"), np.random.get_state, np.random.set_state)]
    if "torch" in sys.modules:
        torch, said = sys.modules["torch"], "left torch with another {}: it belongs to the caller"
        settings += [
            (RANDOMNESS.format("torch's"), torch.get_rng_state, torch.set_rng_state),
            (said.format("grad mode"), torch.is_grad_enabled, torch.set_grad_enabled),
            (said.format("default dtype"), torch.get_default_dtype, torch.set_default_dtype),
            (
                said.format("choice of deterministic algorithms"),
                torch.are_deterministic_algorithms_enabled,
                torch.use_deterministic_algorithms,
            ),
        ]
    return settings


def _same(found: Any, before: Any) -> bool:
    """Whether two states are equal; those of generators are tuples with arrays, or tensors."""
    if isinstance(found, tuple):
        return len(found) == len(before) and all(map(_same, found, before))
    return bool(np.array_equal(found, before)) if hasattr(found, "shape") else bool(found == before)

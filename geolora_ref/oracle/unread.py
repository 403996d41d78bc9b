"""Find the arguments that a failing backend does not read: ignored, or kept from an earlier call."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from geolora_ref.oracle.comparison import Factors, Found, product
from geolora_ref.oracle.conversion import ARGUMENTS
from geolora_ref.oracle.criteria import StepInputs
from geolora_ref.oracle.mutants import REFERENCE
from geolora_ref.oracle.storage import norm
from geolora_ref.oracle.wide import in_double

__all__ = ["unread"]


FAR = 1e3
"""A threshold of so many times the size of a step lets all directions go."""
CLEAR = 1e-3
"""The relative change of W₁ that a backend sees, even if it computes in few bits."""


def unread(backend: Callable[[StepInputs], Found], failing: Sequence[StepInputs]) -> list[str]:
    """The names of the arguments on which no answer to these steps depends, though a right one
    clearly does.

    Each argument is changed alone, which a backend that reads it sees: an answer without a single
    different bit has not read it.  Answers that cannot be judged count as different.
    """
    moved: dict[str, list[bool]] = {}
    for inputs in failing:
        answer, right = backend(inputs), _right(inputs)
        rank = 0 if isinstance(answer, str) else len(answer[1])
        for name, other in _changed(inputs, rank):
            if _differ(right, _right(other)):
                moved.setdefault(name, []).append(not _same(answer, backend(other)))
    return [name for name, seen in moved.items() if not any(seen)]


def _changed(x: StepInputs, rank: int) -> Iterator[tuple[str, StepInputs]]:
    """The step with one argument changed, by its name; limits only where they forbid an answer of
    this rank, because what they allow may be right by another argument.  dS may be formed of dK or
    dL as well, unless the three are independent.
    """
    for name in ARGUMENTS if x.directions else ARGUMENTS[:-1]:
        yield name, replace(x, **{name: -getattr(x, name)})
    yield "learning_rate", replace(x, learning_rate=0.5 * x.learning_rate)
    columns = min(2 * len(x.S), len(x.U), len(x.V))
    most = columns if x.max_rank is None else x.max_rank
    if rank > x.min_rank:
        everything: dict[str, Any] = (
            {"tau": 2.0} if x.theta is None else {"theta": FAR * (norm(x.S) + x.learning_rate * norm(x.dK))}
        )
        yield next(iter(everything)), replace(x, **everything)
        yield "max_rank", replace(x, max_rank=x.min_rank)
    elif rank < most:
        yield "min_rank", replace(x, min_rank=most)


def _right(inputs: StepInputs) -> Factors:
    with np.errstate(all="ignore"):
        factors: Factors = REFERENCE.step(*map(in_double, inputs.arrays), **inputs.parameters)
    return factors


def _differ(A: Factors, B: Factors) -> bool:
    """Whether two outputs differ in their ranks or clearly in W₁."""
    return len(A[1]) != len(B[1]) or norm(product(A) - product(B)) > CLEAR * norm(product(A))


def _same(A: Found, B: Found) -> bool:
    """Whether two outputs have equal bits; never if one cannot be judged."""
    if isinstance(A, str) or isinstance(B, str):
        return False
    return all(X.shape == Y.shape and X.tobytes() == Y.tobytes() for X, Y in zip(A, B, strict=True))

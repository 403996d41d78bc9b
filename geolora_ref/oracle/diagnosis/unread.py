"""Find the arguments that a failing backend does not seem to read."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from geolora_ref.oracle.broken.mutants import REFERENCE
from geolora_ref.oracle.diagnosis.comparison import Found, Matrix, StepFactors, product
from geolora_ref.oracle.judges.criteria import StepInputs
from geolora_ref.oracle.judges.storage import norm
from geolora_ref.oracle.judges.wide import in_double

__all__ = ["unread"]

FAR, BETWEEN = 1e3, 0.3
"""A threshold of so many times the size of a step lets all directions go, or some of them."""
CLEAR = 1e-3
"""The relative change of W₁ that a backend sees, even if it computes in few bits."""


def unread(backend: Callable[[StepInputs], Found], steps: Sequence[StepInputs]) -> list[str]:
    """The names of the arguments of which no other value changes an answer to these steps in a
    single bit, though it clearly changes a right one.  Answers that cannot be judged count as
    changed.
    """
    telling: dict[str, bool] = {}
    read: set[str] = set()
    for inputs in steps:
        answer, right = backend(inputs), _right(inputs)
        rank = 0 if isinstance(answer, str) else len(answer[1])
        for name, forced, other in _others(inputs, rank):
            if name not in read and _differ(right, _right(other)):
                telling[name] = forced or telling.get(name, False)
                if not _same(answer, backend(other)):
                    read.add(name)
    return [name for name, forced in telling.items() if forced and name not in read]


def _others(x: StepInputs, rank: int) -> Iterator[tuple[str, bool, StepInputs]]:
    """The step with one argument changed: its name, and whether each backend that reads it has to
    give another answer than this one, of this rank.

    Gradients stay projections of one gradient, because a backend may form dS of dK or of dL;
    directions are independent.
    """
    size = norm(x.S) + x.learning_rate * norm(x.dK)
    corner = np.zeros_like(x.S)
    corner[0, -1] = norm(x.S) or 1.0
    columns = min(2 * len(x.S), len(x.U), len(x.V))
    most = columns if x.max_rank is None else x.max_rank
    changes: list[tuple[str, bool, Any]] = [
        ("S", True, -x.S),
        ("S", True, x.S + corner),
        ("dK", True, 2.0 * x.dK - x.U @ x.dS),
        ("dL", True, 2.0 * x.dL - x.V @ x.dS.conj().T),
        *([("dS", True, -x.dS)] if x.directions else []),
        *((name, True, B) for name, B in _reflected(x)),
        ("learning_rate", True, 0.5 * x.learning_rate),
        ("learning_rate", True, 0.0),
        ("max_rank", rank > x.min_rank, x.min_rank),
        ("max_rank", False, None),
        ("min_rank", rank < most, most),
    ]
    name, far, between = "tau", 2.0, BETWEEN
    if x.theta is not None:
        name, far, between = "theta", FAR * size, BETWEEN * size
    changes += [(name, rank > x.min_rank, far), (name, False, between), (name, False, 0.0)]
    for name, forced, value in changes:
        changed = {name: value}
        yield name, forced, replace(x, **changed)


def _reflected(x: StepInputs) -> Iterator[tuple[str, Matrix]]:
    """Each basis under a reflection that leaves the gradient where it is, and so BᴴX."""
    for name, B, X in (("U", x.U, x.dK), ("V", x.V, x.dL)):
        Q = np.linalg.qr(in_double(X))[0]
        z = in_double(B[:, :1]) - Q @ (Q.conj().T @ B[:, :1])
        if norm(z) > 0.1:
            z = z / norm(z)
            yield name, (B - 2.0 * z @ (z.conj().T @ B)).astype(B.dtype)


def _right(inputs: StepInputs) -> StepFactors:
    with np.errstate(all="ignore"):
        factors: StepFactors = REFERENCE.step(*map(in_double, inputs.arrays), **inputs.parameters)
    return factors


def _differ(A: StepFactors, B: StepFactors) -> bool:
    """Return whether two outputs differ in their ranks or clearly in W₁."""
    return len(A[1]) != len(B[1]) or norm(product(A) - product(B)) > CLEAR * norm(product(A))


def _same(A: Found, B: Found) -> bool:
    """Return whether two outputs have equal bits; never if one cannot be judged."""
    if isinstance(A, str) or isinstance(B, str):
        return False
    return all(X.shape == Y.shape and X.tobytes() == Y.tobytes() for X, Y in zip(A, B, strict=True))

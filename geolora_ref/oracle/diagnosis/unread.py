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
    for inputs in steps:
        answer, right = backend(inputs), _right(inputs)
        for name, other in _others(inputs):
            if telling.get(name, True) and _differ(right, _right(other)):
                telling[name] = _same(answer, backend(other))
    return [name for name, holds in telling.items() if holds]


def _others(x: StepInputs) -> Iterator[tuple[str, StepInputs]]:
    """The step with one argument changed, and its name.

    Gradients stay projections of one gradient, because a backend may form dS of dK or of dL;
    directions are independent.
    """
    size = norm(x.S) + x.learning_rate * norm(x.dK)
    corner = np.zeros_like(x.S)
    corner[0, -1] = norm(x.S) or 1.0
    changes: list[tuple[str, Any]] = [
        ("S", -x.S),
        ("S", x.S + corner),
        ("dK", 2.0 * x.dK - x.U @ x.dS),
        ("dL", 2.0 * x.dL - x.V @ x.dS.conj().T),
        *([("dS", -x.dS)] if x.directions else []),
        *_reflected("U", x.U, x.dK),
        *_reflected("V", x.V, x.dL),
        ("learning_rate", 0.5 * x.learning_rate),
        ("learning_rate", 0.0),
        ("max_rank", x.min_rank),
        ("max_rank", None),
        ("min_rank", x.max_rank or min(2 * len(x.S), len(x.U), len(x.V))),
    ]
    if x.theta is None:
        changes += [("tau", value) for value in (2.0, BETWEEN, 0.0)]
    else:
        changes += [("theta", value) for value in (FAR * size, BETWEEN * size, 0.0)]
    for name, value in changes:
        changed = {name: value}
        yield name, replace(x, **changed)


def _reflected(name: str, B: Matrix, X: Matrix) -> Iterator[tuple[str, Matrix]]:
    """The basis under a reflection that leaves the gradient where it is, and so BᴴX."""
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

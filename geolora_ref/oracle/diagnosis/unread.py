"""Find the arguments that a failing backend does not seem to read: ignored, limited, or kept from an
earlier call.
"""

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
    """The names of the arguments of which no value that is tried changes an answer to these steps in a
    single bit, though it clearly changes a right one.  Answers that cannot be judged count as changed.
    """
    expected: dict[str, bool] = {}
    read: set[str] = set()
    for inputs in steps:
        answer, right = backend(inputs), _right(inputs)
        rank = 0 if isinstance(answer, str) else len(answer[1])
        for name, forced, other in _others(inputs, rank):
            if name not in read and _differ(right, _right(other)):
                expected[name] = forced or expected.get(name, False)
                if not _same(answer, backend(other)):
                    read.add(name)
    return [name for name, forced in expected.items() if forced and name not in read]


def _others(x: StepInputs, rank: int) -> Iterator[tuple[str, bool, StepInputs]]:
    """The step with one argument changed: its name, and whether each backend that reads it has to
    give another answer than this one, of this rank.

    Where limits allow this rank it may be right by another argument.  Gradients stay projections of
    one gradient, because a backend may form dS of dK or of dL; directions are independent.
    """
    for name, X in _arrays(x):
        one: dict[str, Any] = {name: X}
        yield name, True, replace(x, **one)
    for rate in (0.5 * x.learning_rate, 0.0):
        yield "learning_rate", True, replace(x, learning_rate=rate)
    columns = min(2 * len(x.S), len(x.U), len(x.V))
    most = columns if x.max_rank is None else x.max_rank
    size = norm(x.S) + x.learning_rate * norm(x.dK)
    threshold, far, between = (
        ("tau", 2.0, BETWEEN) if x.theta is None else ("theta", FAR * size, BETWEEN * size)
    )
    for value, forced in ((far, rank > x.min_rank), (between, False), (0.0, False)):
        changed: dict[str, Any] = {threshold: value}
        yield threshold, forced, replace(x, **changed)
    yield "max_rank", rank > x.min_rank, replace(x, max_rank=x.min_rank)
    yield "max_rank", False, replace(x, max_rank=None)
    yield "min_rank", rank < most, replace(x, min_rank=most)


def _arrays(x: StepInputs) -> Iterator[tuple[str, Matrix]]:
    """Arguments in place of those of the step, by name."""
    corner = np.zeros_like(x.S)
    corner[0, -1] = norm(x.S) or 1.0
    yield "S", -x.S
    yield "S", x.S + corner
    yield "dK", 2.0 * x.dK - x.U @ x.dS
    yield "dL", 2.0 * x.dL - x.V @ x.dS.conj().T
    if x.directions:
        yield "dS", -x.dS
    for name, B, X in (("U", x.U, x.dK), ("V", x.V, x.dL)):
        Q = np.linalg.qr(in_double(X))[0]
        z = in_double(B[:, :1]) - Q @ (Q.conj().T @ B[:, :1])
        if (
            norm(z) > 0.1
        ):  # a reflection that leaves the gradient where it is, and so BᴴX = dS or its transpose
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

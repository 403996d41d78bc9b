"""Compare two outputs of one step: the same W₁ at the same rank, from factors of the same kind."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from geolora_ref.arrays import Matrix
from geolora_ref.oracle.judges.criteria import StepInputs, resolution
from geolora_ref.oracle.judges.storage import Storage, norm
from geolora_ref.oracle.judges.wide import in_double

__all__ = ["Answer", "Comparison", "Found", "Matrix", "StepFactors", "product"]

StepFactors = tuple[Matrix, Matrix, Matrix]
Found = StepFactors | str
"""The output of a step, or the reason why it cannot be judged."""


def product(factors: StepFactors) -> Matrix:
    """W₁ = U₁S₁V₁ᴴ in double precision."""
    U, S, V = (in_double(X) for X in factors)
    return np.asarray(U @ S @ V.conj().T)


class Answer(NamedTuple):
    """The compared parts of an output: its rank, the kind of its factors, and W₁."""

    rank: int
    kind: tuple[bool, ...]
    W: Matrix


@dataclass(frozen=True)
class Comparison:
    """A comparison of outputs: its precision ``eps``, whether the form of S₁ counts (``diagonal``),
    and the storage.
    """

    eps: float
    diagonal: bool
    storage: Storage | None

    def answer(self, found: Found) -> Answer | str:
        """The part of an output that is compared with many others, or the reason why the output
        cannot be judged.
        """
        if isinstance(found, str):
            return found
        return Answer(len(found[1]), self.kind(found), product(found))

    def alike(self, A: Answer | str, B: Answer | str, tolerance: float) -> bool:
        """Return whether two outputs have the same W₁, rank and kind of factors, or are unusable
        for the same reason.
        """
        if isinstance(A, str) or isinstance(B, str):
            return isinstance(A, str) and isinstance(B, str) and A == B
        return A[:2] == B[:2] and norm(A.W - B.W) <= tolerance

    def alike_matrices(self, A: Sequence[Matrix], B: Sequence[Matrix], tolerance: float) -> bool:
        """Return whether K_new, L_new and S_new agree, one by one."""
        return all(
            X.shape == Y.shape and norm(in_double(X) - Y) <= tolerance
            for X, Y in zip(A, B, strict=True)
        )

    def tolerance(self, inputs: StepInputs, size: float = 0.0) -> float:
        """The error that rounding explains in the result of this step, or in a result of this
        ``size``, if that is larger.
        """
        step = norm(inputs.S) + inputs.learning_rate * (norm(inputs.dK) + norm(inputs.dL))
        (m, r), n = inputs.U.shape, len(inputs.V)
        return float(resolution(m, n, r, self.eps, self.storage) * max(size, step))

    def orthonormal(self, factors: StepFactors) -> bool:
        """Return whether both bases are orthonormal."""
        return all(self.kind(factors)[:2])

    def kind(self, factors: StepFactors) -> tuple[bool, ...]:
        """Return whether U₁ and V₁ are orthonormal and, if that is promised, whether S₁ is
        diagonal, nonnegative and sorted.
        """
        U, S, V = (in_double(X) for X in factors)
        size = 1000.0 * self.eps + (4.0 * self.storage.defect(U) if self.storage else 0.0)
        orthonormal = tuple(norm(B.conj().T @ B - np.eye(B.shape[1])) <= size for B in (U, V))
        if not self.diagonal:
            return orthonormal
        d = np.diag(S)
        scale = size * norm(S)
        return (
            *orthonormal,
            norm(S - np.diag(d)) <= scale,
            bool(np.all(d.real >= -scale)),
            bool(np.all(np.diff(d.real) <= scale)),
        )

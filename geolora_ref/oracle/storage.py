"""Factors that are kept in fewer bits than they are computed with: what their rounding explains, and what it does not.

A backend may store U, S and V in bfloat16 and compute in single precision.  Judged by the rounding of the storage in every
operation, it would be allowed errors as large as the step.  Judged by that of its arithmetic, only two things have to be set
aside, both of which are known from the arrays themselves.  With u = eps/2 and the smallest number η of the storage,

* *results* are rounded once: ‖fl(X) − X‖ ≤ u‖X‖ + ½η√size entry by entry, so that a basis of r orthonormal columns moves by
  β = u√r + ½η√(mr) and loses orthonormality by 2β + β²; W₁ = U₁S₁V₁ᴴ moves by u times |U₁||S₁|, S₁ and |S₁||V₁|ᴴ;
* *questions* have been rounded: U and V are orthonormal up to defects δ_U, δ_V, and dK, dL, dS contradict each other by δ.  A
  right step may take U as it is or the orthonormal basis Q of U = QR, ‖R − I‖ ≤ δ_U, and cut in bases with that defect,
  which moves its result by δ_U s each; of the contradicting gradients it may use any.  Together 2(δ_U + δ_V)s + λδ.  A defect
  counts as far as storage explains it: the roundings of k steps add up like √k where nothing else does, to 1 + 2√k of them.

What is left is counted in units of the arithmetic.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Storage", "norm"]

Matrix = NDArray[Any]
NUMBERS = {"float64": (52, -1074), "float32": (23, -149), "float16": (10, -24), "bfloat16": (7, -133)}
"""Bits behind the leading one, and the exponent of the smallest number, of every dtype."""


@dataclass(frozen=True)
class Storage:
    """Numbers with rounding unit ``u``, the smallest of which is ``eta``."""

    u: float
    eta: float

    @classmethod
    def of(cls, dtype: str) -> Storage:
        """By the name of a dtype; a complex dtype has the entry of its real part."""
        bits, smallest = NUMBERS[{"complex128": "float64", "complex64": "float32"}.get(dtype, dtype)]
        return cls(2.0 ** -(bits + 1), 2.0**smallest)

    def rounding(self, X: Matrix) -> float:
        """How far the rounding of its entries moves ``X``."""
        return self.u * norm(X) + 0.5 * self.eta * float(np.sqrt(_count(X)))

    def basis(self, B: Matrix) -> float:
        """β: how far it moves an orthonormal basis of this shape."""
        return self.u * float(np.sqrt(B.shape[1])) + 0.5 * self.eta * float(np.sqrt(_count(B)))

    def defect(self, B: Matrix) -> float:
        """What β leaves of its orthonormality."""
        return self.basis(B) * (2.0 + self.basis(B))

    def drift(self, B: Matrix, steps: int) -> float:
        """The defect that is left after some further steps without repair, with a margin of two."""
        return (1.0 + 2.0 * float(np.sqrt(steps))) * self.defect(B)

    def product(self, U: Matrix, S: Matrix, V: Matrix) -> float:
        """How far it moves U S Vᴴ, bases U and V; nowhere where nothing is rounded."""
        if not (self.u or self.eta):
            return 0.0
        moved_U, moved_V = norm(np.abs(U) @ np.abs(S)), norm(np.abs(S) @ np.abs(V).T)
        absolute = 0.5 * self.eta * norm(S) * float(np.sqrt(_count(U)) + np.sqrt(_count(V)))
        return (1.0 + self.u) ** 2 * (self.u * (moved_U + moved_V) + self.rounding(S) + absolute)


def _count(X: Matrix) -> int:
    """How many real numbers an array has."""
    return 2 * X.size if np.iscomplexobj(X) else X.size


def norm(X: Matrix) -> float:
    """Frobenius norm, infinite or NaN where an entry is; scaled by the largest, so that no square leaves the range.

    Not the function of ``arrays.py``, on purpose: the oracle shares no code with the step that it judges.
    """
    entries = np.abs(X).ravel()
    largest = entries.max(initial=0.0)
    if not 0.0 < largest < np.inf:
        return float(largest)
    entries /= largest
    return float(largest * np.sqrt(np.dot(entries, entries)))

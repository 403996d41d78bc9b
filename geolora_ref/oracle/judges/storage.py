"""The errors that rounding explains if factors are stored in fewer bits than they are computed with.

If the rounding of a storage in bfloat16 were allowed in every operation, errors as large as the
step would pass. So a backend is judged by the rounding of its arithmetic, and two effects of
storage are subtracted: *results* are rounded once (:class:`Storage`), and *arguments* have been
rounded. U and V are orthonormal up to defects δ_U, δ_V, and dK, dL, dS contradict each other by δ.
A right step may take U as it is, or the Q of U = QR with ‖R − I‖ ≤ δ_U, and may cut in bases with
this defect; each choice moves the result by δ_U s. It may use any of the contradicting gradients.
Together this is 2(δ_U + δ_V)s + λδ.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Storage", "norm"]

Matrix = NDArray[Any]
NUMBERS = {
    "float64": (52, -1074),
    "float32": (23, -149),
    "float16": (10, -24),
    "bfloat16": (7, -133),
}
"""For every dtype, the number of bits after the leading one, and the exponent of the smallest number."""


@dataclass(frozen=True)
class Storage:
    """A number format: rounding unit ``u`` and smallest positive number ``eta``.

    Rounding once moves X by ‖fl(X) − X‖ ≤ u‖X‖ + ½η√size entry by entry. So a basis of r
    orthonormal columns moves by β = u√r + ½η√(mr) and loses orthonormality by 2β + β², and
    W₁ = U₁S₁V₁ᴴ moves by u times |U₁||S₁|, S₁ and |S₁||V₁|ᴴ.
    """

    u: float
    eta: float

    @classmethod
    def of(cls, dtype: str) -> Storage:
        """The format of a dtype by name; a complex dtype has the format of its real part."""
        bits, smallest = NUMBERS[
            {"complex128": "float64", "complex64": "float32"}.get(dtype, dtype)
        ]
        return cls(2.0 ** -(bits + 1), 2.0**smallest)

    def rounding(self, X: Matrix) -> float:
        """A bound on how far the rounding of its entries moves ``X``."""
        return self.u * norm(X) + 0.5 * self.eta * float(np.sqrt(_count(X)))

    def basis(self, B: Matrix) -> float:
        """β, a bound on how far rounding moves an orthonormal basis of this shape."""
        return self.u * float(np.sqrt(B.shape[1])) + 0.5 * self.eta * float(np.sqrt(_count(B)))

    def defect(self, B: Matrix) -> float:
        """A bound on the defect ‖BᴴB − I‖ of an orthonormal basis after rounding: 2β + β²."""
        return self.basis(B) * (2.0 + self.basis(B))

    def drift(self, B: Matrix, steps: int) -> float:
        """A bound on the defect after ``steps`` further steps without repair: k roundings add up
        like √k, and the margin is two.
        """
        return (1.0 + 2.0 * float(np.sqrt(steps))) * self.defect(B)

    def product(self, U: Matrix, S: Matrix, V: Matrix) -> float:
        """A bound on how far rounding moves U S Vᴴ with bases U and V; 0 for a format without rounding."""
        if not (self.u or self.eta):
            return 0.0
        moved_U, moved_V = norm(np.abs(U) @ np.abs(S)), norm(np.abs(S) @ np.abs(V).T)
        absolute = 0.5 * self.eta * norm(S) * float(np.sqrt(_count(U)) + np.sqrt(_count(V)))
        return (1.0 + self.u) ** 2 * (self.u * (moved_U + moved_V) + self.rounding(S) + absolute)


def _count(X: Matrix) -> int:
    """The number of real numbers in an array."""
    return 2 * X.size if np.iscomplexobj(X) else X.size


def norm(X: Matrix) -> float:
    """Frobenius norm, infinite or NaN where an entry is; scaled by the largest, so that no square
    leaves the range.

    Not the function of ``arrays.py``, on purpose: the oracle shares no code with the step that it judges.
    """
    entries = np.abs(X).ravel()
    largest = entries.max(initial=0.0)
    if not 0.0 < largest < np.inf:
        return float(largest)
    entries /= largest
    return float(largest * np.sqrt(np.dot(entries, entries)))

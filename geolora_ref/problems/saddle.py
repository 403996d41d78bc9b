"""Problem 5: a polynomial with saddles on the manifold, where only convergence to a stationary
point can be promised.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from geolora_ref import checks
from geolora_ref.arrays import H, Values
from geolora_ref.lowrank import LowRank
from geolora_ref.problems.field import Product
from geolora_ref.problems.problem import FactoredODE, GradientFlow, Matrix

__all__ = ["Saddle"]


class Saddle(GradientFlow, FactoredODE):
    """L(W) = ¼‖WWᵀ − B‖² with B = Q diag(b) Qᵀ, b_1 > b_2 > … > 0, W in R^{m x n}, n < m.

    ∇L(W) = (WWᵀ − B)W is a polynomial, so the Łojasiewicz inequality holds and bounded gradient
    flows converge. The stationary points are W = Q_I diag(b_I)^{1/2} Oᵀ for every set I of at most
    n indices and orthonormal O: the minimum for I = {1, …, n} with L* = ¼Σ_{i>n} b_i², a local
    maximum for W = 0, saddles otherwise. There a direction q_j oᵀ, j ∉ I, has curvature −b_j if o
    is orthogonal to O, and b_i − b_j if o is the column of O of i. The curvature is at least −b_1
    (:meth:`lipschitz_on`), with equality at W = 0: μ = b_1. It is not bounded above, so there is no
    ℓ.

    Raises ``ValueError`` unless b is positive and decreasing and n < m.
    """

    def __init__(self, b: Values, n: int, rng: np.random.Generator) -> None:
        self.b = np.array(b, dtype=np.float64)
        m = len(self.b)
        if not (
            np.all(np.isfinite(self.b)) and np.all(self.b > 0.0) and np.all(np.diff(self.b) < 0.0)
        ):
            raise ValueError(f"b: expected decreasing positive numbers, found {self.b}")
        n = checks.integer("n", n, 1)
        if n >= m:
            raise ValueError(f"n: expected between 1 and m - 1 = {m - 1}, found {n}")
        self.shape = (m, n)
        self.Q = np.linalg.qr(rng.standard_normal((m, m))).Q
        self.B = (self.Q * self.b) @ self.Q.T
        self.strong_convexity, self.one_sided_lipschitz = -float(self.b[0]), float(self.b[0])
        self.minimum = 0.25 * float(np.sum(self.b[n:] ** 2))

    def loss(self, W: Matrix) -> float:
        """¼‖WWᵀ − B‖²."""
        return 0.25 * float(np.sum((W @ W.T - self.B) ** 2))

    def gradient(self, W: Matrix) -> Matrix:
        """(WWᵀ − B)W."""
        return np.asarray(W @ (W.T @ W) - self.B @ W)

    def lipschitz_on(self, start: Matrix, end: Matrix) -> float:
        """β on the segment between two matrices: max(3R² − b_m, b_1), R = max‖W‖₂, which is
        attained at an end (convexity).

        The second derivative ½‖DWᵀ + WDᵀ‖² + ‖WᵀD‖² − ⟨BD, D⟩ lies between −b_1‖D‖² and (3‖W‖₂² − b_m)‖D‖².
        """
        R = max(float(np.linalg.norm(W, 2)) for W in (start, end))
        return max(3.0 * R**2 - float(self.b[-1]), float(self.b[0]))

    def factored(self, t: float, Y: Product) -> Product:
        """−∇L = (BP − P(QᴴQ̄)(PᵀP)) Qᴴ."""
        P, Q = Y
        return Product(self.B @ P - P @ (H(Q) @ Q.conj()) @ (P.T @ P), Q)

    def stationary_point(self, indices: Sequence[int]) -> LowRank:
        """Q_I diag(b_I)^{1/2} [e_1 … e_|I|]ᵀ (indices from 0)."""
        chosen = list(indices)
        return LowRank(
            self.Q[:, chosen], np.diag(np.sqrt(self.b[chosen])), np.eye(self.shape[1], len(chosen))
        )

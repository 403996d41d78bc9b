"""Problem 1: the quadratic ½⟨W − A, H₁(W − A)H₂⟩, whose gradient flow has a closed form."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from geolora_ref import checks
from geolora_ref.arrays import Values
from geolora_ref.lowrank import LowRank
from geolora_ref.problems.problem import GradientFlow, Matrix

__all__ = ["Quadratic"]


class Quadratic(GradientFlow):
    """L(W) = ½⟨W − A, H₁(W − A)H₂⟩ with symmetric positive definite H₁ (m x m), H₂ (n x n).

    β = ℓ = λmax(H₁)λmax(H₂), strong convexity λmin(H₁)λmin(H₂), L* = 0 at W = A.  The singular
    values of A can be chosen: with a gap at a known rank, or with a tail of size ε that no matrix
    of this rank can represent.

    Raises ``ValueError`` for matrices that are not finite, not real, not symmetric positive
    definite or do not fit A.
    """

    def __init__(self, A: Matrix, H1: Matrix, H2: Matrix) -> None:
        checks.real_matrices(A=A, H1=H1, H2=H2)
        self.shape = (A.shape[0], A.shape[1])
        for name, H, size in (("H1", H1, A.shape[0]), ("H2", H2, A.shape[1])):
            expected = f"{name}: expected a symmetric {size} x {size} matrix"
            if H.shape != (size, size):
                raise ValueError(f"{expected}, found shape {H.shape}")
            if not np.allclose(H, H.T, rtol=1e-12, atol=0.0):
                raise ValueError(
                    f"{expected}, found ‖{name} − {name}ᵀ‖ = {np.linalg.norm(H - H.T):.3e}"
                )
        self.A, self.H1, self.H2 = A.copy(), H1.copy(), H2.copy()
        (self._d1, self._Q1), (self._d2, self._Q2) = np.linalg.eigh(H1), np.linalg.eigh(H2)
        for name, d in (("H1", self._d1), ("H2", self._d2)):
            if d[0] <= 0.0:
                raise ValueError(f"{name}: expected positive eigenvalues, found {d[0]:.3e}")
        self.lipschitz = float(self._d1[-1] * self._d2[-1])
        self.strong_convexity = float(self._d1[0] * self._d2[0])
        self.one_sided_lipschitz = -self.strong_convexity
        self.minimum = 0.0

    @classmethod
    def random(
        cls,
        shape: tuple[int, int],
        spectrum: Values,
        rng: np.random.Generator,
        curvature: Sequence[float] = (0.5, 1.0),
    ) -> Quadratic:
        """Random bases, A with these singular values, eigenvalues of H₁ and H₂ spread over
        ``curvature`` (low, high).
        """
        low, high = curvature

        def spd(size: int) -> Matrix:
            Q, _ = np.linalg.qr(rng.standard_normal((size, size)))
            H = (Q * np.linspace(low, high, size)) @ Q.T
            return np.asarray(0.5 * (H + H.T))

        return cls(LowRank.random(shape, spectrum, rng).full(), spd(shape[0]), spd(shape[1]))

    def loss(self, W: Matrix) -> float:
        """½⟨W − A, H₁(W − A)H₂⟩."""
        return 0.5 * float(np.sum((W - self.A) * self.gradient(W)))

    def gradient(self, W: Matrix) -> Matrix:
        """H₁(W − A)H₂."""
        return np.asarray(self.H1 @ (W - self.A) @ self.H2)

    def closed_form(self, t: float, Y0: Matrix) -> Matrix:
        """A + Q₁[e^{−t d₁d₂ᵀ} ∘ Q₁ᵀ(Y₀ − A)Q₂]Q₂ᵀ with the eigenvectors Q and eigenvalues d of H₁, H₂."""
        E = self._Q1.T @ (Y0 - self.A) @ self._Q2
        return np.asarray(
            self.A + self._Q1 @ (np.exp(-t * np.outer(self._d1, self._d2)) * E) @ self._Q2.T
        )

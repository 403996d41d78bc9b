"""Problem 13: flows that keep the rank, to measure orders of convergence, and a version with a
normal part.
"""

from __future__ import annotations

import math

import numpy as np
import scipy.linalg

from geolora_ref import checks
from geolora_ref.arrays import H
from geolora_ref.problems.field import Product
from geolora_ref.problems.problem import FactoredODE, Matrix

__all__ = ["RankPreservingLinear", "RankPreservingRiccati"]

RESOLUTION = 1e-9
"""The step size, as a fraction of the time, below which the solution counts as ended."""


class RankPreservingRiccati(FactoredODE):
    """Ẏ = AY + YBᵀ + YMY + εC: for ε = 0 tangential at every Y, so the rank is kept; C has full
    rank and ‖C‖ = 1.

    Closed form for ε = 0 by Radon's lemma: [P; Q]' = [[A, 0], [−M, −Bᵀ]] [P; Q], P(0) = Y₀,
    Q(0) = I, Y = PQ⁻¹.  Quadratic in Y: no global Lipschitz constant, and a solution may cease to
    exist.

    Raises ``ValueError`` for matrices that are not finite and real or do not fit together, and
    unless ε is a finite number ≥ 0.
    """

    def __init__(self, A: Matrix, B: Matrix, M: Matrix, C: Matrix, epsilon: float = 0.0) -> None:
        checks.real_matrices(A=A, B=B, M=M, C=C)
        m, n = A.shape[0], B.shape[0]
        for name, X, shape in (
            ("A", A, (m, m)),
            ("B", B, (n, n)),
            ("M", M, (n, m)),
            ("C", C, (m, n)),
        ):
            if X.shape != shape:
                raise ValueError(f"{name}: expected shape {shape}, found {X.shape}")
        self.shape, self.A, self.B, self.M, self.C = (m, n), A.copy(), B.copy(), M.copy(), C.copy()
        self.epsilon = checks.nonnegative_number("epsilon", epsilon)

    @classmethod
    def random(
        cls, shape: tuple[int, int], rng: np.random.Generator, epsilon: float = 0.0
    ) -> RankPreservingRiccati:
        """Gaussian A, B, M with spectral norms 1, 1, ½, and a full-rank C of norm 1."""
        m, n = shape
        A, B, M = (rng.standard_normal(s) for s in ((m, m), (n, n), (n, m)))
        C = rng.standard_normal(shape)
        A, B, M = (size * X / np.linalg.norm(X, 2) for size, X in ((1.0, A), (1.0, B), (0.5, M)))
        return cls(A, B, M, C / np.linalg.norm(C), epsilon)

    def field(self, t: float, Y: Matrix) -> Matrix:
        """AY + YBᵀ + YMY + εC."""
        return np.asarray(self.A @ Y + Y @ self.B.T + Y @ self.M @ Y + self.epsilon * self.C)

    def factored(self, t: float, Y: Product) -> Product:
        """The tangential part [AP + P(QᴴMP) | P] [Q | BQ]ᴴ, without εC, which has full rank."""
        P, Q = Y
        return Product(
            np.hstack([self.A @ P + P @ (H(Q) @ self.M @ P), P]), np.hstack([Q, self.B @ Q])
        )

    def apply_right(self, t: float, Y: Product, V: Matrix) -> Matrix:
        """F(Y) V."""
        return (
            super().apply_right(t, Y, V) + self.epsilon * self.C @ V
            if self.epsilon
            else super().apply_right(t, Y, V)
        )

    def apply_left(self, t: float, Y: Product, U: Matrix) -> Matrix:
        """F(Y)ᴴ U."""
        return (
            super().apply_left(t, Y, U) + self.epsilon * self.C.T @ U
            if self.epsilon
            else super().apply_left(t, Y, U)
        )

    def closed_form(self, t: float, Y0: Matrix) -> Matrix:
        """P(t) Q(t)⁻¹ by Radon's lemma for ε = 0, else the numerical reference."""
        if self.epsilon != 0.0:
            return self.reference(t, Y0)
        self._refuse_blow_up(t, Y0)
        return self._closed(t, Y0)

    def _closed(self, t: float, Y0: Matrix) -> Matrix:
        m, n = self.shape
        PQ = scipy.linalg.expm(t * self._radon()) @ np.vstack([Y0, np.eye(n)])
        return np.asarray(np.linalg.solve(PQ[m:].T, PQ[:m].T).T)

    def _radon(self, scale: float = 1.0) -> Matrix:
        """The matrix of the linear system of P/scale and Q."""
        return np.block([[self.A, np.zeros(self.shape)], [-scale * self.M, -self.B.T]])

    def _refuse_blow_up(self, t: float, Y0: Matrix) -> None:
        """Raise ``ValueError`` unless the solution exists up to t.

        With R the matrix of the linear system of P/s and Q, ‖Q(δ) − I‖ ≤ (e^{δ‖R‖} − 1)(1 +
        ‖Y₀/s‖²)^{1/2}.  A step δ for which this bound is ½ cannot pass a singular Q, and shrinks
        with the distance to it.  s = max(1, ‖Y₀‖), recomputed at every step: a large Y₀ is not near
        one if M is small.
        """
        done, Y = 0.0, Y0
        while True:
            norm = float(np.linalg.norm(Y, 2))
            scale = max(1.0, norm)
            size = float(np.linalg.norm(self._radon(scale), 2))
            step = (
                math.log1p(0.5 / math.hypot(1.0, norm / scale)) / size if size > 0.0 else math.inf
            )
            if done + step >= abs(t):
                return
            if step <= RESOLUTION * abs(t):
                end = math.copysign(done, t)
                raise ValueError(
                    f"t: expected a time up to which there is a solution, found {t}; it ends near {end:.6g}"
                )
            Y, done = self._closed(math.copysign(step, t), Y), done + step


class RankPreservingLinear(FactoredODE):
    """Ẏ = AY + YBᵀ with the closed form e^{tA} Y₀ e^{tBᵀ}; ℓ ≤ ‖A‖₂ + ‖B‖₂, μ = the sum of the
    logarithmic norms.

    It is too special to measure orders: projector splitting is exact for it.

    Raises ``ValueError`` unless A and B are finite real square matrices.
    """

    def __init__(self, A: Matrix, B: Matrix) -> None:
        checks.real_matrices(A=A, B=B)
        for name, X in (("A", A), ("B", B)):
            if X.shape[0] != X.shape[1]:
                raise ValueError(f"{name}: expected a square matrix, found shape {X.shape}")
        self.shape, self.A, self.B = (len(A), len(B)), A.copy(), B.copy()
        self.lipschitz = float(np.linalg.norm(A, 2) + np.linalg.norm(B, 2))
        self.one_sided_lipschitz = float(
            sum(np.linalg.eigvalsh(0.5 * (X + X.T))[-1] for X in (A, B))
        )

    @classmethod
    def random(cls, shape: tuple[int, int], rng: np.random.Generator) -> RankPreservingLinear:
        """Gaussian A and B with spectral norm 1."""
        A, B = (rng.standard_normal((k, k)) for k in shape)
        return cls(A / np.linalg.norm(A, 2), B / np.linalg.norm(B, 2))

    def field(self, t: float, Y: Matrix) -> Matrix:
        """AY + YBᵀ."""
        return np.asarray(self.A @ Y + Y @ self.B.T)

    def factored(self, t: float, Y: Product) -> Product:
        """[AP | P] [Q | BQ]ᴴ."""
        P, Q = Y
        return Product(np.hstack([self.A @ P, P]), np.hstack([Q, self.B @ Q]))

    def closed_form(self, t: float, Y0: Matrix) -> Matrix:
        """e^{tA} Y₀ e^{tBᵀ}."""
        return np.asarray(scipy.linalg.expm(t * self.A) @ Y0 @ scipy.linalg.expm(t * self.B.T))

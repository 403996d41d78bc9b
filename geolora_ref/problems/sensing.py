"""Problem 2: recovering a low-rank matrix from linear measurements (sensing) or from some of its
entries (completion).
"""

from __future__ import annotations

import numpy as np

from geolora_ref import checks
from geolora_ref.arrays import Values
from geolora_ref.lowrank import LowRank
from geolora_ref.problems.problem import GradientFlow, Matrix

__all__ = ["MatrixCompletion", "MatrixSensing"]


class MatrixSensing(GradientFlow):
    """L(W) = ½ Σ_i (⟨A_i, W⟩ − b_i)² / N with N measurement matrices A_i (N x m x n).

    The Hessian is the normal operator H = Σ A_i ⊗ A_i / N: β = λmax(H), strong convexity λmin(H) (0
    when N < mn), L* from the least-squares solution.

    Raises ``ValueError`` for measurements and b that do not fit together or are not finite and real.
    """

    def __init__(self, measurements: Matrix, b: Matrix) -> None:
        measurements, b = np.asarray(measurements), np.asarray(b)
        if measurements.ndim != 3 or b.shape != measurements.shape[:1] or not measurements.size:
            expected = "shapes (N, m, n) and (N,), N at least one"
            raise ValueError(
                f"measurements, b: expected {expected}, found {measurements.shape} and {b.shape}"
            )
        count, m, n = measurements.shape
        self.shape, self.count, self.b = (m, n), int(count), b.copy()
        self._A = np.array(measurements).reshape(count, m * n)
        checks.real_matrices(measurements=self._A, b=b[:, None])
        self._d, self._Q = np.linalg.eigh(self._A.T @ self._A / count)
        self.lipschitz = float(self._d[-1])
        self.strong_convexity = float(max(self._d[0], 0.0)) if count >= m * n else 0.0
        self.one_sided_lipschitz = -self.strong_convexity
        self._optimum = np.linalg.lstsq(self._A, b, rcond=None)[0]
        self.minimum = self.loss(self._optimum.reshape(self.shape))

    @classmethod
    def planted(
        cls, shape: tuple[int, int], spectrum: Values, count: int, rng: np.random.Generator
    ) -> MatrixSensing:
        """``count`` Gaussian measurements of a matrix with these singular values; ``ValueError``
        unless ``count`` ≥ 1.
        """
        count = checks.integer("count", count, 1)
        measurements = rng.standard_normal((count, *shape))
        truth = LowRank.random(shape, spectrum, rng).full()
        return cls(measurements, np.tensordot(measurements, truth, axes=2))

    def loss(self, W: Matrix) -> float:
        """½ Σ_i (⟨A_i, W⟩ − b_i)² / N."""
        return 0.5 * float(np.sum((self._A @ W.ravel() - self.b) ** 2)) / float(self.count)

    def gradient(self, W: Matrix) -> Matrix:
        """Σ_i (⟨A_i, W⟩ − b_i) A_i / N."""
        return np.asarray(
            ((self._A @ W.ravel() - self.b) @ self._A / self.count).reshape(self.shape)
        )

    def closed_form(self, t: float, Y0: Matrix) -> Matrix:
        """W* + e^{−tH}(Y₀ − W*) by the eigenvectors of the normal operator; W* any least-squares
        solution.
        """
        error = self._Q.T @ (Y0.ravel() - self._optimum)
        return np.asarray(
            (self._optimum + self._Q @ (np.exp(-t * np.maximum(self._d, 0.0)) * error)).reshape(
                self.shape
            )
        )


class MatrixCompletion(GradientFlow):
    """L(W) = ½ ‖Ω ∘ (W − M)‖² / |Ω| with the mask Ω of the known entries; β = 1/|Ω|, L* = 0.

    Raises ``ValueError`` unless M is finite and real, unknown entries included, and the mask
    boolean, not empty and of M's shape.
    """

    def __init__(self, M: Matrix, mask: Matrix) -> None:
        checks.real_matrices(M=M)
        mask = np.asarray(mask)
        if mask.shape != M.shape or mask.dtype != np.bool_ or not mask.any():
            raise ValueError(
                f"mask: expected a boolean mask of shape {M.shape} with a known entry, found {mask.dtype} {mask.shape}"
            )
        self.shape, self.M, self.mask = (M.shape[0], M.shape[1]), M.copy(), mask.copy()
        self.lipschitz = 1.0 / float(mask.sum())
        self.strong_convexity = self.lipschitz if bool(mask.all()) else 0.0
        self.one_sided_lipschitz = -self.strong_convexity
        self.minimum = 0.0

    @classmethod
    def planted(
        cls, shape: tuple[int, int], spectrum: Values, fraction: float, rng: np.random.Generator
    ) -> MatrixCompletion:
        """A random ``fraction`` of the entries of a matrix with these singular values;
        ``ValueError`` if not > 0 and ≤ 1.
        """
        if not 0.0 < checks.number(fraction) <= 1.0:
            raise ValueError(f"fraction: expected a number > 0 and <= 1, found {fraction!r}")
        return cls(LowRank.random(shape, spectrum, rng).full(), rng.random(shape) < fraction)

    def loss(self, W: Matrix) -> float:
        """½ ‖Ω ∘ (W − M)‖² / |Ω|."""
        return 0.5 * self.lipschitz * float(np.sum((W - self.M)[self.mask] ** 2))

    def gradient(self, W: Matrix) -> Matrix:
        """Ω ∘ (W − M) / |Ω|."""
        return np.asarray(self.lipschitz * self.mask * (W - self.M))

    def closed_form(self, t: float, Y0: Matrix) -> Matrix:
        """Known entries relax like e^{−t/|Ω|}, unknown ones stay."""
        return np.asarray(
            np.where(self.mask, self.M + np.exp(-t * self.lipschitz) * (Y0 - self.M), Y0)
        )

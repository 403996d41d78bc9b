"""Problem 11: the Allen–Cahn equation, a gradient flow whose cubic term does not keep low rank."""

from __future__ import annotations

import numpy as np

from geolora_ref import checks
from geolora_ref.arrays import Values
from geolora_ref.lowrank import LowRank
from geolora_ref.problems.problem import GradientFlow, Matrix, StartedODE

__all__ = ["AllenCahn"]


class AllenCahn(GradientFlow, StartedODE):
    """Ẋ = ε(LX + XL) + X − X∘X∘X on the torus [0, 2π]², L = dx⁻² circ(1, −2, 1), dx = 2π/n.

    The gradient flow of L(X) = −ε⟨X, LX⟩/2 − ε⟨X, XL⟩/2 + ¼Σ(x² − 1)², with minimum 0 at X = ±1.
    L ≤ 0 and x ↦ −x³ is monotone, so μ = 1 (attained at 0); the cubic term has no global ℓ.  The
    start is (e^{−tan²x} + e^{−tan²y}) sin x sin y / (1 + e^{|csc(−x/2)|} + e^{|csc(−y/2)|}),
    symmetric and 0 on the axes.

    Raises ``ValueError`` for n < 3 or a diffusion that is not a finite number ≥ 0.
    """

    strong_convexity = -1.0
    one_sided_lipschitz = 1.0
    minimum = 0.0

    def __init__(self, n: int = 128, diffusion: float = 0.01) -> None:
        n = checks.integer("n", n, 3)
        self.shape, self.diffusion = (n, n), checks.nonnegative_number("diffusion", diffusion)
        self.x = 2.0 * np.pi * np.arange(n) / n

    def _laplacian(self, X: Matrix) -> Matrix:
        """LX + XL."""
        neighbours = sum(np.roll(X, shift, axis) for shift in (1, -1) for axis in (0, 1))
        return np.asarray((neighbours - 4.0 * X) / self.x[1] ** 2)

    def loss(self, W: Matrix) -> float:
        """−ε⟨X, LX + XL⟩/2 + ¼Σ(x² − 1)²."""
        return float(
            -0.5 * self.diffusion * np.sum(W * self._laplacian(W))
            + 0.25 * np.sum((W * W - 1.0) ** 2)
        )

    def gradient(self, W: Matrix) -> Matrix:
        """−ε(LX + XL) − X + X∘X∘X."""
        return np.asarray(W * W * W - W - self.diffusion * self._laplacian(W))

    def start_dense(self) -> Matrix:
        """The initial function on the grid; where csc is infinite it is 0."""
        x, y = self.x[:, None], self.x[None, :]
        with np.errstate(divide="ignore", over="ignore"):
            bump = np.exp(-(np.tan(x) ** 2)) + np.exp(-(np.tan(y) ** 2))
            wall = (
                1.0
                + np.exp(np.abs(1.0 / np.sin(-0.5 * x)))
                + np.exp(np.abs(1.0 / np.sin(-0.5 * y)))
            )
            return np.asarray(bump * np.sin(x) * np.sin(y) / wall)

    def start(self, rank: int) -> LowRank:
        """The best approximation of the initial function of this rank."""
        return LowRank.from_dense(self.start_dense(), rank)

    def start_spectrum(self, rank: int) -> Values:
        """The moduli of the leading eigenvalues: the initial function is symmetric in x and y."""
        return np.sort(np.abs(np.linalg.eigvalsh(self.start_dense())))[::-1][:rank]

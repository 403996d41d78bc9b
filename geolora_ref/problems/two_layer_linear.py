"""Problem 4: a two-layer linear network, ½‖W₂W₁X − Y‖²: two adapters at once, not convex."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from geolora_ref import checks
from geolora_ref.arrays import Values
from geolora_ref.lowrank import LowRank
from geolora_ref.problems.problem import Matrix

__all__ = ["TwoLayerLinear"]


class TwoLayerLinear:
    """L(W₁, W₂) = ½‖W₂W₁X − Y‖² with W₁ (h x p), W₂ (q x h), X (p x N), Y (q x N); L* = 0 for planted data.

    ``hidden`` is h.  Raises ``ValueError`` unless X and Y are finite real matrices with as many
    columns, and h an integer ≥ 1.

    No global Lipschitz constant exists, but :meth:`lipschitz_on` has one in closed form for every segment.
    """

    def __init__(self, X: Matrix, Y: Matrix, hidden: int) -> None:
        if X.ndim != 2 or Y.ndim != 2 or X.shape[1] != Y.shape[1]:
            raise ValueError(f"X, Y: expected (p, N) and (q, N), found {X.shape} and {Y.shape}")
        hidden = checks.integer("hidden", hidden, 1)
        checks.real_matrices(X=X, Y=Y)
        self.X, self.Y = X.copy(), Y.copy()
        self.shapes = ((hidden, X.shape[0]), (Y.shape[0], hidden))
        self.minimum = 0.0

    @classmethod
    def planted(
        cls, sizes: tuple[int, int, int], spectrum: Values, samples: int, rng: np.random.Generator
    ) -> TwoLayerLinear:
        """Y = W₂W₁X with planted layers of these singular values; ``sizes`` is (p, h, q), X
        Gaussian with ‖X‖₂ = 1.
        """
        p, h, q = sizes
        X = rng.standard_normal((p, samples))
        X /= np.linalg.norm(X, 2)
        W1, W2 = (LowRank.random(shape, spectrum, rng).full() for shape in ((h, p), (q, h)))
        return cls(X, W2 @ W1 @ X, h)

    def initial(self, spectrum: Values, rng: np.random.Generator) -> tuple[LowRank, LowRank]:
        """Random initial values of both layers with these singular values."""
        first, second = (LowRank.random(shape, spectrum, rng) for shape in self.shapes)
        return first, second

    def loss(self, W1: Matrix, W2: Matrix) -> float:
        """½‖W₂W₁X − Y‖²."""
        return 0.5 * float(np.sum((W2 @ W1 @ self.X - self.Y) ** 2))

    def gradient(self, W1: Matrix, W2: Matrix) -> tuple[Matrix, Matrix]:
        """(W₂ᵀ E Xᵀ, E Xᵀ W₁ᵀ) with the residual E = W₂W₁X − Y."""
        EXt = (W2 @ W1 @ self.X - self.Y) @ self.X.T
        return W2.T @ EXt, EXt @ W1.T

    def lipschitz_on(self, start: Sequence[Matrix], end: Sequence[Matrix]) -> float:
        """β on the segment from ``start`` to ``end`` (both (W₁, W₂)): ‖X‖₂²(R₁² + R₂²) + sup‖E Xᵀ‖₂.

        The second derivative is ‖(Δ₂W₁ + W₂Δ₁)X‖² + 2⟨EXᵀ, Δ₂Δ₁⟩.  R_i = max‖W_i‖₂ is attained at
        an end (convexity), and E is quadratic along the segment, so it leaves its chord by at most
        ¼‖Δ₂Δ₁X‖.
        """
        D1, D2 = end[0] - start[0], end[1] - start[1]
        R = [max(_spectral(a), _spectral(b)) for a, b in zip(start, end, strict=True)]
        residuals = [_spectral((W2 @ W1 @ self.X - self.Y) @ self.X.T) for W1, W2 in (start, end)]
        bend = 0.25 * _spectral(D2 @ D1 @ self.X @ self.X.T)
        return _spectral(self.X) ** 2 * (R[0] ** 2 + R[1] ** 2) + max(residuals) + bend


def _spectral(X: Matrix) -> float:
    return float(np.linalg.norm(X, 2))

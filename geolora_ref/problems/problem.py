"""What every test problem offers: a field, the constants that its guarantees need, and a solution to compare with."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any

import numpy as np
import scipy.integrate
from numpy.typing import NDArray

from geolora_ref.arrays import Values
from geolora_ref.lowrank import LowRank

__all__ = ["GradientFlow", "Matrix", "MatrixODE"]

Matrix = NDArray[Any]


class MatrixODE(ABC):
    """Ẏ = F(t, Y) for m x n matrices (NumPy, float64).

    ``lipschitz`` is ℓ, ‖F(X) − F(Y)‖ ≤ ℓ‖X − Y‖; ``one_sided_lipschitz`` is μ, ⟨F(X) − F(Y), X − Y⟩ ≤ μ‖X − Y‖²; NaN where
    no global constant exists.
    """

    shape: tuple[int, int]
    lipschitz: float = math.nan
    one_sided_lipschitz: float = math.nan

    @abstractmethod
    def field(self, t: float, Y: Matrix) -> Matrix:
        """The right-hand side F(t, Y)."""

    def initial(self, spectrum: Values, rng: np.random.Generator) -> LowRank:
        """A random initial value with these singular values."""
        return LowRank.random(self.shape, spectrum, rng)

    def sharpest_point(self) -> Matrix:
        """A point near which ℓ is attained; 0 unless the problem knows better."""
        return np.zeros(self.shape)

    def solution(self, t: float, Y0: Matrix) -> Matrix:
        """Y(t) from Y(0) = Y₀: the closed form where a problem has one, else :meth:`reference`."""
        return self.reference(t, Y0)

    def reference(self, t: float, Y0: Matrix) -> Matrix:
        """Y(t) by scipy's DOP853 at rtol = atol = 1e-12."""
        if t == 0.0:
            return Y0
        run = scipy.integrate.solve_ivp(
            lambda s, y: self.field(s, y.reshape(self.shape)).ravel(),
            (0.0, t),
            Y0.ravel(),
            "DOP853",
            rtol=1e-12,
            atol=1e-12,
        )
        if not run.success:
            raise RuntimeError(f"{type(self).__name__}.reference(t={t}): {run.message}")
        return np.asarray(run.y[:, -1].reshape(self.shape))


class GradientFlow(MatrixODE):
    """Ẇ = −∇L(W).  ``lipschitz`` is β (= ℓ), ``one_sided_lipschitz`` is −``strong_convexity``; ``minimum`` is L* or a
    proven lower bound of it.
    """

    strong_convexity: float = math.nan
    minimum: float = math.nan

    @abstractmethod
    def loss(self, W: Matrix) -> float:
        """L(W)."""

    @abstractmethod
    def gradient(self, W: Matrix) -> Matrix:
        """∇L(W)."""

    def field(self, t: float, Y: Matrix) -> Matrix:
        """−∇L(Y)."""
        return -self.gradient(Y)

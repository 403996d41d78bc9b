"""The base classes of test problems: a field, the constants for its guarantees, and a solution to
compare with.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import numpy as np
import scipy.integrate

from geolora_ref import checks
from geolora_ref.arrays import H, Matrix, Values
from geolora_ref.lowrank import LowRank
from geolora_ref.problems.field import Product

__all__ = ["FactoredODE", "GradientFlow", "Matrix", "MatrixODE", "StartedODE"]


class MatrixODE(ABC):
    """Ẏ = F(t, Y) for m x n matrices (NumPy, float64 unless a problem says complex128); a
    :class:`~.field.Field`.

    ``lipschitz`` is ℓ, ‖F(X) − F(Y)‖ ≤ ℓ‖X − Y‖; ``one_sided_lipschitz`` is μ, ⟨F(X) − F(Y),
    X − Y⟩ ≤ μ‖X − Y‖²; NaN where no global constant exists.  ``time_scale`` is a time in which a
    solution changes by a factor of order one.
    """

    shape: tuple[int, int]
    dtype: np.dtype[Any] = np.dtype(np.float64)
    time_scale: float = 1.0
    lipschitz: float = math.nan
    one_sided_lipschitz: float = math.nan

    @abstractmethod
    def field(self, t: float, Y: Matrix) -> Matrix:
        """The right-hand side F(t, Y)."""

    def apply_right(self, t: float, Y: Product, V: Matrix) -> Matrix:
        """F(t, Y) V; formed densely unless a problem has structure."""
        return np.asarray(self.field(t, Y.full()) @ V)

    def apply_left(self, t: float, Y: Product, U: Matrix) -> Matrix:
        """F(t, Y)ᴴ U; formed densely unless a problem has structure."""
        return np.asarray(H(self.field(t, Y.full())) @ U)

    def initial(self, spectrum: Values, rng: np.random.Generator) -> LowRank:
        """A random initial value with these singular values, real numbers in the dtype of the problem."""
        return LowRank(*(X.astype(self.dtype) for X in LowRank.random(self.shape, spectrum, rng)))

    def invariants(self, Y: Matrix) -> Mapping[str, float]:
        """Quantities by name that are constant along every solution, at most quadratic in Y; none
        by default.
        """
        return {}

    def sharpest_point(self) -> Matrix:
        """A point near which ℓ is attained; 0 by default."""
        return np.zeros(self.shape)

    def solution(self, t: float, Y0: Matrix) -> Matrix:
        """Y(t) from Y(0) = Y₀ (m x n): :meth:`closed_form` if the problem has one, else :meth:`reference`.

        Raises ``ValueError`` for a time that is no finite number, for a Y₀ of another shape, and
        for a time after the end of the solution, if a closed form knows it; ``RuntimeError`` like
        :meth:`reference`.
        """
        self._check(t, Y0)
        return self.closed_form(t, Y0)

    def closed_form(self, t: float, Y0: Matrix) -> Matrix:
        """Y(t) by a formula; by :meth:`reference` for a problem without one."""
        return self.reference(t, Y0)

    def _check(self, t: float, Y0: Matrix) -> None:
        """Raise ``ValueError`` unless t is a finite number and Y₀ has the shape of the problem."""
        if not math.isfinite(checks.number(t)):
            raise ValueError(f"t: expected a finite number, found {t!r}")
        if np.shape(Y0) != self.shape:
            raise ValueError(
                f"Y0: expected the shape of the problem, {self.shape}, found {np.shape(Y0)}"
            )

    def reference(self, t: float, Y0: Matrix) -> Matrix:
        """Y(t) (m x n) by scipy's DOP853 at rtol = atol = 1e-12.

        Raises ``ValueError`` like :meth:`solution`, ``RuntimeError`` if scipy does not reach t.
        """
        self._check(t, Y0)
        if t == 0.0:
            return np.array(Y0)
        run = scipy.integrate.solve_ivp(
            lambda s, y: self.field(s, y.reshape(self.shape)).ravel(),
            (0.0, t),
            Y0.ravel().astype(np.result_type(Y0.dtype, self.dtype)),
            "DOP853",
            rtol=1e-12,
            atol=1e-12,
        )
        if not run.success:
            raise RuntimeError(f"{type(self).__name__}.reference(t={t}): {run.message}")
        return np.asarray(run.y[:, -1].reshape(self.shape))


class StartedODE(MatrixODE):
    """A problem that comes with its own initial value, in any rank."""

    @abstractmethod
    def start(self, rank: int) -> LowRank:
        """The initial value, or its best approximation of this rank; ``ValueError`` for an
        impossible rank.
        """

    @abstractmethod
    def start_spectrum(self, rank: int) -> Values:
        """The singular values of :meth:`start`, by another route."""


class FactoredODE(MatrixODE):
    """A problem whose field maps low rank to low rank, so that it acts on k columns at a cost of
    O((m + n) k).
    """

    @abstractmethod
    def factored(self, t: float, Y: Product) -> Product:
        """F(t, Y) as a product of two thin matrices."""

    def apply_right(self, t: float, Y: Product, V: Matrix) -> Matrix:
        """F(t, Y) V, without forming F."""
        F = self.factored(t, Y)
        return np.asarray(F.left @ (H(F.right) @ V))

    def apply_left(self, t: float, Y: Product, U: Matrix) -> Matrix:
        """F(t, Y)ᴴ U, without forming F."""
        F = self.factored(t, Y)
        return np.asarray(F.right @ (H(F.left) @ U))


class GradientFlow(MatrixODE):
    """Ẇ = −∇L(W).  ``lipschitz`` is β (= ℓ), ``one_sided_lipschitz`` is −``strong_convexity``;
    ``minimum`` is L* or a proven lower bound of it.
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

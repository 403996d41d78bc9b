"""How a sub-equation X' = f(t, X) is solved over one step, so that splitting error and sub-solver error can be told apart."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import array_api_compat
import scipy.integrate

from geolora_ref.arrays import Array, Inexact

__all__ = ["EXPLICIT_EULER", "HEUN", "RK4", "RungeKutta", "SolveIVP", "SubSolver", "Tableau"]

Derivative: TypeAlias = Callable[[float, Array], Array]
SubSolver: TypeAlias = Callable[[Derivative, float, Array, float], Array]
"""``solver(f, t, X, h)``: X(t + h) from X(t) = X."""


@dataclass(frozen=True)
class Tableau:
    """An explicit Runge–Kutta method: X_i = X + h Σ_{j<i} a_ij f(t + c_j h, X_j), X₁ = X + h Σ b_j f(t + c_j h, X_j)."""

    a: tuple[tuple[float, ...], ...]
    b: tuple[float, ...]
    order: int

    @property
    def c(self) -> tuple[float, ...]:
        """The nodes, row sums of a."""
        return tuple(sum(row) for row in self.a)


EULER_TABLEAU = Tableau(((),), (1.0,), 1)
HEUN_TABLEAU = Tableau(((), (1.0,)), (0.5, 0.5), 2)
RK4_TABLEAU = Tableau(((), (0.5,), (0.0, 0.5), (0.0, 0.0, 1.0)), (1 / 6, 1 / 3, 1 / 3, 1 / 6), 4)


@dataclass(frozen=True)
class RungeKutta:
    """``substeps`` equal steps of an explicit Runge–Kutta method; any array library.

    Raises ``ValueError`` unless ``substeps`` ≥ 1.
    """

    tableau: Tableau
    substeps: int = 1

    def __post_init__(self) -> None:
        if self.substeps < 1:
            raise ValueError(f"substeps: expected an integer >= 1, found {self.substeps!r}")

    def __call__(self, f: Derivative, t: float, X: Inexact[Array, "a b"], h: float) -> Inexact[Array, "a b"]:
        """X(t + h)."""
        step = h / self.substeps
        for k in range(self.substeps):
            X = self._one(f, t + k * step, X, step)
        return X

    def _one(self, f: Derivative, t: float, X: Array, h: float) -> Array:
        slopes: list[Array] = []
        for c, row in zip(self.tableau.c, self.tableau.a, strict=True):
            slopes.append(f(t + c * h, _combined(X, h, row, slopes)))
        return _combined(X, h, self.tableau.b, slopes)


def _combined(X: Array, h: float, weights: tuple[float, ...], slopes: list[Array]) -> Array:
    """X + h Σ w_j k_j."""
    for weight, slope in zip(weights, slopes, strict=True):
        if weight != 0.0:
            X = X + (h * weight) * slope
    return X


EXPLICIT_EULER, HEUN, RK4 = RungeKutta(EULER_TABLEAU), RungeKutta(HEUN_TABLEAU), RungeKutta(RK4_TABLEAU)


@dataclass(frozen=True)
class SolveIVP:
    """``scipy.integrate.solve_ivp`` at these tolerances: the sub-equation solved as exactly as one likes (NumPy only).

    Raises ``ValueError`` for another library's arrays, ``RuntimeError`` with scipy's message where scipy gives up.
    """

    rtol: float = 1e-12
    atol: float = 1e-12
    method: str = "DOP853"

    def __call__(self, f: Derivative, t: float, X: Inexact[Array, "a b"], h: float) -> Inexact[Array, "a b"]:
        """X(t + h)."""
        if not array_api_compat.is_numpy_array(X):
            raise ValueError(f"solve_ivp: expected NumPy arrays, found {type(X).__name__}; use RungeKutta for other libraries")
        shape, dtype = X.shape, X.dtype  # scipy works in double precision, the field in its own

        def derivative(s: float, x: Array) -> Array:
            return f(s, x.reshape(shape).astype(dtype, copy=False)).ravel()

        run = scipy.integrate.solve_ivp(derivative, (t, t + h), X.ravel(), self.method, rtol=self.rtol, atol=self.atol)
        if not run.success:
            raise RuntimeError(f"solve_ivp over [{t}, {t + h}]: {run.message}")
        return run.y[:, -1].reshape(shape).astype(dtype, copy=False)

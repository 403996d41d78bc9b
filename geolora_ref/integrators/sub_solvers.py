"""Solvers of a sub-equation X' = f(t, X) over one step; with an exact one only the error of the
integrator remains.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import chain
from typing import TypeAlias

import array_api_compat
import numpy as np
import scipy.integrate

from geolora_ref import checks
from geolora_ref.arrays import Array, Inexact, eps

__all__ = [
    "EXPLICIT_EULER",
    "HEUN",
    "HEUN_TABLEAU",
    "RK4",
    "Derivative",
    "RungeKutta",
    "SolveIVP",
    "SubSolver",
    "Tableau",
]

Derivative: TypeAlias = Callable[[float, Array], Array]
SubSolver: TypeAlias = Callable[[Derivative, float, Array, float], Array]
"""``solver(f, t, X, h)``: X(t + h) from X(t) = X.  The solver gets a copy of X, which it may
change, and its result is copied.
"""


SUM_OF_WEIGHTS = 8.0 * float(np.finfo(float).eps)
"""The largest distance of the sum of rounded weights from 1."""


@dataclass(frozen=True)
class Tableau:
    """An explicit Runge–Kutta method: X_i = X + h Σ_{j<i} a_ij f(t + c_j h, X_j), X₁ = X + h Σ b_j
    f(t + c_j h, X_j).

    Raises ``ValueError`` unless row i of a has i numbers (from 0), there are as many weights as
    rows, the sum of the weights is 1, and the order is an integer ≥ 1.
    """

    a: tuple[tuple[float, ...], ...]
    b: tuple[float, ...]
    order: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "order", checks.integer("order", self.order, 1))
        rows = [len(row) for row in self.a]
        if rows != list(range(len(self.b))):
            raise ValueError(
                f"a: expected rows of 0, 1, … numbers, one for each of {len(self.b)} weights, found {rows}"
            )
        for number in chain(*self.a):
            if not math.isfinite(checks.number(number)):
                raise ValueError(f"a: expected finite numbers, found {number!r}")
        weights = math.fsum(checks.number(weight) for weight in self.b)
        if not abs(weights - 1.0) <= SUM_OF_WEIGHTS:
            raise ValueError(f"b: expected weights whose sum is 1, found {weights}")
        # numbers of NumPy would promote single precision
        object.__setattr__(self, "a", tuple(tuple(map(float, row)) for row in self.a))
        object.__setattr__(self, "b", tuple(map(float, self.b)))

    @property
    def c(self) -> tuple[float, ...]:
        """The nodes, row sums of a."""
        return tuple(sum(row) for row in self.a)


EULER_TABLEAU = Tableau(((),), (1.0,), 1)
HEUN_TABLEAU = Tableau(((), (1.0,)), (0.5, 0.5), 2)
RK4_TABLEAU = Tableau(((), (0.5,), (0.0, 0.5), (0.0, 0.0, 1.0)), (1 / 6, 1 / 3, 1 / 3, 1 / 6), 4)


@dataclass(frozen=True)
class RungeKutta:
    """``substeps`` equal steps of an explicit Runge–Kutta method; for any array library.

    Raises ``ValueError`` unless ``tableau`` is a :class:`Tableau` and ``substeps`` an integer ≥ 1.
    """

    tableau: Tableau
    substeps: int = 1

    def __post_init__(self) -> None:
        checks.instance("tableau", self.tableau, Tableau, "a Tableau")
        object.__setattr__(self, "substeps", checks.integer("substeps", self.substeps, 1))

    def __call__(
        self, f: Derivative, t: float, X: Inexact[Array, "a b"], h: float
    ) -> Inexact[Array, "a b"]:
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


EXPLICIT_EULER, HEUN, RK4 = (
    RungeKutta(EULER_TABLEAU),
    RungeKutta(HEUN_TABLEAU),
    RungeKutta(RK4_TABLEAU),
)


NOISE = 10.0
"""The assumed rounding errors of a field, in units of eps."""
LEAST_RTOL = 100.0 * float(np.finfo(np.float64).eps)
"""The smallest relative tolerance of scipy, which replaces a smaller one with a warning."""
TINY = float(np.finfo(np.float64).tiny)

METHODS = ("RK23", "RK45", "DOP853", "Radau", "BDF", "LSODA")
"""The methods of ``scipy.integrate.solve_ivp``."""


@dataclass(frozen=True)
class SolveIVP:
    """``scipy.integrate.solve_ivp`` at these tolerances: it solves a sub-equation of a state of size
    1 as exactly as its dtype allows (NumPy only).  A smaller state needs a smaller atol, such as 0.

    scipy works in double precision, but the field in its own: its values have rounding errors of
    about ``NOISE`` eps of the largest entry, which no step size reduces.  So a smaller rtol is
    raised to ``NOISE`` eps (in double precision to scipy's own limit, 100 eps), and a smaller atol
    to ``NOISE`` eps of the largest entry.

    Raises ``ValueError`` for tolerances that are not finite numbers ≥ 0, for a method that scipy
    does not have, for arrays of another library and for a step below the resolution of t;
    ``RuntimeError`` with scipy's message if scipy fails.
    """

    rtol: float = 1e-12
    atol: float = 1e-12
    method: str = "DOP853"

    def __post_init__(self) -> None:
        checks.nonnegative_number("rtol", self.rtol)
        checks.nonnegative_number("atol", self.atol)
        checks.one_of("method", self.method, METHODS)

    def __call__(
        self, f: Derivative, t: float, X: Inexact[Array, "a b"], h: float
    ) -> Inexact[Array, "a b"]:
        """X(t + h)."""
        if not array_api_compat.is_numpy_array(X):
            raise ValueError(
                f"solve_ivp: expected NumPy arrays, found {type(X).__name__}; use RungeKutta for other libraries"
            )
        if t + h == t:  # scipy would do nothing
            raise ValueError(
                f"solve_ivp: expected a step that changes t = {t:.6g}, found h = {h:.3g}"
            )
        shape, dtype, noise = X.shape, X.dtype, NOISE * eps(X)

        def derivative(s: float, x: Array) -> Array:
            return f(float(s), x.reshape(shape).astype(dtype, copy=False)).ravel()

        largest = float(np.max(np.abs(X)))
        if (
            self.atol == 0.0 == largest
        ):  # scipy divides by the tolerance: from X = 0 use the change in h
            largest = max(abs(h) * float(np.max(np.abs(derivative(t, X.ravel())))), TINY / noise)
        rtol, atol = max(self.rtol, noise, LEAST_RTOL), max(self.atol, noise * largest)
        run = scipy.integrate.solve_ivp(
            derivative, (t, t + h), X.ravel(), self.method, rtol=rtol, atol=atol
        )
        if not run.success:
            raise RuntimeError(f"solve_ivp over [{t}, {t + h}]: {run.message}")
        return run.y[:, -1].reshape(shape).astype(dtype, copy=False)

"""Small fields for the tests of the integrators."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from geolora_ref import LowRank
from geolora_ref.arrays import Matrix
from geolora_ref.integrators import (
    BUG,
    AugmentedBUG,
    AugmentedSplitting,
    GeneralisedNystroem,
    Integrator,
    MidpointBUG,
    NaiveFactorEuler,
    ObliqueRK,
    ParallelBUG,
    ProjectedRK,
    ProjectorSplitting,
    RungeKutta,
    RungeKuttaBUG,
    SecondOrderParallel,
    SolveIVP,
    StrangSplitting,
    TruncationRule,
)
from geolora_ref.integrators.sub_solvers import RK4_TABLEAU
from geolora_ref.problems import Product

__all__ = ["ALL", "WITHOUT_SUB_SOLVER", "DenseField", "Matrix", "complex_low_rank", "linear"]

Solver = RungeKutta | SolveIVP

ALL: dict[str, Callable[[TruncationRule, Solver], Integrator]] = {
    "Lie": lambda _, s: ProjectorSplitting(s),
    "Strang": lambda _, s: StrangSplitting(s),
    "BUG": lambda _, s: BUG(s),
    "augmented BUG": AugmentedBUG,
    "parallel BUG": ParallelBUG,
    "parallel BUG, rejection": lambda rule, s: ParallelBUG(rule, s, rejection=10.0),
    "midpoint BUG": MidpointBUG,
    "midpoint BUG, 3r": lambda rule, s: MidpointBUG(rule, s, wide=False),
    "second-order parallel": SecondOrderParallel,
    "projected Runge–Kutta": lambda rule, _: ProjectedRK(rule),
    "augmented splitting": AugmentedSplitting,
    "generalised Nyström": GeneralisedNystroem,
    "Runge–Kutta BUG": lambda rule, _: RungeKuttaBUG(rule),
    "Runge–Kutta BUG, RK4": lambda rule, _: RungeKuttaBUG(rule, RK4_TABLEAU, wide=True),
    "oblique Runge–Kutta": lambda rule, _: ObliqueRK(rule),
    "naive": lambda *_: NaiveFactorEuler(),
}
WITHOUT_SUB_SOLVER = (
    "projected Runge–Kutta",
    "Runge–Kutta BUG",
    "Runge–Kutta BUG, RK4",
    "oblique Runge–Kutta",
    "naive",
)


@dataclass(frozen=True, eq=False)
class DenseField:
    """A field given by a function of t and a dense matrix."""

    shape: tuple[int, int]
    F: Callable[[float, Matrix], Matrix]

    def apply_right(self, t: float, Y: Product, V: Matrix) -> Matrix:
        """F V."""
        return self.F(t, Y.full()) @ V

    def apply_left(self, t: float, Y: Product, U: Matrix) -> Matrix:
        """Fᴴ U."""
        return self.F(t, Y.full()).conj().T @ U


def linear(
    m: int, n: int, rng: np.random.Generator, *, complex_data: bool = False, normal: float = 0.0
) -> DenseField:
    """AY + YBᴴ + cos(t) normal C with Gaussian matrices of spectral norm 1."""

    def gaussian(*shape: int) -> Matrix:
        X = rng.standard_normal(shape) + (1j * rng.standard_normal(shape) if complex_data else 0.0)
        return np.asarray(X / np.linalg.norm(X, 2))

    A, B, C = gaussian(m, m), gaussian(n, n), normal * gaussian(m, n)
    return DenseField((m, n), lambda t, Y: A @ Y + Y @ B.conj().T + np.cos(t) * C)


def complex_low_rank(
    m: int,
    n: int,
    spectrum: tuple[float, ...],
    rng: np.random.Generator,
    *,
    complex_data: bool = True,
) -> LowRank:
    """Random unitary bases; S is dense."""
    r = len(spectrum)

    def basis(size: int, columns: int) -> Matrix:
        X = rng.standard_normal((size, columns)) + (
            1j * rng.standard_normal((size, columns)) if complex_data else 0.0
        )
        return np.linalg.qr(X).Q

    return LowRank(basis(m, r), basis(r, r) @ np.diag(spectrum) @ basis(r, r).conj().T, basis(n, r))

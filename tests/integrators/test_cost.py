"""A step costs O(m r² + r³), not O(m²): counted operations, so that the exponents are the same on
every machine.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from geolora_ref import LowRank
from geolora_ref.integrators import EXPLICIT_EULER, TruncationRule
from geolora_ref.problems import Lyapunov, MatrixODE, Product
from geolora_ref.problems.problem import Matrix
from tests.integrators.fields import ALL
from tests.integrators.flops import Counted

pytestmark = pytest.mark.usefixtures("module_unchecked")


@dataclass(frozen=True, eq=False)
class Watched:
    """A field whose operations count, although it is given plain copies."""

    problem: MatrixODE

    @property
    def shape(self) -> tuple[int, int]:
        """That of the problem."""
        return self.problem.shape

    def apply_right(self, t: float, Y: Product, V: Matrix) -> Matrix:
        """F V."""
        return self.problem.apply_right(t, Product(*(X.view(Counted) for X in Y)), V.view(Counted))

    def apply_left(self, t: float, Y: Product, U: Matrix) -> Matrix:
        """Fᵀ U."""
        return self.problem.apply_left(t, Product(*(X.view(Counted) for X in Y)), U.view(Counted))


def _flops(problem: MatrixODE, name: str, m: int, r: int) -> float:
    rng = np.random.default_rng(0)
    Y = LowRank.random((m, m), np.linspace(1.0, 0.5, r), rng)
    counted = LowRank(*(X.view(Counted) for X in Y))
    integrator = ALL[name](TruncationRule.fixed_rank(r), EXPLICIT_EULER)
    Counted.flops = 0.0
    integrator.step(Watched(problem), 0.0, counted, 1e-9)
    return Counted.flops


def _problem(m: int) -> Lyapunov:
    return Lyapunov(m, [1.0, 0.5], np.random.default_rng(0), diffusion=1e-9)


@pytest.mark.parametrize("name", [name for name in ALL if name != "parallel BUG, rejection"])
def test_the_cost_is_linear_in_m_and_between_quadratic_and_cubic_in_r(name: str) -> None:
    """F = c₁ m r² + c₂ r³ + c₃ m r: the exponent of m tends to 1 as m grows, that of r lies between
    1 and 3.
    """
    large, larger = (_flops(_problem(m), name, m, 8) for m in (2048, 4096))
    assert np.log2(larger / large) == pytest.approx(1.0, abs=0.05)
    wide, wider = (_flops(_problem(2048), name, 2048, r) for r in (16, 32))
    assert 1.5 <= np.log2(wider / wide) <= 2.3


def test_a_dense_field_costs_more() -> None:
    """The negative control: the same problem formed densely grows like m²."""

    class Dense(Lyapunov):
        def apply_right(self, t: float, Y: Product, V: Matrix) -> Matrix:
            return MatrixODE.apply_right(self, t, Y, V)

        def apply_left(self, t: float, Y: Product, U: Matrix) -> Matrix:
            return MatrixODE.apply_left(self, t, Y, U)

    counts = [
        _flops(Dense(m, [1.0, 0.5], np.random.default_rng(0), diffusion=1e-9), "parallel BUG", m, 8)
        for m in (256, 512)
    ]
    assert np.log2(counts[1] / counts[0]) > 1.8

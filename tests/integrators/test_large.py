"""Nothing of size m x n is formed where the problem allows it: a heat equation with 4096 x 4096
unknowns.
"""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from geolora_ref.integrators import AugmentedBUG, ParallelBUG, TruncationRule, distance, integrate
from geolora_ref.integrators.integrator import Integrator
from geolora_ref.problems import Lyapunov
from geolora_ref.problems.problem import Matrix
from tests.integrators.fields import ALL

pytestmark = pytest.mark.usefixtures("module_unchecked")

N, RANK = 4096, 6
DENSE = 8 * N * N


class NeverDense(Lyapunov):
    """The same problem; it refuses to be formed."""

    def field(self, t: float, Y: Matrix) -> Matrix:
        """Never."""
        raise AssertionError(f"the dense field was evaluated: {Y.shape}")


@pytest.mark.parametrize(
    ("integrator", "error"),
    [
        (
            AugmentedBUG(TruncationRule(theta=1e-5)),
            1e-13,
        ),  # its bases hold the solution: rounding, 3e-15
        (
            ParallelBUG(TruncationRule(theta=1e-5)),
            1e-2,
        ),  # of first order: 7e-3, half of it with half the step
    ],
)
def test_a_large_problem_takes_little_memory(integrator: Integrator, error: float) -> None:
    """10 steps with at most 1/10 of the memory of *one* dense matrix, and close to the exact
    solution in factored form.

    The thinnest object of a step is 4096 x 3r; the dense matrix would be 128 MiB, and every field
    evaluation several of them.
    """
    rng = np.random.default_rng(0)
    problem = NeverDense(N, [1.0, 0.3, 0.1], rng, diffusion=1e-6)
    Y0 = problem.smooth_initial(np.geomspace(1.0, 1e-3, RANK), rng)
    tracemalloc.start()
    run = integrate(integrator, problem, Y0, (0.0, 1.0), 0.1)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak <= DENSE / 10
    exact = problem.smooth_solution(1.0, Y0)
    assert distance(run.Y, exact) <= error * exact.norm()
    assert distance(Y0, exact) > 0.3 * exact.norm(), "something happened"


@pytest.mark.parametrize("name", ALL)
def test_no_integrator_asks_for_the_dense_field(name: str) -> None:
    rng = np.random.default_rng(0)
    problem = NeverDense(300, [1.0, 0.3], rng, diffusion=1e-4)
    Y0 = problem.smooth_initial((1.0, 0.5, 0.1), rng)
    from geolora_ref.integrators import RK4

    step = ALL[name](TruncationRule.fixed_rank(3), RK4).step(problem, 0.0, Y0, 0.01)
    assert step.Y.shape == (300, 300)


def test_the_bound_would_see_a_dense_matrix() -> None:
    """The negative control: one dense evaluation exceeds the bound."""
    problem = Lyapunov(N, [1.0], np.random.default_rng(0))
    tracemalloc.start()
    problem.G @ problem.G.T
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak > DENSE / 10

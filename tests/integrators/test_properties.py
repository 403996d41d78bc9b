"""Drawn shapes, ranks and spectra: the parallel and the augmented step against their dense transcriptions.

``HYPOTHESIS_PROFILE=nightly`` draws eighty times as many.
"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.linalg import norm

from geolora_ref.integrators import EXPLICIT_EULER, AugmentedBUG, ParallelBUG, TruncationRule
from tests.integrators.fields import complex_low_rank, linear
from tests.integrators.test_transcriptions import best, euler
from tests.strategies import shapes

pytestmark = pytest.mark.usefixtures("module_unchecked")


@given(
    shape=shapes(),
    smallest=st.sampled_from((0.5, 1e-4, 1e-10)),
    h=st.sampled_from((1e-3, 0.1, 2.0)),
    complex_data=st.booleans(),
    normal=st.sampled_from((0.0, 1e-3, 1.0)),
    seed=st.integers(0, 2**32 - 1),
)
def test_euler_steps_are_projections_of_the_euler_step(
    shape: tuple[int, int, int],
    smallest: float,
    h: float,
    complex_data: bool,
    normal: float,
    seed: int,
) -> None:
    """With explicit Euler the parallel step is the truncation of Y₀ + hP(Y₀)F, and the augmented
    one of P̂(Y₀ + hF)Q̂.

    Untruncated, so that no gap of singular values matters: rounding is eps·‖Ŵ‖ times a modest number.
    """
    m, n, r = shape
    rng = np.random.default_rng(seed)
    field = linear(m, n, rng, complex_data=complex_data, normal=normal)
    Y = complex_low_rank(
        m, n, tuple(np.geomspace(1.0, smallest, r)), rng, complex_data=complex_data
    )
    W = np.asarray(Y.full())
    F = field.F(0.0, W)
    P, Q = Y.U @ Y.U.conj().T, Y.V @ Y.V.conj().T
    tangential = F @ Q + P @ F - P @ F @ Q
    everything = TruncationRule(theta=0.0)
    parallel = ParallelBUG(everything, EXPLICIT_EULER).step(field, 0.0, Y, h)
    scale = norm(W) + h * norm(F)
    assert norm(parallel.Y.full() - (W + h * tangential)) <= 1e-13 * scale
    augmented = AugmentedBUG(everything, EXPLICIT_EULER).step(field, 0.0, Y, h).Y
    P_hat, Q_hat = augmented.U @ augmented.U.conj().T, augmented.V @ augmented.V.conj().T
    target = euler(field.F, 0.0, W, h)
    assert norm(augmented.full() - P_hat @ target @ Q_hat) <= 1e-13 * scale
    assert norm(augmented.full() - target) <= norm(W + h * tangential - target) + 1e-13 * scale, (
        "the space holds the tangential step"
    )


@given(shape=shapes(), complex_data=st.booleans(), seed=st.integers(0, 2**32 - 1))
def test_truncation_is_a_best_approximation(
    shape: tuple[int, int, int], complex_data: bool, seed: int
) -> None:
    """Truncated to rank r, the parallel step is as far from the untruncated one as the best
    approximation is.
    """
    m, n, r = shape
    rng = np.random.default_rng(seed)
    field = linear(m, n, rng, complex_data=complex_data, normal=1.0)
    Y = complex_low_rank(m, n, (1.0,) * r, rng, complex_data=complex_data)
    whole = ParallelBUG(TruncationRule(theta=0.0), EXPLICIT_EULER).step(field, 0.0, Y, 0.5).Y.full()
    cut = ParallelBUG(TruncationRule.fixed_rank(r), EXPLICIT_EULER).step(field, 0.0, Y, 0.5)
    assert abs(
        norm(whole - cut.Y.full()) - norm(whole - best(np.asarray(whole), r))
    ) <= 1e-13 * norm(whole)
    assert abs(cut.discarded - norm(whole - cut.Y.full())) <= 1e-13 * norm(whole)

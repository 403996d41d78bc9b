"""Cases that real states, states of size one and the usual tableaus do not show: complex η, full
rows, tolerances, rules.
"""

from __future__ import annotations

import math
from typing import Any, cast

import numpy as np
import pytest
from numpy.linalg import norm

from geolora_ref import LowRank, RankRule
from geolora_ref.integrators import (
    BUG,
    EXPLICIT_EULER,
    Adaptive,
    AugmentedBUG,
    Integrator,
    MidpointBUG,
    ParallelBUG,
    ProjectedRK,
    RungeKutta,
    SolveIVP,
    Step,
    StepError,
    Tableau,
    TruncationRule,
    integrate,
)
from geolora_ref.problems import Product
from tests.integrators.fields import DenseField, Matrix, complex_low_rank

pytestmark = pytest.mark.usefixtures("module_unchecked")

KUTTA = Tableau(((), (0.5,), (-1.0, 2.0)), (1 / 6, 2 / 3, 1 / 6), 3)
"""Kutta's third-order method: a negative weight, and a row whose sum is none of its entries."""


def _rng() -> np.random.Generator:
    return np.random.default_rng(0)


def _decay(m: int = 6, n: int = 5) -> DenseField:
    return DenseField((m, n), lambda t, W: -W)


def test_eta_of_complex_states() -> None:
    """‖ŨᴴFṼ‖ formed densely; with Ũᵀ in place of Ũᴴ it is 0.8 of that here, and 1 for real ones."""
    rng = _rng()
    A = rng.standard_normal((9, 8)) + 1j * rng.standard_normal((9, 8))
    Y, h = complex_low_rank(9, 8, (2.0, 1.0), rng), 0.02
    step = ParallelBUG(
        TruncationRule(theta=0.02), EXPLICIT_EULER, rejection=1.0, max_rejections=0
    ).step(DenseField((9, 8), lambda t, W: A), 0.0, Y, h)
    U_tilde, V_tilde = (
        np.linalg.qr(np.hstack([B, X])).Q[:, 2:]
        for B, X in ((Y.U, A @ Y.V), (Y.V, A.conj().T @ Y.U))
    )
    eta = norm(U_tilde.conj().T @ A @ V_tilde)
    assert step.eta == pytest.approx(eta, rel=1e-12)
    assert abs(norm(U_tilde.T @ A @ V_tilde) - eta) > 0.1 * eta


@pytest.mark.parametrize(
    "integrator", [ProjectedRK(TruncationRule.fixed_rank(2), KUTTA), BUG(RungeKutta(KUTTA))]
)
def test_the_order_of_a_tableau_with_full_rows(integrator: Integrator) -> None:
    """Ẏ = cos(3t) Y stays in its tangent spaces: what is left is the order of the tableau."""
    Y0 = LowRank.random((6, 5), [1.0, 0.5], _rng())
    field, exact = (
        DenseField((6, 5), lambda t, W: np.cos(3.0 * t) * W),
        math.exp(math.sin(3.0) / 3.0) * Y0.full(),
    )
    errors = [
        norm(integrate(integrator, field, Y0, (0.0, 1.0), 1.0 / n).Y.full() - exact)
        for n in (20, 40)
    ]
    assert np.log2(errors[0] / errors[1]) == pytest.approx(3.0, abs=0.1)


def _evaluations(solver: SolveIVP, size: float) -> int:
    times = []

    def f(t: float, X: Matrix) -> Matrix:
        times.append(t)
        return np.asarray(np.cos(20.0 * t) * X)

    solver(f, 0.0, size * np.ones((1, 1)), 1.0)
    return len(times)


def test_the_method_of_scipy_is_the_one_that_was_requested() -> None:
    """That of order 3 wants more evaluations than that of order 8, as many times as their steps differ."""
    third, eighth = (
        _evaluations(SolveIVP(1e-6, 1e-6, method), 1.0) for method in ("RK23", "DOP853")
    )
    assert third > 2 * eighth


def test_the_absolute_tolerance_is_absolute() -> None:
    """For a state a million times as large it needs six digits more."""
    small, large = (_evaluations(SolveIVP(rtol=0.0, atol=1e-3), size) for size in (1.0, 1e6))
    assert large > 2 * small


def test_scipy_is_exact_in_single_precision() -> None:
    """To 10 eps of the largest entry, the rounding of the field, as its text says."""
    Y0 = LowRank(*(X.astype(np.float32) for X in LowRank.random((6, 5), [1.0, 0.5], _rng())))
    field = DenseField((6, 5), lambda t, W: (np.cos(np.float32(20.0 * t)) * W).astype(np.float32))
    exact = math.exp(math.sin(20.0) / 20.0) * Y0.full().astype(np.float64)
    error = norm(BUG(SolveIVP()).step(field, 0.0, Y0, 1.0).Y.full() - exact) / norm(exact)
    assert error <= 10.0 * np.finfo(np.float32).eps


def test_the_cut_inside_of_a_midpoint_step_is_that_of_half_a_step() -> None:
    """28 directions that grow to 0.05 each: per time ϑ = 0.8 allows 0.04 over h/2.  None of it is
    part of the run's sum.
    """
    e = np.eye(30)
    F = np.outer(e[2:].sum(axis=0) / math.sqrt(28.0), e[1])
    Y0 = LowRank(e[:, :2].copy(), np.diag([1.0, 0.0]), e[:, :2].copy())
    field = DenseField((30, 30), lambda t, W: F)
    step = MidpointBUG(TruncationRule(theta=0.8, per_time=True), wide=False).step(
        field, 0.0, Y0, 0.1
    )
    assert step.discarded_inside == 0.0
    run = integrate(MidpointBUG(TruncationRule(theta=0.06), wide=False), field, Y0, (0.0, 0.1), 0.1)
    assert run.records[0].discarded_inside == pytest.approx(0.05, rel=1e-12)
    assert run.discarded == run.records[0].discarded < 0.05


@pytest.mark.parametrize("tolerance", [{"tau": 0.1}, {"theta": 0.1}])
def test_a_fixed_rank_with_a_tolerance_is_what_the_rows_allow(tolerance: dict[str, Any]) -> None:
    rule = TruncationRule(**tolerance, min_rank=6, max_rank=6)
    step = AugmentedBUG(rule).step(
        _decay(5, 4), 0.0, LowRank.random((5, 4), [1.0, 0.5], _rng()), 0.1
    )
    assert (step.Y.rank, step.rank_rule) == (4, RankRule.BASIS)


class Crude(Integrator):
    """Steps with an error of 100 h², whose sizes are kept."""

    def __init__(self) -> None:
        object.__setattr__(self, "sizes", [])

    def advance(self, field: Any, t: float, Y: LowRank, h: float) -> Step:
        """One step."""
        vars(self)["sizes"].append(h)
        return Step(LowRank(Y.U, Y.S * (1.0 + 100.0 * h * h), Y.V))


def test_a_refused_step_is_at_most_quartered() -> None:
    """Whole steps, the first of three each: 1, ¼, 1/16 while the error is far beyond the tolerance."""
    crude = Crude()
    integrate(
        crude, _decay(), LowRank.random((6, 5), [1.0, 0.5], _rng()), (0.0, 1.0), Adaptive(1.0)
    )
    assert vars(crude)["sizes"][:9:3] == [1.0, 0.25, 0.0625]


def test_the_defaults_are_those_of_the_documentation() -> None:
    assert (
        Adaptive(0.1).rtol,
        Adaptive(0.1).atol,
        ParallelBUG(TruncationRule(tau=0.1)).max_rejections,
    ) == (1e-4, 0.0, 4)


def test_a_callback_may_work_in_the_state_it_gets() -> None:
    """A plot of normalised states does so; the run keeps its own state, and its start."""
    Y0 = LowRank.random((6, 5), [1.0, 0.5], _rng())

    def normalise(progress: Any) -> None:
        progress.Y.S[...] /= norm(progress.Y.S)

    watched, plain = (
        integrate(BUG(), _decay(), Y0, (0.0, 1.0), 0.1, callback=callback)
        for callback in (normalise, None)
    )
    assert np.array_equal(watched.Y.full(), plain.Y.full())
    Y0.S[...] = 0.0
    assert norm(plain.states[0].S) > 1.0
    with pytest.raises(ValueError, match=r"^callback: expected a function, found 5$"):
        integrate(BUG(), _decay(), plain.Y, (0.0, 1.0), 0.1, callback=cast(Any, 5))


def test_masked_values_of_a_field_are_refused() -> None:
    """A masked entry is no value."""

    class Masked(DenseField):
        def apply_right(self, t: float, Y: Product, V: Matrix) -> Matrix:
            return np.ma.masked_less(-Y.full() @ V, 0.0)

    field = Masked((6, 5), lambda t, W: -W)
    with pytest.raises(StepError, match=r"expected an array, found MaskedArray"):
        BUG().step(field, 0.0, LowRank.random((6, 5), [1.0, 0.5], _rng()), 0.1)


def test_scipy_is_not_called_for_a_step_that_is_none() -> None:
    with pytest.raises(
        StepError, match=r"solve_ivp: expected a step that changes t = 1e\+17, found h = 1"
    ):
        BUG(SolveIVP()).step(_decay(), 1e17, LowRank.random((6, 5), [1.0, 0.5], _rng()), 1.0)


def test_a_tableau_has_finite_numbers() -> None:
    with pytest.raises(ValueError, match=r"^a: expected finite numbers, found nan$"):
        Tableau(((), (math.nan,)), (0.5, 0.5), 2)

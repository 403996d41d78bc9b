"""Where the promises of the family end: each hypothesis is violated once, and the promise fails."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.linalg import norm

from geolora_ref import LowRank
from geolora_ref.arrays import to_numpy
from geolora_ref.integrators import (
    BUG,
    RK4,
    AugmentedBUG,
    MidpointBUG,
    NaiveFactorEuler,
    ParallelBUG,
    ProjectorSplitting,
    SolveIVP,
    StrangSplitting,
    TruncationRule,
    integrate,
)
from tests.integrators.fields import ALL, DenseField, complex_low_rank


@pytest.mark.parametrize(
    "integrator",
    [
        ProjectorSplitting(SolveIVP(1e-12, 1e-14)),
        BUG(SolveIVP(1e-12, 1e-14)),
        AugmentedBUG(TruncationRule.fixed_rank(1), SolveIVP(1e-12, 1e-14)),
    ],
    ids=["Lie", "BUG", "augmented BUG"],
)
def test_a_curve_whose_spaces_turn_by_90_degrees_is_not_exact(
    integrator: ProjectorSplitting | BUG | AugmentedBUG,
) -> None:
    """A(t) = u(t)v(t)ᵀ: a step of 57° is exact, one of 90° not: K(h) = u(h)·v(h)ᵀv(0) = 0, and
    rounding gives its direction.
    """
    rng = np.random.default_rng(0)
    P, Q = (np.linalg.qr(rng.standard_normal((12, 2)))[0] for _ in range(2))

    def u(t: float) -> np.ndarray:
        return np.array([np.cos(t), np.sin(t)])

    def A(t: float) -> np.ndarray:
        return np.asarray(P @ np.outer(u(t), u(t)) @ Q.T)

    def A_dot(t: float, _: np.ndarray) -> np.ndarray:
        turned = np.outer(u(t + np.pi / 2), u(t))
        return np.asarray(P @ (turned + turned.T) @ Q.T)

    Y0 = LowRank((P @ u(0.0))[:, None], np.eye(1), (Q @ u(0.0))[:, None])
    field = DenseField((12, 12), A_dot)
    assert norm(integrator.step(field, 0.0, Y0, 1.0).Y.full() - A(1.0)) <= 1e-10
    assert norm(integrator.step(field, 0.0, Y0, np.pi / 2).Y.full() - A(np.pi / 2)) > 1e-3


@pytest.mark.parametrize("half", [45.0, 90.0])
def test_strang_splitting_depends_on_the_spaces_at_half_time(half: float) -> None:
    """V turns by 45° from end to end, and by ``half`` in the first half: Lie and BUG do not notice
    where it was in between.
    """
    solver, slope, curvature = (
        SolveIVP(1e-12, 1e-14),
        np.deg2rad(4.0 * half - 45.0),
        np.deg2rad(90.0 - 4.0 * half),
    )

    def A(t: float) -> np.ndarray:
        phi, psi = 0.3 * t, slope * t + curvature * t * t
        return (1.0 + t) * np.outer(
            [np.cos(phi), np.sin(phi), 0.0], [np.cos(psi), np.sin(psi), 0.0]
        )

    def A_dot(t: float, _: np.ndarray) -> np.ndarray:
        phi, psi, turn = 0.3 * t, slope * t + curvature * t * t, slope + 2.0 * curvature * t
        u, v = np.array([np.cos(phi), np.sin(phi), 0.0]), np.array([np.cos(psi), np.sin(psi), 0.0])
        du, dv = 0.3 * np.array([-u[1], u[0], 0.0]), turn * np.array([-v[1], v[0], 0.0])
        return np.asarray(np.outer(u, v) + (1.0 + t) * (np.outer(du, v) + np.outer(u, dv)))

    field, Y0 = DenseField((3, 3), A_dot), LowRank(np.eye(3, 1), np.eye(1), np.eye(3, 1))
    errors = [
        norm(method(solver).step(field, 0.0, Y0, 1.0).Y.full() - A(1.0))
        for method in (ProjectorSplitting, BUG)
    ]
    assert max(errors) <= 1e-10
    strang = norm(StrangSplitting(solver).step(field, 0.0, Y0, 1.0).Y.full() - A(1.0))
    assert strang <= 1e-10 if half == 45.0 else strang > 1e-3


def test_the_naive_integrator_breaks_in_a_tangential_field_without_the_factor_S() -> None:
    """F(Y) = P(Y)C is tangential everywhere, and (I − UUᵀ)FV = (I − UUᵀ)CV does not contain the S
    it is divided by.
    """
    dense = np.random.default_rng(0).standard_normal((24, 20))
    C = np.asarray(dense / norm(dense))

    def tangential(_: float, W: np.ndarray) -> np.ndarray:
        U, Vt = np.linalg.svd(W)[::2]
        P, Q = U[:, :4] @ U[:, :4].T, Vt[:4].T @ Vt[:4]
        return np.asarray(P @ C + C @ Q - P @ C @ Q)

    field, sizes = DenseField((24, 20), tangential), []
    for smallest in (1e-1, 1e-4, 1e-8):
        Y0 = LowRank.random((24, 20), (1.0, 0.7, 0.5, smallest), np.random.default_rng(1))
        sizes.append(norm(integrate(NaiveFactorEuler(), field, Y0, (0.0, 0.5), 0.05).Y.full()))
    assert sizes[0] < 2.0 < sizes[1]
    assert sizes[2] > 1e6


def test_what_the_midpoint_with_3r_columns_cuts_off_inside_is_reported() -> None:
    """F is constant, and its new direction is cut off from Y_½: the step that does not cut there is
    exact, this one is not.
    """
    e, h = np.eye(30), 0.1
    F = np.outer((e[2:].sum(0)) / np.sqrt(28), e[1])
    Y0 = LowRank(e[:, :2].copy(), np.diag([1.0, 0.0]), e[:, :2].copy())
    end = Y0.full() + h * F
    constant, rule = DenseField((30, 30), lambda _, W: F), TruncationRule(theta=0.06)
    step = MidpointBUG(rule).step(constant, 0.0, Y0, h)
    assert norm(step.Y.full() - end) <= 1e-12
    assert step.discarded_inside == 0.0
    step = MidpointBUG(rule, wide=False).step(constant, 0.0, Y0, h)
    assert norm(step.Y.full() - end) == pytest.approx(0.1, rel=1e-6)
    assert step.discarded_inside == pytest.approx(0.05, rel=1e-6)
    run = integrate(MidpointBUG(rule, wide=False), constant, Y0, (0.0, h), h)
    assert run.records[0].discarded_inside == step.discarded_inside


def test_what_was_discarded_does_not_bound_the_error_of_a_stall() -> None:
    """Ẏ = ¼(A − Y) from rank 2, contractive, ϑ = 1e-3·h: what is cut off sums up to 1e-3, what it
    leads to is 0.1 and more.
    """
    rng = np.random.default_rng(0)
    A = LowRank.random((20, 15), (1.0, 0.8, 0.6, 0.5), rng).full()
    Y0 = LowRank.random((20, 15), (1.0, 1.0), rng)
    field = DenseField((20, 15), lambda _, W: 0.25 * (A - W))
    ends = {}
    for theta in (0.0, 1e-3):
        rule = TruncationRule(theta=theta, per_time=True, max_rank=15)
        ends[theta] = integrate(ParallelBUG(rule), field, Y0, (0.0, 2.0), 0.02)
    assert ends[1e-3].discarded <= 2e-3
    assert norm(ends[1e-3].Y.full() - ends[0.0].Y.full()) > 50 * ends[1e-3].discarded


@pytest.mark.parametrize(
    "name", [name for name in ALL if name not in ("naive", "generalised Nyström")]
)  # which divide by S
def test_subnormal_complex_states_have_bases(name: str) -> None:
    """MKL's complex QR makes NaN of columns of subnormal numbers: in torch all failed but those
    that augment the old bases.
    """
    torch = pytest.importorskip("torch", reason="torch is not installed")
    Y0 = complex_low_rank(7, 6, (1e-310, 1e-311), np.random.default_rng(0))
    Y = LowRank(*(torch.from_numpy(X) for X in Y0))
    field = DenseField((7, 6), lambda _, W: 0.0 * W)
    step = ALL[name](TruncationRule.fixed_rank(2), RK4).step(field, 0.0, Y, 0.1)
    for B in (step.Y.U, step.Y.V):
        assert norm(to_numpy(B.mH @ B) - np.eye(2)) <= 1e-14
    moved = np.max(np.abs(to_numpy(step.Y.full()) - Y0.full()))  # squares of such numbers are 0
    assert moved <= 100 * np.finfo(float).smallest_subnormal < 1e-5 * np.max(np.abs(Y0.full()))

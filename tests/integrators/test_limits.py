"""Where the promises of the family end: each hypothesis is violated once, and the promise fails."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.linalg import norm

from geolora_ref import LowRank
from geolora_ref.integrators import (
    BUG,
    AugmentedBUG,
    NaiveFactorEuler,
    ProjectorSplitting,
    SolveIVP,
    StrangSplitting,
    TruncationRule,
    integrate,
)
from tests.integrators.fields import DenseField


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

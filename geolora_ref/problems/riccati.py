"""Problem 10: a differential Riccati equation from optimal control, stiff, with a closed form
around its steady state.
"""

from __future__ import annotations

from functools import cached_property

import numpy as np
import scipy.linalg

from geolora_ref import checks
from geolora_ref.arrays import H
from geolora_ref.problems.field import Product
from geolora_ref.problems.problem import FactoredODE, Matrix

__all__ = ["Riccati"]


class Riccati(FactoredODE):
    """Ẋ = AᵀX + XA + CᵀC − XX, A = (m + 1)²·(three-point form of ∂ₓ(α∂ₓ)) − I on [0, 1],
    α = 2 + cos 2πx, Dirichlet.

    C has 5 trigonometric rows 1, √2 cos 2πkx, √2 sin 2πkx (k = 1, 2) over √m.  With the steady
    state X∞ (algebraic Riccati equation), E = X − X∞ and Ã = A − X∞:  Ė = ÃᵀE + EÃ − EE, hence
    E(t) = Φᵀ E₀ (I + G E₀)⁻¹ Φ with Φ = e^{tÃ} and G = ∫₀ᵗ e^{sÃ}e^{sÃᵀ} ds = Z − ΦZΦᵀ,
    ÃZ + ZÃᵀ = −I.  Every exponential decays.  Quadratic: no global constants.

    Raises ``ValueError`` unless m is an integer ≥ 5, and for times after the end of a solution with
    a symmetric X(0).
    """

    time_scale = 0.02

    def __init__(self, m: int = 50) -> None:
        m = checks.integer("m", m, 5)
        self.shape = (m, m)
        x, halves = np.arange(1, m + 1) / (m + 1), (np.arange(m + 1) + 0.5) / (m + 1)
        alpha = 2.0 + np.cos(2.0 * np.pi * halves)
        A = np.diag(-alpha[:-1] - alpha[1:]) + np.diag(alpha[1:-1], 1) + np.diag(alpha[1:-1], -1)
        self.A = (m + 1) ** 2 * A - np.eye(m)
        waves = [wave(2.0 * np.pi * k * x) for k in (1, 2) for wave in (np.cos, np.sin)]
        self.C = np.array([np.ones(m), *(np.sqrt(2.0) * wave for wave in waves)]) / np.sqrt(m)

    def field(self, t: float, Y: Matrix) -> Matrix:
        """AᵀX + XA + CᵀC − XX."""
        return np.asarray(self.A.T @ Y + Y @ self.A + self.C.T @ self.C - Y @ Y)

    def factored(self, t: float, Y: Product) -> Product:
        """[AᵀP | P | Cᵀ | −P(QᴴP)] [Q | AᵀQ | Cᵀ | Q]ᴴ."""
        P, Q = Y
        left = np.hstack([self.A.T @ P, P, self.C.T, -P @ (H(Q) @ P)])
        return Product(left, np.hstack([Q, self.A.T @ Q, self.C.T, Q]))

    @cached_property
    def steady_state(self) -> Matrix:
        """X∞ with AᵀX + XA + CᵀC − XX = 0, positive semidefinite."""
        m = self.shape[0]
        return np.asarray(
            scipy.linalg.solve_continuous_are(self.A, np.eye(m), self.C.T @ self.C, np.eye(m))
        )

    def closed_form(self, t: float, Y0: Matrix) -> Matrix:
        """X∞ + Φᵀ E₀ (I + G E₀)⁻¹ Φ."""
        identity, A = np.eye(self.shape[0]), self.A - self.steady_state
        Phi, Z = scipy.linalg.expm(t * A), scipy.linalg.solve_continuous_lyapunov(A, -identity)
        G, E0 = Z - Phi @ Z @ Phi.T, Y0 - self.steady_state
        symmetric = np.linalg.norm(Y0 - H(Y0)) <= len(Y0) * np.finfo(float).eps * np.linalg.norm(
            Y0
        )  # as U S Uᵀ is
        if (
            symmetric and np.min(np.linalg.eigvals(G @ E0).real) <= -1.0
        ):  # G grows, so the least one falls
            raise ValueError(
                f"t: expected a time up to which there is a solution from this X(0), found {t}"
            )
        return np.asarray(self.steady_state + Phi.T @ E0 @ np.linalg.solve(identity + G @ E0, Phi))

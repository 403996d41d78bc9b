"""Problem 9: a differential Lyapunov equation, the heat equation with a source of low rank; nothing
m x n need be formed.
"""

from __future__ import annotations

import numpy as np

from geolora_ref import checks
from geolora_ref.arrays import Values
from geolora_ref.lowrank import LowRank
from geolora_ref.problems.field import Product
from geolora_ref.problems.problem import FactoredODE, Matrix

__all__ = ["Lyapunov"]


class Lyapunov(FactoredODE):
    """Ẋ = AX + XAᵀ + C with A = ν·(three-point Laplacian on [−π, π], Dirichlet) and C = G diag(source) Gᵀ.

    X(t) = e^{tA}(X₀ + Z)e^{tAᵀ} − Z with AZ + ZAᵀ = C.  A has the sine vectors φ_k as eigenvectors
    and the eigenvalues λ_k = −4ν sin²(kπ/(2(n + 1)))/dx².  In this basis the equation is diagonal:
    X̂_kl(t) = e^{tλ}X̂_kl(0) + Ĉ_kl (e^{tλ} − 1)/λ with λ = λ_k + λ_l.
    ℓ = 2|λ_n|, μ = 2λ_1, both attained.  G turns the first ``len(source) + 4`` sine vectors at
    random.

    Raises ``ValueError`` for more source terms than n − 4, values that are not finite, or a
    diffusion that is not > 0.
    """

    def __init__(
        self, n: int, source: Values, rng: np.random.Generator, diffusion: float = 1.0
    ) -> None:
        n = checks.integer("n", n, 1)
        terms = len(source)
        if terms + 4 > n:
            raise ValueError(f"source: expected at most n - 4 = {n - 4} values, found {terms}")
        if not np.all(np.isfinite(source)):
            raise ValueError(f"source: expected finite values, found {list(source)}")
        diffusion = checks.positive_number("diffusion", diffusion)
        self.shape, self.source = (n, n), np.array(source, dtype=np.float64)
        self._weight = diffusion * ((n + 1) / (2.0 * np.pi)) ** 2
        self.eigenvalues = (
            -4.0 * self._weight * np.sin(np.arange(1, n + 1) * np.pi / (2.0 * (n + 1))) ** 2
        )
        self.lipschitz = float(-2.0 * self.eigenvalues[-1])
        self.one_sided_lipschitz = float(2.0 * self.eigenvalues[0])
        self.smooth = terms + 4
        self._G_hat = np.linalg.qr(rng.standard_normal((self.smooth, terms))).Q
        self.G = self.sines(self.smooth) @ self._G_hat

    def sines(self, count: int) -> Matrix:
        """The first eigenvectors φ_1, …, orthonormal (n x count)."""
        n = self.shape[0]
        angles = np.outer(np.arange(1, n + 1), np.arange(1, count + 1)) * (np.pi / (n + 1))
        return np.asarray(np.sqrt(2.0 / (n + 1)) * np.sin(angles))

    def A(self, X: Matrix) -> Matrix:
        """A X, by its three diagonals."""
        AX = -2.0 * X
        AX[1:] += X[:-1]
        AX[:-1] += X[1:]
        return np.asarray(self._weight * AX)

    def field(self, t: float, Y: Matrix) -> Matrix:
        """AX + XAᵀ + C."""
        return np.asarray(self.A(Y) + self.A(Y.T).T + (self.G * self.source) @ self.G.T)

    def factored(self, t: float, Y: Product) -> Product:
        """[AP | P | G diag(source)] [Q | AQ | G]ᵀ."""
        P, Q = Y
        return Product(
            np.hstack([self.A(P), P, self.G * self.source]), np.hstack([Q, self.A(Q), self.G])
        )

    def smooth_initial(self, spectrum: Values, rng: np.random.Generator) -> LowRank:
        """A random initial value in the span of the sine vectors of the source, in which the
        solution stays.
        """
        small = LowRank.random((self.smooth, self.smooth), spectrum, rng)
        Phi = self.sines(self.smooth)
        return LowRank(Phi @ small.U, small.S, Phi @ small.V)

    def closed_form(self, t: float, Y0: Matrix) -> Matrix:
        """X(t), by all sine vectors."""
        Phi = self.sines(self.shape[0])
        return np.asarray(Phi @ self._evolved(t, Phi.T @ Y0 @ Phi) @ Phi.T)

    def smooth_solution(self, t: float, Y0: LowRank) -> LowRank:
        """X(t) from a :meth:`smooth_initial` one, in factored form."""
        Phi = self.sines(self.smooth)
        return LowRank(Phi, self._evolved(t, (Phi.T @ Y0.U) @ Y0.S @ (Y0.V.T @ Phi)), Phi)

    def _evolved(self, t: float, X_hat: Matrix) -> Matrix:
        """X̂(t) from X̂(0), the coefficients in the first sine vectors."""
        size = len(X_hat)
        rate = np.add.outer(self.eigenvalues[:size], self.eigenvalues[:size])
        C_hat = np.zeros_like(X_hat)
        C_hat[: self.smooth, : self.smooth] = (self._G_hat * self.source) @ self._G_hat.T
        return np.asarray(np.exp(t * rate) * X_hat + C_hat * np.expm1(t * rate) / rate)

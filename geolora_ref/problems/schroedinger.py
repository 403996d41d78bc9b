"""Problem 8: a discrete Schrödinger equation in two variables, complex, with two invariants."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from geolora_ref import checks
from geolora_ref.arrays import H, Values
from geolora_ref.lowrank import LowRank
from geolora_ref.problems.field import Product
from geolora_ref.problems.problem import FactoredODE, Matrix, StartedODE

__all__ = ["Schroedinger"]


class Schroedinger(FactoredODE, StartedODE):
    """i Ẏ = H[Y], so F(Y) = −i H[Y], with H[Y] = DY + YDᵀ + V Y Vᵀ.

    D = ½ tridiag(−1, 2, −1), V = diag(1 − cos x_j), x_j = 2πj/n for j = −n/2, …, n/2 − 1.  The sign
    is that of quantum mechanics; the opposite one (−i Ẏ = H[Y]) also circulates and conjugates the
    solution of a real start.  H is Hermitian: ‖Y‖ and ⟨Y, H[Y]⟩ are constant, μ = 0, and
    ℓ = 2‖D‖₂ + ‖V‖₂² is an upper bound.  The start is U₀ diag(10⁻¹, …, 10⁻ʳ)V₀ᴴ / ‖·‖ with random
    unitary U₀, V₀.

    Raises ``ValueError`` unless n is an even integer ≥ 2.
    """

    dtype = np.dtype(np.complex128)

    def __init__(self, n: int, rng: np.random.Generator) -> None:
        n = checks.integer("n", n, 2)
        if n % 2:
            raise ValueError(f"n: expected an even number, found {n}")
        self.shape = (n, n)
        self._bases = [np.linalg.qr(Z[0] + 1j * Z[1]).Q for Z in rng.standard_normal((2, 2, n, n))]
        self.potential = 1.0 - np.cos(2.0 * np.pi * np.arange(-n // 2, n // 2) / n)
        self.lipschitz = float(2.0 * (1.0 + np.cos(np.pi / (n + 1))) + np.max(self.potential) ** 2)
        self.one_sided_lipschitz = 0.0

    def _D(self, X: Matrix) -> Matrix:
        """½ tridiag(−1, 2, −1) X."""
        DX = X.copy()
        DX[1:] -= 0.5 * X[:-1]
        DX[:-1] -= 0.5 * X[1:]
        return DX

    def hamiltonian(self, Y: Matrix) -> Matrix:
        """H[Y] = DY + YDᵀ + V Y Vᵀ."""
        return np.asarray(
            self._D(Y) + self._D(Y.T).T + self.potential[:, None] * Y * self.potential
        )

    def field(self, t: float, Y: Matrix) -> Matrix:
        """−i H[Y]."""
        return -1j * self.hamiltonian(Y)

    def factored(self, t: float, Y: Product) -> Product:
        """−i [DP | P | VP] [Q | DQ | VQ]ᴴ; D and V are real."""
        P, Q = Y
        v = self.potential[:, None]
        return Product(-1j * np.hstack([self._D(P), P, v * P]), np.hstack([Q, self._D(Q), v * Q]))

    def energy(self, Y: LowRank) -> float:
        """⟨Y, H[Y]⟩ without forming Y."""
        at = Product(Y.U @ Y.S, Y.V)
        return float((1j * np.vdot(Y.S, H(Y.U) @ self.apply_right(0.0, at, Y.V))).real)

    def invariants(self, Y: Matrix) -> Mapping[str, float]:
        """‖Y‖² and ⟨Y, H[Y]⟩."""
        return {
            "norm": float(np.vdot(Y, Y).real),
            "energy": float(np.vdot(Y, self.hamiltonian(Y)).real),
        }

    def start(self, rank: int) -> LowRank:
        """U₀ diag(10⁻¹, …, 10⁻ʳ)V₀ᴴ / ‖·‖; ``ValueError`` unless the rank is an integer from 1 to n."""
        rank = checks.rank("rank", rank, self.shape)
        U, V = (Q[:, :rank] for Q in self._bases)
        return LowRank(U, np.diag(self.start_spectrum(rank)).astype(self.dtype), V)

    def start_spectrum(self, rank: int) -> Values:
        """10⁻¹, …, 10⁻ʳ, scaled to norm 1."""
        sigma = 10.0 ** -np.arange(1.0, rank + 1.0)
        return np.asarray(sigma / np.linalg.norm(sigma))

"""Problems 6 and 7: a prescribed curve A(t), so that F(t) = Ȧ(t) does not depend on Y; they serve
to test exactness.
"""

from __future__ import annotations

import math
from abc import abstractmethod

import numpy as np

from geolora_ref import checks
from geolora_ref.arrays import H, Values
from geolora_ref.lowrank import LowRank
from geolora_ref.problems.field import Product
from geolora_ref.problems.problem import FactoredODE, Matrix, StartedODE

__all__ = ["Curve", "KochLubich", "RotatingExponential"]


class Curve(StartedODE):
    """Ẏ = Ȧ(t) with A(t) in closed form: Y(t) = Y₀ + A(t) − A(0), and ℓ = μ = 0.  The start is the
    best approximation of A(0).
    """

    lipschitz = 0.0
    one_sided_lipschitz = 0.0

    @abstractmethod
    def curve(self, t: float) -> Matrix:
        """A(t)."""

    def closed_form(self, t: float, Y0: Matrix) -> Matrix:
        """Y₀ + A(t) − A(0)."""
        return np.asarray(Y0 + self.curve(t) - self.curve(0.0))

    def start(self, rank: int) -> LowRank:
        """A best approximation of A(0) of this rank."""
        return LowRank.from_dense(self.curve(0.0), rank)


class RotatingExponential(Curve, FactoredODE):
    """A(t) = e^{tΩ₁} e^t D e^{tΩ₂ᵀ} with skew Ω₁, Ω₂ and D = diag(base⁻¹, …, base⁻ⁿ), or only its
    first ``rank`` entries [CL22].

    Ȧ = Ω₁A + A + AΩ₂ᵀ.  The singular values of A(t) are e^t base⁻ʲ for every t: with ``rank`` the
    exactness property applies, without it the best rank-r error is known.

    Raises ``ValueError`` for matrices that are not finite, not real, not skew or differ in size, a
    base that is not a finite number > 1, or a rank out of range.
    """

    def __init__(
        self, Omega1: Matrix, Omega2: Matrix, base: float = 2.0, rank: int | None = None
    ) -> None:
        checks.real_matrices(Omega1=Omega1, Omega2=Omega2)
        n = len(Omega1)
        for name, Omega in (("Omega1", Omega1), ("Omega2", Omega2)):
            expected = f"{name}: expected a skew {n} x {n} matrix"
            if Omega.shape != (n, n):
                raise ValueError(f"{expected}, found shape {Omega.shape}")
            if np.max(np.abs(Omega + Omega.T)) > 1e-14 * np.max(np.abs(Omega)):
                raise ValueError(
                    f"{expected}, found ‖{name} + {name}ᵀ‖ = {np.linalg.norm(Omega + Omega.T):.3e}"
                )
        if not 1.0 < checks.number(base) < math.inf:
            raise ValueError(f"base: expected a finite number > 1, found {base!r}")
        if rank is not None:
            rank = checks.integer("rank", rank, 1)
            if rank > n:
                raise ValueError(f"rank: expected between 1 and n = {n}, found {rank}")
        self.shape, self.Omega1, self.Omega2, self.base, self.rank = (
            (n, n),
            Omega1.copy(),
            Omega2.copy(),
            base,
            rank or n,
        )
        self._D = base ** -np.arange(1.0, self.rank + 1.0)
        # Ω = Q diag(iω) Qᴴ, so e^{tΩ} costs a scaling; only its first `rank` columns are needed.
        self._spectra = [np.linalg.eigh(-1j * Omega) for Omega in (Omega1, Omega2)]

    @classmethod
    def random(
        cls,
        n: int,
        rng: np.random.Generator,
        *,
        base: float = 2.0,
        rank: int | None = None,
        speed: float = 1.0,
    ) -> RotatingExponential:
        """Gaussian skew matrices of spectral norm ``speed``."""
        Omega1, Omega2 = (X - X.T for X in rng.standard_normal((2, n, n)))
        Omega1, Omega2 = (speed * Omega / np.linalg.norm(Omega, 2) for Omega in (Omega1, Omega2))
        return cls(Omega1, Omega2, base=base, rank=rank)

    def curve_factored(self, t: float) -> Product:
        """A(t) = (e^{tΩ₁}[:, :r] e^t D)(e^{tΩ₂}[:, :r])ᵀ."""
        first, second = (
            ((Q * np.exp(1j * t * omega)) @ H(Q[: self.rank])).real for omega, Q in self._spectra
        )
        return Product(first * (np.exp(t) * self._D), second)

    def curve(self, t: float) -> Matrix:
        """A(t)."""
        return np.asarray(self.curve_factored(t).full())

    def field(self, t: float, Y: Matrix) -> Matrix:
        """Ω₁A + A + AΩ₂ᵀ at A(t)."""
        A = self.curve(t)
        return np.asarray(self.Omega1 @ A + A + A @ self.Omega2.T)

    def factored(self, t: float, Y: Product) -> Product:
        """[Ω₁P + P | P] [Q | Ω₂Q]ᵀ with A(t) = P Qᵀ."""
        P, Q = self.curve_factored(t)
        return Product(np.hstack([self.Omega1 @ P + P, P]), np.hstack([Q, self.Omega2 @ Q]))

    def start(self, rank: int) -> LowRank:
        """A(0) cut to ``rank``: S is the beginning of D, the bases are unit vectors; ``ValueError``
        for a rank above A's.
        """
        rank = checks.rank("rank", rank, self.shape)
        if rank > self.rank:
            raise ValueError(f"rank: expected at most {self.rank}, the rank of A, found {rank}")
        E = np.eye(self.shape[0], rank)
        return LowRank(E, np.diag(self.start_spectrum(rank)), E)

    def start_spectrum(self, rank: int) -> Values:
        """base⁻¹, base⁻², …"""
        return np.asarray(self._D[:rank])


class KochLubich(Curve):
    """A(t) = Q₁(t)(A₁ + e^t A₂)Q₂(t)ᵀ, Q_i = e^{tT_i}: a turning rank-10 part of order one over
    noise of size ε [KL07, LO14].

    T₁ is tridiagonal with +1 below and −1 above the diagonal; T₂ pentadiagonal with +½ and +1
    below, −½ and −1 above.  A₁ and A₂ are ε·U(0, 1) noise plus a leading 10 x 10 block I + ½U(0,
    1).

    Raises ``ValueError`` unless n is an integer ≥ 10, the size of the leading block, and ε a finite
    number ≥ 0.
    """

    BLOCK = 10

    def __init__(self, n: int, epsilon: float, rng: np.random.Generator) -> None:
        n = checks.integer("n", n, self.BLOCK)
        self.shape, self.epsilon = (n, n), checks.nonnegative_number("epsilon", epsilon)
        one, two = np.eye(n, k=-1) - np.eye(n, k=1), np.eye(n, k=-2) - np.eye(n, k=2)
        self.T1, self.T2 = one, 0.5 * one + two
        self.A1, self.A2 = self._summand(rng), self._summand(rng)
        self._spectra = [np.linalg.eigh(-1j * T) for T in (self.T1, self.T2)]

    def _summand(self, rng: np.random.Generator) -> Matrix:
        A = self.epsilon * rng.random(self.shape)
        A[: self.BLOCK, : self.BLOCK] += np.eye(self.BLOCK) + 0.5 * rng.random(
            (self.BLOCK, self.BLOCK)
        )
        return A

    def _turned(self, t: float, X: Matrix) -> Matrix:
        """Q₁(t) X Q₂(t)ᵀ."""
        Q1, Q2 = (((Q * np.exp(1j * t * omega)) @ H(Q)).real for omega, Q in self._spectra)
        return np.asarray(Q1 @ X @ Q2.T)

    def curve(self, t: float) -> Matrix:
        """A(t)."""
        return self._turned(t, self.A1 + np.exp(t) * self.A2)

    def field(self, t: float, Y: Matrix) -> Matrix:
        """T₁A + AT₂ᵀ + e^t Q₁A₂Q₂ᵀ."""
        A = self.curve(t)
        return np.asarray(self.T1 @ A + A @ self.T2.T + self._turned(t, np.exp(t) * self.A2))

    def start_spectrum(self, rank: int) -> Values:
        """The leading singular values of A₁ + A₂."""
        return np.linalg.svd(self.A1 + self.A2, compute_uv=False)[:rank]

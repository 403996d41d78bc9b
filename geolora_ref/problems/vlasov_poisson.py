"""Problem 12: the Vlasov–Poisson equation in one space and one velocity variable, a check against
physics.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from geolora_ref import checks
from geolora_ref.arrays import Values
from geolora_ref.lowrank import LowRank
from geolora_ref.problems.field import Product
from geolora_ref.problems.problem import FactoredODE, Matrix, StartedODE

__all__ = ["VlasovPoisson"]


class VlasovPoisson(FactoredODE, StartedODE):
    """∂f/∂t + v ∂f/∂x − E ∂f/∂v = 0 with ∂E/∂x = 1 − ∫f dv: electrons before resting ions, f on a
    grid (x, v), periodic.

    Derivatives are spectral, so that D_x and D_v are skew: ∫∫f (mass) and ∫∫f² (norm) are
    invariants of the discrete equation.  The energy ½∫∫v²f + ½∫E² is an invariant as far as f
    vanishes at the ends of the velocity interval.  The field is quadratic, so there are no global
    constants.  The start is (1 + α cos kx) times a sum of Maxwellians, of rank 1.

    Raises ``ValueError`` for odd numbers of points, a length or a largest velocity that is not
    positive, numbers that are not finite, a wave that does not fit the length, and without beams.
    """

    def __init__(
        self,
        shape: tuple[int, int],
        length: float,
        v_max: float,
        alpha: float,
        k: float,
        beams: tuple[float, ...],
    ) -> None:
        m, n = self.shape = (
            checks.integer("shape[0]", shape[0], 2),
            checks.integer("shape[1]", shape[1], 2),
        )
        if m % 2 or n % 2:
            raise ValueError(f"shape: expected even numbers of points, found {shape}")
        for name, value in (
            ("alpha", alpha),
            ("k", k),
            *((f"beams[{i}]", beam) for i, beam in enumerate(beams)),
        ):
            if not np.isfinite(checks.number(value)):
                raise ValueError(f"{name}: expected a finite number, found {value!r}")
        checks.positive_number("length", length)
        checks.positive_number("v_max", v_max)
        waves = k * length / (2.0 * np.pi)
        if abs(waves - round(waves)) > 1e-9:
            raise ValueError(
                f"k: expected a whole number of waves in the length {length:g}, found {waves:g}"
            )
        if not beams:
            raise ValueError("beams: expected at least one velocity, found none")
        self.x, self.v = length * np.arange(m) / m, -v_max + 2.0 * v_max * np.arange(n) / n
        self.cell = (length / m, 2.0 * v_max / n)
        self.D_x, self.D_v = _spectral_derivative(m, length), _spectral_derivative(n, 2.0 * v_max)
        self._wave_numbers = 2.0 * np.pi * np.fft.rfftfreq(m, self.cell[0])
        self.density = 1.0 + alpha * np.cos(k * self.x)
        self.maxwellian = sum(np.exp(-0.5 * (self.v - beam) ** 2) for beam in beams) / (
            len(beams) * np.sqrt(2.0 * np.pi)
        )

    @classmethod
    def landau_damping(
        cls, alpha: float = 1e-2, k: float = 0.5, shape: tuple[int, int] = (64, 256)
    ) -> VlasovPoisson:
        """A standing wave in a Maxwellian: for k = ½ its electric field decays like e^{−0.153 t}."""
        return cls(shape, 2.0 * np.pi / k, 6.0, alpha, k, (0.0,))

    @classmethod
    def two_stream(
        cls, alpha: float = 1e-3, k: float = 0.2, shape: tuple[int, int] = (64, 256)
    ) -> VlasovPoisson:
        """Two beams at v = ±2.4, unstable for k = 0.2."""
        return cls(shape, 2.0 * np.pi / k, 9.0, alpha, k, (-2.4, 2.4))

    def electric_field(self, f: Product) -> Matrix:
        """E with ∂E/∂x = 1 − ∫f dv and mean 0."""
        charge = np.fft.rfft(1.0 - self.cell[1] * (f.left @ f.right.sum(axis=0)))
        E_hat = np.zeros_like(charge)
        E_hat[1:-1] = charge[1:-1] / (1j * self._wave_numbers[1:-1])
        return np.asarray(np.fft.irfft(E_hat, self.shape[0]))

    def field(self, t: float, Y: Matrix) -> Matrix:
        """−D_x f diag(v) + diag(E) f D_vᵀ."""
        E = self.electric_field(Product(Y, np.eye(self.shape[1])))
        return np.asarray(-(self.D_x @ Y) * self.v + E[:, None] * (Y @ self.D_v.T))

    def factored(self, t: float, Y: Product) -> Product:
        """[−D_x P | E P] [v Q | D_v Q]ᵀ."""
        P, Q = Y
        E = self.electric_field(Y)
        return Product(
            np.hstack([-(self.D_x @ P), E[:, None] * P]),
            np.hstack([self.v[:, None] * Q, self.D_v @ Q]),
        )

    def electric_energy(self, Y: Product) -> float:
        """½∫E² dx."""
        return 0.5 * self.cell[0] * float(np.sum(self.electric_field(Y) ** 2))

    def energy(self, Y: Product) -> float:
        """½∫∫v²f dx dv + ½∫E² dx."""
        kinetic = (
            0.5 * self.cell[0] * self.cell[1] * float(Y.left.sum(axis=0) @ (self.v**2 @ Y.right))
        )
        return kinetic + self.electric_energy(Y)

    def invariants(self, Y: Matrix) -> Mapping[str, float]:
        """∫∫f and ∫∫f²."""
        area = self.cell[0] * self.cell[1]
        return {"mass": area * float(Y.sum()), "norm": area * float(np.sum(Y * Y))}

    def start(self, rank: int) -> LowRank:
        """The rank-one initial value; its bases are completed by cos, sin of kx, … and by v, v², …
        times the Maxwellian.

        Raises ``ValueError`` unless the rank is an integer from 1 to min(m, n).
        """
        rank = checks.rank("rank", rank, self.shape)
        phase = 2.0 * np.pi * np.arange(self.shape[0]) / self.shape[0]
        waves = [wave(k * phase) for k in range(1, rank) for wave in (np.cos, np.sin)]
        left = np.column_stack([self.density, *waves])[:, :rank]
        right = np.column_stack([self.maxwellian * self.v**k for k in range(rank)])
        (U, R), V = np.linalg.qr(left), np.linalg.qr(right)
        S = np.zeros((rank, rank))
        S[0, 0] = R[0, 0] * V.R[0, 0]
        return LowRank(U, S, V.Q)

    def start_spectrum(self, rank: int) -> Values:
        """‖density‖·‖Maxwellian‖, then zeros."""
        sigma = np.zeros(rank)
        sigma[0] = np.linalg.norm(self.density) * np.linalg.norm(self.maxwellian)
        return sigma


def _spectral_derivative(n: int, length: float) -> Matrix:
    """The derivative of the trigonometric interpolant on n (even) points, skew; the highest mode
    has derivative 0.
    """
    offset = np.arange(n)[:, None] - np.arange(n)[None, :]
    with np.errstate(divide="ignore"):
        D = 0.5 * (-1.0) ** offset / np.tan(offset * np.pi / n)
    np.fill_diagonal(D, 0.0)
    return np.asarray(2.0 * np.pi / length * D)

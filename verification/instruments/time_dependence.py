"""Fields that depend on time, and what a wrong time looks like."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from geolora_ref import LowRank
from geolora_ref.arrays import Matrix
from geolora_ref.integrators import Integrator, Step
from geolora_ref.problems import Field, Product
from verification.instruments.acting import Acting

__all__ = ["AtOneTime", "Later", "TurningFrame", "turned"]


def turned(t: float, X: Matrix) -> Matrix:
    """e^{tJ}X = X cos t + JX sin t, since J² = −I."""
    return np.asarray(np.cos(t) * X + np.sin(t) * _quarter(X))


def _quarter(X: Matrix) -> Matrix:
    """JX, a quarter turn of the upper half of the rows into the lower; their number is even."""
    upper, lower = np.split(X, 2)
    return np.concatenate([-lower, upper])


@dataclass(frozen=True, eq=False)
class TurningFrame:
    """A field seen from a frame that turns: Ẏ = JY + YJᵀ + e^{tJ}F(Z)e^{tJᵀ} with
    Y = e^{tJ}Ze^{tJᵀ}, so Y(t) is Z(t) turned.

    The projected flow is turned too, since tangent spaces turn along:
    P(Y)(e^{tJ}Fe^{tJᵀ}) = e^{tJ}(P(Z)F)e^{tJᵀ}, and JY + YJᵀ is tangential.  The normal part of F
    keeps its size.  J is the quarter turn of :func:`turned`, on either side.
    """

    field: Field

    @staticmethod
    def seen(t: float, Z: Matrix) -> Matrix:
        """e^{tJ}Ze^{tJᵀ}."""
        return turned(t, turned(t, Z).T).T

    @property
    def shape(self) -> tuple[int, int]:
        """(m, n), both even."""
        return self.field.shape

    def apply_right(self, t: float, Y: Product, V: Matrix) -> Matrix:
        """F(t, Y) V."""
        P, Q = Y
        still = self.field.apply_right(t, Product(turned(-t, P), turned(-t, Q)), turned(-t, V))
        return np.asarray(_quarter(P) @ (Q.T @ V) + P @ (_quarter(Q).T @ V) + turned(t, still))

    def apply_left(self, t: float, Y: Product, U: Matrix) -> Matrix:
        """F(t, Y)ᵀ U."""
        P, Q = Y
        still = self.field.apply_left(t, Product(turned(-t, P), turned(-t, Q)), turned(-t, U))
        return np.asarray(_quarter(Q) @ (P.T @ U) + Q @ (_quarter(P).T @ U) + turned(t, still))


def _at(t0: float, field: Field) -> Acting:
    """F(t₀, Y), whatever the time."""
    return Acting(
        field.shape,
        lambda t, Y, V: np.asarray(field.apply_right(t0, Y, V)),
        lambda t, Y, U: np.asarray(field.apply_left(t0, Y, U)),
    )


@dataclass(frozen=True)
class AtOneTime(Integrator):
    """An integrator whose stages all ask for F at the beginning of the step."""

    integrator: Integrator

    def advance(self, field: Field, t: float, Y: LowRank, h: float) -> Step:
        """The step for the field F(t, ·), which no longer depends on time."""
        return self.integrator.advance(_at(t, field), t, Y, h)


@dataclass(frozen=True)
class Later(Integrator):
    """An integrator whose step goes over [t + h, t + 2h]."""

    integrator: Integrator

    def advance(self, field: Field, t: float, Y: LowRank, h: float) -> Step:
        """The step that starts at t + h."""
        return self.integrator.advance(field, t + h, Y, h)

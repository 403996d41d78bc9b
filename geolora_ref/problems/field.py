"""The interface of a right-hand side F(t, Y): its action on a few columns, so that no m x n matrix
need be formed.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol, runtime_checkable

from geolora_ref.arrays import Array, H, Inexact

__all__ = ["Field", "Product"]


class Product(NamedTuple):
    """The m x n matrix Y = left · rightᴴ: K V₀ᴴ, U₀ Lᴴ or (U S) Vᴴ, as the sub-equations of the
    integrators have it.

    ``left`` is m x k, ``right`` n x k; neither need be orthonormal.
    """

    left: Inexact[Array, "m k"]
    right: Inexact[Array, "n k"]

    @property
    def shape(self) -> tuple[int, int]:
        """(m, n)."""
        return int(self.left.shape[0]), int(self.right.shape[0])

    def full(self) -> Inexact[Array, "m n"]:
        """The dense matrix."""
        return self.left @ H(self.right)


@runtime_checkable
class Field(Protocol):
    """F(t, Y) in R^{m x n} or C^{m x n}, seen through its action on V (n x k) and on U (m x k)."""

    @property
    def shape(self) -> tuple[int, int]:
        """(m, n)."""
        ...

    def apply_right(self, t: float, Y: Product, V: Inexact[Array, "n k"]) -> Inexact[Array, "m k"]:
        """F(t, Y) V."""
        ...

    def apply_left(self, t: float, Y: Product, U: Inexact[Array, "m k"]) -> Inexact[Array, "n k"]:
        """F(t, Y)ᴴ U."""
        ...

"""A field F given by its products F V and Fᴴ U: the claims build variants of a problem's field from it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from geolora_ref.problems import Product
from geolora_ref.problems.problem import Matrix

__all__ = ["Acting"]

Action = Callable[[float, Product, Matrix], Matrix]


@dataclass(frozen=True, eq=False)
class Acting:
    """A field F of ``shape`` (m, n): F(t, Y) V = ``right(t, Y, V)``, and F(t, Y)ᴴ U = ``left(t, Y, U)``."""

    shape: tuple[int, int]
    right: Action
    left: Action

    def apply_right(self, t: float, Y: Product, V: Matrix) -> Matrix:
        """F(t, Y) V."""
        return self.right(t, Y, V)

    def apply_left(self, t: float, Y: Product, U: Matrix) -> Matrix:
        """F(t, Y)ᴴ U."""
        return self.left(t, Y, U)

"""A field by its two actions: how the claims make relatives of a field."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from geolora_ref.problems import Product
from geolora_ref.problems.problem import Matrix

__all__ = ["Acting"]

Action = Callable[[float, Product, Matrix], Matrix]


@dataclass(frozen=True, eq=False)
class Acting:
    """F of this ``shape`` (m, n) with F(t, Y) V = ``right(t, Y, V)`` and F(t, Y)ᴴ U = ``left(t, Y, U)``."""

    shape: tuple[int, int]
    right: Action
    left: Action

    def apply_right(self, t: float, Y: Product, V: Matrix) -> Matrix:
        """F(t, Y) V."""
        return self.right(t, Y, V)

    def apply_left(self, t: float, Y: Product, U: Matrix) -> Matrix:
        """F(t, Y)ᴴ U."""
        return self.left(t, Y, U)

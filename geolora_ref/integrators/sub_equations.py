"""The three sub-equations from which all integrators of the family are made, and the factors on
which they work.

====  ==========================================  =======================
K     K' = F(t, K V₀ᴴ) V₀                          V₀ frozen, K(t) = U₀S₀
L     L' = F(t, U₀Lᴴ)ᴴ U₀                          U₀ frozen, L(t) = V₀S₀ᴴ
S     S' = ± Uᴴ F(t, U S Vᴴ) V                     both frozen (− in the projector splitting)
====  ==========================================  =======================
"""

from __future__ import annotations

from typing import NamedTuple

from geolora_ref import checks
from geolora_ref.arrays import Array, H, Inexact, namespace, zeros
from geolora_ref.integrators.sub_solvers import Derivative, SubSolver
from geolora_ref.problems.field import Field, Product

__all__ = ["Factors", "K_step", "L_step", "S_step"]


class Factors(NamedTuple):
    """U S Vᴴ between the sub-steps: orthonormal bases U (m x p), V (n x q), and S (p x q) that need
    not be square.
    """

    U: Inexact[Array, "m p"]
    S: Inexact[Array, "p q"]
    V: Inexact[Array, "n q"]

    def product(self) -> Product:
        """(U S) Vᴴ as a :class:`Product`, the argument of a field."""
        return Product(self.U @ self.S, self.V)

    def in_bases(self, U_hat: Inexact[Array, "m P"], V_hat: Inexact[Array, "n Q"]) -> Factors:
        """The same matrix in bases that *begin with* U and V: (ÛᴴU) S (VᴴV̂) is S padded with
        zeros, exactly.
        """
        xp = namespace(self.S)
        (p, q), P, Q = self.S.shape, U_hat.shape[1], V_hat.shape[1]
        right = xp.concat([self.S, zeros((p, Q - q), like=self.S)], axis=1)
        return Factors(U_hat, xp.concat([right, zeros((P - p, Q), like=self.S)], axis=0), V_hat)


def K_step(
    solver: SubSolver, field: Field, t: float, h: float, Y: Factors
) -> Inexact[Array, "m q"]:
    """K(t + h) of K' = F(t, K Vᴴ) V from K(t) = U S."""
    U, S, V = Y
    return _solved(solver, lambda s, K: field.apply_right(s, Product(K, V), V), t, U @ S, h)


def L_step(
    solver: SubSolver, field: Field, t: float, h: float, Y: Factors
) -> Inexact[Array, "n p"]:
    """L(t + h) of L' = F(t, U Lᴴ)ᴴ U from L(t) = V Sᴴ."""
    U, S, V = Y
    return _solved(solver, lambda s, L: field.apply_left(s, Product(U, L), U), t, V @ H(S), h)


def S_step(
    solver: SubSolver, field: Field, t: float, h: float, Y: Factors, sign: float = 1.0
) -> Inexact[Array, "p q"]:
    """S(t + h) of S' = ± Uᴴ F(t, U S Vᴴ) V: the Galerkin equation in fixed bases."""
    U, S, V = Y
    return _solved(
        solver, lambda s, X: sign * (H(U) @ field.apply_right(s, Product(U @ X, V), V)), t, S, h
    )


def _solved(
    solver: SubSolver, f: Derivative, t: float, X: Inexact[Array, "a b"], h: float
) -> Inexact[Array, "a b"]:
    """X(t + h) by a solver that may overwrite its argument, or return the same array each time.

    Raises ``ValueError`` for a result of another library, dtype or shape than X, such as that of a
    complex field at a real X.
    """
    xp, name = namespace(X), "X(t + h) of the sub-solver"
    found = solver(f, t, xp.asarray(X, copy=True), h)
    checks.alike(**{"the state": X, name: found})
    checks.same_shape(name, found, tuple(X.shape), "that of X(t)")
    return xp.asarray(found, copy=True)

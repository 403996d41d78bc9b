"""Projected Runge–Kutta with an oblique projection: F is evaluated on few rows and columns only [CKLV25]."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from geolora_ref.arrays import Array, H, Inexact, namespace
from geolora_ref.integrators.projected_rk import ProjectedRK
from geolora_ref.integrators.sub_equations import Factors
from geolora_ref.lowrank import LowRank
from geolora_ref.problems.field import Field, Product

__all__ = ["ObliqueRK"]


@dataclass(frozen=True)
class ObliqueRK(ProjectedRK):
    """Projected Runge–Kutta (:class:`~geolora_ref.integrators.ProjectedRK`) with interpolation at r
    rows and r columns in place of the orthogonal projection.

    With M = U(PᴴU)⁻¹ and N = V(QᴴV)⁻¹, P and Q unit vectors that select rows and columns, the
    projection is Z ↦ M(PᴴZ) + (ZQ)Nᴴ − M(PᴴZQ)Nᴴ.  It maps onto the tangent space and keeps each
    tangential Z, so the method has its order there.  A normal part is not cut off at a right angle:
    the method follows another flow, at a distance of O(ε) from that of the orthogonal projection.
    Rows and columns are those of a QR decomposition with pivots (QDEIM); they change in jumps.
    Source: [CKLV25].

    ==============================================  =======================
    [CKLV25]                                        here
    ==============================================  =======================
    indices by QDEIM of U and of V                  :func:`pivots`
    oblique projection of F onto the tangent space  :meth:`tangent_field`
    stages and retractions of PRK-DEIM              ``ProjectedRK.advance``
    ==============================================  =======================
    """

    def tangent_field(self, field: Field, t: float, Y: LowRank) -> Product:
        """M(PᴴF)(I − QNᴴ) + (FQ)Nᴴ, of rank 2r, from r rows and r columns of F."""
        U, _, V = Y
        xp, at = namespace(U), Factors(*Y).product()
        P, Q = selection(pivots(U), U), selection(pivots(V), V)
        M, N = interpolation(U, P), interpolation(V, Q)
        FQ, FhP = field.apply_right(t, at, Q), field.apply_left(t, at, P)
        return Product(xp.concat([FQ - M @ (H(P) @ FQ), M], axis=1), xp.concat([N, FhP], axis=1))


def pivots(B: Inexact[Array, "m r"]) -> list[int]:
    """The rows that a QR decomposition of Bᴴ with column pivots chooses: each has the largest part
    orthogonal to those before.  A rotation of the columns of B changes nothing.
    """
    xp, rest, chosen = namespace(B), B, list[int]()
    for _ in range(B.shape[1]):
        sizes: Any = xp.sum(xp.abs(rest) ** 2, axis=1)
        chosen.append(int(xp.argmax(sizes)))
        row = rest[chosen[-1], :][None, :] / xp.sqrt(sizes[chosen[-1]])
        for _ in range(2):  # twice is enough
            rest = rest - (rest @ H(row)) @ row
    return chosen


def selection(rows: list[int], B: Inexact[Array, "m r"]) -> Inexact[Array, "m r"]:
    """The unit vectors of these rows, as columns."""
    xp = namespace(B)
    one = xp.asarray([rows], device=B.device) == xp.arange(B.shape[0], device=B.device)[:, None]
    return xp.astype(one, B.dtype)


def interpolation(B: Inexact[Array, "m r"], P: Inexact[Array, "m r"]) -> Inexact[Array, "m r"]:
    """B(PᴴB)⁻¹."""
    return H(namespace(B).linalg.solve(H(H(P) @ B), H(B)))

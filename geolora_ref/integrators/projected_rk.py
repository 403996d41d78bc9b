"""Projected Runge–Kutta methods: tangent-space projection of F, retraction by the truncated SVD [KV19]."""

from __future__ import annotations

from dataclasses import dataclass, replace

from geolora_ref import checks
from geolora_ref.arrays import H, namespace
from geolora_ref.integrators.integrator import Integrator, Step, TruncationRule, combine
from geolora_ref.integrators.sub_equations import Factors
from geolora_ref.integrators.sub_solvers import HEUN_TABLEAU, Tableau
from geolora_ref.lowrank import LowRank
from geolora_ref.problems.field import Field, Product

__all__ = ["ProjectedRK"]


@dataclass(frozen=True)
class ProjectedRK(Integrator):
    """Stages Y_i = R(Y₀ + h Σ a_ij P(Y_j)F(Y_j)) and Y₁ = R(Y₀ + h Σ b_j P(Y_j)F(Y_j)), R the truncation.

    It needs no sub-equations and no inverse of a factor.  It is explicit, so the stiffness of F
    limits the step size.  Source: [KV19].  Raises ``ValueError`` unless ``tableau`` is a
    :class:`Tableau`, and not a sub-solver, for example.
    """

    truncate: TruncationRule
    tableau: Tableau = HEUN_TABLEAU

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.instance("tableau", self.tableau, Tableau, "a Tableau")

    @property
    def order(self) -> int:
        """The order of the tableau."""
        return self.tableau.order

    def advance(self, field: Field, t: float, Y: LowRank, h: float) -> Step:
        """One step; ``discarded`` is the sum over all retractions."""
        start, slopes, discarded = Factors(*Y).product(), list[Product](), 0.0
        cut = None
        for c, row in zip((*self.tableau.c, 1.0), (*self.tableau.a, self.tableau.b), strict=True):
            stage = Y
            if row:
                terms = [
                    (h * weight, slope)
                    for weight, slope in zip(row, slopes, strict=True)
                    if weight != 0.0
                ]
                cut = self.truncate(combine([(1.0, start), *terms]), h)
                stage, discarded = cut.Y, discarded + cut.discarded
            if len(slopes) < len(self.tableau.b):
                slopes.append(self.tangent_field(field, t + c * h, stage))
        assert cut is not None
        return replace(Step.truncated(cut), discarded=discarded)

    def tangent_field(self, field: Field, t: float, Y: LowRank) -> Product:
        """P(Y)F(t, Y) = (FV − U UᴴFV) Vᴴ + U (FᴴU)ᴴ, of rank 2r, without forming F."""
        U, _, V = Y
        xp, at = namespace(U), Factors(*Y).product()
        FV, FhU = field.apply_right(t, at, V), field.apply_left(t, at, U)
        return Product(xp.concat([FV - U @ (H(U) @ FV), U], axis=1), xp.concat([V, FhU], axis=1))

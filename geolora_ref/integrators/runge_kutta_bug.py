"""Runge–Kutta BUG of any order: an augmented Galerkin step at every stage of an explicit
Runge–Kutta method [R25].
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from geolora_ref import checks
from geolora_ref.arrays import Array, H
from geolora_ref.integrators.augmented_bug import augmented
from geolora_ref.integrators.integrator import Integrator, Step, TruncationRule
from geolora_ref.integrators.sub_equations import Factors
from geolora_ref.integrators.sub_solvers import HEUN_TABLEAU, Tableau
from geolora_ref.lowrank import LowRank
from geolora_ref.problems.field import Field

__all__ = ["RungeKuttaBUG"]


@dataclass(frozen=True)
class RungeKuttaBUG(Integrator):
    """Stages Y_i = R(Π_i(Y₀ + h Σ_{j<i} a_ij F(Y_j))), and Y₁ likewise with the weights b_j.

    Π_i projects onto the bases Û = [U₀ | F(Y_j)V_j]_{j<i} and V̂ = [V₀ | F(Y_j)ᴴU_j]_{j<i}, which
    hold those of all stages before: Y₀ is kept, and so is a tangential F. R is the truncation, at
    the end and, unless ``wide``, of each stage.

    The order is that of the tableau, p: error O(h^p) + O(εh), ε the normal part of F. For p > 2 the
    constant of truncated stages grows like 1/σ_min.

    ``wide`` : the stages are not truncated, the bases double at each of them, and the order holds
    for every σ_min (docs/integrators.md).

    Source: [R25]; its stages are truncated.

    ====================================================  ===================================
    [R25], stage i                                       here
    ====================================================  ===================================
    basis update: range of U_j and F(Y_j)V_j for j < i    ``augmented``
    Galerkin: Ûᴴ(Y₀ + h Σ a_ij F(Y_j))V̂                   ``start.in_bases``, :func:`slope`
    truncation                                            ``self.truncate``
    ====================================================  ===================================

    Raises ``ValueError`` unless ``tableau`` is a :class:`Tableau`.
    """

    truncate: TruncationRule
    tableau: Tableau = HEUN_TABLEAU
    wide: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.instance("tableau", self.tableau, Tableau, "a Tableau")

    @property
    def order(self) -> int:
        """The order of the tableau."""
        return self.tableau.order

    def advance(self, field: Field, t: float, Y: LowRank, h: float) -> Step:
        """One step; ``discarded_inside`` is the sum over the stages."""
        start, inside = Factors(*Y), 0.0
        stage, U_hat, V_hat, stages = start, start.U, start.V, list[tuple[float, Factors]]()
        for c, weights in zip(self.tableau.c, (*self.tableau.a[1:], self.tableau.b), strict=True):
            time, at = t + c * h, stage.product()
            FV, FhU = field.apply_right(time, at, stage.V), field.apply_left(time, at, stage.U)
            U_hat, V_hat = (
                augmented(U_hat, FV),
                augmented(V_hat, FhU),
            )  # which hold those of the stage
            stages.append((time, stage))
            stage = start.in_bases(U_hat, V_hat)
            stage = stage._replace(S=stage.S + h * slope(field, stages, weights, stage))
            if not self.wide and len(stages) < len(self.tableau.b):
                cut = self.truncate(stage, h)
                stage, inside = Factors(*cut.Y), inside + cut.discarded
        return replace(Step.truncated(self.truncate(stage, h)), discarded_inside=inside)


def slope(
    field: Field, stages: list[tuple[float, Factors]], weights: tuple[float, ...], hat: Factors
) -> Array:
    """Σ_j w_j Ûᴴ F(t_j, Y_j) V̂."""
    total = 0.0 * hat.S
    for weight, (time, stage) in zip(weights, stages, strict=True):
        if weight != 0.0:
            total = total + weight * (H(hat.U) @ field.apply_right(time, stage.product(), hat.V))
    return total

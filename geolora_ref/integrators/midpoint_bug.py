"""The second-order BUG integrator by the midpoint rule [CEKL24]."""

from __future__ import annotations

from dataclasses import dataclass, replace

from geolora_ref.arrays import namespace
from geolora_ref.integrators.augmented_bug import augmented, augmented_bug_step
from geolora_ref.integrators.integrator import Integrator, Step, TruncationRule
from geolora_ref.integrators.sub_equations import Factors, S_step
from geolora_ref.integrators.sub_solvers import RK4, SubSolver
from geolora_ref.lowrank import LowRank
from geolora_ref.problems.field import Field

__all__ = ["MidpointBUG"]


@dataclass(frozen=True)
class MidpointBUG(Integrator):
    """Augmented BUG over h/2 gives Y_½; then a Galerkin step over h in the bases [U_½ | F(Y_½)V_½],
    [V_½ | F(Y_½)ᴴU_½].

    ``wide`` : Y_½ is not truncated and contains the old bases, 4r columns in all.  Otherwise Y_½ is
    truncated, with the norm ``discarded_inside`` cut off, and the bases are [U₀ | U_½ | F(Y_½)V_½]
    with 3r columns if the rank stays.  Error O(h²) + O(εh), ε the normal part of F.  Source:
    [CEKL24].
    """

    truncate: TruncationRule
    solver: SubSolver = RK4
    wide: bool = True

    @property
    def order(self) -> int:
        """2."""
        return 2

    def advance(self, field: Field, t: float, Y: LowRank, h: float) -> Step:
        """One step."""
        start = Factors(*Y)
        middle, inside = augmented_bug_step(self.solver, field, t, 0.5 * h, start), 0.0
        if not self.wide:
            cut = self.truncate(middle, 0.5 * h)
            middle, inside = Factors(*cut.Y), cut.discarded
        FV = field.apply_right(t + 0.5 * h, middle.product(), middle.V)
        FhU = field.apply_left(t + 0.5 * h, middle.product(), middle.U)
        if self.wide:
            U_hat, V_hat = augmented(middle.U, FV), augmented(middle.V, FhU)
        else:
            concat = namespace(start.S).concat
            U_hat = augmented(start.U, concat([middle.U, FV], axis=1))
            V_hat = augmented(start.V, concat([middle.V, FhU], axis=1))
        S = S_step(self.solver, field, t, h, start.in_bases(U_hat, V_hat))
        return replace(
            Step.truncated(self.truncate(Factors(U_hat, S, V_hat), h)), discarded_inside=inside
        )

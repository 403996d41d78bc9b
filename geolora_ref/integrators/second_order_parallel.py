"""The second-order parallel integrator [K24]: the bases are enriched by F(Y₀)V₀ and F(Y₀)ᴴU₀ before
the parallel step.
"""

from __future__ import annotations

from dataclasses import dataclass

from geolora_ref.integrators.augmented_bug import augmented
from geolora_ref.integrators.integrator import Integrator, Step, TruncationRule
from geolora_ref.integrators.parallel_bug import parallel_bug_step
from geolora_ref.integrators.sub_equations import Factors
from geolora_ref.integrators.sub_solvers import RK4, SubSolver
from geolora_ref.lowrank import LowRank
from geolora_ref.problems.field import Field

__all__ = ["SecondOrderParallel"]


@dataclass(frozen=True)
class SecondOrderParallel(Integrator):
    """Parallel BUG from Û₀ = aug(U₀, F(Y₀)V₀), V̂₀ = aug(V₀, F(Y₀)ᴴU₀) and S₀ padded with zeros; 4r
    columns, truncated.

    Error O(h²) + O(εh), ε the normal part of F.  Source: [K24].
    """

    truncate: TruncationRule
    solver: SubSolver = RK4

    @property
    def order(self) -> int:
        """2."""
        return 2

    def advance(self, field: Field, t: float, Y: LowRank, h: float) -> Step:
        """One step."""
        start = Factors(*Y)
        U_hat = augmented(start.U, field.apply_right(t, start.product(), start.V))
        V_hat = augmented(start.V, field.apply_left(t, start.product(), start.U))
        hat = parallel_bug_step(self.solver, field, t, h, start.in_bases(U_hat, V_hat))
        return Step.truncated(self.truncate(hat, h))

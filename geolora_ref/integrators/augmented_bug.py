"""The augmented, rank-adaptive BUG integrator [CKL22]."""

from __future__ import annotations

from dataclasses import dataclass

from geolora_ref.algorithm import basis_augmentation
from geolora_ref.arrays import Array, Inexact, namespace
from geolora_ref.integrators.integrator import Integrator, Step, TruncationRule
from geolora_ref.integrators.sub_equations import Factors, K_step, L_step, S_step
from geolora_ref.integrators.sub_solvers import RK4, SubSolver
from geolora_ref.lowrank import LowRank
from geolora_ref.problems.field import Field

__all__ = ["AugmentedBUG", "augmented", "augmented_bug_step"]


def augmented(B: Inexact[Array, "m p"], X: Inexact[Array, "m q"]) -> Inexact[Array, "m P"]:
    """[B | B̃] with range ⊇ range([B | X]); B stays exactly as it is."""
    return namespace(B).concat([B, basis_augmentation(B, X)], axis=1)


def augmented_bug_step(solver: SubSolver, field: Field, t: float, h: float, Y: Factors) -> Factors:
    """Û = aug(U₀, K₁), V̂ = aug(V₀, L₁), Galerkin S-step in them from S₀ padded with zeros; not
    truncated.
    """
    U_hat = augmented(Y.U, K_step(solver, field, t, h, Y))
    V_hat = augmented(Y.V, L_step(solver, field, t, h, Y))
    start = Y.in_bases(U_hat, V_hat)
    return Factors(U_hat, S_step(solver, field, t, h, start), V_hat)


@dataclass(frozen=True)
class AugmentedBUG(Integrator):
    """BUG in bases of rank 2r that contain the old bases, followed by a truncation.

    The old state lies in the Galerkin space, so norm, energy and descent are preserved up to the
    errors of truncation and sub-solver.  Exact for F = Ȧ(t) with A(t) of rank r whose spaces turn
    by less than 90°, like :class:`~geolora_ref.integrators.BUG`.
    Source: [CKL22].
    """

    truncate: TruncationRule
    solver: SubSolver = RK4

    def advance(self, field: Field, t: float, Y: LowRank, h: float) -> Step:
        """One step."""
        return Step.truncated(
            self.truncate(augmented_bug_step(self.solver, field, t, h, Factors(*Y)), h)
        )

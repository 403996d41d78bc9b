"""The parallel, rank-adaptive BUG integrator [CKL24]: with explicit Euler on a gradient flow it is
GeoLoRA.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from geolora_ref import checks
from geolora_ref.algorithm import Truncation, assemble, basis_augmentation
from geolora_ref.arrays import H, namespace, norm
from geolora_ref.integrators.integrator import Integrator, Step, TruncationRule
from geolora_ref.integrators.sub_equations import Factors, K_step, L_step, S_step
from geolora_ref.integrators.sub_solvers import RK4, SubSolver
from geolora_ref.lowrank import LowRank
from geolora_ref.problems.field import Field

__all__ = ["ParallelBUG", "parallel_bug_step"]


def parallel_bug_step(solver: SubSolver, field: Field, t: float, h: float, Y: Factors) -> Factors:
    """Independent K-, L- and S-steps in the old bases; Û = [U | Ũ], V̂ = [V | Ṽ], Ŝ = [[S̄₁, L₁ᴴṼ],
    [ŨᴴK₁, 0]]; no truncation.
    """
    xp = namespace(Y.S)
    K, L, S = (substep(solver, field, t, h, Y) for substep in (K_step, L_step, S_step))
    U_tilde, V_tilde = basis_augmentation(Y.U, K), basis_augmentation(Y.V, L)
    S_hat = assemble(S, K, L, U_tilde, V_tilde)
    return Factors(xp.concat([Y.U, U_tilde], axis=1), S_hat, xp.concat([Y.V, V_tilde], axis=1))


@dataclass(frozen=True)
class ParallelBUG(Integrator):
    """K-, L- and S-step in parallel, and one truncation.

    For F = Ȧ(t) with A(t) of rank r the step is exact if and only if A(t₁) has no normal part at
    A(t₀), for example if one of the spaces of A stays.  Local error O(h²) + O(εh), ε the normal
    part of F.

    ``rejection`` : None, or the factor c ≥ 0 of the step rejection.  The step is repeated from the
    augmented bases, which doubles their rank and fills the lower right block, if nothing was
    truncated or if h‖ŨᴴF(t, Y₀)Ṽ‖ > c ϑ.  It is repeated at most ``max_rejections`` times, and
    never beyond full bases.  Rejection needs a tolerance: with fixed rank ϑ is 0.

    Raises ``ValueError`` for a factor that is not a finite number ≥ 0, or a ``max_rejections`` that
    is no integer ≥ 0.  Source: [CKL24].
    """

    truncate: TruncationRule
    solver: SubSolver = RK4
    rejection: float | None = None
    max_rejections: int = 4

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.rejection is not None:
            checks.nonnegative_number("rejection", self.rejection)
        checks.integer("max_rejections", self.max_rejections, 0)

    def advance(self, field: Field, t: float, Y: LowRank, h: float) -> Step:
        """One step."""
        start, rejections = Factors(*Y), 0
        while True:
            hat = parallel_bug_step(self.solver, field, t, h, start)
            cut = self.truncate(hat, h)
            if self.rejection is None:
                return Step.truncated(cut)
            eta = _normal_part(field, t, start, hat)
            rejected = _everything_kept(cut, hat) or h * eta > self.rejection * cut.theta
            if not rejected or rejections == self.max_rejections:
                return replace(
                    Step.truncated(cut), rejections=rejections, eta=eta, resolved=not rejected
                )
            start, rejections = start.in_bases(hat.U, hat.V), rejections + 1


def _normal_part(field: Field, t: float, start: Factors, hat: Factors) -> float:
    """η = ‖ŨᴴF(t, Y₀)Ṽ‖, the norm of F in the block where Ŝ is zero; 0 if a basis is full."""
    U_tilde, V_tilde = hat.U[:, start.U.shape[1] :], hat.V[:, start.V.shape[1] :]
    if 0 in (U_tilde.shape[1], V_tilde.shape[1]):
        return 0.0
    return norm(H(U_tilde) @ field.apply_right(t, start.product(), V_tilde))


def _everything_kept(cut: Truncation, hat: Factors) -> bool:
    """Return whether no direction was truncated although the bases could still grow."""
    return bool(cut.Y.rank == min(hat.S.shape) < min(cut.Y.shape))

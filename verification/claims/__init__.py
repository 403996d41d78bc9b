"""The claims, one file each, in the order of the mathematics."""

from verification.claim import Claim
from verification.claims import (
    convergence,
    curvature_tail,
    descent,
    equivariance,
    error_bound,
    limits,
    one_backward_pass,
    oracles,
    problems,
    rank_recovery,
    rank_stall,
    robustness,
    simultaneous_descent,
    stochastic,
    tangent_step,
    truncation,
)

__all__ = ["CLAIMS"]

CLAIMS: dict[str, Claim] = {
    module.CLAIM.id: module.CLAIM
    for module in (
        one_backward_pass,
        tangent_step,
        truncation,
        equivariance,
        limits,
        descent,
        convergence,
        stochastic,
        error_bound,
        robustness,
        curvature_tail,
        rank_stall,
        simultaneous_descent,
        rank_recovery,
        oracles,
        problems,
    )
}

"""The claims, one file each, in the order of the mathematics."""

from verification.claim import Claim
from verification.claims import (
    conservation,
    convergence,
    curvature_tail,
    descent,
    energy_descent,
    equivariance,
    error_bound,
    exactness,
    golden_figures,
    integrator_robustness,
    limits,
    local_error,
    one_backward_pass,
    oracles,
    order,
    parallel_is_geolora,
    physics,
    problems,
    rank_behaviour,
    rank_recovery,
    rank_stall,
    robustness,
    simultaneous_descent,
    stochastic,
    tangent_step,
    truncation,
    work_precision,
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
        parallel_is_geolora,
        order,
        local_error,
        exactness,
        integrator_robustness,
        rank_behaviour,
        conservation,
        energy_descent,
        golden_figures,
        physics,
        work_precision,
        oracles,
        problems,
    )
}

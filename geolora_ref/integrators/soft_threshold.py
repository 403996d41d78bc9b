"""Rank control by soft thresholding: each singular value is lowered by ϑ, to 0 at least [ITL25]."""

from __future__ import annotations

from dataclasses import dataclass

from geolora_ref import checks
from geolora_ref.algorithm import RankRule, Truncation
from geolora_ref.arrays import H, diagonal_matrix, namespace, norm, svd
from geolora_ref.integrators.integrator import TruncationRule
from geolora_ref.integrators.sub_equations import Factors
from geolora_ref.lowrank import LowRank

__all__ = ["SoftThreshold"]


@dataclass(frozen=True)
class SoftThreshold(TruncationRule):
    """Y₁ = P max(Σ − ϑI, 0) Qᴴ, the minimiser of ½‖Z − Ŷ‖² + ϑ‖Z‖_* over all Z (nuclear norm).

    A rule for every integrator that takes a :class:`TruncationRule`, with the same fields: ϑ is
    ``theta``, or ``tau`` times ‖Ŷ‖, or these per unit of time.  Unlike the truncation it is
    nonexpansive, ‖Y₁ − Z₁‖ ≤ ‖Ŷ − Ẑ‖, and the rank is at most s + (tail_{>s}(Ŷ)/ϑ)² for every s.
    The price is a bias: ϑ is taken off the singular values that stay.  ``discarded`` is ‖Ŷ − Y₁‖,
    at most ϑ times the root of the rank of Ŷ.

    Source: [ITL25], which uses it inside of an iteration that reduces ϑ; here it is the rule alone.
    """

    def __call__(self, Y: Factors, h: float) -> Truncation:
        """The soft threshold of U S Vᴴ after a step of size h."""
        P, sigma, Qh = svd(Y.S)
        size = norm(sigma)
        checks.finite_norm("soft threshold", "S", size)
        theta = (h if self.per_time else 1.0) * (
            self.tau * size if self.tau is not None else float(self.theta or 0.0)
        )
        xp = namespace(sigma)
        lowered = xp.where(sigma > theta, sigma - theta, 0.0 * sigma)
        above = int(xp.sum(xp.astype(sigma > theta, xp.int64)))
        most = min(self.max_rank or sigma.shape[0], *Y.U.shape, *Y.V.shape)
        rank = max(min(above, most), min(self.min_rank, most))
        rule = (
            RankRule.MAX_RANK
            if above > rank
            else RankRule.THRESHOLD
            if above == rank
            else RankRule.MIN_RANK
        )
        kept = LowRank(
            Y.U @ P[:, :rank], diagonal_matrix(lowered[:rank], Y.S), Y.V @ H(Qh)[:, :rank]
        )
        rest = xp.concat([sigma[:rank] - lowered[:rank], sigma[rank:]])
        return Truncation(
            Y=kept, singular_values=sigma, theta=theta, discarded=norm(rest), rank_rule=rule
        )

"""The report of an adapter's truncation."""

from __future__ import annotations

from dataclasses import dataclass

from geolora_ref.algorithm import RankRule

__all__ = ["TruncationReport"]


@dataclass(frozen=True)
class TruncationReport:
    """The last truncation of an adapter: the new rank, the rule that fixed it, the threshold ϑ, the
    norm of the discarded part.

    ``exact`` : by Householder QR, as the reference always does it; False where the fast method
    could trust Gram matrices.
    """

    rank: int
    rank_rule: RankRule
    theta: float
    discarded: float
    exact: bool

"""What a truncation of an adapter did."""

from __future__ import annotations

from dataclasses import dataclass

from geolora_ref.algorithm import RankRule

__all__ = ["TruncationReport"]


@dataclass(frozen=True)
class TruncationReport:
    """What the last truncation of an adapter did: the rank, the rule that fixed it, the threshold ϑ, the norm cut off.

    ``exact`` : by Householder's QR, as the reference always does it; False where the fast method could trust Gram matrices.
    """

    rank: int
    rank_rule: RankRule
    theta: float
    discarded: float
    exact: bool

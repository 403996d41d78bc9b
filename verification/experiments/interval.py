"""The one interval of all campaigns: Student's t over paired runs, and equivalence by two tests."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from scipy import stats

__all__ = ["Interval", "equivalent", "paired", "student", "verdict"]


class Interval(NamedTuple):
    """A mean and the ends of its interval."""

    mean: float
    low: float
    high: float

    def text(self, digits: int = 1, scale: float = 1.0) -> str:
        """Return "mean (low to high)" with signs, for a cell of a table."""
        mean, low, high = (f"{scale * value:+.{digits}f}" for value in self)
        return f"{mean} ({low} to {high})".replace("-", "\N{MINUS SIGN}")


def student(values: Sequence[float], level: float = 0.95) -> Interval:
    """Return the mean and its interval of Student's t; one value has an infinite interval.

    Raises ``ValueError`` if there is no value.
    """
    if not values:
        raise ValueError("values: expected at least one, found none")
    mean, half = statistics.fmean(values), math.inf
    if len(values) > 1:
        quantile = float(stats.t.ppf(0.5 * (1.0 + level), len(values) - 1))
        half = quantile * statistics.stdev(values) / math.sqrt(len(values))
    return Interval(mean, mean - half, mean + half)


def equivalent(values: Sequence[float], margin: float) -> bool:
    """Return whether two one-sided tests at 5 % put the mean within ±margin: the 90 % interval."""
    _, low, high = student(values, 0.9)
    return -margin <= low and high <= margin


def paired(one: Mapping[int, float], other: Mapping[int, float]) -> list[float]:
    """Return one less other for each seed that both have.

    Raises ``ValueError`` if they have no seed in common.
    """
    seeds = sorted(one.keys() & other.keys())
    if not seeds:
        raise ValueError(f"expected a seed in common, found {sorted(one)} and {sorted(other)}")
    return [one[seed] - other[seed] for seed in seeds]


def verdict(differences: Sequence[float], less: str, more: str) -> str:
    """Return ``less`` or ``more`` where the 95 % interval excludes 0 on that side."""
    _, low, high = student(differences)
    return less if high < 0.0 else more if low > 0.0 else "no difference is shown"

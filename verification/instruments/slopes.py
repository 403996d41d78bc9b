"""Observed orders of convergence, with what is needed to believe them; slopes on logarithmic axes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

__all__ = ["Slopes", "slope"]


@dataclass(frozen=True)
class Slopes:
    """Errors over a parameter that falls from level to level (a step size h, or a size ε).

    ``floor`` : what rounding and the reference leave uncertain in an error.  ``pairwise`` : the
    signed slopes between neighbouring levels, positive where the error falls with the parameter.
    ``window`` : the levels (first, last) that the verdict uses, in a row above 100 floors up to the
    last such level, at most four.  ``confidence`` : how far ``order`` may be off: half of the
    spread of the slopes in the window, plus what the floor may do to them.

    Raises ``ValueError`` for fewer than 5 levels, or parameters that do not fall.
    """

    parameter: Sequence[float]
    errors: Sequence[float]
    floor: float

    def __post_init__(self) -> None:
        if len(self.parameter) < 5 or len(self.parameter) != len(self.errors):
            raise ValueError(
                f"levels: expected at least 5, one error each, found {len(self.parameter)} and {len(self.errors)}"
            )
        if not np.all(np.diff(self.parameter) < 0.0):
            raise ValueError(f"parameter: expected falling values, found {list(self.parameter)}")

    @property
    def pairwise(self) -> list[float]:
        """log(e_i/e_{i+1}) / log(p_i/p_{i+1}), not a number where an error is 0 or infinite."""
        with np.errstate(all="ignore"):
            slopes = np.diff(np.log(self.errors)) / np.diff(np.log(self.parameter))
        return [float(slope) for slope in slopes]

    @property
    def window(self) -> tuple[int, int]:
        """The first and the last level of the window; empty (last < first + 1) where too few errors
        exceed the floor.
        """
        above = [i for i, error in enumerate(self.errors) if error > 100.0 * self.floor]
        first = last = above[-1] if above else 0
        while (
            first - 1 in above and last - first < 3
        ):  # no level of the window may be below the floor
            first -= 1
        return first, last

    @property
    def judged(self) -> list[float]:
        """The slopes in the window: three, or fewer where the floor shows."""
        first, last = self.window
        return self.pairwise[first:last]

    @property
    def order(self) -> float:
        """The mean slope in the window, not a number where it is empty."""
        return float(np.mean(self.judged)) if self.judged else float("nan")

    @property
    def confidence(self) -> float:
        """Half of the spread of the slopes in the window plus 2·floor/(smallest error · log ratio)."""
        if not self.judged:
            return float("inf")
        first, last = self.window
        ratio = float(np.log(self.parameter[first] / self.parameter[last])) / (last - first)
        return 0.5 * (max(self.judged) - min(self.judged)) + 2.0 * self.floor / (
            self.errors[last] * ratio
        )

    def off(self, expected: float) -> float:
        """The largest distance of ``order`` from the expected one that the confidence leaves possible.

        Infinite unless three slopes follow each other in the window, all of errors that exceed the
        floor 100 times.
        """
        first, last = self.window
        return abs(self.order - expected) + self.confidence if last - first == 3 else math.inf

    def words(self) -> str:
        """Order, confidence and window in one line."""
        first, last = self.window
        return f"{self.order:.2f} ± {self.confidence:.2f} ({self.parameter[first]:g} … {self.parameter[last]:g})"


def slope(x: Sequence[float], y: Sequence[float]) -> float:
    """The slope of the least-squares line through (log x, log y)."""
    return float(np.polyfit(np.log(x), np.log(y), 1)[0])

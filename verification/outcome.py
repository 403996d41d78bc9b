"""The outcome of a claim: results of its cases and controls, and every reason why the claim does
not stand.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from verification.claim import CaseResult, Claim, Control, Results

__all__ = ["ClaimOutcome", "Compared", "ControlOutcome"]


class Compared(NamedTuple):
    """One inequality: the number of comparisons, their median ratio, and the worst one (infinite if
    any is NaN or −∞).
    """

    name: str
    count: int  # type: ignore[assignment]
    median: float
    worst: float


@dataclass(frozen=True)
class ControlOutcome:
    """A negative control with its results, whose ratios *must* exceed the limit."""

    control: Control
    results: Results
    limit: float

    @property
    def worst(self) -> float:
        """The largest ratio; 0 without cases, since then nothing has failed."""
        return max((result.worst for result in self.results), default=0.0)

    @property
    def error(self) -> str:
        """Why the control could not be judged."""
        return next((result.error for result in self.results if result.error), "")

    @property
    def diverged(self) -> str:
        """The first case in which a run left every bound, and where; such a case is judged by the
        ratios before that.
        """
        return next(
            (f"{result.case}, {result.diverged}" for result in self.results if result.diverged), ""
        )

    @property
    def share(self) -> float:
        """The share of the cases in which an inequality fails."""
        return (
            sum(bool(self._failing(result)) for result in self.results) / len(self.results)
            if self.results
            else 0.0
        )

    @property
    def failed(self) -> set[str]:
        """The inequalities that failed, as they must; none for a control that broke down, or that
        fails in too few cases.
        """
        enough = not self.error and self.share >= self.control.share
        return (
            {name for result in self.results for name in self._failing(result)} if enough else set()
        )

    @property
    def shortfall(self) -> str:
        """The share of cases in which the control must fail and the share that was found, in words."""
        return f"it must fail in a share of {self.control.share:g} of its cases, found {self.share:.3g}"

    def _failing(self, result: CaseResult) -> set[str]:
        return {name for name, ratios in result.ratios.items() if any(map(self._fails, ratios))}

    def _fails(self, ratio: float) -> bool:
        return ratio > self.limit if math.isfinite(ratio) else self.control.infinite


@dataclass(frozen=True)
class ClaimOutcome:
    """A claim and everything that was measured for it."""

    claim: Claim
    results: Results
    controls: Sequence[ControlOutcome]

    @property
    def ratios(self) -> dict[str, list[float]]:
        """All ratios of all cases, by the name of the inequality."""
        collected: dict[str, list[float]] = {}
        for result in self.results:
            for name, values in result.ratios.items():
                collected.setdefault(name, []).extend(values)
        return collected

    @property
    def compared(self) -> list[Compared]:
        """Every inequality that was compared at all."""
        return [
            Compared(
                name, len(values), float(np.median(values)), CaseResult(name, {name: values}).worst
            )
            for name, values in self.ratios.items()
            if values
        ]

    @property
    def count(self) -> int:
        """How many comparisons were made that could have failed."""
        return sum(len(values) for values in self.ratios.values())

    @property
    def undecided(self) -> int:
        """How many comparisons decide nothing and are not counted."""
        return sum(result.undecided for result in self.results)

    @property
    def floor(self) -> int:
        """How many comparisons are needed: so many for each case of the plan."""
        return math.ceil(self.claim.floor * len(self.results))

    @property
    def worst(self) -> float:
        """The largest ratio over all cases; infinite without cases."""
        return max((result.worst for result in self.results), default=math.inf)

    @property
    def median(self) -> float:
        """The median ratio."""
        return float(
            np.median([value for values in self.ratios.values() for value in values] or [np.nan])
        )

    @property
    def problems(self) -> list[str]:
        """Every reason why this claim does not stand; empty if it does."""
        found = [
            f"case {result.case} broke: {result.error.splitlines()[0]}"
            for result in self.results
            if result.error
        ]
        found += [] if self.results else ["it has no cases"]
        found += [
            f"case {r.case}: hypothesis violated: {h}"
            for r in self.results
            for h in r.violated_hypotheses
        ]
        found += [
            f"case {r.case}: {_worst(r)} above {self.claim.limit:g}"
            for r in self.results
            if not r.error and r.worst > self.claim.limit
        ]
        if self.count < self.floor:
            found.append(f"only {self.count} comparisons, at least {self.floor} are needed")
        if self.undecided > self.claim.undecided * (self.count + self.undecided):
            total = self.count + self.undecided
            found.append(
                f"{self.undecided} of {total} comparisons decide nothing, a share of {self.claim.undecided:g} may"
            )
        for control in self.controls:
            if control.error:
                found.append(f"control {control.control.id} broke: {control.error.splitlines()[0]}")
            elif not control.results:
                found.append(f"control {control.control.id} has no cases")
            elif not control.failed:
                found.append(
                    f"control {control.control.id} passed (ratio {control.worst:.3g}), {control.shortfall}"
                )
        failed = {name for control in self.controls for name in control.failed}
        found += [f"no control fails: {name}" for name in self.ratios if name not in failed]
        return found

    @property
    def holds(self) -> bool:
        """Return whether nothing speaks against the claim: it holds, and every control fails."""
        return not self.problems

    @property
    def verdict(self) -> str:
        """Return whether the claim stands, in words."""
        return "holds" if self.holds else "does not stand"


def _worst(result: CaseResult) -> str:
    """The worst ratio, or why it counts as infinite."""
    if result.diverged:
        return f"diverged ({result.diverged}), which counts as a ratio"
    odd = sorted(
        {
            f"{value:g}"
            for values in result.ratios.values()
            for value in values
            if math.isnan(value) or value == -math.inf
        }
    )
    if odd:
        return f"ratio {' and '.join(odd)}, which counts as one"
    return (
        f"ratio {result.worst:.3g}"
        if any(result.ratios.values())
        else "nothing was compared, which counts as a ratio"
    )

"""A claim is data: what is stated, under which hypotheses, on which cases, and what must make it fail.

The runner, the report and the documentation read the same objects.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike

from geolora_ref.oracle.judges.criteria import FAIL

__all__ = [
    "CHOSEN",
    "EQUALITY",
    "STATISTICAL",
    "YES_OR_NO",
    "Case",
    "CaseResult",
    "Claim",
    "Control",
    "Figure",
    "Measurements",
    "Plan",
    "Results",
    "Table",
    "in_units",
]

Effort = Literal["quick", "full"]

GREATEST = 1e70
"""The largest entry of a run that continues: fourth powers of numbers up to here are finite, so a run
ends before any overflow.
"""


@dataclass(frozen=True)
class Plan:
    """How much to do, and from which seed."""

    effort: Effort = "quick"
    seed: int = 0

    def pick(self, quick: Any, full: Any) -> Any:
        """The value for this effort."""
        return quick if self.effort == "quick" else full


@dataclass(frozen=True)
class Case:
    """One unit of work: a stable id and plain data from which :attr:`Claim.check` can do it, in any
    process.
    """

    id: str
    parameters: Mapping[str, Any]

    def __getitem__(self, name: str) -> Any:
        return self.parameters[name]


@dataclass(frozen=True)
class CaseResult:
    """The measurements of one case.

    ``ratios`` : every ratio, by the name of the inequality.
    ``undecided`` : how many comparisons had no unique answer or lay at rounding level, so that they
    could not have failed.
    ``violated_hypotheses`` : the checked hypotheses that did not hold.
    ``series`` : data for the figures.
    ``diverged`` : where a run left every bound, in words: an infinite ratio.  Comparisons made
    before that count as usual.
    ``error`` : if the check itself broke, one line that says what happened and where, then the
    traceback.  Such a case never counts as the failure of a control.
    """

    case: str
    ratios: Mapping[str, Sequence[float]]
    undecided: int = 0
    violated_hypotheses: Sequence[str] = ()
    series: Mapping[str, Any] = field(default_factory=dict)
    error: str = ""
    diverged: str = ""

    @property
    def worst(self) -> float:
        """The largest ratio; infinite if a run diverged, if a ratio is NaN or −∞ (of a logarithm),
        or if none was compared.
        """
        if self.diverged:
            return math.inf
        values = [value for ratios in self.ratios.values() for value in ratios]
        if any(math.isnan(value) or value == -math.inf for value in values) or not (
            values or self.undecided
        ):
            return math.inf
        return max(values, default=0.0)


Results = Sequence[CaseResult]

CHOSEN = "the limit is chosen, not derived"
EQUALITY = "an equality up to rounding errors"
STATISTICAL = "an equality of means, judged within the confidence of the runs"
YES_OR_NO = "a count, or yes or no"
"""Reasons why no case comes near to a limit."""


def in_units(error: float, unit: float) -> float:
    """The ratio error/unit; for unit 0 it is 0 where the error is 0, and infinite elsewhere."""
    if unit == 0.0:
        return 0.0 if error == 0.0 else math.inf
    return error / unit


class Measurements:
    """Collects the ratios of one case."""

    def __init__(self) -> None:
        self.ratios: dict[str, list[float]] = defaultdict(list)
        self.undecided = 0
        self.violated: list[str] = []
        self.series: dict[str, Any] = {}
        self.diverged = ""

    def ratio(self, name: str, value: float) -> None:
        """Record a ratio as it is."""
        self.ratios[name].append(float(value))

    def at_most(self, name: str, measured: float, bound: float, rounding: float = 0.0) -> None:
        """Record measured ≤ bound as a ratio.

        ``rounding`` is the most that rounding may add to ``measured``.  Where the bound is at most
        ten times ``rounding``, a comparison that passes decides nothing and counts as undecided;
        one that fails is recorded.  A bound that is not finite bounds nothing and gives an infinite
        ratio.
        """
        if not math.isfinite(bound + rounding):
            self.ratio(name, math.inf)
            return
        limit = bound + rounding
        ratio = measured / limit if limit > 0.0 else (0.0 if measured <= limit else math.inf)
        if bound <= 10.0 * rounding and ratio <= 1.0:
            self.undecided += 1
        else:
            self.ratio(name, max(ratio, 0.0))

    def require(self, hypothesis: str, holds: bool) -> None:
        """Record that a hypothesis was checked; a violated one invalidates the case."""
        if not holds and hypothesis not in self.violated:
            self.violated.append(hypothesis)

    def diverges(self, where: str, *matrices: ArrayLike) -> bool:
        """Return whether an entry is beyond ``GREATEST`` or NaN; if so the divergence is recorded,
        and the caller must end the run.
        """
        if all(np.max(np.abs(A), initial=0.0) <= GREATEST for A in matrices):
            return False
        self.diverged = f"{where}: an entry beyond {GREATEST:g}"
        return True

    def result(self, case: Case) -> CaseResult:
        """Everything that was collected."""
        ratios, violated = dict(self.ratios), tuple(self.violated)
        return CaseResult(
            case.id, ratios, self.undecided, violated, self.series, diverged=self.diverged
        )


def _texts(owner: object, *names: str) -> None:
    """Raise ``ValueError`` unless all of these attributes say something."""
    empty = [
        name
        for name in names
        if not isinstance(getattr(owner, name), str) or not getattr(owner, name).strip()
    ]
    if empty:
        raise ValueError(
            f"{type(owner).__name__}: expected a text for {', '.join(empty)}, found {getattr(owner, empty[0])!r}"
        )


@dataclass(frozen=True)
class Figure:
    """A picture drawn from the results of a claim: ``draw(axes, results)`` on one matplotlib Axes."""

    title: str
    caption: str
    draw: Callable[[Any, Results], None]

    def __post_init__(self) -> None:
        _texts(self, "title", "caption")


@dataclass(frozen=True)
class Table:
    """A table made from the results of a claim: ``rows(results)``, the first row is the head."""

    title: str
    rows: Callable[[Results], Sequence[Sequence[str]]]

    def __post_init__(self) -> None:
        _texts(self, "title")


@dataclass(frozen=True)
class Control:
    """A negative control: something wrong, or a violated hypothesis, for which the claim *must* fail.

    ``share`` : the least share of its cases in which an inequality must fail, below 1 only where
    some cases cannot show the defect.  ``infinite`` : whether a ratio that is not finite counts as
    a failure, for claims that report the defect in this way; for all others it is a breakdown that
    proves nothing.
    """

    id: str
    why: str
    cases: Callable[[Plan], Iterable[Case]]
    check: Callable[[Case], CaseResult]
    share: float = 1.0
    infinite: bool = False

    def __post_init__(self) -> None:
        _texts(self, "id", "why")


@dataclass(frozen=True)
class Claim:
    """A guarantee as data: the statement, its hypotheses, the cases that test it, and its negative
    controls.
    """

    id: str
    title: str
    section: str
    """The heading in the theory pages under which the guarantee is stated, empty if none states it."""
    statement: str
    hypotheses: Sequence[str]
    sources: Sequence[str]
    cases: Callable[[Plan], Iterable[Case]]
    check: Callable[[Case], CaseResult]
    controls: Sequence[Control]
    """The negative controls: every inequality must fail in at least one of them."""
    floor: float
    """The least number of ratios that a case must compare on average, so that nothing passes by
    checking nothing.  It follows from the lengths of the runs, not from what one machine has found.
    """
    explanation: str
    """The way in which the claim is checked, and what the statement does not say."""
    undecided: float = 0.0
    """The largest share of comparisons that may decide nothing, at rounding level or for want of a
    unique answer.
    """
    by_nature: Sequence[str] = ()
    """The comparisons whose ratio is 1 wherever they hold, because they count, or say yes or no.
    There 1 is no sign of a sharp bound, and the report says so.
    """
    slack: Mapping[str, str] = field(default_factory=dict)
    """The comparisons that no case of the quick plan brings to 0.8 of the limit, each with the reason;
    a limit of 0.8 would pass there as well, and the report says so.
    """
    limit: float = 1.0
    """The largest ratio that still holds: 1 for an inequality with explicit constants, ``FAIL`` for
    one in rounding units c·eps·s.
    """
    scale: str = ""
    """The natural size s of the compared quantity, in words."""
    figures: Sequence[Figure] = ()
    tables: Sequence[Table] = ()

    def __post_init__(self) -> None:
        _texts(
            self,
            "id",
            "title",
            "statement",
            "explanation",
            *(["scale"] if self.limit == FAIL else []),
        )
        ids = [control.id for control in self.controls]
        if len(set(ids)) < len(ids):
            raise ValueError(f"controls: expected an id of its own for each, found {ids}")

    @property
    def unit(self) -> str:
        """The unit of a ratio, in words."""
        return "rounding units" if self.limit == FAIL else "of the bound"

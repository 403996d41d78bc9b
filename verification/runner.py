"""One runner for all claims: enumerate the cases, do what the journal does not have yet, and judge."""

from __future__ import annotations

import math
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass

import numpy as np
from threadpoolctl import threadpool_limits

from verification.backends import in_processes, on_dask
from verification.claim import Case, CaseResult, Claim, Control, Plan, Results
from verification.claims import CLAIMS
from verification.journal import Journal
from verification.tightness import Record, changes, recorded

__all__ = ["ClaimOutcome", "Compared", "ControlOutcome", "Unit", "key", "outcome", "records", "run", "units", "work"]


@dataclass(frozen=True)
class Compared:
    """An inequality: how often it was compared, and the ratios; the worst one is infinite if any is not a number."""

    name: str
    count: int
    median: float
    worst: float


@dataclass(frozen=True)
class ControlOutcome:
    """A negative control and what it measured; it *must* exceed the limit."""

    control: Control
    results: Results
    limit: float

    @property
    def worst(self) -> float:
        """The largest ratio; 0 without cases, in which nothing has failed."""
        return max((result.worst for result in self.results), default=0.0)

    @property
    def error(self) -> str:
        """Why the control could not be judged."""
        return next((result.error for result in self.results if result.error), "")

    @property
    def share(self) -> float:
        """The share of the cases in which an inequality fails."""
        return sum(bool(self._failing(result)) for result in self.results) / len(self.results) if self.results else 0.0

    @property
    def failed(self) -> set[str]:
        """The inequalities that failed, as they must; none for a control that broke down, or that fails in too few cases."""
        enough = not self.error and self.share >= self.control.share
        return {name for result in self.results for name in self._failing(result)} if enough else set()

    @property
    def shortfall(self) -> str:
        """What it must do and does not."""
        return f"it must fail in a share of {self.control.share:g} of its cases, found {self.share:.3g}"

    def _failing(self, result: CaseResult) -> set[str]:
        return {name for name, ratios in result.ratios.items() if any(map(self._fails, ratios))}

    def _fails(self, ratio: float) -> bool:
        return ratio > self.limit if math.isfinite(ratio) else self.control.infinite


@dataclass(frozen=True)
class ClaimOutcome:
    """A claim and everything that was measured for it from a seed; ``record``: how sharp it was, None where nothing is on it."""

    claim: Claim
    results: Results
    controls: Sequence[ControlOutcome]
    record: Record | None = None
    seed: int = 0

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
            Compared(name, len(values), float(np.median(values)), CaseResult(name, {name: values}).worst)
            for name, values in self.ratios.items()
            if values
        ]

    @property
    def count(self) -> int:
        """How many comparisons were made that could have failed."""
        return sum(len(values) for values in self.ratios.values())

    @property
    def undecided(self) -> int:
        """How many comparisons are not counted."""
        return sum(result.undecided for result in self.results)

    @property
    def floor(self) -> int:
        """How many comparisons are needed: those of the quick plan for each of its cases."""
        quick = sum(1 for _ in self.claim.cases(Plan())) or 1
        return self.claim.floor * max(len(self.results), quick) // quick

    @property
    def worst(self) -> float:
        """The largest ratio over all cases."""
        return max(result.worst for result in self.results)

    @property
    def median(self) -> float:
        """The median ratio."""
        return float(np.median([value for values in self.ratios.values() for value in values] or [np.nan]))

    @property
    def problems(self) -> list[str]:
        """Every reason why this claim does not stand; empty if it does."""
        found = [f"case {result.case} broke: {result.error.splitlines()[-1]}" for result in self.results if result.error]
        found += [f"case {r.case}: hypothesis violated: {h}" for r in self.results for h in r.violated_hypotheses]
        found += [
            f"case {r.case}: ratio {r.worst:.3g} above {self.claim.limit:g}"
            for r in self.results
            if not r.error and r.worst > self.claim.limit
        ]
        if self.count < self.floor:
            found.append(f"only {self.count} comparisons, at least {self.floor} are needed")
        if self.undecided > self.claim.undecided * (self.count + self.undecided):
            total = self.count + self.undecided
            found.append(f"{self.undecided} of {total} comparisons decide nothing, a share of {self.claim.undecided:g} may")
        for control in self.controls:
            if control.error:
                found.append(f"control {control.control.id} broke: {control.error.splitlines()[-1]}")
            elif not control.results:
                found.append(f"control {control.control.id} has no cases")
            elif not control.failed:
                found.append(f"control {control.control.id} passed (ratio {control.worst:.3g}), {control.shortfall}")
        failed = {name for control in self.controls for name in control.failed}
        found += [f"no control fails: {name}" for name in self.ratios if name not in failed]
        return found if found or self.record is None else changes(self, self.record, self.seed)

    @property
    def holds(self) -> bool:
        """The claim holds and every control fails."""
        return not self.problems


Unit = tuple[str, str, Case]
"""A claim, one of its controls ("": its own check), and a case."""


def units(claims: Sequence[Claim], plan: Plan) -> list[Unit]:
    """Everything that there is to do for these claims, themselves first and then their controls."""
    own: list[Unit] = [(claim.id, "", case) for claim in claims for case in claim.cases(plan)]
    return own + [(claim.id, control.id, case) for claim in claims for control in claim.controls for case in control.cases(plan)]


def key(unit: Unit) -> str:
    """The name of a unit."""
    claim, control, case = unit
    return f"{claim} | {control} | {case.id}"


def work(unit: Unit) -> CaseResult:
    """Do one unit, in whatever process this is; a check that raises gives a result that tells the error."""
    claim_id, control_id, case = unit
    claim = CLAIMS[claim_id]
    check = claim.check if not control_id else next(c for c in claim.controls if c.id == control_id).check
    try:
        # One thread: the matrices are small, and processes that share cores by threads slow each other down.  Broken backends
        # overflow: results are judged, not warnings.
        with threadpool_limits(1), np.errstate(all="ignore"):
            return check(case)
    except Exception:  # a broken check must not stop the others; it is reported and counts as a failure
        return CaseResult(case.id, {}, error=traceback.format_exc())


def run(
    claims: Sequence[Claim],
    plan: Plan,
    journal: Journal,
    *,
    jobs: int,
    scheduler: str | None = None,
    progress: Callable[[str, int, int], None] = lambda name, done, total: None,
) -> list[ClaimOutcome]:
    """Check these claims; ``progress(claim id, done, total)`` is called as cases finish.

    The work is done by ``jobs`` processes of this machine, or, if it is given, by the Dask cluster with this ``scheduler``; the
    journal is written here.  Interrupted (by an exception or a signal), everything that had finished is in the journal; what
    raised is not: memory or a disk may have been short, and another run tries it again.
    Raises ``BackendError`` if whoever should work is missing, has other sources, or dies.
    """
    asked = units(claims, plan)
    keys = [key(unit) for unit in asked]
    if len(set(keys)) != len(keys):
        raise ValueError(f"case ids must be unique, found twice: {next(name for name in keys if keys.count(name) > 1)}")
    found = dict(journal.done)
    todo = [unit for unit in asked if key(unit) not in found]
    total = len(asked)
    progress("resumed" if len(todo) < total else "starting", total - len(todo), total)
    finished = in_processes(_labelled, todo, jobs) if scheduler is None else on_dask(_labelled, todo, scheduler)
    try:
        with closing(finished):
            for done, (unit, result) in enumerate(finished, total - len(todo) + 1):
                if not result.error:
                    journal.add(key(unit), result)
                found[key(unit)] = journal.done.get(key(unit), result)  # as a later run reads it
                progress(unit[0], done, total)
    finally:
        journal.close()
    return [outcome(claim, plan, found) for claim in claims]


def _labelled(unit: Unit) -> tuple[Unit, CaseResult]:
    return unit, work(unit)


def outcome(claim: Claim, plan: Plan, found: Mapping[str, CaseResult]) -> ClaimOutcome:
    """The outcome of a claim from the results of its units, by their keys; the quick plan is held against the record."""

    def results(control: str, cases: Sequence[Case]) -> Results:
        return [found[key((claim.id, control, case))] for case in cases]

    controls = [ControlOutcome(c, results(c.id, list(c.cases(plan))), claim.limit) for c in claim.controls]
    return ClaimOutcome(claim, results("", list(claim.cases(plan))), controls, records(plan).get(claim.id), plan.seed)


def records(plan: Plan) -> Mapping[str, Record]:
    """What a plan is held against, by claim: the record for the quick one, nothing for others.

    Raises ``ValueError`` or ``OSError`` that names the file if the record cannot be read.
    """
    return recorded() if plan.effort == "quick" else {}

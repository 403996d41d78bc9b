"""One runner for all claims: enumerate the cases, do those that the journal lacks, and judge."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
from threadpoolctl import ThreadpoolController

from verification.campaign.backends import in_processes, on_dask
from verification.campaign.extensions import NONE, Extensions, added
from verification.campaign.journal import Journal
from verification.campaign.outcomes import ClaimOutcome, ControlOutcome
from verification.campaign.record import ADVICE, ClaimRecord, changes, recorded
from verification.claim import Case, CaseResult, Claim, Plan, Results
from verification.claims import CLAIMS

__all__ = ["Unit", "in_a_line", "key", "outcome", "records", "run", "units", "work"]


Unit = tuple[str, str, Case]
"""A claim, one of its controls ("": its own check), and a case."""


def units(claims: Sequence[Claim], plan: Plan) -> list[Unit]:
    """All units of these claims: first the cases of the claims, then those of their controls."""
    own: list[Unit] = [(claim.id, "", case) for claim in claims for case in claim.cases(plan)]
    return own + [
        (claim.id, control.id, case)
        for claim in claims
        for control in claim.controls
        for case in control.cases(plan)
    ]


def key(unit: Unit) -> str:
    """The name of a unit."""
    claim, control, case = unit
    return f"{claim} | {control} | {case.id}"


def work(unit: Unit) -> CaseResult:
    """Do one unit, in whatever process this is; a check that raises gives a result that states the error."""
    claim_id, control_id, case = unit
    claim = CLAIMS[claim_id]
    check = (
        claim.check
        if not control_id
        else next(c for c in claim.controls if c.id == control_id).check
    )
    try:
        # One thread: the matrices are small, and processes that share cores by threads slow each
        # other down.  Broken backends overflow: results are judged, not warnings.
        with _thread_pools(len(sys.modules)).limit(limits=1), np.errstate(all="ignore"):
            result: object = check(case)
        if not isinstance(result, CaseResult):
            raise TypeError(f"expected a CaseResult, the check of {claim_id} returned {result!r}")
        return result
    except (
        Exception,
        SystemExit,
    ) as error:  # a broken check must not stop the others; it is reported and counts as a failure
        return _broken(case, error)


@lru_cache(maxsize=1)
def _thread_pools(modules: int) -> ThreadpoolController:
    """The thread pools of the loaded libraries, searched again when more modules are loaded: it
    takes longer than many a check.
    """
    return ThreadpoolController()


def _broken(case: Case, error: BaseException) -> CaseResult:
    """The result of a case that broke: what happened and where, then the traceback."""
    return CaseResult(
        case.id, {}, error=f"{in_a_line(error)}\n{''.join(traceback.format_exception(error))}"
    )


def in_a_line(error: BaseException) -> str:
    """The error's kind, the first line of its text, and the innermost place of its traceback."""
    said = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    place = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {said} ({Path(place.filename).name}:{place.lineno})"


def run(
    claims: Sequence[Claim],
    plan: Plan,
    journal: Journal,
    *,
    jobs: int,
    scheduler: str | None = None,
    extensions: Extensions = NONE,
    unrecorded: Collection[str] = (),
    progress: Callable[[str, int, int], None] = lambda name, done, total: None,
) -> list[ClaimOutcome]:
    """Check these claims; ``progress(claim id, done, total)`` is called as cases finish.

    The work is done by ``jobs`` processes of this machine or, if given, by the Dask cluster with
    this ``scheduler``.  The workers add ``extensions``; in this process they must be added already.
    ``unrecorded`` : ids of claims that the extensions change.  This process writes the journal:
    after an interruption (an exception or a signal) it has every case that finished.  Cases that
    raised are left out of it: memory or a disk may have been short, and another run tries them
    again.  Raises ``BackendError`` if processes or workers are missing, have other sources, or die.
    """
    wanted = units(claims, plan)
    keys = [key(unit) for unit in wanted]
    if len(set(keys)) != len(keys):
        raise ValueError(
            f"expected cases with ids of their own, found twice: {next(x for x in keys if keys.count(x) > 1)}"
        )
    found = dict(journal.done)
    todo = [unit for unit in wanted if key(unit) not in found]
    total = len(wanted)
    progress("resumed" if len(todo) < total else "starting", total - len(todo), total)
    labelled = partial(_labelled, extensions)
    finished = (
        in_processes(labelled, todo, jobs)
        if scheduler is None
        else on_dask(labelled, todo, scheduler)
    )
    try:
        with closing(finished):
            for done, (unit, result) in enumerate(finished, total - len(todo) + 1):
                if not result.error:
                    result = _kept(journal, unit, result)
                found[key(unit)] = journal.done.get(key(unit), result)  # as a later run reads it
                progress(unit[0], done, total)
    finally:
        journal.close()
    return [outcome(claim, plan, found, on_record=claim.id not in unrecorded) for claim in claims]


def _kept(journal: Journal, unit: Unit, result: CaseResult) -> CaseResult:
    """The result, after it went into the journal; a result that cannot be written as JSON counts as
    broken.
    """
    try:
        journal.add(key(unit), result)
    except (TypeError, ValueError) as error:
        return _broken(unit[2], error)
    return result


def _labelled(extensions: Extensions, unit: Unit) -> tuple[Unit, CaseResult]:
    with added(extensions):
        return unit, work(unit)


def outcome(
    claim: Claim, plan: Plan, found: Mapping[str, CaseResult], *, on_record: bool = True
) -> ClaimOutcome:
    """The outcome of a claim from the results of its units, by their keys; the quick plan is held
    against the record.

    ``on_record`` : whether the record covers the claim: their cases are the same.
    """

    def results(control: str, cases: Sequence[Case]) -> Results:
        return [found[key((claim.id, control, case))] for case in cases]

    controls = [
        ControlOutcome(c, results(c.id, list(c.cases(plan))), claim.limit) for c in claim.controls
    ]
    bare = ClaimOutcome(claim, results("", list(claim.cases(plan))), controls, on_record=on_record)
    record = records(plan).get(claim.id) if on_record else None
    if bare.problems or record is None:
        return bare
    try:
        return replace(
            bare, changes=[f"{change} ({ADVICE})" for change in changes(bare, record, plan.seed)]
        )
    except Exception as error:  # of a table, which the report tries again and reports by its name
        return replace(
            bare, broken=[f"what it measured cannot be held against the record: {in_a_line(error)}"]
        )


def records(plan: Plan) -> Mapping[str, ClaimRecord]:
    """The records that a plan is compared with, by claim: all for the quick plan, none for others.

    Raises ``ValueError`` or ``OSError`` that names the file if the record cannot be read.
    """
    return recorded() if plan.effort == "quick" else {}

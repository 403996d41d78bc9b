"""One runner for all claims: enumerate the cases, do those that no interrupted run has finished, judge."""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from functools import lru_cache
from importlib import import_module
from pathlib import Path

import joblib
import numpy as np
from joblib.externals.loky.process_executor import BrokenProcessPool
from threadpoolctl import ThreadpoolController

from verification.claim import Case, CaseResult, Claim, Plan
from verification.claims import CLAIMS
from verification.outcome import ClaimOutcome, ControlOutcome
from verification.support.machine import machine_facts, provenance

__all__ = ["RunnerError", "Unit", "cache_of", "in_a_line", "key", "outcome", "run", "units", "work"]

Unit = tuple[str, str, Case]
"""A claim, one of its controls ("": its own check), and a case."""


class RunnerError(RuntimeError):
    """A process that should run the cases is dead."""


def units(claims: Sequence[Claim], plan: Plan) -> list[Unit]:
    """All units of these claims: first the cases of the claims, then those of their controls.

    Raises ``ValueError`` for two cases of the same name.
    """
    found: list[Unit] = [(claim.id, "", case) for claim in claims for case in claim.cases(plan)]
    for claim in claims:
        for control in claim.controls:
            found += [(claim.id, control.id, case) for case in control.cases(plan)]
    names = [key(unit) for unit in found]
    if len(set(names)) != len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"expected cases with ids of their own, found twice: {twice}")
    return found


def key(unit: Unit) -> str:
    """The name of a unit."""
    claim, control, case = unit
    return f"{claim} | {control} | {case.id}"


def measure(unit: Unit) -> CaseResult:
    """Do one unit, in whatever process this is; a broken check raises."""
    claim_id, control_id, case = unit
    claim = CLAIMS[claim_id]
    controls = {control.id: control.check for control in claim.controls}
    # One thread: the matrices are small, and processes that share cores by threads slow each
    # other down.  Broken backends overflow: results are judged, not warnings.
    with _thread_pools(len(sys.modules)).limit(limits=1), np.errstate(all="ignore"):
        result: object = (controls[control_id] if control_id else claim.check)(case)
    if not isinstance(result, CaseResult):
        raise TypeError(f"expected a CaseResult, the check of {claim_id} returned {result!r}")
    return result


def work(unit: Unit, cache: Path | None = None, modules: Sequence[str] = ()) -> CaseResult:
    """The result of one unit: from the cache if it is there, else measured and kept in the cache.

    A check that raises gives a result that states the error.  It is not kept: memory or a disk may
    have been short.  ``modules`` are imported first; they add claims or members of families.
    """
    for name in modules:
        import_module(name)
    try:
        if cache is None:
            return measure(unit)
        cached = joblib.Memory(cache, verbose=0).cache(measure)
        damaged = f"{cache}: {key(unit)} is damaged; the case is done again\n"
        cached.warn = lambda text: sys.stderr.write(damaged)  # joblib's own prints the traceback
        result: CaseResult = cached(unit)
        return result
    except (Exception, SystemExit) as error:  # a broken check must not stop the others
        text = f"{in_a_line(error)}\n{''.join(traceback.format_exception(error))}"
        return CaseResult(unit[2].id, {}, error=text)


@lru_cache(maxsize=1)
def _thread_pools(modules: int) -> ThreadpoolController:
    """The thread pools of the loaded libraries, searched again when more modules are loaded: it
    takes longer than many a check.
    """
    return ThreadpoolController()


def in_a_line(error: BaseException) -> str:
    """The error's kind, the first line of its text, and the innermost place of its traceback."""
    said = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    place = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {said} ({Path(place.filename).name}:{place.lineno})"


def cache_of(folder: Path, plan: Plan) -> Path:
    """The place of the results that an interrupted run of this plan has kept in this folder.

    The name depends on everything that determines the results: the plan, the sources, the versions
    and the processor.
    """
    facts = {name: fact for name, fact in machine_facts().items() if name not in ("date", "commit")}
    about = json.dumps([asdict(plan), provenance()["sources"], facts])
    return folder / f"unfinished-{hashlib.sha256(about.encode()).hexdigest()[:16]}"


def run(
    claims: Sequence[Claim],
    plan: Plan,
    *,
    jobs: int = 1,
    cache: Path | None = None,
    modules: Sequence[str] = (),
    progress: Callable[[str, int, int], None] = lambda name, done, total: None,
) -> list[ClaimOutcome]:
    """Check these claims; ``progress(claim id, done, total)`` is called as cases finish.

    An interrupted run leaves the cases that it has finished in ``cache``, and the same run continues
    from there; a run that ends removes it.  Raises :class:`RunnerError` if a process dies.
    """
    wanted, found = units(claims, plan), dict[str, CaseResult]()
    with _workers():
        parallel = joblib.Parallel(jobs, return_as="generator_unordered", batch_size=1)
        tasks = (joblib.delayed(_labelled)(unit, cache, modules) for unit in wanted)
        progress("starting", 0, len(wanted))
        for unit, result in parallel(tasks):
            found[key(unit)] = result
            progress(unit[0], len(found), len(wanted))
    if cache is not None:
        shutil.rmtree(cache, ignore_errors=True)
    return [outcome(claim, plan, found) for claim in claims]


def _labelled(unit: Unit, cache: Path | None, modules: Sequence[str]) -> tuple[Unit, CaseResult]:
    return unit, work(unit, cache, modules)


@contextmanager
def _workers() -> Iterator[None]:
    """A context in which joblib runs cases.  Raises :class:`RunnerError`."""
    try:
        with warnings.catch_warnings():
            # loky replaces a worker that has grown by 300 MB, as imports let it grow; no case is lost
            warnings.filterwarnings("ignore", "A worker stopped while some jobs", UserWarning)
            yield
    except BrokenProcessPool as error:
        raise RunnerError("a worker was killed, ran out of memory, or crashed") from error


def outcome(claim: Claim, plan: Plan, found: Mapping[str, CaseResult]) -> ClaimOutcome:
    """The outcome of a claim from the results of its units, by their keys."""

    def results(control: str, cases: Sequence[Case]) -> list[CaseResult]:
        return [found[key((claim.id, control, case))] for case in cases]

    controls = [
        ControlOutcome(control, results(control.id, list(control.cases(plan))), claim.limit)
        for control in claim.controls
    ]
    return ClaimOutcome(claim, results("", list(claim.cases(plan))), controls)

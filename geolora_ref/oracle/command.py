"""The commands ``check``, ``check-rule``, ``scoreboard`` and ``vectors``, imported after
the options because that takes a second.
"""

from __future__ import annotations

import argparse
import faulthandler
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stdout, suppress
from functools import partial
from pathlib import Path

from geolora_ref.oracle import directions
from geolora_ref.oracle.cases.known_failures import checked, read_known_failures
from geolora_ref.oracle.cases.own import shape
from geolora_ref.oracle.check import check_step
from geolora_ref.oracle.directions import RuleReport
from geolora_ref.oracle.jobs import Jobs
from geolora_ref.oracle.reports.report import Interrupted, Report
from geolora_ref.oracle.reports.scoreboard import read_report, scoreboard
from geolora_ref.oracle.reports.text import summary
from geolora_ref.oracle.reproduce import reproduction
from geolora_ref.oracle.reproduce_rule import rule_reproduction
from geolora_ref.oracle.trial.load import harness_options, load_backend, load_harness
from geolora_ref.support.files import require_writable, write_atomically
from geolora_ref.support.options import BACKEND_OPTIONS, INTERRUPTED
from geolora_ref.support.streams import kept, tell

__all__ = ["check", "check_rule", "table", "vectors"]


def check(options: argparse.Namespace) -> int:
    """``geolora-ref check``; an interrupted run reports its results so far."""
    return _judge(_check_step, options)


def check_rule(options: argparse.Namespace) -> int:
    """``geolora-ref check-rule``; an interrupted run reports its results so far."""
    return _judge(_check_rule, options)


def _judge(
    judge: Callable[[argparse.Namespace], Report | RuleReport | str], options: argparse.Namespace
) -> int:
    """Print what ``judge`` returns, a report or a script, and write the JSON file."""
    file = _writable(options.json)
    sys.path.insert(0, os.getcwd())
    with suppress(RuntimeError, ValueError, OSError, AttributeError):  # no standard error
        faulthandler.enable()
    verdict, status = "", None
    try:
        with kept():
            report = judge(options)
    except Interrupted as stopped:
        report, verdict, status = stopped.report, "INTERRUPTED", INTERRUPTED
    if isinstance(report, str):  # a script
        tell(report)
        return 0
    # before the file, which may fail
    tell(summary(report, verdict) if isinstance(report, Report) else report.summary())
    _write_json(report, file)
    return status or (0 if report else 1)


def _check_step(options: argparse.Namespace) -> Report | str:
    """The report on a step, or with ``--reproduce`` the script."""
    names = ("backend", *BACKEND_OPTIONS)
    given = {name: getattr(options, name.replace("-", "_")) for name in names}
    shapes = tuple(map(shape, options.shape))
    backend, keywords = load_backend(options.backend), harness_options(given.__getitem__)
    if options.reproduce is not None:
        with redirect_stdout(sys.stderr):  # a backend may print, and the script is for Python
            return reproduction(backend, options.reproduce, shapes=shapes, **keywords)
    apart = options.jobs is not None or options.timeout is not None
    count = 1 if options.jobs is None else options.jobs
    jobs = Jobs(count, partial(load_harness, given), options.timeout) if apart else None
    listed = read_known_failures(options.xfail) if options.xfail else {}
    keywords["name"] = options.name or keywords["name"]
    return check_step(
        backend,
        **keywords,
        select=_selection(options.tests),
        quick=options.quick,
        shapes=shapes,
        fuzz=options.fuzz,
        seed=options.seed,
        repeat=options.repeat,
        fail_fast=options.fail_fast,
        answers=jobs,
        xfail=checked(listed, str(options.xfail)),
        progress=_progress,
    )


def _check_rule(options: argparse.Namespace) -> RuleReport | str:
    """The report on an optimizer's directions, or with ``--reproduce`` the script."""
    names = ("momentum", "smoothing", "array", "dtype", "device")
    settings = {name: getattr(options, name) for name in names if hasattr(options, name)}
    rule, selected = load_backend(options.backend), dict(_selection(options.tests))
    if options.reproduce is not None:
        wanted = options.backend, options.reproduce, options.rule
        with redirect_stdout(sys.stderr):
            return rule_reproduction(rule, *wanted, **settings)
    settings |= {"select": selected.pop("id", ""), "fail_fast": options.fail_fast}
    if selected:
        raise ValueError(f"--tests: expected id=… for a rule, found {', '.join(selected)}")
    name = options.name or options.backend
    return directions.check_rule(rule, options.rule, **settings, name=name)


def table(options: argparse.Namespace) -> int:
    """``geolora-ref scoreboard``."""
    tell(scoreboard([*map(read_report, options.reports)]))
    return 0


def vectors(options: argparse.Namespace) -> int:
    """``geolora-ref vectors``; needs the extra "oracle".

    Raises ``ValueError`` for a report among the files that are read.
    """
    from geolora_ref.oracle import vectors
    from geolora_ref.oracle.vectors.diagnosis import diagnose_outputs, report_of

    if options.action == "export":
        tell(f"{len(vectors.export(options.directory))} files in {options.directory}")
        return 0
    if options.action == "check":
        differences = vectors.regenerate_and_compare()
        tell("\n".join(differences) or "the stored vectors are what is generated")
        return 1 if differences else 0
    folder, outputs = options.directory, options.outputs
    file = _writable(options.json)
    if file and file.resolve().parent in ((folder / "vectors").resolve(), outputs.resolve()):
        raise ValueError(f"--json: expected a file outside of the folders that are read: {file}")
    judgement, diagnosis = vectors.judge_outputs(folder, outputs), None
    for row in judgement.failures:
        tell(f"FAILED {row.id}: {row.finding}")
    if not judgement.passed:
        diagnosis = diagnose_outputs(vectors.load_vectors(folder), judgement)
    if diagnosis:
        tell(f"diagnosis: {diagnosis.text}")
    failed, worst = len(judgement.failures), judgement.worst_ratio
    tell(f"{len(judgement.rows)} vectors, {failed} failed, worst ratio {worst:.3g}")
    _write_json(report_of(options.name or outputs.name, folder, judgement, diagnosis), file)
    return 0 if judgement.passed else 1


def _writable(path: Path | None) -> Path | None:
    """The absolute path, since a backend may change the folder; ``OSError`` unless the file can be
    written.
    """
    if path is None:
        return None
    require_writable(path)
    return path.absolute()


def _write_json(report: Report | RuleReport, path: Path | None) -> None:
    """Write the report in UTF-8; a lone surrogate, which UTF-8 cannot hold, becomes an escape
    sequence of JSON.
    """
    if path is not None:
        text = json.dumps(report.as_data(), ensure_ascii=False, indent=1)
        write_atomically(path, text.encode(errors="backslashreplace"))


def _selection(tests: Sequence[str]) -> Mapping[str, str]:
    """The KEY=VALUE pairs as a mapping; ``ValueError`` for anything else and for a repeated key."""
    selected: dict[str, str] = {}
    for test in tests:
        key, _, value = test.partition("=")
        if not (key and value):
            raise ValueError(f"--tests: expected KEY=VALUE, found {test!r}")
        if key in selected:
            raise ValueError(f"--tests: expected each key once, found {key} twice")
        selected[key] = value
    return selected


def _progress(done: int, total: int) -> None:
    """One line that counts, on a terminal only."""
    with suppress(Exception):  # whatever the backend has put there
        if sys.stderr.isatty():
            text = f"{done}/{total} cases\r" if done < total else "\r\033[K"
            print(text, end="", file=sys.stderr, flush=True)

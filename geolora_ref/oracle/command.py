"""The commands ``geolora-ref check``, ``check-rule``, ``scoreboard`` and ``vectors``, imported after
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
from geolora_ref.oracle.reports.text import junit, summary
from geolora_ref.oracle.reproduce import reproduction
from geolora_ref.oracle.reproduce_rule import rule_reproduction
from geolora_ref.oracle.trial.load import harness_options, load_backend, load_harness
from geolora_ref.support.files import require_writable, write_atomically
from geolora_ref.support.options import BACKEND_OPTIONS, INTERRUPTED
from geolora_ref.support.streams import kept, tell

__all__ = ["check", "check_rule", "table", "vectors"]


def check(options: argparse.Namespace) -> int:
    """``geolora-ref check``; an interrupted run reports its results so far."""
    _require_writable(options, "junit")
    return _judge(_check_step, options)


def check_rule(options: argparse.Namespace) -> int:
    """``geolora-ref check-rule``; an interrupted run reports its results so far."""
    return _judge(_check_rule, options)


def _judge(
    judge: Callable[[argparse.Namespace], Report | RuleReport | str], options: argparse.Namespace
) -> int:
    """Print what ``judge`` returns, a report or a script, and write the files that the options name."""
    _require_writable(options, "json")
    sys.path.insert(0, os.getcwd())
    with suppress(
        RuntimeError, ValueError, OSError, AttributeError
    ):  # standard error is closed or no file
        faulthandler.enable()  # a crash in C prints the case that was running
    verdict, status = "", None
    try:
        with kept():
            report = judge(options)
    except Interrupted as stopped:
        report, verdict, status = stopped.report, "INTERRUPTED", INTERRUPTED
    if isinstance(report, str):  # a script
        tell(report)
        return 0
    tell(
        summary(report, verdict) if isinstance(report, Report) else report.summary()
    )  # before files, which may fail
    _write_reports(report, options)
    return status or (0 if report else 1)


def _check_step(options: argparse.Namespace) -> Report | str:
    """``geolora-ref check`` on a step: its report, or with ``--reproduce`` the script."""
    given = {
        name: getattr(options, name.replace("-", "_")) for name in ("backend", *BACKEND_OPTIONS)
    }
    shapes = tuple(map(shape, options.shape))
    jobs = Jobs(
        1 if options.jobs is None else options.jobs, partial(load_harness, given), options.timeout
    )
    backend, keywords = load_backend(options.backend), harness_options(given.__getitem__)
    if options.reproduce is not None:
        with redirect_stdout(
            sys.stderr
        ):  # a backend may print, and the script is to be read by Python
            return reproduction(backend, options.reproduce, shapes=shapes, **keywords)
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
        answers=None if options.jobs is jobs.timeout is None else jobs,
        xfail=checked(read_known_failures(options.xfail), str(options.xfail))
        if options.xfail
        else None,
        progress=_progress,
    )


def _check_rule(options: argparse.Namespace) -> RuleReport | str:
    """``geolora-ref check-rule``: the report on an optimizer's directions, or with ``--reproduce`` the
    script.
    """
    names = ("momentum", "smoothing", "array", "dtype", "device")
    settings = {name: getattr(options, name) for name in names if hasattr(options, name)}
    rule, selected = load_backend(options.backend), _selection(options.tests)
    if options.reproduce is not None:
        with redirect_stdout(
            sys.stderr
        ):  # a rule may print, and the script is to be read by Python
            return rule_reproduction(
                rule, options.backend, options.reproduce, options.rule, **settings
            )
    if set(selected) - {"id"}:
        raise ValueError(f"--tests: expected id=… for a rule, found {', '.join(selected)}")
    settings |= {"select": selected.get("id", ""), "fail_fast": options.fail_fast}
    return directions.check_rule(
        rule, options.rule, **settings, name=options.name or options.backend
    )


def _require_writable(options: argparse.Namespace, *names: str) -> None:
    """Raise ``OSError`` unless the files can be written; make paths absolute, as a backend may
    change the folder.
    """
    for name in names:
        path = getattr(options, name)
        if path:
            require_writable(path)
            setattr(options, name, path.absolute())


def _write_reports(report: Report | RuleReport, options: argparse.Namespace) -> None:
    """Write the files that the options name."""
    if isinstance(report, Report) and options.junit:
        write_atomically(options.junit, junit(report))
    if options.json:
        _write_json(report, options.json)


def _write_json(report: Report | RuleReport, path: Path) -> None:
    """Write the report in UTF-8; a lone surrogate, which UTF-8 cannot hold, becomes an escape
    sequence of JSON.
    """
    text = json.dumps(report.as_data(), ensure_ascii=False, indent=1)
    write_atomically(path, text.encode(errors="backslashreplace"))


def table(options: argparse.Namespace) -> int:
    """``geolora-ref scoreboard``."""
    _require_writable(options, "html")
    found = scoreboard([*map(read_report, options.reports)])
    tell(found.markdown())
    if options.html:
        write_atomically(options.html, found.html())
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
    _require_writable(options, "json")
    for folder in (options.directory / "vectors", options.outputs):
        if options.json and options.json.resolve().parent == folder.resolve():
            raise ValueError(
                f"--json: expected a file outside of {folder}, whose files are read, found {options.json}"
            )
    judgement = vectors.judge_outputs(options.directory, options.outputs)
    for row in judgement.failures:
        tell(f"FAILED {row.id}: {row.finding}")
    diagnosis = (
        None
        if judgement.passed
        else diagnose_outputs(vectors.load_vectors(options.directory), judgement)
    )
    if diagnosis:
        tell(f"diagnosis: {diagnosis.text}")
    tell(
        f"{len(judgement.rows)} vectors, {len(judgement.failures)} failed, worst ratio {judgement.worst_ratio:.3g}"
    )
    if options.json:
        _write_json(
            report_of(
                options.name or options.outputs.name, options.directory, judgement, diagnosis
            ),
            options.json,
        )
    return 0 if judgement.passed else 1


def _selection(tests: Sequence[str]) -> Mapping[str, str]:
    """The KEY=VALUE pairs as a mapping; ``ValueError`` for anything else and for a repeated key."""
    selected: dict[str, str] = {}
    for test in tests:
        key, equals, value = test.partition("=")
        if not (key and equals and value):
            raise ValueError(f"--tests: expected KEY=VALUE, found {test!r}")
        if key in selected:
            raise ValueError(f"--tests: expected each key once, found {key} twice")
        selected[key] = value
    return selected


def _progress(done: int, total: int) -> None:
    """One line that counts, on a terminal only."""
    with suppress(Exception):  # whatever the backend has put there
        if sys.stderr.isatty():
            end = "\r" if done < total else "\r\033[K"
            print(
                f"{done}/{total} cases" if done < total else "",
                end=end,
                file=sys.stderr,
                flush=True,
            )

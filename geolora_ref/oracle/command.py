"""What ``geolora-ref check`` and ``vectors`` do.  Options are read before this is imported, which takes a second."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from geolora_ref.oracle.check import Interrupted, Report, check_step
from geolora_ref.oracle.directions import RuleReport, check_rule
from geolora_ref.oracle.known_failures import checked, read_known_failures
from geolora_ref.oracle.load import harness_options, load_backend
from geolora_ref.oracle.own import shape
from geolora_ref.oracle.reporting import junit, summary
from geolora_ref.oracle.reproduce import reproduction
from geolora_ref.support.files import require_writable, write_atomically
from geolora_ref.support.options import INTERRUPTED
from geolora_ref.support.streams import tell

__all__ = ["check", "vectors"]


def check(options: argparse.Namespace) -> int:
    """``geolora-ref check``; what an interrupted run has found is told as well."""
    for name in ("json", "junit"):
        path = getattr(options, name)
        if path:
            require_writable(path)
            setattr(options, name, path.absolute())  # the backend may change the folder
    sys.path.insert(0, os.getcwd())
    if options.rule is not None:
        return _check_rule(options)
    verdict, status, shapes = "", None, tuple(map(shape, options.shape))
    backend, asked = load_backend(options.backend), harness_options(lambda name: getattr(options, name.replace("-", "_")))
    if options.reproduce:
        tell(reproduction(backend, options.reproduce, shapes=shapes, **asked))
        return 0
    try:
        report = check_step(
            backend,
            **asked,
            select=_selection(options.tests),
            quick=options.quick,
            shapes=shapes,
            fuzz=options.fuzz,
            seed=options.seed,
            fail_fast=options.fail_fast,
            xfail=checked(read_known_failures(options.xfail), str(options.xfail)) if options.xfail else None,
            progress=_progress,
        )
    except Interrupted as stopped:
        report, verdict, status = stopped.report, "INTERRUPTED", INTERRUPTED
    tell(summary(report, verdict))  # whatever becomes of the files
    _write_reports(report, options)
    return status or (0 if report.passed else 1)


def _check_rule(options: argparse.Namespace) -> int:
    """``geolora-ref check --rule``."""
    settings = {name: getattr(options, name) for name in ("momentum", "smoothing", "array", "dtype", "device")}
    report = check_rule(load_backend(options.backend), options.rule, **settings, name=options.backend)
    tell(report.summary())
    if options.json:
        _write_json(report, options.json)
    return 0 if report else 1


def _write_json(report: Report | RuleReport, path: Path) -> None:
    """As UTF-8; half a surrogate pair, which UTF-8 has not, becomes the escape sequence of JSON."""
    text = json.dumps(report.as_data(), ensure_ascii=False, indent=1)
    write_atomically(path, text.encode(errors="backslashreplace"))


def _write_reports(report: Report, options: argparse.Namespace) -> None:
    """The files that were asked for."""
    if options.junit:
        write_atomically(options.junit, junit(report))
    if options.json:
        _write_json(report, options.json)


def vectors(options: argparse.Namespace) -> int:
    """``geolora-ref vectors``; needs the extra "oracle"."""
    from geolora_ref.oracle import vectors
    from geolora_ref.oracle.vector_diagnosis import diagnose_outputs

    if options.action == "export":
        tell(f"{len(vectors.export(options.directory))} files in {options.directory}")
        return 0
    if options.action == "check":
        differences = vectors.regenerate_and_compare()
        tell("\n".join(differences) or "the stored vectors are what is generated")
        return 1 if differences else 0
    judgement = vectors.judge_outputs(options.directory, options.outputs)
    for row in judgement.failures:
        tell(f"FAILED {row.id}: {row.finding}")
    diagnosis = None if judgement.passed else diagnose_outputs(vectors.load_vectors(options.directory), judgement)
    if diagnosis:
        tell(f"diagnosis: {diagnosis.text}")
    tell(f"{len(judgement.rows)} vectors, {len(judgement.failures)} failed, worst ratio {judgement.worst_ratio:.3g}")
    return 0 if judgement.passed else 1


def _selection(tests: Sequence[str]) -> Mapping[str, str]:
    """KEY=VALUE pairs; ``ValueError`` for anything else and for a key that stands twice."""
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
    if sys.stderr is not None and sys.stderr.isatty():
        end = "\r" if done < total else "\r\033[K"
        print(f"{done}/{total} cases" if done < total else "", end=end, file=sys.stderr, flush=True)

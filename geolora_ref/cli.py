"""``geolora-ref``: judge a backend, export and judge test vectors, fine-tune a model."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path

from geolora_ref.finetune.__main__ import main as finetune
from geolora_ref.oracle.check import Interrupted, Report, check_step
from geolora_ref.oracle.directions import RULES, RuleReport, check_rule
from geolora_ref.oracle.known_failures import checked, read_known_failures
from geolora_ref.oracle.load import harness_options, load_backend
from geolora_ref.oracle.own import Size, shape
from geolora_ref.oracle.reporting import junit, summary
from geolora_ref.oracle.reproduce import reproduction
from geolora_ref.support.extras import how_to_install
from geolora_ref.support.files import require_writable, write_atomically
from geolora_ref.support.options import BACKEND_OPTIONS, nonempty_path
from geolora_ref.support.streams import escape_missing_characters, tell

__all__ = ["main"]

INTERRUPTED = 130
"""The exit status that shells give to what Ctrl-C ends."""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(prog="geolora-ref", description="GeoLoRA: judge a step, fine-tune a model.")
    top.add_argument("--version", action="version", version=f"geolora-ref {version('geolora-ref')}")
    commands = top.add_subparsers(dest="command", required=True)
    check = commands.add_parser("check", help="run the conformance kit on a backend")
    check.add_argument("backend", help="package.module:function (the current folder is searched as well)")
    for name, keywords in BACKEND_OPTIONS.items():
        check.add_argument(f"--{name}", **keywords)
    check.add_argument(
        "--tests", action="append", default=[], metavar="KEY=VALUE", help="only group=…, flag=… or id=… (a beginning)"
    )
    check.add_argument("--rule", metavar="NAME", help=f"judge an optimizer's directions instead of a step: {', '.join(RULES)}")
    check.add_argument("--momentum", type=float, default=0.9, help="of the rule, if it has one (default: 0.9)")
    check.add_argument("--smoothing", type=float, default=0.0, help="of the spectral rule (default: 0)")
    check.add_argument("--quick", action="store_true", help="a tenth of the cases, which is enough for every known defect")
    check.add_argument(
        "--shape",
        action="append",
        type=_shape,
        default=[],
        metavar="MxNxR",
        help="ask everything at these sizes as well; repeatable",
    )
    check.add_argument("--fuzz", type=int, default=0, metavar="N", help="draw so many further cases (--seed)")
    check.add_argument("--seed", type=int, default=0, metavar="S", help="of the cases that are drawn (default: 0)")
    check.add_argument("--fail-fast", action="store_true", help="stop behind the first case that fails")
    check.add_argument("--reproduce", metavar="ID", help="print a script that asks this failing case without the kit")
    check.add_argument("--json", type=nonempty_path, metavar="FILE", help="write every ratio; folders are made")
    check.add_argument("--junit", type=nonempty_path, metavar="FILE", help="write JUnit XML; folders are made")
    vectors = commands.add_parser("vectors", help="test vectors for other languages").add_subparsers(dest="action", required=True)
    export = vectors.add_parser("export", help="write schema, vectors and instructions to a folder")
    export.add_argument("directory", type=nonempty_path)
    judge = vectors.add_parser("judge", help="judge the outputs of an implementation")
    judge.add_argument("directory", type=nonempty_path, help="of the vectors")
    judge.add_argument("outputs", type=nonempty_path, help="one JSON file a vector")
    vectors.add_parser("check", help="generate the vectors anew and compare them with the stored ones")
    commands.add_parser("finetune", help="fine-tune a pretrained transformer on labelled texts (extra finetune)", add_help=False)
    return top


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status 0: conforms; 1: does not; 2: the call is wrong or a report could not be written; 130: interrupted."""
    escape_missing_characters()
    top, given = parser(), list(sys.argv[1:] if argv is None else argv)
    if given[:1] == ["finetune"]:
        return finetune(given[1:])
    options = top.parse_args(given)
    try:
        return _check(options) if options.command == "check" else _vectors(options)
    except ModuleNotFoundError as missing:
        top.exit(2, f"geolora-ref: {missing}{how_to_install(missing)}\n")
    except (ValueError, OSError) as error:
        top.exit(2, f"geolora-ref: {error}\n")
    except KeyboardInterrupt:
        sys.stderr.write("geolora-ref: interrupted\n")
        return INTERRUPTED


def _check(options: argparse.Namespace) -> int:
    """``geolora-ref check``; what an interrupted run has found is told as well."""
    for name in ("json", "junit"):
        path = getattr(options, name)
        if path:
            require_writable(path)
            setattr(options, name, path.absolute())  # the backend may change the folder
    sys.path.insert(0, os.getcwd())
    if options.rule is not None:
        return _check_rule(options)
    verdict, status = "", None
    backend, asked = load_backend(options.backend), harness_options(lambda name: getattr(options, name.replace("-", "_")))
    if options.reproduce:
        tell(reproduction(backend, options.reproduce, shapes=tuple(options.shape), **asked))
        return 0
    try:
        report = check_step(
            backend,
            **asked,
            select=_selection(options.tests),
            quick=options.quick,
            shapes=options.shape,
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
    """``geolora-ref check --rule``; options of a step are refused."""
    plain = parser().parse_args(["check", options.backend])
    ours = ("backend", "rule", "momentum", "smoothing", "json", "array", "dtype", "device")
    for name, value in vars(options).items():
        if name not in ours and value != getattr(plain, name):
            raise ValueError(f"--{name.replace('_', '-')}: expected none beside --rule, which judges directions and no step")
    rule, settings = load_backend(options.backend), {name: getattr(options, name) for name in ours[2:] if name != "json"}
    report = check_rule(rule, options.rule, **settings, name=options.backend)
    tell(report.summary())
    if options.json:
        _write_json(report, options.json)
    return 0 if report else 1


def _write_json(report: Report | RuleReport, path: Path) -> None:
    """As UTF-8; half a surrogate pair, which UTF-8 has not, becomes the escape sequence of JSON."""
    text = json.dumps(report.as_data(), ensure_ascii=False, indent=1)
    write_atomically(path, text.encode(errors="backslashreplace"))


def _shape(text: str) -> Size:
    """Sizes as argparse takes them."""
    try:
        return shape(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _write_reports(report: Report, options: argparse.Namespace) -> None:
    """The files that were asked for."""
    if options.junit:
        write_atomically(options.junit, junit(report))
    if options.json:
        _write_json(report, options.json)


def _vectors(options: argparse.Namespace) -> int:
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


if __name__ == "__main__":
    sys.exit(main())

"""``geolora-ref``: judge a backend, put reports side by side, export and judge test vectors,
fine-tune a model.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import version

from geolora_ref.finetune.__main__ import main as finetune
from geolora_ref.support.extras import how_to_install
from geolora_ref.support.options import BACKEND_OPTIONS, INTERRUPTED, nonempty_path
from geolora_ref.support.streams import escape_missing_characters

__all__ = ["RULES", "main"]

RULES: Mapping[str, Sequence[str]] = {
    "gradient": (),
    "heavy-ball": ("momentum",),
    "normalised": ("momentum",),
    "spectral": ("momentum", "smoothing"),
    "preconditioned": (),
    "adam": (),
}
"""The options of each rule that ``check-rule`` judges by."""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(
        prog="geolora-ref", description="GeoLoRA: judge a step, fine-tune a model."
    )
    top.add_argument("--version", action="version", version=f"geolora-ref {version('geolora-ref')}")
    commands = top.add_subparsers(dest="command", required=True)
    check = commands.add_parser("check", help="run the conformance kit on a backend")
    _add_backend(check)
    for name, keywords in BACKEND_OPTIONS.items():
        check.add_argument(f"--{name}", **keywords)
    _add_selection(check, "group=…, flag=… or id=… (a beginning)")
    check.add_argument(
        "--quick",
        action="store_true",
        help="about a quarter of the cases, which is enough for every known defect",
    )
    check.add_argument(
        "--shape",
        action="append",
        default=[],
        metavar="MxNxR",
        help="ask everything at these sizes as well; repeatable",
    )
    check.add_argument(
        "--fuzz", type=int, default=0, metavar="N", help="draw so many further cases (--seed)"
    )
    check.add_argument(
        "--seed", type=int, default=0, metavar="S", help="of the cases that are drawn (default: 0)"
    )
    check.add_argument(
        "--repeat",
        type=int,
        default=1,
        metavar="N",
        help="ask each case so many times: once wrong is wrong",
    )
    check.add_argument(
        "--jobs",
        type=int,
        metavar="N",
        help="run in so many further processes; a crash is a row (default: in this one)",
    )
    check.add_argument(
        "--timeout",
        type=float,
        metavar="S",
        help="run in processes of their own; a crash or S seconds without answer is a row",
    )
    check.add_argument(
        "--junit", type=nonempty_path, metavar="FILE", help="write JUnit XML; folders are made"
    )
    rules = commands.add_parser("check-rule", help="judge an optimizer's directions and memory")
    by_rule = rules.add_subparsers(dest="rule", required=True)
    for rule, named in RULES.items():
        judged = by_rule.add_parser(rule)
        _add_backend(judged)
        for name in ("array", "dtype", "device"):
            judged.add_argument(f"--{name}", **BACKEND_OPTIONS[name])
        if "momentum" in named:
            judged.add_argument("--momentum", type=float, default=0.9, help="μ (default: 0.9)")
        if "smoothing" in named:
            judged.add_argument("--smoothing", type=float, default=0.0, help="s (default: 0)")
        _add_selection(judged, "id=… (a beginning)")
    table = commands.add_parser(
        "scoreboard", help="reports of several backends as one table, in Markdown"
    )
    table.add_argument(
        "reports",
        nargs="+",
        type=nonempty_path,
        metavar="REPORT.json",
        help="what check --json wrote",
    )
    table.add_argument(
        "--html",
        type=nonempty_path,
        metavar="FILE",
        help="write the table as a page; folders are made",
    )
    vectors = commands.add_parser(
        "vectors", help="test vectors for other languages"
    ).add_subparsers(dest="action", required=True)
    export = vectors.add_parser("export", help="write schema, vectors and instructions to a folder")
    export.add_argument("directory", type=nonempty_path)
    judge = vectors.add_parser("judge", help="judge the outputs of an implementation")
    judge.add_argument("directory", type=nonempty_path, help="of the vectors")
    judge.add_argument("outputs", type=nonempty_path, help="one JSON file a vector")
    judge.add_argument(
        "--name",
        metavar="TEXT",
        help="what the report calls the program (default: the folder of its outputs)",
    )
    judge.add_argument(
        "--json", type=nonempty_path, metavar="FILE", help="write the report, for scoreboard too"
    )
    vectors.add_parser(
        "check", help="generate the vectors again and compare them with the stored ones"
    )
    commands.add_parser(
        "finetune",
        help="fine-tune a pretrained transformer on texts (extra finetune)",
        add_help=False,
    )
    return top


def _add_backend(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "backend", help="package.module:function (the current folder is searched as well)"
    )


def _add_selection(parser: argparse.ArgumentParser, keys: str) -> None:
    """Add the options of ``check`` and ``check-rule``: which cases are run, and what is written."""
    parser.add_argument(
        "--tests", action="append", default=[], metavar="KEY=VALUE", help=f"only {keys}"
    )
    parser.add_argument(
        "--fail-fast", action="store_true", help="stop after the first case that fails"
    )
    parser.add_argument(
        "--reproduce",
        metavar="ID",
        help="print a script that runs this failing case without the kit",
    )
    parser.add_argument(
        "--name",
        metavar="TEXT",
        help="what reports call the backend (default: package.module:function)",
    )
    parser.add_argument(
        "--json", type=nonempty_path, metavar="FILE", help="write every ratio; folders are made"
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status 0: conforms; 1: does not; 2: the call is wrong or a report could not be written;
    130: interrupted.
    """
    escape_missing_characters()
    top, given = parser(), list(sys.argv[1:] if argv is None else argv)
    if given[:1] == ["finetune"]:
        return finetune(given[1:])
    if given[:1] == ["check"] and any(word.partition("=")[0] == "--rule" for word in given):
        top.error("check --rule NAME MODULE:FUNCTION is now check-rule NAME MODULE:FUNCTION")
    options = top.parse_args(given)
    if options.command in ("check", "check-rule"):
        _refuse_combinations(top, options)
    try:
        from geolora_ref.oracle import (
            command,
        )  # after parsing: help and usage errors need no library

        run = {
            "check": command.check,
            "check-rule": command.check_rule,
            "scoreboard": command.table,
            "vectors": command.vectors,
        }
        return run[options.command](options)
    except ModuleNotFoundError as missing:
        top.exit(2, f"geolora-ref: {missing}{how_to_install(missing)}\n")
    except (ValueError, OSError, MemoryError) as error:
        top.exit(2, f"geolora-ref: {error}\n")
    except KeyboardInterrupt:
        sys.stderr.write("geolora-ref: interrupted\n")
        return INTERRUPTED


def _refuse_combinations(top: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """Exit with 2 for one file under two options, for report options or stages with ``--reproduce``,
    and for a seed without draws.
    """
    chosen = [options.rule] if options.command == "check-rule" else []
    plain = vars(top.parse_args([options.command, *chosen, options.backend]))
    given = [name for name, value in vars(options).items() if value != plain[name]]
    report: tuple[str, ...] = (
        "tests",
        "quick",
        "fuzz",
        "seed",
        "repeat",
        "jobs",
        "timeout",
        "fail_fast",
    )
    report += ("name", "json", "junit", "xfail", "threads")
    if "junit" in given and options.json == options.junit:
        top.error(f"--junit: expected another file than that of --json, found {options.junit}")
    for name in given:
        refusal = f"--{name.replace('_', '-')}: expected"
        if options.reproduce is not None and name in report:
            top.error(f"{refusal} none with --reproduce, which runs one case and writes no report")
        if options.reproduce is not None and name == "stages":
            top.error(f"{refusal} none with --reproduce, whose script judges the result alone")
        if name == "seed" and not options.fuzz:
            top.error(f"{refusal} --fuzz with it")


if __name__ == "__main__":
    sys.exit(main())

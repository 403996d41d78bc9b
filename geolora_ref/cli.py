"""``geolora-ref``: judge a backend, put reports side by side, export and judge test vectors,
fine-tune a model.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib.metadata import version

from geolora_ref.finetune.__main__ import main as finetune
from geolora_ref.support.extras import how_to_install
from geolora_ref.support.options import BACKEND_OPTIONS, INTERRUPTED, nonempty_path
from geolora_ref.support.streams import escape_missing_characters

__all__ = ["main"]


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
    check.add_argument("--rule", metavar="NAME", help="judge an optimizer's directions by this rule: spectral, adam, …")
    check.add_argument("--momentum", type=float, default=0.9, help="of the rule, if it has one (default: 0.9)")
    check.add_argument("--smoothing", type=float, default=0.0, help="of the spectral rule (default: 0)")
    check.add_argument(
        "--quick", action="store_true", help="about a quarter of the cases, which is enough for every known defect"
    )
    check.add_argument(
        "--shape",
        action="append",
        default=[],
        metavar="MxNxR",
        help="ask everything at these sizes as well; repeatable",
    )
    check.add_argument("--fuzz", type=int, default=0, metavar="N", help="draw so many further cases (--seed)")
    check.add_argument("--seed", type=int, default=0, metavar="S", help="of the cases that are drawn (default: 0)")
    check.add_argument("--repeat", type=int, default=1, metavar="N", help="ask each case so many times: once wrong is wrong")
    check.add_argument("--jobs", type=int, default=1, metavar="N", help="ask in so many processes (default: 1)")
    check.add_argument(
        "--timeout", type=float, metavar="S", help="run in processes of their own; a crash or S seconds without answer is a row"
    )
    check.add_argument("--fail-fast", action="store_true", help="stop after the first case that fails")
    check.add_argument("--reproduce", metavar="ID", help="print a script that runs this failing case without the kit")
    check.add_argument("--name", metavar="TEXT", help="what reports call the backend (default: package.module:function)")
    check.add_argument("--json", type=nonempty_path, metavar="FILE", help="write every ratio; folders are made")
    check.add_argument("--junit", type=nonempty_path, metavar="FILE", help="write JUnit XML; folders are made")
    table = commands.add_parser("scoreboard", help="reports of several backends as one table, in Markdown")
    table.add_argument("reports", nargs="+", type=nonempty_path, metavar="REPORT.json", help="what check --json wrote")
    table.add_argument("--html", type=nonempty_path, metavar="FILE", help="write the table as a page; folders are made")
    vectors = commands.add_parser("vectors", help="test vectors for other languages").add_subparsers(dest="action", required=True)
    export = vectors.add_parser("export", help="write schema, vectors and instructions to a folder")
    export.add_argument("directory", type=nonempty_path)
    judge = vectors.add_parser("judge", help="judge the outputs of an implementation")
    judge.add_argument("directory", type=nonempty_path, help="of the vectors")
    judge.add_argument("outputs", type=nonempty_path, help="one JSON file a vector")
    judge.add_argument("--name", metavar="TEXT", help="what the report calls the program (default: the folder of its outputs)")
    judge.add_argument("--json", type=nonempty_path, metavar="FILE", help="write the report, for scoreboard too")
    vectors.add_parser("check", help="generate the vectors again and compare them with the stored ones")
    commands.add_parser("finetune", help="fine-tune a pretrained transformer on texts (extra finetune)", add_help=False)
    return top


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status 0: conforms; 1: does not; 2: the call is wrong or a report could not be written;
    130: interrupted.
    """
    escape_missing_characters()
    top, given = parser(), list(sys.argv[1:] if argv is None else argv)
    if given[:1] == ["finetune"]:
        return finetune(given[1:])
    options = top.parse_args(given)
    if options.command == "check":
        _refuse_what_has_no_part(top, options)
    try:
        from geolora_ref.oracle import command  # after parsing: help and usage errors need no library

        return {"check": command.check, "scoreboard": command.table, "vectors": command.vectors}[options.command](options)
    except ModuleNotFoundError as missing:
        top.exit(2, f"geolora-ref: {missing}{how_to_install(missing)}\n")
    except (ValueError, OSError, MemoryError) as error:
        top.exit(2, f"geolora-ref: {error}\n")
    except KeyboardInterrupt:
        sys.stderr.write("geolora-ref: interrupted\n")
        return INTERRUPTED


def _refuse_what_has_no_part(top: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """Exit with 2 for options that do not belong together.

    These are step options with ``--rule``, rule options without it or without a part in it, report
    options and stages with ``--reproduce``, and options that other options void.
    """
    plain = vars(top.parse_args(["check", options.backend]))
    given = [name for name, value in vars(options).items() if value != plain[name]]
    rule: tuple[str, ...] = ("rule", "momentum", "smoothing", "name", "json", "array", "dtype", "device")
    rule += ("tests", "fail_fast", "reproduce")
    report: tuple[str, ...] = ("tests", "quick", "fuzz", "seed", "repeat", "jobs", "timeout", "fail_fast")
    report += ("name", "json", "junit", "xfail", "threads")
    parts = {"momentum": ("heavy-ball", "normalised", "spectral"), "smoothing": ("spectral",)}
    if options.json is not None and options.json == options.junit:
        top.error(f"--junit: expected another file than that of --json, found {options.junit}")
    for name in given:
        refusal = f"--{name.replace('_', '-')}: expected"
        if options.rule is not None and name not in rule:
            top.error(f"{refusal} none with --rule, which judges directions and no step")
        if options.rule is None and name in ("momentum", "smoothing"):
            top.error(f"{refusal} --rule with it")
        if options.rule not in parts.get(name, (options.rule,)):
            top.error(f"{refusal} none with --rule {options.rule}, which has none")
        if options.reproduce is not None and name in report:
            top.error(f"{refusal} none with --reproduce, which runs one case and writes no report")
        if options.reproduce is not None and name == "stages":
            top.error(f"{refusal} none with --reproduce, whose script judges the result alone")
        if name == "seed" and not options.fuzz:
            top.error(f"{refusal} --fuzz with it")


if __name__ == "__main__":
    sys.exit(main())

"""``geolora-ref``: judge a backend, compare reports, export and judge test vectors, fine-tune a
model.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import version

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
SETTINGS = {"momentum": (0.9, "μ (default: 0.9)"), "smoothing": (0.0, "s (default: 0)")}
NOT_REPRODUCED = (
    *("tests", "quick", "fuzz", "seed", "repeat", "jobs", "timeout", "fail_fast"),
    *("name", "json", "xfail", "threads", "stages"),
)
"""The options that have no meaning with ``--reproduce``."""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(
        prog="geolora-ref", description="GeoLoRA: judge a step, fine-tune a model."
    )
    top.add_argument("--version", action="version", version=f"geolora-ref {version('geolora-ref')}")
    commands = top.add_subparsers(dest="command", required=True)
    check = commands.add_parser("check", help="run the conformance kit on a backend")
    _add_options(check, tuple(BACKEND_OPTIONS), "group=…, flag=… or id=… (a beginning)")
    add = check.add_argument
    add("--quick", action="store_true", help="a part that is enough for every known defect")
    sizes = "run the cases at these sizes as well; repeatable"
    add("--shape", action="append", default=[], metavar="MxNxR", help=sizes)
    add("--fuzz", type=int, default=0, metavar="N", help="draw N further cases (--seed)")
    add("--seed", type=int, default=0, metavar="S", help="of the drawn cases (default: 0)")
    add("--repeat", type=int, default=1, metavar="N", help="run each case N times, for races")
    crash = "a crash is a row"
    add("--jobs", type=int, metavar="N", help=f"run in N other processes: {crash}")
    add("--timeout", type=float, metavar="S", help=f"{crash}, and so are S seconds without answer")
    rules = commands.add_parser("check-rule", help="judge an optimizer's directions and memory")
    by_rule = rules.add_subparsers(dest="rule", required=True)
    for rule, settings in RULES.items():
        judged = by_rule.add_parser(rule)
        _add_options(judged, ("array", "dtype", "device"), "id=… (a beginning)")
        for name in settings:
            default, words = SETTINGS[name]
            judged.add_argument(f"--{name}", type=float, default=default, help=words)
    table = commands.add_parser("scoreboard", help="a Markdown table of several reports")
    table.add_argument("reports", nargs="+", type=nonempty_path, metavar="REPORT.json")
    _add_vectors(commands.add_parser("vectors", help="test vectors for other languages"))
    tuning = "fine-tune a pretrained transformer on texts (extra finetune)"
    commands.add_parser("finetune", help=tuning, add_help=False)
    return top


def _add_options(parser: argparse.ArgumentParser, names: Sequence[str], keys: str) -> None:
    """Add the options of ``check`` and ``check-rule``: backend, cases, report."""
    add = parser.add_argument
    add("backend", help="package.module:function (the current folder is searched as well)")
    for name in names:
        add(f"--{name}", **BACKEND_OPTIONS[name])
    add("--tests", action="append", default=[], metavar="KEY=VALUE", help=f"only {keys}")
    add("--fail-fast", action="store_true", help="stop after the first case that fails")
    add("--reproduce", metavar="ID", help="print a script of this failing case, without the kit")
    add("--name", metavar="TEXT", help="of the backend in reports")
    add("--json", type=nonempty_path, metavar="FILE", help="write every ratio; folders are made")


def _add_vectors(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", required=True)
    export = actions.add_parser("export", help="write schema, vectors and instructions to a folder")
    export.add_argument("directory", type=nonempty_path)
    judge = actions.add_parser("judge", help="judge the outputs of an implementation")
    judge.add_argument("directory", type=nonempty_path, help="of the vectors")
    judge.add_argument("outputs", type=nonempty_path, help="one JSON file a vector")
    judge.add_argument("--name", metavar="TEXT", help="of the program in the report")
    judge.add_argument("--json", type=nonempty_path, metavar="FILE", help="write the report")
    actions.add_parser("check", help="generate the vectors again and compare them")


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status 0: conforms; 1: does not; 2: the call is wrong or a report could not be written;
    130: interrupted.
    """
    escape_missing_characters()
    top, given = parser(), list(sys.argv[1:] if argv is None else argv)
    if given[:1] == ["finetune"]:
        return _finetune(top, given[1:])
    options = top.parse_args(given)
    if getattr(options, "reproduce", None) is not None:
        _refuse_options(top, options)
    try:
        # after parsing: help and usage errors need no library
        from geolora_ref.oracle import command

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


def _finetune(top: argparse.ArgumentParser, given: Sequence[str]) -> int:
    try:
        from geolora_ref.finetune import main as finetune
    except ModuleNotFoundError as missing:
        top.exit(2, f"geolora-ref finetune: {missing}{how_to_install(missing, extra='finetune')}\n")
    return finetune(given)


def _refuse_options(top: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """Exit with 2 for an option that has no meaning with ``--reproduce``."""
    rule = [options.rule] if options.command == "check-rule" else []
    plain = vars(top.parse_args([options.command, *rule, options.backend]))
    for name in NOT_REPRODUCED:
        if name in plain and getattr(options, name) != plain[name]:
            top.error(f"--{name.replace('_', '-')}: expected none with --reproduce")


if __name__ == "__main__":
    sys.exit(main())

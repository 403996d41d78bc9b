"""The options of ``python -m verification``; wrong ones are refused before the claims are imported,
which takes seconds.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from geolora_ref.support.options import nonempty_path
from verification.support.command_line import integer_from

__all__ = ["DEFAULT_FOLDER", "known", "parse"]

DEFAULT_FOLDER = Path("build") / "verification"
ALONE = ("full", "json", "only", "list", "output", "adding")
"""Options that say nothing where two results are compared."""


def known() -> list[str]:
    """The ids of the claims, each the name of its file."""
    files = (Path(__file__).parents[1] / "claims").glob("[a-z]*.py")
    return sorted(file.stem.replace("_", "-") for file in files)


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The options; exit status 2 for wrong ones."""
    parser = argparse.ArgumentParser(
        prog="python -m verification",
        description="Check the guarantees of GeoLoRA, each with its negative controls. "
        "An interrupted run continues where it stopped.",
    )
    add = parser.add_argument
    add("--full", action="store_true", help="more sizes and seeds: an hour of CPU time")
    add("--only", action="append", default=[], metavar="CLAIM", help="this claim; repeatable")
    add(
        "--with",
        dest="adding",
        action="append",
        default=[],
        metavar="MODULE",
        help="import this module first, which adds claims, problems or integrators of yours",
    )
    add("--list", action="store_true", help="list the claims and their controls, check nothing")
    add("--seed", type=integer_from(0), default=0, help="where the random draws start (default: 0)")
    add("--json", action="store_true", help="print the results as JSON instead of a table")
    add("--jobs", type=integer_from(1), help="processes (default: one a core)")
    add(
        "--output",
        type=nonempty_path,
        metavar="DIR",
        help=f"folder of the report (default: {DEFAULT_FOLDER}/quick or /full, "
        "with the suffix -part for a part of the claims)",
    )
    add(
        "--compare",
        nargs=2,
        type=nonempty_path,
        metavar=("A", "B"),
        help="check nothing: print how the ratios of two results.json of one machine differ",
    )
    options = parser.parse_args(argv)
    if not options.adding and (unknown := [name for name in options.only if name not in known()]):
        parser.error(f"--only: expected one of {', '.join(known())}; found {', '.join(unknown)}")
    if options.compare and (given := [name for name in ALONE if getattr(options, name)]):
        parser.error(f"--compare: expected without other options, found --{', --'.join(given)}")
    if options.list and options.json:
        parser.error("--json: expected without --list, which has no results")
    return options

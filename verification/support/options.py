"""The options of ``python -m verification``; wrong ones are refused before the claims are imported,
which takes seconds.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import NoReturn

from geolora_ref.support.options import nonempty_path
from verification.support.command_line import integer_from

__all__ = ["DEFAULT_FOLDER", "known", "parse", "refuse", "refuse_unknown"]

PROGRAM = "python -m verification"
DEFAULT_FOLDER = Path("build") / "verification"


def known() -> list[str]:
    """The ids of the claims, each the name of its file."""
    files = (Path(__file__).parents[1] / "claims").glob("[a-z]*.py")
    return sorted(file.stem.replace("_", "-") for file in files)


def refuse(error: ValueError) -> NoReturn:
    """End with status 2, as argparse does, for options that turn out to be wrong later."""
    sys.stderr.write(f"{PROGRAM}: error: {error}\n")
    raise SystemExit(2) from error


def refuse_unknown(only: Iterable[str], there: Collection[str]) -> None:
    """Raise ``ValueError`` for names that no claim has."""
    unknown = [name for name in only if name not in there]
    if unknown:
        raise ValueError(f"--only: expected one of {', '.join(there)}; found {', '.join(unknown)}")


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The options; exit status 2 for wrong ones."""
    parser = argparse.ArgumentParser(
        prog=PROGRAM,
        description="Check the guarantees of GeoLoRA, each with its negative controls.",
    )
    parser.add_argument(
        "--full",
        action="store_true",
        help="more sizes and seeds; takes up an interrupted run where it stopped",
    )
    parser.add_argument(
        "--only",
        action="append",
        metavar="CLAIM",
        help="check this claim only (may be given several times)",
    )
    for name, what in (
        ("claim", "a Claim"),
        ("problem", "a function of a generator that returns a problem"),
        ("integrator", "a Member"),
    ):
        purpose = f"judge this as well, {what}; alone, or with the claims that it adds cases to, unless --only is given"
        parser.add_argument(
            f"--{name}", action="append", default=[], metavar="MODULE:ATTRIBUTE", help=purpose
        )
    parser.add_argument(
        "--list",
        action="store_true",
        help="list the claims and their controls (all, or --only), check nothing",
    )
    parser.add_argument(
        "--seed", type=integer_from(0), default=0, help="where the random draws start (default: 0)"
    )
    parser.add_argument(
        "--json", action="store_true", help="print the results as JSON instead of a table"
    )
    parser.add_argument("--jobs", type=integer_from(1), help="processes (default: one a core)")
    parser.add_argument(
        "--backend",
        choices=("loky", "dask"),
        default="loky",
        help="processes here (default), or a Dask cluster",
    )
    parser.add_argument(
        "--scheduler",
        metavar="ADDRESS",
        help="with --backend dask: the cluster, for example tcp://host:8786",
    )
    parser.add_argument(
        "--output",
        type=nonempty_path,
        metavar="DIR",
        help=f"folder of the report (default: {DEFAULT_FOLDER}/quick or /full, with the suffix -part for a part of the claims)",
    )
    parser.add_argument(
        "--compare",
        nargs=2,
        type=nonempty_path,
        metavar=("A", "B"),
        help="check nothing: tell what has changed from one results.json, or its folder, to another",
    )
    parser.add_argument(
        "--fresh",
        action="store_true",
        help="with --full: forget what an interrupted run had finished",
    )
    options = parser.parse_args(argv)
    if not options.claim:  # an added claim has a name of its own, which its module knows
        try:
            refuse_unknown(options.only or (), known())
        except ValueError as error:
            parser.error(str(error))
    if (options.backend == "dask") != (options.scheduler is not None):
        parser.error(
            f"--scheduler: expected with --backend dask and only there, found --backend {options.backend}"
        )
    if options.backend == "dask" and (options.claim or options.problem or options.integrator):
        parser.error(
            "--claim, --problem, --integrator: expected without --backend dask, whose workers have what is here only"
        )
    if options.backend == "dask" and options.jobs is not None:
        parser.error(
            "--jobs: expected with --backend loky only, a cluster has the workers that it has"
        )
    if options.fresh and not options.full:
        parser.error("--fresh: expected with --full only, without it every run starts over")
    if options.compare and (
        given := [
            name for name in ("full", "json", "only", "list", "output") if getattr(options, name)
        ]
    ):
        parser.error(f"--compare: expected without other options, found --{', --'.join(given)}")
    if options.list and options.json:
        parser.error("--json: expected without --list, which has no results")
    return options

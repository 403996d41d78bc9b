"""Run a campaign, or print the tables of the documentation."""

from __future__ import annotations

import argparse
import functools
import json
import multiprocessing
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from verification.experiments.campaign import DECODER, ENCODER, expand, perform


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Return the options of the command."""
    parser = argparse.ArgumentParser(
        prog="python -m verification.experiments",
        description=__doc__,
        epilog="A design is a JSON list of objects.  Each is a table of all combinations of the "
        "lists in it: {task: hamlet, method: geolora, rate: [0.1, 0.2], seed: [0, 1, 2]}.",
    )
    commands = parser.add_subparsers(dest="command", required=True)
    tables = commands.add_parser("tables", help="print the tables of docs/results.md")
    tables.add_argument("names", nargs="*", help="some of them (default: all)")
    run = commands.add_parser("run", help="do the runs of a design that are missing")
    run.add_argument("design", type=Path, metavar="DESIGN.json")
    run.add_argument("output", type=Path, metavar="RUNS.csv", help="gets a row for each run")
    run.add_argument(
        "--data",
        nargs="+",
        default=[],
        metavar="TASK=PATH",
        help="a folder with train.tsv, dev.tsv and test.tsv, or with train.zip and test.zip, or a "
        "text file for the decoder; digits and regression need none",
    )
    run.add_argument(
        "--other", type=Path, nargs="*", default=[], help="texts for the decoder's losses"
    )
    run.add_argument("--model", help=f"default: {ENCODER}, for a text {DECODER}")
    run.add_argument("--cache", type=Path, default=Path("build/states"), help="hidden states")
    run.add_argument(
        "--every", type=int, default=0, help="steps between records in RUNS.curves.jsonl"
    )
    run.add_argument("--jobs", type=int, default=1, help="runs at a time, one thread each")
    run.add_argument("--limit", type=int, help="stop after so many runs")
    timed = commands.add_parser("time", help="measure training steps and integrators")
    timed.add_argument("folder", type=Path, metavar="FOLDER", help="gets speed.csv and cost.csv")
    timed.add_argument("--model", default=ENCODER, help=f"default: {ENCODER}")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Return 0 when everything is done, 2 for a design or data that cannot be used."""
    options = arguments(argv)
    try:
        if options.command == "tables":
            from verification.experiments.evidence import TABLES

            for name in options.names or TABLES:
                print(f"### {name}\n\n{TABLES[name]()}\n")
            return 0
        if options.command == "time":
            from verification.experiments.timing import measure

            measure(options.folder, options.model)
            return 0
        tables = json.loads(options.design.read_text(encoding="utf-8"))
        design = [run for table in tables for run in expand(**table)]
        from verification.experiments.run import work

        options.output.parent.mkdir(parents=True, exist_ok=True)
        context = multiprocessing.get_context("spawn")
        pool = ProcessPoolExecutor(options.jobs, mp_context=context)
        done = perform(
            design, options.output, pool, functools.partial(work, options), limit=options.limit
        )
    except (ValueError, TypeError, LookupError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{done} runs done, {len(design)} in the design: {options.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

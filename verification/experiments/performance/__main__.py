"""``python -m verification.experiments.performance``: measure, write results.json, results.md and results.svg."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from geolora_ref.files import write_atomically, write_json
from verification.command_line import integer_from
from verification.experiments.performance.measure import (
    FULL,
    QUICK,
    VARIED,
    compiled,
    environment,
    growth,
    processes,
    training,
    update_table,
)
from verification.experiments.performance.methods import METHODS
from verification.experiments.performance.networks import CASES, VARIANTS
from verification.experiments.performance.page import drawn, markdown
from verification.pictures import svg

PARTS = ("training", "variants", "processes", "compiled", "updates", "growth")


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m verification.experiments.performance",
        description="Time of a training step and of the update alone, side by side and interleaved.",
    )
    parser.add_argument("--quick", action="store_true", help="few rounds and small sizes: does everything work?")
    parser.add_argument("--only", choices=PARTS, action="append", help="this part only (may be given several times)")
    parser.add_argument("--case", choices=[case.id for case in (*CASES, *VARIANTS)], action="append", help="this network only")
    parser.add_argument("--threads", type=integer_from(1), default=2, help="of torch (default: 2)")
    parser.add_argument("--output", type=Path, default=Path("build") / "experiments" / "performance", metavar="FOLDER")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status 0: everything was measured."""
    options = arguments(argv)
    torch.set_num_threads(options.threads)
    logging.getLogger("transformers").setLevel(logging.ERROR)
    effort, parts = QUICK if options.quick else FULL, options.only or PARTS
    console = Console(stderr=True)
    found: dict[str, Any] = {"format": 1, "quick": options.quick}
    columns = (TextColumn("{task.description:<22}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as bar:
        task = bar.add_task("starting", total=None)

        def progress(what: str, done: int, total: int) -> None:
            bar.update(task, description=what, completed=done, total=total)

        cases, variants = ([case for case in of if not options.case or case.id in options.case] for of in (CASES, VARIANTS))
        if "training" in parts:
            found["training"] = [training(case, effort, progress) for case in cases]
        if "variants" in parts:
            rows = [method for method in METHODS if method.id in VARIED]
            found["variants"] = [training(case, effort, progress, rows) for case in variants]
        if "processes" in parts:
            found["processes"] = [processes(case, effort, progress) for case in cases]
        if "compiled" in parts:
            found["compiled"] = [compiled(case, effort, progress) for case in cases]
        found["environment"] = environment()
        if "updates" in parts:
            found["updates"] = update_table(effort, progress)
        if "growth" in parts:
            found["growth"] = growth(effort, progress)
    write_json(options.output / "results.json", found)
    text = markdown(found)
    write_atomically(options.output / "results.md", text)
    figure = drawn(found)
    if figure:
        write_atomically(options.output / "results.svg", svg(figure))
    console.print(text, markup=False)
    console.print(f"{options.output}/results.json, results.md, results.svg")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""``python -m verification.experiments.performance``: measure, write results.json, results.md and results.svg.

Every piece is kept in unfinished.json until a run is whole that uses it: an interrupted run goes on behind its pieces.  Only then
are the results of an earlier run replaced, so that a run that is not interrupted measures everything itself.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from geolora_ref.support.files import locked, read_json, write_atomically, write_json
from geolora_ref.support.terminal import Terminal
from verification.command_line import integer_from, progress_bar
from verification.experiments.performance.apart import ApartError
from verification.experiments.performance.measure import (
    FULL,
    QUICK,
    VARIED,
    compiled,
    environment,
    geometry,
    growth,
    processes,
    training,
    update_table,
    with_memory_kept,
)
from verification.experiments.performance.methods import METHODS
from verification.experiments.performance.networks import CASES, VARIANTS
from verification.experiments.performance.page import drawn, markdown
from verification.machine import provenance
from verification.pictures import svg

PARTS = ("training", "kept", "geometry", "variants", "processes", "compiled", "updates", "growth")
OF_NETWORKS = ("training", "kept", "geometry", "variants", "processes", "compiled")
ALLOCATOR = ("MALLOC_", "GLIBC_TUNABLES")
"""How the variables begin by which the environment sets glibc's allocator."""


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
    parser.add_argument("--fresh", action="store_true", help="forget what an interrupted run had measured")
    parser.add_argument("--output", type=Path, default=Path("build") / "experiments" / "performance", metavar="FOLDER")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status 0: everything was measured; 1: a process of its own failed; 130: interrupted; 2: it could not be measured,
    because what is kept is damaged, or the folder is in use or cannot be written.

    Whatever stops it, what had been measured is kept: the same command goes on behind it.
    """
    options = arguments(argv)
    torch.set_num_threads(options.threads)
    logging.getLogger("transformers").setLevel(logging.ERROR)
    console = Terminal(stderr=True)
    try:
        with locked(options.output):
            return benchmark(options, console)
    except OSError as error:
        console.print(f"cannot go on: {error}", markup=False, soft_wrap=True)
        return 2


def benchmark(options: argparse.Namespace, console: Console) -> int:
    """Measure in a folder that no other run uses; the exit status."""

    def say(line: str) -> None:
        console.print(line, markup=False, soft_wrap=True)

    made_with, unfinished = provenance(), options.output / "unfinished.json"
    about = identity(options, made_with)
    if options.fresh:
        unfinished.unlink(missing_ok=True)
    try:
        kept = pieces_in(unfinished, about, say)
    except ValueError as error:
        say(f"{error}; --fresh begins anew")
        return 2
    try:
        with progress_bar(console, width=22) as bar:
            task = bar.add_task("starting", total=None)

            def progress(what: str, done: int, total: int) -> None:
                bar.update(task, description=what, completed=done, total=total)

            found = measured(pieces(options, progress), kept, lambda now: write_json(unfinished, {"about": about, "pieces": now}))
    except KeyboardInterrupt:
        say(f"interrupted: the same command goes on; kept: {unfinished}")
        return 130
    except ApartError as error:
        say(f"{error}\nthe same command goes on; kept: {unfinished}")
        return 1
    new = {"format": 1, "quick": options.quick, **made_with, **together(found)}
    earlier = set_aside(options.output / "results.json", new)
    if earlier is not None:
        say(f"{earlier}: what an earlier call had measured, with other parts or networks")
    write(new, options.output, console)
    rest = {name: data for name, data in kept.items() if name not in map(" ".join, found)}
    if rest:  # of a run that measures other parts or networks
        write_json(unfinished, {"about": about, "pieces": rest})
    else:
        unfinished.unlink(missing_ok=True)
    return 0


Piece = tuple[str, str]
"""A part, and its network ("" for a part that has none)."""


def pieces(options: argparse.Namespace, progress: Callable[[str, int, int], None]) -> dict[Piece, Callable[[], Any]]:
    """What there is to measure, in order, each of it whole: the parts that are asked for, of each network separately."""
    effort, parts = QUICK if options.quick else FULL, options.only or PARTS
    cases, variants = ([case for case in of if not options.case or case.id in options.case] for of in (CASES, VARIANTS))
    varied = [method for method in METHODS if method.id in VARIED]
    found: dict[Piece, Callable[[], Any]] = {}
    found |= {("training", case.id): partial(training, case, effort, progress) for case in cases}
    found |= {("kept", case.id): partial(with_memory_kept, case, effort, progress) for case in cases}
    found |= {("geometry", case.id): partial(geometry, case, effort, progress) for case in cases}
    found |= {("variants", case.id): partial(training, case, effort, progress, varied) for case in variants}
    found |= {("processes", case.id): partial(processes, case, effort, progress) for case in cases}
    found |= {("compiled", case.id): partial(compiled, case, effort, progress) for case in cases}
    found |= {("environment", ""): environment}
    found |= {("updates", ""): partial(update_table, effort, progress), ("growth", ""): partial(growth, effort, progress)}
    return {piece: measure for piece, measure in found.items() if piece[0] in (*parts, "environment")}


def identity(options: argparse.Namespace, made_with: Mapping[str, Any]) -> dict[str, Any]:
    """What pieces must have in common to stand in one table: effort, threads, rows, settings of the allocator, and of the
    provenance machine, libraries and sources.
    """
    varying = ("date", "commit")  # the sources say more than the commit
    machine = {name: value for name, value in made_with["machine"].items() if name not in varying}
    libraries = {name: version(name) for name in ("peft", "transformers")}
    return {
        "quick": options.quick,
        "threads": options.threads,
        "methods": [method.id for method in METHODS],
        "allocator": {name: os.environ[name] for name in sorted(os.environ) if name.startswith(ALLOCATOR)},
        "machine": machine | libraries,
        "sources": made_with["sources"],
    }


def pieces_in(unfinished: Path, about: dict[str, Any], say: Callable[[str], None]) -> dict[str, Any]:
    """The pieces of an interrupted run with this identity; none of any other, which is said.

    Raises ``ValueError`` if the file is damaged or has another form.
    """
    if not unfinished.exists():
        return {}
    kept = read_json(unfinished)
    if not all(isinstance(kept.get(name), dict) for name in ("about", "pieces")):
        raise ValueError(f"{unfinished}: expected an object with the objects 'about' and 'pieces', found {', '.join(kept)}")
    found: dict[str, Any] = kept["pieces"]
    other = [name for name in about if kept["about"].get(name) != about[name]]
    if other:
        say(f"{unfinished}: {len(found)} pieces are measured again, they differ in: {', '.join(other)}")
        return {}
    return found


def measured(
    wanted: Mapping[Piece, Callable[[], Any]], kept: Mapping[str, Any], keep: Callable[[dict[str, Any]], None]
) -> dict[Piece, Any]:
    """Every piece, measured unless it is kept already; ``keep`` is given all of them as each is done."""
    done = dict(kept)
    for piece, measure in wanted.items():
        name = " ".join(piece)
        if name not in done:
            done[name] = measure()
            keep(done)
    return {piece: done[" ".join(piece)] for piece in wanted}


def together(done: Mapping[Piece, Any]) -> dict[str, Any]:
    """The pieces as results.json has them: a list of networks for the parts that have some."""
    found: dict[str, Any] = {}
    for (part, case), data in done.items():
        found[part] = [*found.get(part, []), data] if case else data
    return found


def set_aside(results: Path, new: Mapping[str, Any]) -> Path | None:
    """Another name for results of which the new ones lack a part or a network, of a whole run where the new one is quick, or
    that cannot be read; None without any.
    """
    if not results.exists():
        return None
    try:
        old = read_json(results)
        if _measured_in(old) <= _measured_in(new) and new["quick"] <= old["quick"]:
            return None
    except (ValueError, TypeError, KeyError):  # damaged, or of another form: no reason to lose it
        pass
    written = datetime.fromtimestamp(results.stat().st_mtime, UTC)
    return results.replace(results.with_name(f"results-{written:%Y%m%d-%H%M%S-%f}.json"))


def _measured_in(found: Mapping[str, Any]) -> set[Piece]:
    """The parts that results have, of a list by its networks."""
    parts = {part: found[part] for part in PARTS if part in found}
    return {(part, one) for part, of in parts.items() for one in ([c["case"] for c in of] if part in OF_NETWORKS else [""])}


def write(found: dict[str, Any], folder: Path, console: Console) -> None:
    """Write results.json, results.md and results.svg, and print the tables."""
    write_json(folder / "results.json", found)
    text = markdown(found)
    write_atomically(folder / "results.md", text)
    figure = drawn(found)
    if figure:
        write_atomically(folder / "results.svg", svg(figure))
    console.print(text, markup=False)
    console.print(f"{folder}/results.json, results.md, results.svg", markup=False)


if __name__ == "__main__":
    sys.exit(main())

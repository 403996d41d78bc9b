"""``python -m verification.trust.faults``: inject what goes wrong on machines into the command
lines; writes faults.json.

Drawn by a seed, hundreds of faults are done one at a time to small runs of fine-tuning,
verification and vectors: kills and interruptions at a file operation or within a write, power
failures (unsynced data is gone), full disks, a second run, flipped bits, files cut off, and
folders, links, pipes or unreadable files in the place of files.  After each fault the command goes
on, or is run anew where it has refused a file (:mod:`verification.trust.fault_trials`).  A program
with precautions left out, one at a time, is the negative control.

It needs Linux.  Finished trials are kept: after a kill the same command goes on.  The sources must
not change meanwhile.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from geolora_ref.support.files import locked, read_json, write_json
from geolora_ref.support.terminal import Terminal
from verification.support.command_line import ProgressBar, integer_from, writable_folder
from verification.support.machine import provenance
from verification.trust.fault_injection import AT_A_BYTE, AT_AN_OPERATION
from verification.trust.fault_programs import PRECAUTIONS, planted, preload, programs
from verification.trust.fault_trials import PLANTS, Bench, Fault, Verdict, trial

__all__ = ["controls", "draw", "main", "totals"]

COUNTS = {
    "kill": 34,
    "power failure": 18,
    "kill in a write": 10,
    "full disk": 14,
    "file size limit": 6,
    "interrupt": 8,
    "terminate": 8,
    "stop": 6,
    "two at once": 2,
    "flip": 20,
    "cut": 8,
    "name": 24,
}
"""How many faults of each kind are drawn for a program; fewer where it has fewer operations, files
or names.
"""
FEW = {"kill": 6, "power failure": 6, "kill in a write": 4, "stop": 2, "flip": 12, "name": 20}
"""The same for the planted program."""
LOCKED = 6
"""The number of file operations after which a program has locked its folder."""

Tell = Callable[[str, int, int], None]


def draw(bench: Bench, counts: Mapping[str, int], seed: str, part: float = 1.0) -> list[Fault]:
    """Draw faults of each kind, as many as ``counts`` says times the share of the program and
    ``part``, or all there are.
    """
    clock = random.Random(seed)  # noqa: S311  (no secrets)
    drawn: list[Fault] = []
    for kind, number in counts.items():
        count = math.ceil(number * bench.program.share * part)
        found = list(_possible(bench, kind, count, clock))
        drawn += clock.sample(found, min(count, len(found)))
    return drawn


def _possible(bench: Bench, kind: str, count: int, clock: random.Random) -> Sequence[Fault]:
    """All faults of a kind; of faults at a byte or bit, which are too many to list, ``count`` drawn
    ones.
    """
    program, late = bench.program, bench.program.resumes
    start = bench.folder(late)
    if kind in ("flip", "cut"):
        files = [path for pattern in program.damaged for path in sorted(start.glob(pattern))]
        unit = 8 if kind == "flip" else 1
        paths = [clock.choice(files) for _ in range(count if files else 0)]
        return [Fault(kind, clock.randrange(unit * p.stat().st_size), str(p.relative_to(start)), late=late) for p in paths]
    if kind == "name":
        there = [str(path.relative_to(start)) for name in program.names for path in start.glob(name)]
        missing = [name for name in program.names if "*" not in name and name not in there]
        found = [Fault(kind, 0, name, plant, late) for name in (*there, *missing) for plant in PLANTS]
        return [*found, *(Fault(kind, 0, name, "unreadable", late) for name in there)]
    if not program.writes:
        return []
    if kind in AT_AN_OPERATION:
        first, behind = LOCKED if kind == "stop" else 1, kind == "power failure"
        return [Fault(kind, at, late=half) for half, last in bench.operations.items() for at in range(first, last + behind + 1)]
    at_a_byte = kind in AT_A_BYTE
    return [Fault(kind, clock.randrange(bench.largest) if at_a_byte else 0, late=late and k % 2 == 1) for k in range(count)]


def controls(place: Path, seed: int) -> dict[str, list[str]]:
    """The verdicts on the planted program, whole ("") and without each of its precautions."""
    found = {}
    for without in ("", *PRECAUTIONS):
        bench = Bench(planted(without), place / "control", least=1.0)
        found[without] = sorted({trial(bench, fault).word for fault in draw(bench, FEW, f"{seed} {without}")})
    return found


def totals(found: Mapping[str, Sequence[tuple[Fault, Verdict]]]) -> dict[str, Any]:
    """How often each verdict was given, by program and kind of fault; every verdict that is not
    fine, with its reason.
    """
    verdicts = {
        name: {kind: dict(Counter(verdict.word for fault, verdict in rows if fault.kind == kind)) for kind in COUNTS}
        for name, rows in found.items()
    }
    rest = [(name, fault, verdict) for name, rows in found.items() for fault, verdict in rows if verdict.word != "fine"]
    findings = [{"program": name, **fault._asdict(), **verdict._asdict()} for name, fault, verdict in rest]
    return {"faults": sum(map(len, found.values())), "verdicts": verdicts, "findings": findings}


def _injected(place: Path, seed: int, part: float, state: Path, tell: Tell) -> dict[str, list[tuple[Fault, Verdict]]]:
    """All faults of all programs; a fault that an earlier run with the same sources and seed has
    tried is not tried again.
    """
    about = {"sources": provenance()["sources"], "seed": seed}
    kept = read_json(state) if state.exists() else {}
    done: dict[str, list[str]] = kept["done"] if kept.get("about") == about else {}
    found: dict[str, list[tuple[Fault, Verdict]]] = {}
    for name, program in programs().items():
        bench, found[name] = Bench(program, place / "bench"), []
        faults = draw(bench, COUNTS, f"{seed} {name}", part)
        for number, fault in enumerate(faults, 1):
            key = json.dumps([name, *fault])
            if key not in done:
                done[key] = [*trial(bench, fault)]
                write_json(state, {"about": about, "done": done})
            found[name].append((fault, Verdict(*done[key])))
            tell(name, number, len(faults))
    return found


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status 0: every verdict is fine and every control is caught; 1: not so; 2: cannot go on;
    130: interrupted.
    """
    parser = argparse.ArgumentParser(prog="python -m verification.trust.faults", description="Disturb programs and compare.")
    parser.add_argument("--part", type=_fraction, default=1.0, help="of the faults, for whoever has less time (default: all, 1)")
    parser.add_argument("--seed", type=integer_from(0), default=0, help="where the random draws start (default: 0)")
    parser.add_argument("--output", type=writable_folder, default="build/rigor", metavar="FOLDER")
    options = parser.parse_args(argv)
    about = provenance()
    for stop in (signal.SIGTERM, signal.SIGINT):  # a shell may have this in the background, with SIGINT ignored
        signal.signal(stop, signal.default_int_handler)
    console = Terminal(stderr=True)
    try:
        with locked(options.output / "faults"), tempfile.TemporaryDirectory() as folder, ProgressBar(console, width=22) as bar:
            tasks = {name: bar.add_task(name, total=None) for name in programs()}
            Path(folder).chmod(0o755)  # one fault needs another user
            found = _all(options, Path(folder), lambda name, done, of: bar.update(tasks[name], completed=done, total=of))
    except KeyboardInterrupt:
        console.print("interrupted: the same command goes on from here")
        return 130
    except (OSError, ValueError) as error:
        console.print(f"cannot go on: {error}", markup=False, soft_wrap=True)
        return 2
    write_json(options.output / "faults.json", found | about)
    _print(found)
    return 0 if found["passed"] else 1


def _fraction(text: str) -> float:
    """A type for argparse: a number in (0, 1]."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0.0 < value <= 1.0:
        raise argparse.ArgumentTypeError(f"expected a number in (0, 1], found {text!r}")
    return value


def _all(options: argparse.Namespace, place: Path, tell: Tell) -> dict[str, Any]:
    """Run the controls and the faults; returns the results."""
    caught = controls(place, options.seed)  # first, while this process is still small and quick to fork
    preload()
    found = totals(_injected(place, options.seed, options.part, options.output / "faults" / "state.json", tell))
    held = caught[""] == ["fine"] and all(word in caught[without] for without, word in PRECAUTIONS.items())
    return {"format": 2, **found, "controls": caught, "passed": held and not found["findings"]}


def _print(found: dict[str, Any]) -> None:
    print(f"{found['faults']} faults, {len(found['findings'])} of them not fine")
    for one in found["findings"]:
        print(f"  {', '.join(f'{key}: {value}' for key, value in one.items())}")
    for without, words in found["controls"].items():
        print(f"  control, {without or 'nothing left out'}: {', '.join(words)}")


if __name__ == "__main__":
    sys.exit(main())

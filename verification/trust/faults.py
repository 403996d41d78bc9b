"""``python -m verification.trust.faults``: disturb the commands that keep files; writes faults.json.

Faults drawn by a seed are done one at a time to small runs.  The power fails before a file
operation (data that were not synced are gone), the kernel kills within a write, the disk is full, a
second run starts, a bit flips, a file is missing or replaced by a folder, a pipe or other contents.
After each fault that ends it the command runs again.

*lost*: finished work is gone, or the command cannot continue; *damaged*: other results than those
of an undisturbed run, with the same exit status; *hang*: not done after a minute; *traceback*: a
traceback, another exit status, or a refusal that names no file; *fine*: none of these.  It needs
Linux.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from geolora_ref.support.files import write_json
from geolora_ref.support.terminal import Terminal
from verification.support.command_line import ProgressBar, integer_from, writable_folder
from verification.support.machine import provenance
from verification.trust.fault_injection import BROKE, Ended, disturbed
from verification.trust.fault_programs import Program, preload, programs

__all__ = ["KINDS", "PLANTS", "Bench", "Fault", "draw", "main", "trial"]

KINDS = {
    "power failure": 18,
    "kill in a write": 8,
    "full disk": 12,
    "stop": 6,
    "flip": 16,
    "name": 20,
}
"""How many faults of each kind are drawn for a program; fewer where it has fewer operations or files."""
ALLOWED = {"power failure": -signal.SIGKILL, "kill in a write": -signal.SIGXFSZ, "full disk": 2}
"""The exit status of a run that the fault ends."""
LOCKED = 6
"""The number of file operations after which a program has locked its folder."""
PLANTS: dict[str, Callable[[Path], object]] = {
    "nothing": lambda path: None,
    "a folder": Path.mkdir,
    "other contents": lambda path: path.write_bytes(b"other"),
    "a pipe": os.mkfifo,
}
"""Objects that are put in the place of a file."""


class Fault(NamedTuple):
    """A fault: its kind; at which operation, byte or bit; on which file, and what is put there."""

    kind: str
    at: int = 0
    name: str = ""
    plant: str = ""


class _Wrong(Exception):  # noqa: N818  (a verdict on another program)
    """A verdict that is not fine: the word, and the reason."""


class Bench:
    """A program in a folder, with a copy of the folder half-way, and the results of an undisturbed run."""

    def __init__(self, program: Program, place: Path, patience: float = 60.0) -> None:
        self.program, self.work, self.patience = program, place / "work", patience
        shutil.rmtree(place, ignore_errors=True)
        self.work.mkdir(parents=True)
        program.prepare(self.work)
        given = shutil.copytree(self.work, place / "given")
        self.undisturbed = self.run()
        if self.undisturbed.status:  # a program that refuses its own files would notice no damage
            raise RuntimeError(
                f"{self.work}: expected status 0, found {self.undisturbed.status}: {self.undisturbed.said[-300:]}"
            )
        self.result = program.result(self.work)
        self.largest = max(path.stat().st_size for path in self.work.rglob("*") if path.is_file())
        shutil.rmtree(self.work)
        shutil.copytree(given, self.work)
        self.run("kill", self.undisturbed.operations // 2)
        self.half = shutil.copytree(self.work, place / "half")
        self.operations = self.run().operations

    def run(
        self, kind: str = "", at: int = 0, when_stopped: Callable[[], None] = lambda: None
    ) -> Ended:
        """Run the program to its end."""
        return disturbed(
            lambda: self.program.run(self.work), self.work, kind, at, self.patience, when_stopped
        )

    def same(self) -> bool:
        """Return whether the results are those of an undisturbed run."""
        try:
            return bool(self.program.result(self.work) == self.result)
        except (OSError, ValueError, LookupError, TypeError):
            return False

    def ended(self, ended: Ended, *allowed: int, names: Sequence[str] = ()) -> bool:
        """Return whether a run ended like an undisturbed one.  Raise a verdict unless it ended in
        time, without a traceback, with this or an ``allowed`` status, and refused one of ``names``.
        """
        said = ended.said.strip()[-300:]
        if ended.hung:
            raise _Wrong("hang", f"not done after {self.patience:.0f} s")
        if (
            ended.status == BROKE
            or "Traceback (most recent call last)" in said
            or ended.status not in (0, *allowed)
        ):
            raise _Wrong("traceback", f"status {ended.status}: {said}")
        if ended.status == 2 and not any(name in ended.said for name in names or (str(self.work),)):
            raise _Wrong("traceback", f"names no file: {said}")
        return ended.status == 0

    def completed(self, ended: Ended) -> None:
        """Require that a run ended like an undisturbed one, with its results."""
        if not self.ended(ended, 2):
            raise _Wrong("lost", f"status {ended.status}: {ended.said.strip()[-300:]}")
        if not self.same():
            raise _Wrong("damaged", "other results than those of an undisturbed run")


def trial(bench: Bench, fault: Fault) -> tuple[str, str]:
    """Try one fault on a run that is half-way; the verdict in a word, and the reason."""
    shutil.rmtree(bench.work)
    shutil.copytree(bench.half, bench.work)
    try:
        {"flip": _replaced, "name": _replaced, "stop": _second}.get(fault.kind, _ended_early)(
            bench, fault
        )
    except _Wrong as wrong:
        return wrong.args[0], wrong.args[1]
    return "fine", ""


def _ended_early(bench: Bench, fault: Fault) -> None:
    """End one run, and require that the next one continues."""
    before = set(bench.program.kept(bench.work))
    if bench.ended(bench.run(fault.kind, fault.at), ALLOWED[fault.kind]) and not bench.same():
        raise _Wrong("lost", "it had ended with success")
    try:
        gone = before - set(bench.program.kept(bench.work))
    except (OSError, ValueError, LookupError) as error:
        raise _Wrong("lost", str(error)[-300:]) from error
    if gone:
        raise _Wrong("lost", f"{len(gone)} of {len(before)} finished steps")
    bench.completed(bench.run())


def _second(bench: Bench, fault: Fault) -> None:
    """Stop one run while a second one tries to start in its folder."""
    others: list[Ended] = []
    ended = bench.run(fault.kind, fault.at, lambda: others.append(bench.run()))
    if others and bench.ended(others[0], 2) and bench.program.locks:
        raise _Wrong("lost", "a second run was let in")
    bench.completed(ended)


def _replaced(bench: Bench, fault: Fault) -> None:
    """Flip a bit of a file, or put something else in its place: the run gives the same results or
    refuses the file by its name.
    """
    path = bench.work / fault.name
    if fault.kind == "flip":
        contents = bytearray(path.read_bytes())
        contents[fault.at // 8] ^= 1 << fault.at % 8
        with path.open("r+b") as file:
            file.write(contents)
    else:
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        path.parent.mkdir(exist_ok=True)
        PLANTS[fault.plant](path)
    top = Path(fault.name).parts[0]
    done = bench.ended(bench.run(), 1, 2, names=(path.name, str(bench.work / top), f"{top} was "))
    if done and not bench.same():
        raise _Wrong("damaged", "other results than those of an undisturbed run")


def draw(bench: Bench, seed: str) -> list[Fault]:
    """Draw faults of each kind, as many as :data:`KINDS` says or all there are."""
    clock, half = random.Random(seed), bench.half  # noqa: S311  (no secrets)
    damaged = [path for pattern in bench.program.damaged for path in sorted(half.glob(pattern))]
    names = [
        str(path.relative_to(half))
        for pattern in bench.program.names
        for path in sorted(half.glob(pattern))
    ]
    names += [name for name in bench.program.names if "*" not in name and name not in names]
    possible = {
        "power failure": [Fault("power failure", at) for at in range(1, bench.operations + 2)],
        "full disk": [Fault("full disk", at) for at in range(1, bench.operations + 1)],
        "stop": [Fault("stop", at) for at in range(LOCKED, bench.operations + 1)],
        "kill in a write": [Fault("kill in a write", at) for at in range(bench.largest)],
        "flip": [
            Fault("flip", bit, str(p.relative_to(half)))
            for p in damaged
            for bit in range(8 * p.stat().st_size)
        ],
        "name": [Fault("name", 0, name, plant) for name in names for plant in PLANTS],
    }
    return [
        fault
        for kind, found in possible.items()
        for fault in clock.sample(found, min(KINDS[kind], len(found)))
    ]


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status 0: every verdict is fine; 1: not so."""
    parser = argparse.ArgumentParser(
        prog="python -m verification.trust.faults", description="Disturb programs and compare."
    )
    parser.add_argument(
        "--seed", type=integer_from(0), default=0, help="where the random draws start (default: 0)"
    )
    parser.add_argument("--output", type=writable_folder, default="build/rigor", metavar="FOLDER")
    options, about = parser.parse_args(argv), provenance()
    found: dict[str, Any] = {"format": 3, "faults": 0, "verdicts": {}, "findings": []}
    preload()
    with (
        tempfile.TemporaryDirectory() as folder,
        ProgressBar(Terminal(stderr=True), width=22) as bar,
    ):
        for name, program in programs().items():
            bench, counts = (
                Bench(program, Path(folder) / "bench"),
                {kind: Counter[str]() for kind in KINDS},
            )
            faults = draw(bench, f"{options.seed} {name}")
            for fault in bar.track(faults, description=name):
                word, reason = trial(bench, fault)
                counts[fault.kind][word] += 1
                if word != "fine":
                    found["findings"].append(
                        {"program": name, **fault._asdict(), "word": word, "reason": reason}
                    )
            found["faults"] += len(faults)
            found["verdicts"][name] = {kind: dict(count) for kind, count in counts.items()}
    write_json(options.output / "faults.json", found | {"passed": not found["findings"]} | about)
    print(f"{found['faults']} faults, {len(found['findings'])} of them not fine")
    for one in found["findings"]:
        print(f"  {', '.join(f'{key}: {value}' for key, value in one.items())}")
    return 1 if found["findings"] else 0


if __name__ == "__main__":
    sys.exit(main())

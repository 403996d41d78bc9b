"""``python -m verification.trust.random_kills``: kill the real command line at random moments and
compare; writes kills.json.

A campaign ``python -m verification --full --only …`` runs in a process group of its own.  It is
killed (SIGKILL in half of the cases, else SIGTERM or SIGINT) once it has finished a random number
of further cases, and started again, until enough kills have hit.  After every kill the journal may
have lost nothing and have nothing twice; at the end its results must be those of an undisturbed
run.  The campaign runs from a copy of the sources: results belong to sources, and somebody may be
editing them.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from geolora_ref.support.files import read_json, write_json
from geolora_ref.support.terminal import Terminal
from verification.support.command_line import ProgressBar, integer_from, writable_folder
from verification.support.machine import ROOT, provenance

__all__ = ["campaign", "copy_sources", "judge", "main", "ratios", "units"]

KILLED = ("one-backward-pass",)
"""The ids of the claims whose campaigns are killed: a small one, all of whose cases take seconds."""
SOURCES = ("geolora_ref", "verification", "docs")
BUILT = ("__pycache__", "_generated", "gallery")
SIGNALS = (signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGINT)

Line = tuple[str, str]
"""The unit that a line of a journal is about, and the line."""


def units(folder: Path) -> list[Line]:
    """Every whole line of the journals of this folder: which case it is, and the line itself."""
    lines = [line for path in sorted(folder.glob("journal-*.jsonl")) for line in path.read_bytes().split(b"\n")]
    return [(json.loads(line)["unit"], line.decode()) for line in lines if line.endswith(b"}")]


def judge(before: Sequence[Line], after: Sequence[Line]) -> tuple[int, int]:
    """How many finished cases a kill lost or changed, and how many are there more than once."""
    there = set(after)
    lost = sum(line not in there for line in before)
    return lost, sum(count - 1 for count in Counter(unit for unit, _ in after).values())


def campaign(
    kills: int, folder: Path, claims: Sequence[str] = KILLED, seed: int = 0, report: Callable[[int], None] = lambda hits: None
) -> dict[str, Any]:
    """Kill campaigns at work until ``kills`` kills have hit; returns what they did."""
    clock = random.Random(seed)  # noqa: S311  (moments of kills, no secrets)
    killed, undisturbed = folder / "killed", folder / "undisturbed"
    copy_sources(folder / "sources")
    _run(folder, claims, undisturbed)
    expected, whole = ratios(undisturbed), sorted(unit for unit, _ in units(undisturbed))
    hits: Counter[str] = Counter()
    lost = doubled = campaigns = resumed = 0
    before: list[Line] = []
    identical = True
    while hits.total() < kills:
        further, moment = clock.randint(1, len(whole) // 5), clock.uniform(0.0, 0.05)
        sent = _kill(folder, claims, killed, len(before) + further, moment, clock.choice(SIGNALS))
        after = units(killed)
        lost_now, doubled_now = judge(before, after)
        lost, doubled, resumed = lost + lost_now, doubled + doubled_now, resumed + bool(before)
        if sent:
            hits[sent.name] += 1
            before = after
            report(hits.total())
        if not sent or hits.total() == kills:  # done before the kill, or enough: what came out must be the undisturbed results
            if sent:
                _run(folder, claims, killed)
            identical &= ratios(killed) == expected and sorted(unit for unit, _ in units(killed)) == whole
            campaigns += 1
            shutil.rmtree(killed)
            before = []
    return {
        "format": 1,
        "claims": list(claims),
        "cases": len(whole),
        "kills": hits.total(),
        "signals": dict(sorted(hits.items())),
        "campaigns": campaigns,
        "resumed": resumed,
        "lost": lost,
        "doubled": doubled,
        "identical": identical,
        "passed": identical and not lost and not doubled,
    }


def copy_sources(folder: Path) -> None:
    """Everything that the command line reads: the packages, and the documentation whose keys and
    headings the claims cite.
    """
    for part in SOURCES:
        shutil.copytree(ROOT / part, folder / part, ignore=shutil.ignore_patterns(*BUILT))


def _command(claims: Sequence[str], output: Path) -> list[str]:
    only = [word for claim in claims for word in ("--only", claim)]
    return [sys.executable, "-m", "verification", "--full", *only, "--jobs", "1", "--output", str(output)]


def _run(folder: Path, claims: Sequence[str], output: Path) -> None:
    """Run a campaign to its end."""
    done = subprocess.run(  # noqa: S603  (our own command)
        _command(claims, output), cwd=folder / "sources", capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(
            f"{output}: expected a campaign that holds, found status {done.returncode}: {(done.stdout + done.stderr)[-500:]}"
        )


def _kill(
    folder: Path, claims: Sequence[str], output: Path, finished: int, wait: float, chosen: signal.Signals
) -> signal.Signals | None:
    """Start a campaign, kill it ``wait`` seconds after so many cases are ``finished``; None if it
    ended before the kill.
    """
    process = subprocess.Popen(  # noqa: S603  (our own command)
        _command(claims, output),
        cwd=folder / "sources",
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        while process.poll() is None and len(units(output)) < finished:
            time.sleep(0.02)
        process.wait(timeout=wait)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, chosen)
        return chosen if process.wait() else None
    except BaseException:  # this program itself is stopped: leave no campaign behind
        os.killpg(process.pid, signal.SIGKILL)
        raise
    if process.returncode:
        raise RuntimeError(f"{output}: expected a campaign that holds, found status {process.returncode} before the kill")
    return None


def ratios(output: Path) -> Any:
    """The results of a run: for every claim its id, its ratios and its controls."""
    return [(claim["id"], claim["ratios"], claim["controls"]) for claim in read_json(output / "results.json")["claims"]]


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status 0: nothing was lost, nothing counted twice, and the results are those of an
    undisturbed run.
    """
    parser = argparse.ArgumentParser(prog="python -m verification.trust.random_kills", description="Kill campaigns and compare.")
    parser.add_argument("--kills", type=integer_from(1), default=20, help="kills that hit a campaign at work (default: 20)")
    parser.add_argument("--seed", type=int, default=0, help="where the random draws start (default: 0)")
    parser.add_argument("--output", type=writable_folder, default="build/rigor", metavar="FOLDER")
    options = parser.parse_args(argv)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # to stop this stops the campaign at work, too
    about = provenance()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell in whose background this runs may have SIGINT ignored
    with tempfile.TemporaryDirectory() as folder, ProgressBar(Terminal(stderr=True)) as bar:
        task = bar.add_task("kills", total=options.kills)
        found = campaign(options.kills, Path(folder), seed=options.seed, report=lambda hits: bar.update(task, completed=hits))
    write_json(options.output / "kills.json", found | about)
    print(
        f"{found['kills']} kills {found['signals']} of {found['campaigns']} campaigns with {found['cases']} cases: "
        f"{found['lost']} lost, {found['doubled']} doubled, results "
        f"{'identical to an undisturbed run' if found['identical'] else 'NOT those of an undisturbed run'}"
    )
    return 0 if found["passed"] else 1


if __name__ == "__main__":
    sys.exit(main())

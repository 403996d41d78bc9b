"""Long runs: many thousand steps on a small problem, ``python -m verification.trust.long_runs``;
writes long_runs.json.

The target changes between rank 6 and rank 1, so that ranks grow and shrink all the time. Each tenth
of the run reports the defect of the bases just before they are cured, the ranks, the processor time
of a step and the memory of the process. After half of the steps the state is saved, loaded and
continued once more; both runs must end bit for bit the same.

Rounding adds up in the bases: with one target and without a cure the defect grows without bound
(4500 eps after 16 000 steps in float64). The cure is a Newton–Schulz step
(:meth:`geolora_ref.LowRank.polished`), ``--polish K`` every K steps.

The whole takes a quarter of an hour of a quiet core. Sealed files allow the same command to resume
after a kill.
"""

from __future__ import annotations

import argparse
import base64
import io
import resource
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from geolora_ref import LowRank, ProjectedGradients, geolora_step
from geolora_ref.problems import Quadratic
from geolora_ref.support.files import digest, locked, read_json, write_json
from geolora_ref.support.terminal import Terminal
from verification.support.command_line import ProgressBar, integer_from, writable_folder
from verification.support.machine import ROOT, provenance

__all__ = ["long_run", "main", "verdict"]

SHAPE, PERIOD, TENTHS = (12, 10), 100, 10
CHUNK = 10_000
"""Steps between two sealed files."""
LEAK = 4096
"""KiB by which the process may grow in the whole run, after its first chunk."""

OneStep = Callable[[LowRank, int], tuple[LowRank, float]]


def long_run(
    steps: int,
    dtype: str,
    polish: int,
    progress: Callable[[int], None] = lambda done: None,
    period: int = PERIOD,
    state_file: Path | None = None,
) -> dict[str, Any]:
    """The measurements of one run of ``steps`` steps, at least 2·TENTHS·PERIOD; the target changes
    every ``period`` steps.

    Half of the steps are done twice, so that ``progress(done)`` ends at 3/2 ``steps``, rounded up.
    With a ``state_file`` the run resumes where an earlier one of the same steps, options and
    sources stopped.
    """
    step = _stepper(dtype, polish, period)
    task = {
        "steps": steps,
        "dtype": dtype,
        "polish": polish,
        "period": period,
        "sources": _sources(),
    }
    state, middle = (
        _state(task, state_file),
        steps - steps // 2,
    )  # half of the steps, which begin where a tenth ends
    Y = _unpacked(state["Y"])
    while state["done"] < steps + middle:
        first_pass = state["done"] < steps
        begin = state["done"] if first_pass else state["done"] - middle
        tenth = next(t for t in range(TENTHS) if begin < (t + 1) * steps // TENTHS)
        end = min(begin + CHUNK, (tenth + 1) * steps // TENTHS)
        Y, measured = _advance(step, Y, begin, end)
        if first_pass:
            _enter(state, tenth, measured)
        state["done"] += end - begin
        if state["done"] == steps - middle:
            state["middle"] = _packed(Y)
        if state["done"] == steps:
            state["end"], Y = _packed(Y), _unpacked(state["middle"])
        state["Y"] = _packed(Y)
        if state_file:
            write_json(state_file, state)
        progress(state["done"])
    same = all(a.tobytes() == b.tobytes() for a, b in zip(Y, _unpacked(state["end"]), strict=True))
    found = {key: task[key] for key in ("steps", "dtype", "polish", "period")} | {
        "eps": float(np.finfo(dtype).eps)
    }
    found |= {
        "tenths": state["tenths"],
        "grown_kib": state["grown_kib"],
        "resumed": state["resumed"],
    }
    return found | {"restored bit for bit": same} | verdict(found | {"restored bit for bit": same})


def verdict(found: dict[str, Any]) -> dict[str, Any]:
    """Judge the run: bounded defect, ranks that grow and shrink in every tenth, no leak of memory or time."""
    tenths = found["tenths"]
    defects = [tenth["defect"] / found["eps"] for tenth in tenths]
    a_step = [tenth["seconds"] / tenth["steps"] for tenth in tenths]
    reasons = {
        "the drift of the bases is bounded": max(defects[1:]) <= 4.0 * defects[0]
        and max(defects) <= 1000.0,
        "ranks grow and shrink": all(
            tenth["ranks"][0] == 1 and tenth["ranks"][-1] >= 6 for tenth in tenths
        ),
        "no leak of memory": found["grown_kib"] <= LEAK,
        "no growth of the time a step": a_step[-1] <= 3.0 * min(a_step[:-1]),
        "restored bit for bit": found["restored bit for bit"],
    }
    return {"checks": reasons, "passed": all(reasons.values())}


def _stepper(dtype: str, polish: int, period: int) -> OneStep:
    """Step k: the new state, and the defect of its bases before they are cured (measured every
    PERIOD steps, else 0).
    """
    spectra = ([1.0, 0.9, 0.8, 0.7, 0.6, 0.5], [1.0])
    problems = [Quadratic.random(SHAPE, spectrum, np.random.default_rng(5)) for spectrum in spectra]
    fields = [tuple(X.astype(dtype) for X in (p.H1, p.A, p.H2)) for p in problems]

    def step(Y: LowRank, k: int) -> tuple[LowRank, float]:
        H1, A, H2 = fields[k // period % 2]
        gradients = ProjectedGradients.from_dense(Y, H1 @ (Y.full() - A) @ H2)
        Y = geolora_step(Y, gradients, learning_rate=1.0, tau=0.02).Y
        defect = _defect(Y) if (k + 1) % PERIOD == 0 else 0.0
        return (Y.polished() if polish and (k + 1) % polish == 0 else Y), defect

    return step


def _state(task: dict[str, Any], state_file: Path | None) -> dict[str, Any]:
    """The state of this run; that at the beginning if there is no file of the same task."""
    if state_file and state_file.exists():
        state = read_json(state_file)
        if state.get("task") == task:
            return state | {"resumed": state["resumed"] + 1, "warm": False}
    start = LowRank(
        *(
            X.astype(task["dtype"])
            for X in LowRank.random(SHAPE, [1e-3, 1e-3], np.random.default_rng(6))
        )
    )
    empty = {"steps": 0, "defect": 0.0, "ranks": [], "seconds": 0.0, "peak_kib": 0}
    return {
        "task": task,
        "done": 0,
        "Y": _packed(start),
        "tenths": [dict(empty) for _ in range(TENTHS)],
        "grown_kib": 0,
        "resumed": 0,
        "warm": False,
    }


def _advance(step: OneStep, Y: LowRank, begin: int, end: int) -> tuple[LowRank, dict[str, Any]]:
    """Steps ``begin`` to ``end``, and what was measured."""
    ranks, worst, started, before = set(), 0.0, time.process_time(), _peak()
    for k in range(begin, end):
        Y, defect = step(Y, k)
        ranks.add(Y.rank)
        worst = max(worst, defect)
    seconds, peak = time.process_time() - started, _peak()
    return Y, {
        "steps": end - begin,
        "defect": worst,
        "ranks": ranks,
        "seconds": seconds,
        "peak_kib": peak,
        "grown": peak - before,
    }


def _enter(state: dict[str, Any], tenth: int, measured: dict[str, Any]) -> None:
    """Add what a chunk measured to its tenth.  The first chunk of a process warms up: its growth is
    no leak.
    """
    row = state["tenths"][tenth]
    for key in ("steps", "seconds"):
        row[key] += measured[key]
    for key in ("defect", "peak_kib"):
        row[key] = max(row[key], measured[key])
    row["ranks"] = sorted({*row["ranks"], *measured["ranks"]})
    state["grown_kib"] += measured["grown"] if state["warm"] else 0
    state["warm"] = True


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _defect(Y: LowRank) -> float:
    one = np.eye(Y.rank)
    return float(
        max(np.linalg.norm(B.T.astype(np.float64) @ B.astype(np.float64) - one) for B in (Y.U, Y.V))
    )


def _packed(Y: LowRank) -> str:
    """The bits of U, S, V and the order in which memory has them (products depend on it), as text."""
    file = io.BytesIO()
    np.savez(file, U=Y.U, S=Y.S, V=Y.V)
    return base64.b64encode(file.getvalue()).decode()


def _unpacked(text: str) -> LowRank:
    with np.load(io.BytesIO(base64.b64decode(text)), allow_pickle=False) as stored:
        return LowRank(stored["U"], stored["S"], stored["V"])


def _sources() -> str:
    """A digest of the sources of the step, of its problem and of this file, and of NumPy's version;
    the machine is left out.
    """
    files = [
        path
        for room in ("", "problems")
        for path in sorted((ROOT / "geolora_ref" / room).glob("*.py"))
    ] + [Path(__file__)]
    return digest(np.__version__.encode() + b"".join(path.read_bytes() for path in files))


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status 0: every check of every run holds; 1: one does not; 2: cannot go on; 130:
    interrupted, to be taken up again.
    """
    parser = argparse.ArgumentParser(
        prog="python -m verification.trust.long_runs", description="Many steps on a small problem."
    )
    parser.add_argument(
        "--float32",
        type=int,
        default=100_000,
        metavar="STEPS",
        help="in single precision (default: 100000)",
    )
    parser.add_argument(
        "--float64",
        type=int,
        default=1_000_000,
        metavar="STEPS",
        help="in double precision (default: 1000000)",
    )
    parser.add_argument(
        "--polish",
        type=integer_from(0),
        default=100,
        metavar="K",
        help="every K steps (default: 100; 0: never)",
    )
    parser.add_argument(
        "--fresh", action="store_true", help="forget what an interrupted run had done"
    )
    parser.add_argument("--output", type=writable_folder, default="build/rigor", metavar="FOLDER")
    options = parser.parse_args(argv)
    least = 2 * TENTHS * PERIOD
    steps_each = (options.float32, options.float64)
    if not any(steps_each) or any(steps and steps < least for steps in steps_each):
        parser.error(
            f"expected 0 or at least {least} steps, and not 0 twice, found {options.float32} and {options.float64}"
        )
    console = Terminal(stderr=True)
    try:
        with locked(options.output / "long_runs"):
            found = _run_all(options, console)
    except KeyboardInterrupt:
        console.print("interrupted: the same command continues from here")
        return 130
    except (OSError, ValueError) as error:  # in use, unwritable, full, or what was kept is damaged
        console.print(f"cannot go on: {error}", markup=False, soft_wrap=True)
        return 2
    for run in found["runs"]:
        _print(run)
    return 0 if found["passed"] else 1


def _run_all(options: argparse.Namespace, console: Console) -> dict[str, Any]:
    """Do both runs, or what is left of them; the states kept for a resumption are removed once the
    results are written.
    """
    files = {
        dtype: options.output / "long_runs" / f"{dtype}.json" for dtype in ("float32", "float64")
    }
    if options.fresh:
        _forget(files.values())
    about = provenance()
    wanted = [dtype for dtype in files if getattr(options, dtype)]
    runs = [
        _shown(getattr(options, dtype), dtype, options.polish, files[dtype], console)
        for dtype in wanted
    ]
    found = {"format": 1, **about, "runs": runs, "passed": all(run["passed"] for run in runs)}
    write_json(options.output / "long_runs.json", found)
    _forget(files.values())
    return found


def _shown(steps: int, dtype: str, polish: int, file: Path, console: Console) -> dict[str, Any]:
    """One long run, with a progress bar."""
    with ProgressBar(console, width=8) as bar:
        task = bar.add_task(dtype, total=2 * steps - steps // 2)
        return long_run(
            steps, dtype, polish, lambda done: bar.update(task, completed=done), state_file=file
        )


def _forget(files: Iterable[Path]) -> None:
    for file in files:
        file.unlink(missing_ok=True)


def _print(run: dict[str, Any]) -> None:
    defects = ", ".join(f"{tenth['defect'] / run['eps']:.1f}" for tenth in run["tenths"])
    print(
        f"{run['steps']} steps in {run['dtype']} (taken up {run['resumed']} times): defect / eps {defects}"
    )
    print(
        "\n".join(
            f"  {'yes' if holds else 'NO '}  {check}" for check, holds in run["checks"].items()
        )
    )


if __name__ == "__main__":
    sys.exit(main())

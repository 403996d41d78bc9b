"""Do the measurements: plain data out, for the page and the JSON."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import version
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from scipy.stats import quantile_test
from torch.utils.flop_counter import FlopCounterMode

from verification.experiments.performance.apart import alone, can_keep, peak_memory, rounds_in_turn, updates_in_turn
from verification.experiments.performance.methods import METHODS, Method
from verification.experiments.performance.networks import Case
from verification.experiments.performance.timing import Times, interleaved
from verification.experiments.performance.updates import GRID, SIDE_BY_SIDE, Size, update_rows
from verification.machine import processor
from verification.slopes import slope

__all__ = [
    "FULL",
    "QUICK",
    "VARIED",
    "Effort",
    "compiled",
    "environment",
    "geometry",
    "growth",
    "processes",
    "training",
    "update_table",
    "with_memory_kept",
]

Progress = Callable[[str, int, int], None]
_METHOD = {method.id: method for method in METHODS}


def addmm_in_place(C: Sequence[int], A: Sequence[int], B: Sequence[int], **_: Any) -> int:
    """Flops of C + A B, which torch's counter knows for the other form only."""
    return 2 * A[0] * A[1] * B[1]


def baddbmm_in_place(C: Sequence[int], A: Sequence[int], B: Sequence[int], **_: Any) -> int:
    """The same for a batch."""
    return A[0] * addmm_in_place(C[1:], A[1:], B[1:])


IN_PLACE = {torch.ops.aten.addmm_: addmm_in_place, torch.ops.aten.baddbmm_: baddbmm_in_place}
VARIED = ("frozen", "lora", "adalora", "optimizer", "adam")
"""The rows that have a dropout of their own."""


@dataclass(frozen=True)
class Effort:
    """How many rounds: of training steps in turn, in so many processes; of ``steps`` of a method alone in each of as many; of
    updates, in as many; of each point of the growth table, which ends at ``largest``; and of training steps where the geometry
    alone is told, in ``many`` processes.
    """

    training: int
    processes: int
    steps: int
    updates: int
    growth: int
    largest: int
    geometry: int
    many: int


FULL, QUICK = Effort(25, 5, 15, 60, 9, 8192, 96, 12), Effort(3, 1, 3, 5, 3, 1024, 3, 1)


def environment() -> dict[str, Any]:
    """The machine and the versions, with the GEMM throughput that bounds everything: 2048 x 1536 x 384 in float32."""
    import numpy
    import peft
    import transformers

    A, B = torch.randn(2048, 1536), torch.randn(1536, 384)
    gemm = interleaved({"gemm": partial(torch.mm, A, B)}, 20)["gemm"]
    return {
        "processor": processor(),
        "threads": torch.get_num_threads(),
        "gemm_gflops": 2e-9 * 2048 * 1536 * 384 / gemm.quartiles()[1],
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": numpy.__version__,
        "peft": peft.__version__,
        "transformers": transformers.__version__,
        "numba": version("numba") if find_spec("numba") else None,
        "measured": time.strftime("%Y-%m-%d", time.gmtime()),
    }


def _summary(times: Times, base: Times, floor: Times) -> dict[str, Any]:
    """Quartiles in milliseconds and the ratios, round by round."""
    return {
        "milliseconds": [1e3 * value for value in times.quartiles()],
        "ratio": list(times.over(base).quartiles()),
        "ratio_to_floor": list(times.over(floor).quartiles()),
    }


def _row(method: Method, times: Mapping[str, Times], base: Times, floor: Times) -> dict[str, Any]:
    """A method among others that took their turns."""
    own, lean = times[method.id], times.get("lean")
    return {
        "title": method.title,
        **_summary(own, base, floor),
        "over_lean": list(own.over(lean).quartiles()) if lean else None,
    }


def training(case: Case, effort: Effort, progress: Progress, methods: Sequence[Method] = METHODS) -> dict[str, Any]:
    """Whole training steps, all methods in turn; the flops of one step, and the peak of memory in a process of its own."""
    made: dict[str, dict[str, Any]] = {}
    for done, method in enumerate(methods):
        progress(f"{case.id}: memory and flops", done, len(methods))
        peak, one = peak_memory(method.id, case.id), method.make(case)
        with FlopCounterMode(display=False, custom_mapping=IN_PLACE) as counter:
            one.step()
        made[method.id] = {"gflop": 1e-9 * counter.get_total_flops(), "peak_mib": peak / 2**20}
    names = [method.id for method in methods]
    times, notes = _in_turn(names, case, effort.training, effort.processes, progress, kept=False)
    floor, base = times[methods[0].id], times[methods[1].id]
    rows = {method.id: {**_row(method, times, base, floor), **made[method.id], "note": notes[method.id]} for method in methods}
    return {"case": case.id, "title": case.title, "rounds": effort.training, "processes": effort.processes, "rows": rows}


def _in_turn(
    names: Sequence[str], case: Case, rounds: int, places: int, progress: Progress, *, kept: bool
) -> tuple[dict[str, Times], dict[str, str]]:
    """Training steps of these methods, a share of the rounds in each of ``places`` processes, and the remarks of the last one.

    Which method pays for the page faults of another one depends on how the memory of a process happens to lie: on what was made
    and ran before.
    """
    what = f"{case.id}: steps of {len(names)} methods{', memory kept' if kept else ''}"
    seconds: dict[str, list[float]] = {name: [] for name in names}
    notes: dict[str, str] = {}
    for turn in range(places):
        progress(what, turn, places)
        for name, (values, note) in rounds_in_turn(names, case.id, rounds // places, kept=kept, seed=turn).items():
            seconds[name] += values
            notes[name] = note
    return {name: Times(tuple(values)) for name, values in seconds.items()}, notes


KEPT = ("frozen", "lora", "bare", "adalora", "lean", "fast", "merged", "optimizer", "adam", "adaptive")


def with_memory_kept(case: Case, effort: Effort, progress: Progress) -> dict[str, Any]:
    """Whole training steps, some methods in turn in processes that keep what is freed: none pays for the page faults that
    another one causes.  No rows where a process cannot keep it.
    """
    times = _in_turn(KEPT, case, effort.training, effort.processes, progress, kept=True)[0] if can_keep() else {}
    rows = {name: _row(_METHOD[name], times, times["lora"], times["frozen"]) for name in times}
    return {"case": case.id, "title": case.title, "rounds": effort.training, "processes": effort.processes, "rows": rows}


GEOMETRY = ("lean", "fast", "adam")
"""LoRA by AdamW, then GeoLoRA by SGD, the least that its step can cost, and by Adam, like with like."""


def geometry(case: Case, effort: Effort, progress: Progress) -> dict[str, Any]:
    """Whole training steps of few methods in turn, in so many processes that a percent can be told."""
    times, _ = _in_turn(GEOMETRY, case, effort.geometry, effort.many, progress, kept=False)
    rows = {
        name: {
            "title": _METHOD[name].title,
            "milliseconds": [1e3 * value for value in own.quartiles()],
            **_of_processes(own.over(times["lean"]), effort.many),
        }
        for name, own in times.items()
    }
    return {"case": case.id, "title": case.title, "rounds": effort.geometry, "processes": effort.many, "rows": rows}


def _of_processes(ratios: Times, places: int) -> dict[str, Any]:
    """Quartiles of the rounds, the median of each process, and between which of these medians their own median lies with 95 %.

    The order statistics of a sign test, whatever the distribution (Conover, Practical Nonparametric Statistics, 3.2): rounds of
    one process share its memory, processes only the hour of the machine.  None for fewer processes than tell anything.
    """
    medians = np.median(np.reshape(ratios.seconds, (places, -1)), axis=1)
    interval = quantile_test(medians, p=0.5).confidence_interval(0.95)
    known = bool(np.isfinite([interval.low, interval.high]).all())
    return {
        "over_lean": list(ratios.quartiles()),
        "of_processes": medians.tolist(),
        "interval": [float(interval.low), float(interval.high)] if known else None,
    }


ALONE = ("frozen", "lora", "lean", "fast", "merged")
"""The rows that get processes of their own; the second is what the others are compared with."""


def processes(case: Case, effort: Effort, progress: Progress) -> dict[str, Any]:
    """Some methods alone in a process each, as it is and with what is freed kept; all of them in turn."""
    ways = [(name, kept) for kept in ((False, True) if can_keep() else (False,)) for name in ALONE]
    seconds: dict[tuple[str, bool], list[float]] = {way: [] for way in ways}
    faults: dict[tuple[str, bool], list[float]] = {way: [] for way in ways}
    for turn in range(effort.processes):
        for done, (name, kept) in enumerate(ways):
            progress(f"{case.id}: processes", turn * len(ways) + done, effort.processes * len(ways))
            median, taken = alone(name, case.id, effort.steps, kept=kept)
            seconds[name, kept].append(median)
            faults[name, kept].append(taken)
    times = {way: Times(tuple(values)) for way, values in seconds.items()}
    rows = [
        {
            "title": _METHOD[name].title,
            "kept": kept,
            **_summary(times[name, kept], times["lora", False], times["frozen", kept]),
            "ratio_same": list(times[name, kept].over(times["lora", kept]).quartiles()),
            "faults": Times(tuple(faults[name, kept])).quartiles()[1],
        }
        for name, kept in ways
    ]
    return {"case": case.id, "title": case.title, "rounds": effort.processes, "steps": effort.steps, "rows": rows}


COMPILED = ("lora", "lean", "fast", "optimizer")


def compiled(case: Case, effort: Effort, progress: Progress) -> dict[str, Any]:
    """Some methods as they are and with the network under ``torch.compile``; ratios to PEFT's LoRA as it is."""
    progress(f"{case.id}: compilation", 0, 1)
    torch._dynamo.reset()  # or sizes that another network had before count as open
    made = {(name, way): _METHOD[name].make(case) for name in COMPILED for way in ("eager", "compiled")}
    for (_, way), one in made.items():
        if way == "compiled":
            network: Any = torch.compile(one.network)
            one.network = network
    steps = {f"{name} {way}": one.step for (name, way), one in made.items()}
    total = effort.training + 2
    times = interleaved(steps, effort.training, progress=lambda done: progress(f"{case.id}: compiled", done, total))
    base = times["lora eager"]
    rows = [{"title": _METHOD[name].title, "way": way, **_summary(times[f"{name} {way}"], base, base)} for name, way in made]
    return {"case": case.id, "title": case.title, "rounds": effort.training, "rows": rows}


def update_table(effort: Effort, progress: Progress, sizes: Sequence[Size] = SIDE_BY_SIDE) -> list[dict[str, Any]]:
    """The update alone beside AdamW on LoRA's factors, the unguarded step and the reference: after the others, then repeated."""
    table, rounds = [], effort.updates // effort.processes
    for done, size in enumerate(sizes):
        seconds: dict[str, dict[str, list[float]]] = {}
        for turn in range(effort.processes):
            progress("updates", done * effort.processes + turn, len(sizes) * effort.processes)
            for way, rows in updates_in_turn(size, rounds, seed=turn).items():
                for name, values in rows.items():
                    seconds.setdefault(way, {}).setdefault(name, []).extend(values)
        found = {}
        for way, rows in seconds.items():
            times = {name: Times(tuple(values)) for name, values in rows.items()}
            found[way] = {name: _summary(one, times["adamw"], times["adamw"]) for name, one in times.items()}
        table.append({**asdict(size), "rounds": effort.updates, "processes": effort.processes, **found})
    return table


def growth(effort: Effort, progress: Progress) -> dict[str, Any]:
    """Seconds of the fast update along each axis, and the exponents fitted to them."""
    found: dict[str, Any] = {}
    for axis, grid in GRID.items():
        sizes = [size for size in grid if size.m <= effort.largest]
        points = []
        for done, size in enumerate(sizes):
            progress(f"growth in {axis}", done, len(sizes))
            times = interleaved(update_rows(size, others=False), effort.growth, warm_up=2)
            points.append({**asdict(size), "milliseconds": [1e3 * value for value in times["fast"].quartiles()]})
        found[axis] = {"points": points, "exponents": _exponents(axis, points)}
    return found


def _exponents(axis: str, points: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """One fit for each line of a table: m from 1024 to 4096 and r ≥ 16 for r, where constant costs count, but less and less."""
    fixed = {"m": "r", "r": "m", "layers": "m"}[axis]
    least, most = {"m": (1024, 4096), "r": (16, 64), "layers": (12, 200)}[axis]
    fits = []
    for value in sorted({point[fixed] for point in points}):
        line = [p for p in points if p[fixed] == value and least <= p[axis] <= most]
        if len(line) > 1:
            exponent = slope([p[axis] for p in line], [p["milliseconds"][1] for p in line])
            fits.append({fixed: value, "from": line[0][axis], "to": line[-1][axis], "exponent": exponent})
    return fits

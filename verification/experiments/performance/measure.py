"""Do the measurements: plain data out, for the page and the JSON."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from verification.experiments.performance.apart import peak_memory, rounds_in_turn
from verification.experiments.performance.methods import METHODS
from verification.experiments.performance.networks import Case
from verification.experiments.performance.timing import quartiles
from verification.support.machine import installed

__all__ = ["FULL", "QUICK", "Effort", "Point", "environment", "points", "training"]

Progress = Callable[[str], None]
TITLES = {method.id: method.title for method in METHODS}
WIDE = ("frozen", "lora", "lean", "geolora")
"""The methods that are measured beyond the smallest rank."""


@dataclass(frozen=True)
class Effort:
    """How many rounds of training steps, the number of processes that share them, and the ranks."""

    rounds: int
    processes: int
    ranks: tuple[int, ...]


FULL, QUICK = Effort(25, 5, (8, 16, 32)), Effort(2, 1, (8,))


@dataclass(frozen=True)
class Point:
    """A network and a rank, and the methods that are timed there."""

    case: Case
    rank: int
    methods: tuple[str, ...]


def points(effort: Effort, cases: Iterable[Case]) -> Iterator[Point]:
    """All methods at the first rank, fewer at the others."""
    for case in cases:
        for rank in effort.ranks:
            yield Point(case, rank, tuple(TITLES) if rank == effort.ranks[0] else WIDE)


def environment() -> dict[str, Any]:
    """Facts that the provenance of the results lacks: the threads, the GEMM throughput that bounds
    everything (2048 x 1536 x 384 in float32), and two versions.
    """
    A, B, seconds = torch.randn(2048, 1536), torch.randn(1536, 384), []
    for _ in range(20):
        started = time.perf_counter()
        torch.mm(A, B)
        seconds.append(time.perf_counter() - started)
    return {
        "threads": torch.get_num_threads(),
        "gemm_gflops": 2e-9 * 2048 * 1536 * 384 / float(np.median(seconds)),
        "peft": installed("peft"),
        "transformers": installed("transformers"),
    }


def training(point: Point, effort: Effort, progress: Progress) -> dict[str, Any]:
    """Whole training steps, all methods of a point in turn, and the peak of memory of each in a
    process of its own.

    Which method pays for the page faults of another one depends on how the memory of a process
    happens to lie, hence several processes.
    """
    case, rank = point.case, point.rank
    seconds: dict[str, list[list[float]]] = {name: [] for name in point.methods}
    notes: dict[str, str] = {}
    for turn in range(effort.processes):
        progress(f"{case.id}, r = {rank}: process {turn + 1} of {effort.processes}")
        for name, one in rounds_in_turn(
            point.methods, case.id, rank, effort.rounds // effort.processes, seed=turn
        ).items():
            seconds[name] += one["seconds"]
            notes[name] = one["note"]
    arrays = {name: np.array(values) for name, values in seconds.items()}
    rows = {}
    for name, values in arrays.items():
        progress(f"{case.id}, r = {rank}: memory of {name}")
        rows[name] = {
            "title": TITLES[name],
            "milliseconds": quartiles(1e3 * values[:, 0]),
            "update_milliseconds": quartiles(1e3 * values[:, 1]),
            "to_lora": quartiles(values[:, 0] / arrays["lora"][:, 0]),
            "to_lean": quartiles(values[:, 0] / arrays["lean"][:, 0]),
            "peak_mib": peak_memory(name, case.id, rank) / 2**20,
            "note": notes[name],
        }
    about = {
        "case": case.id,
        "title": case.title,
        "rank": rank,
        "rounds": effort.rounds,
        "processes": effort.processes,
    }
    return {**about, "rows": rows}

"""Interleaved timing: every round runs every row once, in turn, so that a disturbance of the machine meets all of them."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

__all__ = ["Times", "interleaved", "peak_above"]


@dataclass(frozen=True)
class Times:
    """Seconds of one row, round by round."""

    seconds: tuple[float, ...]

    def quartiles(self) -> tuple[float, float, float]:
        """Lower quartile, median, upper quartile."""
        lower, median, upper = np.percentile(self.seconds, [25, 50, 75])
        return float(lower), float(median), float(upper)

    def over(self, other: Times) -> Times:
        """The ratio to another row, round by round."""
        return Times(tuple(mine / theirs for mine, theirs in zip(self.seconds, other.seconds, strict=True)))


def interleaved(
    rows: Mapping[str, Callable[[], object]],
    rounds: int,
    *,
    warm_up: int = 2,
    untimed: int = 0,
    seed: int = 0,
    progress: Callable[[int], None] = lambda done: None,
) -> dict[str, Times]:
    """``rounds`` timings of each row, the order of each round drawn from ``seed``.

    A row that always ran behind the same other one would always find the memory that this one has left.
    Right before each timing the same row runs ``untimed`` times: with 0 the caches have what other rows have left there, with
    some what it has left itself.
    """
    names, generator = list(rows), np.random.default_rng(seed)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(-warm_up, rounds):
        for name in (names[i] for i in generator.permutation(len(names))):
            for _ in range(untimed):
                rows[name]()
            started = time.perf_counter()
            rows[name]()
            if turn >= 0:
                seconds[name].append(time.perf_counter() - started)
        progress(turn + warm_up + 1)
    return {name: Times(tuple(values)) for name, values in seconds.items()}


def peak_above(work: Callable[[], object]) -> int:
    """Bytes by which the peak of this process, once ``work`` is done, lies above what is resident now.

    Only the first call in a process means anything: a peak does not go down again.
    """
    before = _of_this_process("VmRSS")
    work()
    if before:
        return _of_this_process("VmHWM") - before
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _of_this_process(what: str) -> int:
    """Bytes, as Linux counts them (0 elsewhere).

    Not ``ru_maxrss``: that of a new process begins with what its parent had when it started it.
    """
    try:
        with open("/proc/self/status", encoding="ascii") as file:
            return next(1024 * int(line.split()[1]) for line in file if line.startswith(what))
    except (OSError, StopIteration):
        return 0

"""Training steps in turn: every round runs every row once, so that a disturbance of the machine
meets all of them.
"""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:  # the module loads torch, and peaks of memory are measured without it
    from verification.experiments.performance.methods import Training

__all__ = ["interleaved", "peak_above", "quartiles"]

WARM_UP = 3


def interleaved(
    rows: Mapping[str, Training], rounds: int, *, seed: int
) -> dict[str, NDArray[np.float64]]:
    """Seconds (rounds, 2) of each row: of the whole step, and of its update.

    The order of each round is drawn from ``seed``: in a fixed order every method would always find
    the memory as the same other method left it.
    """
    names, generator = list(rows), np.random.default_rng(seed)
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in names}
    for turn in range(-WARM_UP, rounds):
        for name in (names[i] for i in generator.permutation(len(names))):
            started = time.perf_counter()
            rows[name].backward()
            between = time.perf_counter()
            rows[name].update()
            ended = time.perf_counter()
            if turn >= 0:
                seconds[name].append((ended - started, ended - between))
    return {name: np.array(values) for name, values in seconds.items()}


def quartiles(values: Any) -> list[float]:
    """Lower quartile, median, upper quartile."""
    return [float(value) for value in np.percentile(values, [25, 50, 75])]


def peak_above(work: Callable[[], object]) -> int:
    """Bytes by which the peak of this process, once ``work`` is done, lies above what is resident now.

    Only the first call in a process means anything: a peak does not go down again.
    """
    before = _of_this_process("VmRSS")
    work()
    if before:
        return _of_this_process("VmHWM") - before
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (
        1 if sys.platform == "darwin" else 1024
    )


def _of_this_process(what: str) -> int:
    """Bytes, as Linux counts them (0 elsewhere).

    Not ``ru_maxrss``, which a new process inherits from its parent.
    """
    try:
        with open("/proc/self/status", encoding="ascii") as file:
            return next(1024 * int(line.split()[1]) for line in file if line.startswith(what))
    except (OSError, StopIteration):
        return 0

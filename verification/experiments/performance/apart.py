"""Measurements in processes of their own: the peak of memory of a method, and times in a process
with fresh memory.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from verification.experiments.performance.methods import METHODS, Training
from verification.experiments.performance.networks import CASES
from verification.experiments.performance.timing import interleaved, peak_above

__all__ = ["ApartError", "own_peak", "own_rounds", "peak_memory", "rounds_in_turn"]


class ApartError(RuntimeError):
    """A process that should measure failed."""


def peak_memory(method: str, case: str, rank: int) -> int:
    """Bytes that two training steps need besides the libraries, set-up included, in a process of its own."""
    return int(_in_a_process(own_peak, method, case, rank, torch.get_num_threads()))


def rounds_in_turn(
    methods: Sequence[str], case: str, rank: int, rounds: int, *, seed: int
) -> dict[str, Any]:
    """Seconds (rounds, 2) of training steps of these methods in turn, in one process of their own,
    and the note of each.

    The order in which the methods are set up, and that of their turns, is drawn from ``seed``.
    """
    found: dict[str, Any] = _in_a_process(
        own_rounds, list(methods), case, rank, torch.get_num_threads(), rounds, seed
    )
    return found


def _in_a_process(function: Callable[..., Any], *arguments: Any) -> Any:
    """The result of a public function in a new process, by JSON; :class:`ApartError`, with its
    output, if it fails.
    """
    name = function.__name__
    command = f"import json; from {function.__module__} import {name}; print(json.dumps({name}(*{arguments!r})))"
    done = subprocess.run(  # noqa: S603  our own function
        [sys.executable, "-c", command], check=False, capture_output=True, text=True
    )
    if done.returncode:
        expected = f"{name}{arguments!r}: expected a process that ends with status 0, found {done.returncode}"
        raise ApartError(f"{expected}:\n{done.stderr.strip()}")
    return json.loads(done.stdout.splitlines()[-1])


def _made(method: str, case: str, rank: int) -> Training:
    """A method on a network, by their names."""
    network = next(one for one in CASES if one.id == case)
    return next(one for one in METHODS if one.id == method).make(network, rank)


def own_peak(method: str, case: str, rank: int, threads: int) -> int:
    """:func:`peak_memory`, measured in this process; what libraries take themselves is not counted."""
    import peft  # noqa: F401
    import transformers  # noqa: F401

    torch.set_num_threads(threads)

    def two_steps() -> None:
        training = _made(method, case, rank)
        for _ in range(2):
            training.backward()
            training.update()

    return peak_above(two_steps)


def own_rounds(
    methods: Sequence[str], case: str, rank: int, threads: int, rounds: int, seed: int
) -> dict[str, Any]:
    """:func:`rounds_in_turn`, measured in this process."""
    torch.set_num_threads(threads)
    order = np.random.default_rng(seed).permutation(len(methods))
    made = {method: _made(method, case, rank) for method in (methods[i] for i in order)}
    seconds = interleaved(made, rounds, seed=seed)
    return {
        method: {"seconds": seconds[method].tolist(), "note": made[method].note}
        for method in methods
    }

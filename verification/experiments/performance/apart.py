"""What only a process of its own tells: the peak of memory, and the time of a step whose memory no other method has shaped."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import astuple
from typing import Any

import numpy as np
import torch

from geolora_ref.fast import LayerBank, keep_freed_memory
from verification.experiments.performance.methods import METHODS, Training
from verification.experiments.performance.networks import CASES, VARIANTS
from verification.experiments.performance.timing import interleaved, peak_above
from verification.experiments.performance.updates import Size, update_rows

__all__ = [
    "ApartError",
    "alone",
    "can_keep",
    "own_peak",
    "own_rounds",
    "own_steps",
    "own_updates",
    "peak_memory",
    "rounds_in_turn",
    "updates_in_turn",
]

UNTIMED = 10
"""Repetitions after which an update finds its data in the caches, and nothing is felt of what ran before: with 3, 3 to 7 % of
the ratio to AdamW at r = 4 are; more change nothing.
"""


class ApartError(RuntimeError):
    """A process of its own failed."""


def peak_memory(method: str, case: str) -> int:
    """Bytes that two training steps need beside the libraries, set-up included, in a process of its own."""
    return int(_in_a_process(own_peak, method, case, torch.get_num_threads()))


def alone(method: str, case: str, steps: int, *, kept: bool) -> tuple[float, float]:
    """Median seconds and mean page faults of a training step in a process of its own, which keeps what is freed or does not."""
    seconds, faults = _in_a_process(own_steps, method, case, torch.get_num_threads(), steps, kept)
    return seconds, faults


def rounds_in_turn(
    methods: Sequence[str], case: str, rounds: int, *, kept: bool, seed: int
) -> dict[str, tuple[list[float], str]]:
    """Seconds of training steps of these methods in turn, in one process of their own, which keeps what is freed or does not,
    and what each method remarks.  In which order they are made, and take their turns, is drawn from ``seed``.
    """
    found: dict[str, Any] = _in_a_process(own_rounds, list(methods), case, torch.get_num_threads(), rounds, kept, seed)
    return {method: (seconds, note) for method, (seconds, note) in found.items()}


def updates_in_turn(size: Size, rounds: int, *, seed: int) -> dict[str, dict[str, list[float]]]:
    """Seconds of updates in turn in one process of their own: ``rows``, each right behind another one, and ``repeated``, each
    behind itself.
    """
    found: dict[str, dict[str, list[float]]] = _in_a_process(own_updates, astuple(size), torch.get_num_threads(), rounds, seed)
    return found


def can_keep() -> bool:
    """Whether a process can keep what it frees here."""
    return bool(_in_a_process(keep_freed_memory))


def _in_a_process(function: Callable[..., Any], *arguments: Any) -> Any:
    """What a public function returns in a new process, as JSON has it; :class:`ApartError` with what it said if it fails."""
    name = function.__name__
    command = f"import json; from {function.__module__} import {name}; print(json.dumps({name}(*{arguments!r})))"
    done = subprocess.run([sys.executable, "-c", command], check=False, capture_output=True, text=True)  # noqa: S603
    if done.returncode:
        expected = f"{name}{arguments!r}: expected a process that ends with status 0, found {done.returncode}"
        raise ApartError(f"{expected}:\n{done.stderr.strip()}")
    return json.loads(done.stdout.splitlines()[-1])


def _made(method: str, case: str) -> Training:
    """A method on a network, by their names."""
    network = next(one for one in (*CASES, *VARIANTS) if one.id == case)
    return next(one for one in METHODS if one.id == method).make(network)


def own_peak(method: str, case: str, threads: int) -> int:
    """:func:`peak_memory`, measured in this process; what libraries take themselves is not counted."""
    import peft  # noqa: F401
    import transformers  # noqa: F401

    torch.set_num_threads(threads)
    factor = torch.eye(4)
    tiny = LayerBank.of([(factor, factor, factor)], capacity=4)
    tiny.update_([0.0 * factor], [0.0 * factor], tau=0.0)  # numba, if it is there, and what it compiles

    def two_steps() -> None:
        training = _made(method, case)
        training.step()
        training.step()

    return peak_above(two_steps)


def own_rounds(
    methods: Sequence[str], case: str, threads: int, rounds: int, kept: bool, seed: int
) -> dict[str, tuple[list[float], str]]:
    """:func:`rounds_in_turn`, measured in this process."""
    if kept:
        keep_freed_memory()
    torch.set_num_threads(threads)
    order = np.random.default_rng(seed).permutation(len(methods))
    made = {method: _made(method, case) for method in (methods[i] for i in order)}
    times = interleaved({method: training.step for method, training in made.items()}, rounds, seed=seed)
    return {method: (list(times[method].seconds), made[method].note) for method in methods}


def own_updates(size: tuple[int, int, int], threads: int, rounds: int, seed: int) -> dict[str, dict[str, list[float]]]:
    """:func:`updates_in_turn`, measured in this process."""
    torch.set_num_threads(threads)
    rows, found = update_rows(Size(*size), others=True), {}
    for way, untimed in (("rows", 0), ("repeated", UNTIMED)):
        times = interleaved(rows, rounds, warm_up=5, untimed=untimed, seed=seed)
        found[way] = {name: list(one.seconds) for name, one in times.items()}
    return found


def own_steps(method: str, case: str, threads: int, steps: int, kept: bool) -> tuple[float, float]:
    """:func:`alone`, measured in this process."""
    if kept:
        keep_freed_memory()
    torch.set_num_threads(threads)
    training = _made(method, case)
    training.step()
    training.step()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    times = interleaved({method: training.step}, steps, warm_up=0)[method]
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
    return times.quartiles()[1], faults / steps

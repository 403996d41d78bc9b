"""Work off the runs of a design: what is missing next follows from what is stored."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, wait
from typing import Any

from rich.console import Console

from verification.experiments.finetuning.design import Run
from verification.experiments.finetuning.runs import Store

__all__ = ["work_off"]

Submit = Callable[[str, Run], Future[tuple[dict[str, Any], float]]]


def work_off(
    wanted: Callable[[], Iterable[tuple[str, Run]]],
    stores: Mapping[str, Store],
    submit: Submit,
    console: Console,
    *,
    jobs: int,
    runs: int | None = None,
) -> None:
    """Do and store what is missing in the order of the design; every result, also of other tasks,
    may change what comes next.

    ``wanted`` : tasks and runs in order, as far as the stored ones decide them.
    ``submit`` : begins a run, whose result and seconds follow.
    ``jobs``, ``runs`` : runs at a time, and the most runs of this call.
    """
    left = itertools.count() if runs is None else iter(range(runs))
    running: dict[Future[tuple[dict[str, Any], float]], tuple[str, Run]] = {}
    while True:
        taken = {(task, stores[task].name(run)) for task, run in running.values()}
        queued = {(task, stores[task].name(run)): run for task, run in wanted() if task in stores}
        missing = [(key[0], run) for key, run in queued.items() if key not in taken and stores[key[0]].get(run) is None]
        while missing and len(running) < jobs and next(left, None) is not None:
            task, run = missing.pop(0)
            running[submit(task, run)] = task, run
        if not running:
            return
        for future in wait(running, return_when=FIRST_COMPLETED).done:
            task, run = running.pop(future)
            result, seconds = future.result()
            stores[task].put(run, result, seconds)
            outcome = result["diverged"] or f"{result['metrics']}, {result['parameters']} parameters"
            name = f"{task} {run.family} {stores[task].name(run).rpartition('-')[0]}"
            console.print(f"{name}: {outcome}, {seconds:.0f} s; {len(missing)} known", highlight=False, soft_wrap=True)

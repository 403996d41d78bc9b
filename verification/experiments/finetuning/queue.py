"""Work off the runs of a design: what is missing next follows from what is stored; and what the
commands that do so have in common.
"""

from __future__ import annotations

import argparse
import itertools
import multiprocessing
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ProcessPoolExecutor, wait
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from geolora_ref.support.files import locked
from geolora_ref.support.options import nonempty_path
from geolora_ref.support.terminal import Terminal
from verification.experiments.finetuning.design import Run
from verification.experiments.finetuning.runs import Store
from verification.support.command_line import integer_from

__all__ = ["add_options", "perform", "work_off"]

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
        missing = [
            (key[0], run)
            for key, run in queued.items()
            if key not in taken and stores[key[0]].get(run) is None
        ]
        while missing and len(running) < jobs and next(left, None) is not None:
            task, run = missing.pop(0)
            running[submit(task, run)] = task, run
        if not running:
            return
        for future in wait(running, return_when=FIRST_COMPLETED).done:
            task, run = running.pop(future)
            result, seconds = future.result()
            stores[task].put(run, result, seconds)
            outcome = (
                result["diverged"] or f"{result['metrics']}, {result['parameters']} parameters"
            )
            name = f"{task} {run.family} {stores[task].name(run).rpartition('-')[0]}"
            console.print(
                f"{name}: {outcome}, {seconds:.0f} s; {len(missing)} known",
                highlight=False,
                soft_wrap=True,
            )


def add_options(parser: argparse.ArgumentParser, output: Path, data: str) -> None:
    """Add ``--data``, ``--output``, ``--jobs`` and ``--runs``; ``data`` says what the folder has."""
    parser.add_argument("--data", type=nonempty_path, required=True, metavar="FOLDER", help=data)
    parser.add_argument(
        "--output", type=nonempty_path, default=output, metavar="FOLDER", help=f"default: {output}"
    )
    parser.add_argument(
        "--jobs",
        type=integer_from(1),
        default=1,
        help="runs at a time, one thread each (default: 1)",
    )
    parser.add_argument(
        "--runs", type=integer_from(0), help="stop after so many; the same command continues"
    )


def perform(
    parser: argparse.ArgumentParser,
    options: argparse.Namespace,
    campaign: Callable[[Executor, Console], str],
) -> int:
    """Do a campaign in processes, with its output folder locked, and print the line that it returns.

    Exit status 0: all runs are stored, or as many as were requested; 130: interrupted, the same
    command continues; 2: data, model or a stored run cannot be used, or the folder cannot be written
    or is in use.
    """
    console, threads = Terminal(), torch.get_num_threads()
    try:
        with (
            locked(options.output),
            ProcessPoolExecutor(
                options.jobs, mp_context=multiprocessing.get_context("spawn")
            ) as pool,
        ):
            line = campaign(pool, console)
    except (ValueError, OSError) as error:
        parser.error(str(error))
    except KeyboardInterrupt:
        console.print(
            "interrupted; the same command continues, with the run in progress from its start"
        )
        return 130
    finally:
        torch.set_num_threads(threads)
    console.print(line, soft_wrap=True)
    return 0

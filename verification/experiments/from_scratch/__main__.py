"""``python -m verification.experiments.from_scratch``: do the runs of the design that are missing, then
gather them into ``runs.jsonl``.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from geolora_ref.support.files import locked
from geolora_ref.support.options import nonempty_path
from geolora_ref.support.terminal import Terminal
from verification.experiments.finetuning.runs import Store
from verification.experiments.finetuning.stored import gather, read_runs
from verification.experiments.from_scratch.design import TASKS, wanted
from verification.experiments.from_scratch.networks import corpus_of
from verification.experiments.from_scratch.page import table
from verification.experiments.from_scratch.runs import perform
from verification.support.command_line import integer_from
from verification.support.shown import markdown_table

OUTPUT = Path("build") / "experiments" / "from_scratch"


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status 0: all runs are stored, or as many as were requested; 2: data or a stored run cannot
    be used.
    """
    parser = argparse.ArgumentParser(
        prog="python -m verification.experiments.from_scratch", description=__doc__
    )
    parser.add_argument(
        "--data", type=nonempty_path, metavar="FOLDER", help="has cifar10/train.zip and test.zip"
    )
    parser.add_argument(
        "--task", action="append", choices=list(TASKS), help="this one only; may be given again"
    )
    parser.add_argument(
        "--output", type=nonempty_path, default=OUTPUT, metavar="FOLDER", help=f"default: {OUTPUT}"
    )
    parser.add_argument(
        "--runs",
        type=integer_from(0),
        default=sys.maxsize,
        help="stop after so many; the next call continues",
    )
    options, console = parser.parse_args(argv), Terminal()
    threads, left = torch.get_num_threads(), options.runs
    torch.set_num_threads(1)
    try:
        with locked(options.output):
            for task in options.task or TASKS:
                store = Store(options.output, corpus_of(task, options.data))
                while left and (missing := store.missing(wanted(store.all(), task))):
                    row, left = perform(missing[0], store), left - 1
                    outcome = row["diverged"] or f"{row['metrics']}, {row['parameters']} parameters"
                    console.print(
                        f"{task} {row['family']} {store.name(missing[0])}: {outcome}",
                        highlight=False,
                        soft_wrap=True,
                    )
            count = gather(options.output)
    except (ValueError, OSError) as error:
        parser.error(str(error))
    finally:
        torch.set_num_threads(threads)
    console.print(f"{count} runs in {options.output / 'runs.jsonl'}", soft_wrap=True)
    console.print(markdown_table(table(read_runs(options.output))), markup=False, soft_wrap=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())

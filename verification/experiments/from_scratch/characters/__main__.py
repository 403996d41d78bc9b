"""``python -m verification.experiments.from_scratch.characters``: do the runs of the design that are
missing, then gather them into ``runs.jsonl``.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from concurrent.futures import Executor
from pathlib import Path

from rich.console import Console

from verification.experiments.finetuning.queue import add_options, perform, work_off
from verification.experiments.finetuning.runs import Store
from verification.experiments.finetuning.stored import gather
from verification.experiments.from_scratch.characters.design import NAME, wanted
from verification.experiments.from_scratch.characters.network import corpus_of, work

OUTPUT = Path("build") / "experiments" / "characters"


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status of :func:`~verification.experiments.finetuning.queue.perform`."""
    parser = argparse.ArgumentParser(
        prog="python -m verification.experiments.from_scratch.characters", description=__doc__
    )
    add_options(parser, OUTPUT, "has shakespeare/input.txt")
    options = parser.parse_args(argv)

    def campaign(pool: Executor, console: Console) -> str:
        store = Store(options.output, corpus_of(options.data))
        work_off(
            lambda: wanted(store.all()),
            {NAME: store},
            lambda _, run: pool.submit(work, run, options.data),
            console,
            jobs=options.jobs,
            runs=options.runs,
        )
        return f"{gather(options.output)} runs in {options.output / 'runs.jsonl'}"

    return perform(parser, options, campaign)


if __name__ == "__main__":
    sys.exit(main())

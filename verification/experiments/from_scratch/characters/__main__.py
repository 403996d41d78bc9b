"""``python -m verification.experiments.from_scratch.characters``: do the runs of the design that are
missing, then gather them into ``runs.jsonl``.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import torch

from geolora_ref.support.files import locked
from geolora_ref.support.options import nonempty_path
from geolora_ref.support.terminal import Terminal
from verification.experiments.finetuning.queue import work_off
from verification.experiments.finetuning.runs import Store
from verification.experiments.finetuning.stored import gather
from verification.experiments.from_scratch.characters.design import NAME, wanted
from verification.experiments.from_scratch.characters.network import corpus_of, work
from verification.support.command_line import integer_from

OUTPUT = Path("build") / "experiments" / "characters"


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status 0: all runs are stored, or as many as were requested; 130: interrupted, the same
    command continues; 2: the text or a stored run cannot be used.
    """
    parser = argparse.ArgumentParser(prog="python -m verification.experiments.from_scratch.characters", description=__doc__)
    parser.add_argument("--data", type=nonempty_path, required=True, metavar="FOLDER", help="has shakespeare/input.txt")
    parser.add_argument("--output", type=nonempty_path, default=OUTPUT, metavar="FOLDER", help=f"default: {OUTPUT}")
    parser.add_argument("--jobs", type=integer_from(1), default=1, help="runs at a time, one thread each (default: 1)")
    parser.add_argument("--runs", type=integer_from(0), help="stop after so many; the same command continues")
    options, console, threads = parser.parse_args(argv), Terminal(), torch.get_num_threads()
    try:
        with locked(options.output):
            store = Store(options.output, corpus_of(options.data))
            with ProcessPoolExecutor(options.jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
                work_off(
                    lambda: wanted(store.all()),
                    {NAME: store},
                    lambda _, run: pool.submit(work, run, options.data),
                    console,
                    jobs=options.jobs,
                    runs=options.runs,
                )
            count = gather(options.output)
    except (ValueError, OSError) as error:
        parser.error(str(error))
    except KeyboardInterrupt:
        console.print("interrupted; the same command continues with the run that was broken off")
        return 130
    finally:
        torch.set_num_threads(threads)
    console.print(f"{count} runs in {options.output / 'runs.jsonl'}", soft_wrap=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())

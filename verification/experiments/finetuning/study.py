"""The campaign on the pages: the choice of a method, one table and one figure; the report has all
other tables.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from functools import cache, partial

from matplotlib.axes import Axes

from verification.experiments.finetuning.analysis import (
    Base,
    Difference,
    at_best,
    by_all_seeds,
    equivalence,
    paired,
    read_campaign,
    test_of,
)
from verification.experiments.finetuning.design import (
    DEFAULT_RATE,
    MAIN_RANK,
    Stored,
    counted,
    runs_at,
)
from verification.experiments.finetuning.page import thousands
from verification.support.shown import Rows, markdown_table

__all__ = ["choice", "draw_differences", "table"]

AT_DEFAULT = partial(runs_at, rank=MAIN_RANK, rate=DEFAULT_RATE)
DEFAULT, LORA = "GeoLoRA, every default", "LoRA, rank 4"
OTHERS = ("cifar10", "shakespeare")
METHODS: Mapping[str, Base] = {
    DEFAULT: partial(AT_DEFAULT, family="geolora"),
    "GeoLoRA, τ = 0.35": partial(AT_DEFAULT, family="geolora, tolerance, rms"),
    "GeoLoRA, budget": partial(AT_DEFAULT, family="geolora, budget, rms"),
    LORA: by_all_seeds,
    "LoRA, rank 8": partial(by_all_seeds, rank=2 * MAIN_RANK),
    "DoRA": partial(at_best, family="dora"),
    "rsLoRA": partial(at_best, family="rslora"),
    "AdaLoRA": partial(at_best, family="adalora"),
    "published GeoLoRA": partial(at_best, family="published geolora"),
    "full fine-tuning": partial(at_best, family="full"),
}
"""The runs of each method: GeoLoRA at one rate, the rest at a rate that was tuned for each task."""


@cache
def _campaign() -> Stored:
    return read_campaign()


def _less(name: str, other: str = LORA) -> Difference:
    """A method less another one over the tasks of texts.  Raises ``ValueError`` where runs are missing."""
    found = paired(counted(_campaign()), METHODS[name], METHODS[other])
    if found is None:
        raise ValueError(
            f"expected runs of {name} and {other} on every task of texts, found a task without a pair"
        )
    return found


def _signed(x: float) -> str:
    return f"{x:+.2f}".replace("-", "−")


def _to(low: float, high: float) -> str:
    return f"{low:.2f} to {high:.2f}".replace("-", "−")


def _thousand(x: float) -> str:
    return f"{x / 1e3:,.0f}"


def choice() -> str:
    """The choice between three methods with what was measured, in Markdown."""
    against = [equivalence(counted(_campaign()), rank) for rank in (MAIN_RANK, 2 * MAIN_RANK)]
    (small, *around_small), (large, *around_large) = [
        found for found in against if found is not None
    ]
    dora = _less("DoRA")
    rows: Rows = [
        ["choose", "if", "measured on five text tasks"],
        [
            "**GeoLoRA**",
            "training should find the rank of each layer, or each step needs a proved bound",
            (
                f"{_thousand(small.parameters[0])} thousand parameters with every default; {_signed(small.mean)} points against "
                f"LoRA of rank 4 (90 %: {_to(*around_small)}), {_signed(large.mean)} against rank 8 (90 %: {_to(*around_large)})"
            ),
        ],
        [
            "**LoRA**",
            "every tool must know the adapter, or it has to be merged into quantised weights",
            f"{_thousand(small.parameters[1])} thousand parameters at rank 4, {_thousand(large.parameters[1])} at rank 8",
        ],
        [
            "**DoRA**",
            "a small gain is worth an eighth more parameters than LoRA",
            (
                f"{_thousand(dora.parameters[0])} thousand parameters; {_signed(dora.mean)} points against LoRA of rank 4 "
                f"(95 %: {_to(dora.t_low, dora.t_high)})"
            ),
        ],
    ]
    return markdown_table(rows)


def table() -> str:
    """Each method: parameters, mean over the tasks of texts, its difference from LoRA of rank 4, and the
    other two models, in Markdown.
    """
    head = [
        "method",
        "thousand parameters",
        "texts, %",
        "less LoRA, points",
        "95 %",
        "pictures, %",
        "decoder, perplexity",
    ]
    shown: Rows = [head]
    for name, base in METHODS.items():
        runs = {task: list(base(rows).values()) for task, rows in _campaign().items()}
        texts = [run for task in counted(_campaign()) for run in runs[task]]
        mean = statistics.fmean(
            statistics.fmean(map(test_of, runs[task])) for task in counted(_campaign())
        )
        one = _less(name)
        less = ["", ""] if name == LORA else [_signed(one.mean), _to(one.t_low, one.t_high)]
        others = [
            f"{statistics.fmean(map(test_of, found)):.1f}" if (found := runs[task]) else "–"
            for task in OTHERS
        ]
        shown.append([name, thousands(texts), f"{mean:.1f}", *less, *others])
    return markdown_table(shown)


def draw_differences(axes: Axes) -> None:
    """Each method less LoRA of rank 4, in points, with the 95 % interval of Student's t over the
    tasks of texts.
    """
    names = [name for name in METHODS if name != LORA][::-1]
    found = [_less(name) for name in names]
    for place, (name, one) in enumerate(zip(names, found, strict=True)):
        colour = "C0" if name.startswith("GeoLoRA") else "0.35"
        axes.plot([one.t_low, one.t_high], [place, place], color=colour, linewidth=2.0)
        axes.plot(one.mean, place, "o", color=colour)
    labels = [
        f"{name} ({_thousand(one.parameters[0])} k)" for name, one in zip(names, found, strict=True)
    ]
    axes.set_yticks(range(len(names)), labels)
    axes.axvline(0.0, color="k", linewidth=1.0)
    axes.axvspan(-0.5, 0.5, color="0.92", zorder=0)
    axes.set(xlabel="points above LoRA of rank 4 (166 k parameters), mean of five text tasks")

"""The page of the campaign, and its tables in the documentation."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from geolora_ref.support.files import write_atomically
from verification.experiments.finetuning.analysis import (
    MARGIN,
    Difference,
    at_best,
    at_fixed_rates,
    by_all_seeds,
    differences,
    equivalence,
    front,
    least_share,
    questions,
    rate_shares,
    test_of,
    wide_range,
)
from verification.experiments.finetuning.charts import (
    draw_front,
    draw_ranks,
    draw_rates,
    draw_times,
)
from verification.experiments.finetuning.design import (
    FAMILIES,
    FIXED_RATES,
    MAIN_RANK,
    SEEDS,
    RunRow,
    Stored,
    best_rate,
    counted,
    is_perplexity,
    next_outer,
)
from verification.experiments.finetuning.tasks import BATCH, LIMITS, PLAIN_TEXT, TASKS, TEXTS
from verification.support.machine import machine_facts
from verification.support.pictures import data_uri, svg
from verification.support.shown import Rows, markdown_table

__all__ = [
    "at_one_rate",
    "by_task",
    "cell",
    "further_questions",
    "image",
    "markdown",
    "of_other_models",
    "of_the_default",
    "page",
    "summary",
    "thousands",
    "write_page",
]


def write_page(stored: Stored, folder: Path) -> Path:
    """Write ``page.html``; returns its path."""
    write_atomically(folder / "page.html", page(stored))
    return folder / "page.html"


def page(stored: Stored, rules: Sequence[Sequence[str]] = ()) -> str:
    """The page, self-contained; ``ValueError`` where there is no run at all.  ``rules`` : a table of
    update rules, of other runs.
    """
    if not stored:
        raise ValueError("expected runs of at least one task, found none")
    charts: Mapping[str, Callable[[Axes, Stored], None]] = {
        "Metric over parameters": draw_front,
        "Metric over the learning rate": draw_rates,
        "Steps to the metric that LoRA ends with (one seed)": draw_times,
        "Where the ranks of a parameter budget go": draw_ranks,
    }
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        trim_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    facts = {
        "tasks": {task: (TASKS[task].metric, len(rows)) for task, rows in stored.items()},
        "limits": LIMITS,
        "plain": PLAIN_TEXT,
        "batch": BATCH,
        "rank": MAIN_RANK,
        "seeds": SEEDS,
        "machine": machine_facts(),
        "commits": sorted(
            {str(row["machine"].get("commit")) for rows in stored.values() for row in rows}
        ),
    }
    counts = counted(stored)
    figures = {
        title: image(draw, counts) for title, draw in charts.items() if _has_runs(draw, counts)
    }
    tables = {
        "The method with every default, less LoRA": of_the_default(stored),
        "Every method at the rate that was best on the development examples": by_task(stored),
        "Other models": of_other_models(stored),
        "At one rate for all tasks, on development examples": at_one_rate(stored),
        "Over the tasks of texts": summary(stored),
        "One rate for all tasks, rivals, other ranks and initial ranks": further_questions(stored),
    }
    tables = {title: table for title, table in tables.items() if len(table) > 1}
    return environment.get_template("page.html.j2").render(
        **facts, tables=tables, figures=figures, rules=rules
    )


def _has_runs(draw: Callable[[Axes, Stored], None], stored: Stored) -> bool:
    """Return whether a chart shows something: that of the ranks needs runs with a budget, that of
    the parameters two ranks of a method.
    """
    if not stored:
        return False
    if draw is draw_ranks:
        return any(at_best(rows, "geolora, budget") for rows in stored.values())
    return draw is not draw_front or any(len(points) > 1 for points in front(stored).values())


def by_task(stored: Stored) -> Rows:
    """Test metric in percent by method and task of texts at the main rank: mean ± standard deviation
    over the seeds, and how many.
    """
    stored = {task: rows for task, rows in stored.items() if task in TEXTS}
    table: Rows = [["method", "thousand parameters", *stored]]
    for name in FAMILIES:
        found = {task: list(at_best(rows, name).values()) for task, rows in stored.items()}
        runs = [row for task in counted(found) for row in found[task]]
        if runs:
            table.append(
                [
                    name,
                    thousands(runs),
                    *(cell(rows, best_rate(stored[task], name)) for task, rows in found.items()),
                ]
            )
    return table


def of_other_models(stored: Stored) -> Rows:
    """The same by method for pictures and for plain text, whose perplexity is as it is."""
    table: Rows = [["task", "metric", "method", "thousand parameters", "test"]]
    for task, rows in ((task, rows) for task, rows in stored.items() if task not in TEXTS):
        for name in FAMILIES:
            if runs := list(at_best(rows, name).values()):
                table.append(
                    [
                        task,
                        TASKS[task].metric,
                        name,
                        thousands(runs),
                        cell(runs, best_rate(rows, name)),
                    ]
                )
    return table


def summary(stored: Stored) -> Rows:
    """By method: its difference from LoRA over all tasks with two intervals, the same from LoRA with
    its rate chosen by all seeds, and the range of rates that keep 95 % of its best.
    """
    intervals = ["bootstrap", "t"]
    table: Rows = [
        [
            "method",
            "less LoRA",
            *intervals,
            "less LoRA at the better of two rates",
            *intervals,
            "pairs",
            "range of rates",
        ]
    ]
    stored = counted(stored)
    less, less_rechosen = differences(stored), differences(stored, by_all_seeds)
    for name in FAMILIES:
        span = _range(stored, name)
        one, other = less.get(name), less_rechosen.get(name)
        if name == "lora" and span != "–":
            table.append([name, *[""] * 7, span])
        elif name != "lora" and one is not None:
            against = ["–"] * 3 if other is None else _with_intervals(other)
            table.append(
                [
                    name,
                    *_with_intervals(one),
                    *against,
                    str(sum(map(len, one.pairs.values()))),
                    span,
                ]
            )
    ranges = any(row[-1] != "–" for row in table[1:])
    return table if ranges else [row[:-1] for row in table]


def further_questions(stored: Stored) -> Rows:
    """The questions other than those of the main rank: parameters and difference in points with two
    intervals on texts; with that of t over the seeds on other models, as far as they have runs.
    """
    others = [task for task in stored if task not in TEXTS]
    table: Rows = [
        ["question", "thousand parameters", "difference", "bootstrap", "t", "pairs", *others]
    ]
    found = {task: questions({task: stored[task]}) for task in others}
    for question, one in questions(counted(stored)).items():
        parameters = ", ".join(f"{count / 1e3:,.0f}" for count in one.parameters)
        cells = [
            _with_t(found[task][question]) if question in found[task] else "–" for task in others
        ]
        table.append(
            [
                question,
                parameters,
                *_with_intervals(one),
                str(sum(map(len, one.pairs.values()))),
                *cells,
            ]
        )
    return table


def of_the_default(stored: Stored) -> Rows:
    """The method with every default less LoRA of two ranks on texts, and whether it is equivalent."""
    table: Rows = [
        [
            "less",
            "thousand parameters",
            "difference",
            "90 % interval",
            f"within ±{MARGIN:g}",
            "pairs",
        ]
    ]
    for rank in (MAIN_RANK, 2 * MAIN_RANK):
        if (found := equivalence(counted(stored), rank)) is not None:
            one, low, high = found
            parameters = ", ".join(f"{count / 1e3:,.0f}" for count in one.parameters)
            inside = "yes" if max(-low, high) <= MARGIN else "no"
            pairs = str(sum(map(len, one.pairs.values())))
            table.append(
                [
                    f"lora, rank {rank}",
                    parameters,
                    f"{one.mean:+.2f}",
                    f"{low:+.2f} … {high:+.2f}",
                    inside,
                    pairs,
                ]
            )
    return table


def at_one_rate(stored: Stored) -> Rows:
    """The mean metric on the development examples (number of seeds) at rates that are the same on every
    task, and the least share of the method's best one.
    """
    stored = {
        task: rows for task, rows in stored.items() if task in counted(stored) or task not in TEXTS
    }
    table: Rows = [["method", "rate", *stored, "least share"]]
    for (name, rate), found in at_fixed_rates(stored).items():
        cells = [_dev_cell(stored[task], *found[task]) if task in found else "–" for task in stored]
        several = len(FIXED_RATES.get(name, ())) > 1
        table.append(
            [
                name,
                f"{rate:g}",
                *cells,
                f"{100.0 * least_share(stored, name, rate):.0f} %" if several else "",
            ]
        )
    return table


def _dev_cell(rows: Sequence[RunRow], mean: float, seeds: int) -> str:
    return f"{mean if is_perplexity(rows[0]) else 100.0 * mean:.1f} ({seeds})"


def _with_intervals(one: Difference) -> list[str]:
    return [
        f"{one.mean:+.2f}",
        f"{one.low:+.2f} … {one.high:+.2f}",
        f"{one.t_low:+.2f} … {one.t_high:+.2f}",
    ]


def _with_t(one: Difference) -> str:
    """The difference, with its interval if it has one."""
    mean = f"{one.mean:+.2f}"
    return f"{mean} ({one.t_low:+.2f} … {one.t_high:+.2f})" if math.isfinite(one.t_low) else mean


def _range(stored: Stored, name: str) -> str:
    """The range of rates as a geometric mean over the tasks; "–" where rates are still to be tried."""
    shares = rate_shares(stored, name)
    if (
        not stored
        or len(shares) < len(stored)
        or any(next_outer(rows, name) for rows in stored.values())
    ):
        return "–"
    ranges = [wide_range(one) for one in shares.values()]
    sign = "" if all(inside for _, inside in ranges) else "≥ "
    return f"{sign}{statistics.geometric_mean(width for width, _ in ranges):.1f} x"


def markdown(stored: Stored) -> str:
    """The tables of the documentation."""
    return "\n\n".join(
        markdown_table(table)
        for table in (
            of_the_default(stored),
            by_task(stored),
            of_other_models(stored),
            at_one_rate(stored),
            summary(stored),
            further_questions(stored),
        )
        if len(table) > 1
    )


def thousands(rows: Sequence[RunRow]) -> str:
    """The mean number of parameters in thousands."""
    return f"{statistics.fmean(row['parameters'] for row in rows) / 1e3:,.0f}"


def cell(rows: Sequence[RunRow], rate: float | None) -> str:
    """Mean ± standard deviation (number of seeds, rate); a perplexity that is infinite has no spread."""
    if not rows:
        return "–"
    values = [test_of(row) for row in rows]
    spread = (
        f" ± {statistics.stdev(values):.1f}"
        if len(values) > 1 and math.isfinite(sum(values))
        else ""
    )
    return f"{statistics.fmean(values):.1f}{spread} ({len(values)}, {rate:g})"


def image(draw: Callable[[Any, Stored], None], stored: Stored) -> str:
    """A chart as an SVG data URI."""
    figure = Figure(figsize=(8.0, 4.6), layout="constrained")
    axes = figure.add_subplot()
    draw(axes, stored)
    if axes.get_legend_handles_labels()[0]:
        axes.grid(alpha=0.25)
        figure.legend(loc="outside lower center", ncols=4, frameon=False, fontsize=8)
    return data_uri(svg(figure))

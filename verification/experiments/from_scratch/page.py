"""The table, the outcome of both figures, and the chart, from the stored runs alone."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from verification.experiments.finetuning.design import RunRow
from verification.experiments.finetuning.stored import read_runs
from verification.experiments.from_scratch.design import (
    AGAIN,
    MAIN,
    PENALISED,
    PENALTIES,
    RANKS,
    TASKS,
    at_best,
    key_of,
)
from verification.support.pictures import image, svg
from verification.support.shown import Rows, markdown_table

__all__ = ["MEASURED", "chart", "draw", "outcome", "points", "stored_table", "table"]

MEASURED = Path(__file__).parent / "measured"
SVD = "truncated SVD of dense"
NAMES: Mapping[str, str] = {
    "dense": "dense, AdamW",
    "factorised": "factorised, AdamW",
    SVD: SVD,
    "published geolora": "published GeoLoRA",
    "geolora": "GeoLoRA, every default",
    "geolora, noise": "GeoLoRA, edge and noise",
    PENALISED: "GeoLoRA, penalty on the core",
    AGAIN: "GeoLoRA, penalty, larger rate",
}
COLOURS = dict(zip(NAMES, ("k", "C1", "0.6", "C3", "C0", "C9", "C2", "C4"), strict=True))


def points(rows: Sequence[RunRow], task: str, name: str, rank: int) -> list[dict[str, Any]]:
    """For each seed of a method at a rank: number of parameters, test accuracy and accuracies under
    attack by ε, in percent; a run that diverged has 0 in all.
    """
    runs = at_best(
        rows,
        task,
        "dense" if name in ("dense", SVD) else name,
        0 if name in ("dense", SVD) else rank,
    )
    if name == SVD:
        found = [next(one for one in row["svd"] if one["rank"] == rank) for row in runs]
    else:
        found = [
            {
                "parameters": 0,
                "test": 0.0,
                "attacked": dict.fromkeys(map(str, TASKS[task].epsilons), 0.0),
            }
            if row["diverged"]
            else {
                "parameters": row["parameters"],
                "test": row["metrics"]["test"],
                "attacked": row["attacked"]["test"],
            }
            for row in runs
        ]
    return [
        {
            "parameters": one["parameters"],
            "test": 100.0 * one["test"],
            "attacked": {float(e): 100.0 * x for e, x in one["attacked"].items()},
        }
        for one in found
    ]


def mean_of(found: Sequence[Mapping[str, Any]], epsilon: float = 0.0) -> float:
    """The mean accuracy over the seeds, attacked with ε."""
    return statistics.fmean(one["attacked"][epsilon] if epsilon else one["test"] for one in found)


def _cell(found: Sequence[Mapping[str, Any]], dense: float) -> str:
    if not found:
        return "–"
    share = 100.0 * statistics.fmean(one["parameters"] for one in found) / dense
    return f"{mean_of(found):.1f} ({share:.1f} %)"


def table(rows: Sequence[RunRow]) -> Rows:
    """Each method on each task: test accuracy in percent and share of the parameters at every rank,
    accuracy under attack at the main one, and what was tuned there.
    """
    ranks = sorted(RANKS)
    shown: Rows = [
        [
            "task",
            "method",
            *(f"rank {rank}" for rank in ranks),
            f"attacked, rank {MAIN}",
            "rate or β",
        ]
    ]
    for task, design in TASKS.items():
        whole = points(rows, task, "dense", 0)
        for name, title in NAMES.items() if whole else ():
            main = points(rows, task, name, MAIN)
            if not main:
                continue
            if name == "dense":
                cells = [*[""] * (len(ranks) - 1), f"{mean_of(main):.1f} (100 %)"]
            else:
                cells = [
                    _cell(points(rows, task, name, rank), whole[0]["parameters"]) for rank in ranks
                ]
            runs = [] if name == SVD else at_best(rows, task, name, 0 if name == "dense" else MAIN)
            tuned = f"{key_of(runs[0]):g}" if runs else ""
            shown.append([task, title, *cells, f"{mean_of(main, design.epsilon):.1f}", tuned])
    return shown


def stored_table() -> str:
    """The table of the stored runs, in Markdown."""
    return markdown_table(table(read_runs(MEASURED)))


def _signed(x: float) -> str:
    return f"{x:+.1f}".replace("-", "−")


def compared(rows: Sequence[RunRow], task: str, name: str, epsilon: float = 0.0) -> list[float]:
    """At the main rank, a method less the dense network of the same seed, in points, attacked with ε."""
    pairs = zip(points(rows, task, name, MAIN), points(rows, task, "dense", MAIN), strict=True)
    return [mean_of([one], epsilon) - mean_of([dense], epsilon) for one, dense in pairs]


def _less(differences: Sequence[float]) -> str:
    """The mean, and the range over the seeds."""
    return f"{_signed(statistics.fmean(differences))} ({_signed(min(differences))} to {_signed(max(differences))})"


def outcome(rows: Sequence[RunRow]) -> Rows:
    """Both figures of the design on each task: points above dense, what is wanted, whether it is so."""
    shown: Rows = [
        [
            "task",
            "figure",
            "points above dense, and their range over the seeds",
            "wanted means",
            "outcome",
        ]
    ]
    for task, design in TASKS.items():
        ours, other = (compared(rows, task, name) for name in ("geolora", "factorised"))
        reached = statistics.fmean(ours) >= -1.0 > statistics.fmean(other)
        found = f"GeoLoRA {_less(ours)}, factorised {_less(other)}"
        shown.append([task, f"accuracy, rank {MAIN}", found, "≥ −1, < −1", _word(reached)])
        for attempt, family in zip(("first", "second"), PENALTIES, strict=True):
            penalised, without = (
                compared(rows, task, name, design.epsilon) for name in (family, "geolora")
            )
            reached = statistics.fmean(penalised) >= 0.0 >= statistics.fmean(without)
            found = f"with penalty {_less(penalised)}, without {_less(without)}"
            title = f"ordering, ε = {design.epsilon:g}, {attempt} attempt"
            shown.append([task, title, found, "≥ 0, ≤ 0", _word(reached)])
    return shown


def _word(reached: bool) -> str:
    return "reached" if reached else "not reached"


def stored_outcome() -> str:
    """The outcome of the stored runs, in Markdown."""
    return markdown_table(outcome(read_runs(MEASURED)))


def draw(axes: Sequence[Axes], rows: Sequence[RunRow], task: str) -> None:
    """Accuracy over the share of the parameters, and at the main rank over ε."""
    over_share, over_epsilon = axes
    dense = points(rows, task, "dense", MAIN)
    over_share.axhline(mean_of(dense), color="k", linewidth=1.0)
    for name, title in NAMES.items():
        line = []
        for rank in sorted(RANKS) if name != "dense" else ():
            if found := points(rows, task, name, rank):
                line.append(
                    (
                        100.0
                        * statistics.fmean(p["parameters"] for p in found)
                        / dense[0]["parameters"],
                        mean_of(found),
                    )
                )
        if line:
            label = title if name == SVD else None  # the others are labelled on the right
            over_share.plot(*zip(*line, strict=True), "o-", color=COLOURS[name], label=label)
        if name != SVD and (main := points(rows, task, name, MAIN)):
            epsilons = (0.0, *TASKS[task].epsilons)
            over_epsilon.plot(
                epsilons,
                [mean_of(main, e) for e in epsilons],
                "o-",
                color=COLOURS[name],
                label=title,
            )
    over_epsilon.axvline(TASKS[task].epsilon, color="0.85", zorder=0)
    over_share.set(
        xscale="log", xlabel="parameters, % of dense", ylabel=f"{task}: test accuracy, %"
    )
    over_share.set_xticks([1, 2, 5, 10, 20], ["1", "2", "5", "10", "20"])
    over_epsilon.set(xlabel=f"ε of the attack, rank {MAIN}")


def chart(rows: Sequence[RunRow]) -> bytes:
    """The figure, as SVG."""
    figure = Figure(figsize=(8.0, 3.0 * len(TASKS)), layout="constrained")
    grid = figure.subplots(len(TASKS), 2, squeeze=False)
    for axes, task in zip(grid, TASKS, strict=True):
        draw(axes, rows, task)
    handles = [handle for axes in grid[0] for handle in axes.get_legend_handles_labels()[0]]
    figure.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False)
    return svg(figure)


def stored_chart() -> str:
    """The figure of the stored runs, in Markdown."""
    alt = "Accuracy over the share of the parameters, and over the size of the attack, for every method on both tasks"
    return image(chart(read_runs(MEASURED)), alt)

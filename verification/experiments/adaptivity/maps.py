"""Rates by ranks: heat maps, and how far the best rate moves, from the stored runs alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from geolora_ref.support.files import read_json
from verification.experiments.adaptivity.design import MAPPED, MAPS
from verification.experiments.adaptivity.regression import STORED
from verification.experiments.adaptivity.shown import MEASURED
from verification.experiments.finetuning.analysis import test_of
from verification.experiments.finetuning.design import RunRow, rate_of
from verification.experiments.finetuning.stored import read_runs
from verification.support.pictures import image, svg
from verification.support.shown import Rows, markdown_table

__all__ = [
    "Cell",
    "RateMap",
    "chart",
    "drawn",
    "of_regression",
    "of_text",
    "parameters_chart",
    "table",
]

NAMES: Mapping[str, str] = {
    "geolora": "GeoLoRA",
    "geolora, noise": "GeoLoRA, noise",
    "lora": "LoRA",
    "rslora": "rsLoRA",
    "adalora": "AdaLoRA",
}
COLOURS = dict(zip(NAMES, ("C0", "C9", "C1", "C1", "C3"), strict=True))
CONSTANT = 100.0 * 138 / 500
"""Percent of TREC's test sentences that have the most frequent label [Li and Roth 2002]."""
KEPT = 0.95
"""The width counts the rates that keep this share of the best of their rank."""


class Cell(NamedTuple):
    """``quality``: as a share of the best of the map, larger is better; ``None`` where the run diverged."""

    quality: float | None
    parameters: int


class RateMap(NamedTuple):
    """Cells by rank and rate, of one method on one problem."""

    problem: str
    family: str
    cells: Mapping[tuple[int, float], Cell]

    @property
    def ranks(self) -> list[int]:
        """Ascending."""
        return sorted({rank for rank, _ in self.cells})

    @property
    def rates(self) -> list[float]:
        """Ascending."""
        return sorted({rate for _, rate in self.cells})

    def qualities(self, rank: int) -> dict[float, float]:
        """By rate, of the runs at this rank that did not diverge."""
        return {
            rate: cell.quality
            for (r, rate), cell in sorted(self.cells.items())
            if r == rank and cell.quality is not None
        }

    def best(self, rank: int) -> float:
        """The best rate of a rank, the smaller one of equals."""
        qualities = self.qualities(rank)
        return max(qualities, key=qualities.__getitem__)

    def good(self, rank: int) -> set[float]:
        """The rates that keep :data:`KEPT` of the best of the rank."""
        qualities = self.qualities(rank)
        return {
            rate for rate, quality in qualities.items() if quality >= KEPT * max(qualities.values())
        }

    def width(self, rank: int) -> float:
        """The ratio of the largest to the least good rate of a rank."""
        return max(self.good(rank)) / min(self.good(rank))

    @property
    def everywhere(self) -> int:
        """The number of rates that are good at every rank."""
        return len(set.intersection(*map(self.good, self.ranks)))

    @property
    def spread(self) -> float:
        """The ratio of the largest to the least best rate over the ranks."""
        best = [self.best(rank) for rank in self.ranks]
        return max(best) / min(best)

    @property
    def diverged(self) -> int:
        """The number of runs that are not finite, or worse than a constant answer."""
        return sum(cell.quality is None for cell in self.cells.values())


def of_text(rows: Sequence[RunRow], problem: str) -> Iterator[RateMap]:
    """The maps of a text: the quality is the test accuracy."""
    best = max(test_of(row) for row in rows if not row["diverged"])
    for family in MAPPED:
        cells = {
            (row["budget"], rate_of(row)): Cell(
                None if row["diverged"] or test_of(row) < CONSTANT else test_of(row) / best,
                row["parameters"],
            )
            for row in rows
            if row["family"] == family
        }
        yield RateMap(problem, family, cells)


def of_regression(found: Mapping[str, Any]) -> Iterator[RateMap]:
    """The maps of the regression: the quality is the reciprocal of the error, and W = 0 has the error 1."""
    best = min(row["error"] for row in found["cells"] if row["error"] is not None)
    for family in found["methods"]:
        cells = {
            (row["rank"], row["rate"]): Cell(
                None if row["error"] is None or row["error"] > 1.0 else best / row["error"],
                row["parameters"],
            )
            for row in found["cells"]
            if row["family"] == family
        }
        yield RateMap("regression", family, cells)


@cache
def stored() -> list[RateMap]:
    """All maps of the stored runs."""
    texts = [
        one for name in MAPS for one in of_text(read_runs(MEASURED / name), "TREC, 500 sentences")
    ]
    return [*texts, *of_regression(read_json(STORED))]


def _range(values: list[float], form: str) -> str:
    shown = [format(value, form) for value in (min(values), max(values))]
    return shown[0] if shown[0] == shown[1] else " to ".join(shown)


def table() -> str:
    """Of each map the diverged runs, the rates that are good at every rank, the spread, the range of
    widths, and the worst rank at its best rate, in Markdown.
    """
    shown: Rows = [
        ["problem", "method", "diverged", "good at every rank", "spread", "widths", "worst rank"]
    ]
    for one in stored():
        worst = min(max(one.qualities(rank).values()) for rank in one.ranks)
        shown.append(
            [
                one.problem,
                NAMES[one.family],
                f"{one.diverged} of {len(one.cells)}",
                f"{one.everywhere} of {len(one.rates)}",
                f"{one.spread:.1f}",
                _range([one.width(rank) for rank in one.ranks], ".1f"),
                f"{100.0 * worst:.0f} %",
            ]
        )
    return markdown_table(shown)


def drawn(axes: Axes, one: RateMap) -> None:
    """One heat map: rates to the right, ranks upwards; a cross is a run that diverged."""
    for (rank, rate), cell in one.cells.items():
        x, y = one.rates.index(rate), one.ranks.index(rank)
        if cell.quality is None:
            axes.plot(x, y, "x", color="C3")
        elif rate == one.best(rank):
            axes.plot(x, y, "o", color="w", markeredgecolor="k")
    found = [[one.cells.get((rank, rate)) for rate in one.rates] for rank in one.ranks]
    shades = [
        [cell.quality if cell and cell.quality is not None else float("nan") for cell in row]
        for row in found
    ]
    axes.imshow(shades, vmin=0.0, vmax=1.0, cmap="viridis", aspect="auto", origin="lower")
    axes.set_yticks(range(len(one.ranks)), [str(rank) for rank in one.ranks])
    ends = (0, len(one.rates) - 1)
    axes.set_xticks(ends, [f"{one.rates[end]:.2g}" for end in ends])
    axes.set_title(NAMES[one.family], fontsize="medium")


def chart() -> str:
    """All heat maps, a row of them for each problem, in Markdown."""
    problems = list(dict.fromkeys(one.problem for one in stored()))
    figure = Figure(figsize=(9.0, 2.0 * len(problems)), layout="constrained")
    grid = figure.subplots(len(problems), len(NAMES), squeeze=False)
    for row, problem in zip(grid, problems, strict=True):
        maps = {one.family: one for one in stored() if one.problem == problem}
        for axes, family in zip(row, NAMES, strict=True):
            if family in maps:
                drawn(axes, maps[family])
            else:
                axes.set_axis_off()
        row[0].set_ylabel(f"{problem}\nrank")
    figure.supxlabel("learning rate")
    alt = "Heat maps of the quality over learning rates and ranks, one for each method on a text and on a regression"
    return image(svg(figure), alt)


def parameters_chart() -> str:
    """The number of parameters at the end over the rank, each at its best rate, in Markdown."""
    problems = list(dict.fromkeys(one.problem for one in stored()))
    figure = Figure(figsize=(8.0, 2.8), layout="constrained")
    for axes, problem in zip(figure.subplots(1, len(problems)), problems, strict=True):
        for one in (
            one for one in stored() if one.problem == problem and one.family != "rslora"
        ):  # as many as LoRA
            counts = [one.cells[rank, one.best(rank)].parameters for rank in one.ranks]
            axes.plot(one.ranks, counts, "o-", color=COLOURS[one.family], label=NAMES[one.family])
        axes.set(xscale="log", yscale="log", xlabel="rank at the start", title=problem)
        ticks = max((one.ranks for one in stored() if one.problem == problem), key=len)
        axes.set_xticks(ticks, [str(rank) for rank in ticks])
        axes.minorticks_off()
    axes.legend()
    figure.axes[0].set_ylabel("parameters at the end")
    alt = "Parameters at the end over the rank at the start: LoRA's grow with the rank, GeoLoRA's with noise do not"
    return image(svg(figure), alt)

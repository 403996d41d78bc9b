"""The two figures: the metric over the learning rate, and parameters against the initial rank."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from verification.pictures import data_uri, svg

__all__ = ["draw_initial_ranks", "draw_robustness", "image"]

COLOURS = {
    "geolora": "tab:red",
    "geolora, own core": "tab:pink",
    "lora": "tab:blue",
    "adalora": "tab:green",
    "simultaneous": "tab:orange",
    "full": "tab:gray",
}
LINES = {4: ":", 8: "-", 16: "--"}


def draw_robustness(axes: Axes, summary: Mapping[str, Any]) -> None:
    """One line a method and budget; runs that diverged or learned nothing are crosses, those without a metric at the bottom."""
    groups: dict[tuple[str, int], list[dict[str, Any]]] = {}
    for point in summary["robustness"]:
        groups.setdefault((point["family"], point["budget"]), []).append(point)
    floor = min((point["dev"] for point in summary["robustness"] if point["dev"] is not None), default=0.0)
    for (family, budget), group in groups.items():
        group.sort(key=lambda point: point["rate"])
        shown = [(point["rate"], floor if point["dev"] is None else point["dev"], point["usable"]) for point in group]
        label = family if family == "full" else f"{family}, rank {budget}"
        colour = COLOURS[family]
        axes.plot([x for x, _, _ in shown], [y for _, y, _ in shown], LINES.get(budget, "-."), color=colour, label=label)
        for marker, wanted in ((".", True), ("x", False)):
            chosen = [(x, y) for x, y, usable in shown if usable is wanted]
            axes.plot([x for x, _ in chosen], [y for _, y in chosen], marker, color=colour)
    axes.plot([], [], "kx", label="diverged or learned nothing")
    axes.set(xscale="log", xlabel="learning rate of the adapters", ylabel=f"{summary['metric']} (dev)")
    axes.legend(fontsize=7, frameon=False, ncols=4, loc="lower center", bbox_to_anchor=(0.5, 1.0))  # beside all lines


def draw_initial_ranks(axes: Axes, summary: Mapping[str, Any]) -> None:
    """Mean over the seeds; the numbers at the points are the metric on the test sentences."""
    for family in dict.fromkeys(row["family"] for row in summary["initial_ranks"]):
        rows = sorted((row for row in summary["initial_ranks"] if row["family"] == family), key=lambda row: row["budget"])
        label = family.removesuffix(", free")
        ranks, counts = [row["budget"] for row in rows], [row["parameters"]["mean"] for row in rows]
        axes.plot(ranks, counts, "o-", color=COLOURS[label], label=label)
        for row, x, y in zip(rows, ranks, counts, strict=True):
            if row["test"]["mean"] is not None:
                place: dict[str, Any] = {"textcoords": "offset points", "xytext": (0, 6), "fontsize": 7}
                axes.annotate(f"{row['test']['mean']:.3f}", (x, y), ha="center", **place)
    axes.set(xscale="log", yscale="log", xlabel="initial rank", ylabel="adapter parameters at the end")
    ranks = sorted({row["budget"] for row in summary["initial_ranks"]})
    axes.set_xticks(ranks, [str(rank) for rank in ranks])
    axes.minorticks_off()
    axes.legend(frameon=False)


def image(draw: Any, summary: Mapping[str, Any]) -> str:
    """A figure as an SVG data URI."""
    figure = Figure(figsize=(8.0, 4.6), layout="constrained")
    axes = figure.add_subplot()
    axes.grid(alpha=0.25)
    draw(axes, summary)
    return data_uri(svg(figure))

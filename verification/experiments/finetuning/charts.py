"""The charts of the campaign, each drawn into axes that are given."""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes

from verification.experiments.finetuning.analysis import front, rank_map, rate_shares, time_ratios
from verification.experiments.finetuning.design import FAMILIES, MATCHED, Stored

__all__ = ["draw_front", "draw_ranks", "draw_rates", "draw_times"]

COLOURS = dict(
    zip(
        FAMILIES,
        ("k", "C0", "C9", "C1", "gold", "navy", "C3", "C2", "C7", "C5", "C4", "C8", "C6", "0.6"),
        strict=True,
    )
)
LABELS = {name: (name, colour) for name, colour in COLOURS.items()}
FAR_BELOW = "head only"
"""The method that charts leave out: with it the others would be one point."""
KINDS = {
    "query": "query",
    "key": "key",
    "value": "value",
    "attention.output": "attention\noutput",
} | {
    "intermediate": "feed-forward\nup",
    "output": "feed-forward\ndown",
}


def draw_front(axes: Axes, stored: Stored) -> None:
    """The metric over the parameters, means over the tasks; one line a method, one point a rank."""
    for name, points in front(stored).items():
        if name != FAR_BELOW:
            axes.plot(*zip(*points, strict=True), "o-", color=COLOURS[name], label=name)
    axes.set(
        xscale="log",
        xlabel="trained parameters of the encoder",
        ylabel="test metric, %, mean of the tasks",
    )


def draw_rates(axes: Axes, stored: Stored, marked: Mapping[str, tuple[str, str]] = LABELS) -> None:
    """The development metric over the rate as a share of the best, mean of the tasks; rates in
    units of a method's middle one.  ``marked``: label and colour by method; all others are grey.
    """
    others = "other methods"
    for name, rates in ((name, rates) for name, rates in FAMILIES.items() if name != FAR_BELOW):
        shares: dict[float, list[float]] = defaultdict(list)
        for task in rate_shares(stored, name).values():
            for rate, share in task.items():
                shares[rate / rates[1]].append(share)
        full = {
            unit: statistics.fmean(values)
            for unit, values in shares.items()
            if len(values) == len(stored)
        }
        if len(full) > 1:
            curve = sorted(full), [full[unit] for unit in sorted(full)]
            if name in marked:
                axes.plot(*curve, "o-", label=marked[name][0], color=marked[name][1], zorder=3)
            else:
                axes.plot(*curve, "-", color="0.8", linewidth=1.0, label=others, zorder=1)
                others = "_"
    axes.axhline(0.95, color="0.8", linewidth=1.0)
    ticks = [10.0 ** (half / 2.0) for half in range(-4, 5)]
    axes.set(
        xscale="log",
        xlabel="learning rate / middle rate of the method",
        ylabel="share of the best, mean of the tasks",
    )
    low, high = axes.get_xlim()
    axes.set_xticks(ticks, [f"{tick:.2g}" for tick in ticks])
    axes.minorticks_off()
    axes.set_xlim(low, high)


def draw_times(axes: Axes, stored: Stored) -> None:
    """Steps to LoRA's last development metric, as a share of LoRA's steps; a bar to the top stands
    for never.
    """
    ratios = {
        name: {task: ratio[0] for task, ratio in time_ratios(stored, name).items()}
        for name in MATCHED
    }
    width = 0.8 / len(ratios)
    tasks = [task for task in stored if any(task in found for found in ratios.values())]
    top = 1.2 * max(
        [
            1.5,
            *(
                ratio
                for found in ratios.values()
                for ratio in found.values()
                if math.isfinite(ratio)
            ),
        ]
    )
    for place, (name, found) in enumerate(ratios.items()):
        heights = [min(top, found.get(task, 0.0)) for task in tasks]
        axes.bar(
            np.arange(len(tasks)) + (place - (len(ratios) - 1) / 2.0) * width,
            heights,
            width,
            color=COLOURS[name],
            label=name,
        )
    axes.set_xticks(range(len(tasks)), tasks)
    axes.axhline(1.0, color="k", linewidth=1.0)
    axes.set(ylim=(0.0, top), ylabel="steps to LoRA's final metric / LoRA's")


def draw_ranks(axes: Axes, stored: Stored) -> None:
    """Draw the ranks of the parameter budget: mean final rank by block (rows) and kind of layer (columns)."""
    ranks = rank_map(stored, "geolora, budget")
    names = {
        kind: next((KINDS[end] for end in KINDS if kind.endswith((end, f"{end}.dense"))), kind)
        for _, kind in ranks
    }
    blocks, kinds = sorted({block for block, _ in ranks}), list(names)
    axes.imshow(
        [[ranks[block, kind] for kind in kinds] for block in blocks], cmap="viridis", aspect="auto"
    )
    middle = statistics.fmean((min(ranks.values()), max(ranks.values())))
    for (block, kind), rank in ranks.items():
        ink = "k" if rank > middle else "w"
        axes.text(
            kinds.index(kind),
            blocks.index(block),
            f"{rank:.1f}",
            ha="center",
            va="center",
            color=ink,
        )
    axes.set_xticks(range(len(kinds)), [names[kind] for kind in kinds], fontsize=7)
    axes.set_yticks(range(len(blocks)), [f"block {block}" for block in blocks])

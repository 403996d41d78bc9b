"""A picture of a run: the training loss, and the rank of every layer over time."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from geolora_ref.finetune.job import History
from geolora_ref.support.files import write_atomically

__all__ = ["draw_run", "picture", "short_names"]


def draw_run(history: History, path: Path, title: str) -> None:
    """Write the picture in the format that the ending of ``path`` names."""
    drawn = io.BytesIO()
    picture(history, title).savefig(drawn, dpi=150, format=path.suffix.removeprefix("."))
    write_atomically(path, drawn.getvalue())


def picture(history: History, title: str) -> Figure:
    """The losses over the ranks, with one axis of steps; the losses alone for a method without ranks."""
    layers = len(history.layers)
    figure = Figure(figsize=(8.0, 3.0 + 0.16 * layers), layout="constrained")
    figure.suptitle(title, fontsize=9)
    grid = figure.add_gridspec(
        2 if layers else 1, 1, height_ratios=(2.5, 0.5 + 0.16 * layers) if layers else None
    )
    losses = figure.add_subplot(grid[0])
    _draw_loss(losses, history)
    if layers:
        _draw_ranks(figure.add_subplot(grid[1], sharex=losses), history)
    return figure


def _draw_loss(axes: Axes, history: History) -> None:
    """Every step as a dot, and the running mean over a twentieth of the run."""
    losses = np.array(history.losses)
    window = max(1, len(losses) // 20)
    steps = np.arange(1, len(losses) + 1)
    axes.plot(steps, losses, ".", markersize=2, alpha=0.35, color="tab:blue")
    mean = np.convolve(losses, np.full(window, 1.0 / window), mode="valid")
    axes.plot(steps[window - 1 :], mean, color="tab:blue", label=f"mean over {window} steps")
    axes.set_xlabel("step")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_ylabel("training loss")
    if window > 1:  # above the axes, where no curve runs
        axes.legend(
            loc="lower right",
            bbox_to_anchor=(1.0, 1.0),
            borderaxespad=0.2,
            frameon=False,
            fontsize=8,
        )


def _draw_ranks(axes: Axes, history: History) -> None:
    """One row a layer, one column a recorded step."""
    ranks = np.array(history.ranks).T
    steps = np.array(history.rank_steps, dtype=float)
    width = np.diff(steps).min() if len(steps) > 1 else 1.0
    edges = np.append(steps, steps[-1] + width)
    image = axes.pcolormesh(
        edges,
        np.arange(len(ranks) + 1),
        ranks,
        cmap="viridis",
        vmin=0,
        vmax=max(1, int(ranks.max())),
    )
    axes.set_yticks(np.arange(len(ranks)) + 0.5, short_names(history.layers), fontsize=6)
    axes.invert_yaxis()
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("step")
    bar = axes.figure.colorbar(image, ax=axes, label="rank")
    bar.ax.yaxis.set_major_locator(MaxNLocator(integer=True))


def short_names(names: Sequence[str]) -> list[str]:
    """The names without their common beginning, cut at a dot."""
    parts = [name.split(".") for name in names]
    shared = 0
    while (
        all(len(part) > shared + 1 for part in parts) and len({part[shared] for part in parts}) == 1
    ):
        shared += 1
    return [".".join(part[shared:]) for part in parts]

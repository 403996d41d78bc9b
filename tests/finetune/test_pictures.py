"""The picture of a run, as it is laid out."""

from __future__ import annotations

import pytest

pytest.importorskip("transformers", reason="the extra finetune is not installed")

from geolora_ref.finetune.job import History
from geolora_ref.finetune.pictures import picture


def run(steps: int, layers: int = 2) -> History:
    """A run whose loss rises, into the corner of a legend."""
    return History(
        layers=[f"layer.{i}" for i in range(layers)],
        losses=[float(step) for step in range(steps)],
        rank_steps=list(range(steps + 1)),
        ranks=[[8] * layers] * (steps + 1),
    )


def test_the_legend_covers_no_curve_and_steps_have_one_axis() -> None:
    figure = picture(run(60), "title")
    figure.draw_without_rendering()
    losses, ranks, _ = figure.axes
    legend = losses.get_legend()
    assert legend
    assert not legend.get_window_extent().overlaps(losses.get_window_extent())
    assert losses.get_xlim() == ranks.get_xlim()
    assert losses.get_window_extent().x0 == ranks.get_window_extent().x0
    assert losses.get_window_extent().x1 == ranks.get_window_extent().x1


def test_a_mean_over_one_step_needs_no_legend() -> None:
    assert picture(run(5, layers=0), "title").axes[0].get_legend() is None

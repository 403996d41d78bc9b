"""The picture of the precision ladder, from ladder.json alone: the page draws it without the
modules that measure.
"""

from __future__ import annotations

import sys
from typing import Any

from matplotlib.figure import Figure

from verification.support.pictures import svg

__all__ = ["figure"]

EPS = sys.float_info.epsilon


def figure(found: dict[str, Any]) -> bytes:
    """The three plots with their predicted lines, as SVG."""
    drawing = Figure(figsize=(13, 4), layout="constrained")
    left, middle, right = drawing.subplots(1, 3)
    u = [2.0**-bits for bits in found["bits"].values()]
    for stage, errors in found["errors"].items():
        left.plot(u, errors, "o-", markersize=4, label=stage)
    left.plot(u, u, ":", color="gray", label="u")
    for key, label, marker in (
        ("real steps", "W_1 of real steps", "*"),
        ("lossy steps", "of coarser gradients", "x"),
    ):
        of = found[key].values()
        left.plot(
            [one["u"] for one in of],
            [one["error"] for one in of],
            marker,
            color="black",
            markersize=8,
            label=label,
        )
    left.set(xlabel="unit round-off u", ylabel="relative error")
    for axes, x, errors, line, label in (
        (
            middle,
            found["conditions"],
            found["routes"],
            [EPS * c for c in found["conditions"]],
            "cond(S)",
        ),
        (
            right,
            found["sizes"],
            found["augmentation"],
            [EPS / s for s in found["sizes"]],
            "λ‖∇_K‖/‖S‖",
        ),
    ):
        for name, values in errors.items():
            axes.plot(x, values, "o-", markersize=4, label=name)
        axes.plot(x, line, ":", color="gray", label="predicted")
        axes.set(xlabel=label)
    for axes in (left, middle, right):
        axes.set(xscale="log", yscale="log")
        axes.legend(fontsize=8)
    return svg(drawing)

r"""
When GeoLoRA, when LoRA
=======================

**For GeoLoRA.** Ranks follow a tolerance, layer by layer, so that nobody has to choose them. Every step of the default rule has a
proved decrease in units of the layer's spectral norm, and its learning rate means the same for every rank and width. The bases
stay orthonormal: a rank can be cut at any time, with an error that is known.

**For LoRA.** Where the rank is fixed beforehand, LoRA of that rank learns about as well: most differences in the charts below are
within the error bars. LoRA needs no optimizer of its own, and every tool knows it. It takes base models that are quantised, which
GeoLoRA's adapters refuse.

The charts are made of stored runs: all-MiniLM-L6-v2, two thousand training sentences of SST-2 and of TREC, one epoch, uniform
ranks of 2, 8 and 32; *LoRA* is PEFT's, with AdamW. :doc:`/finetuning` has the numbers.
"""

# %%
# Test accuracy over parameters, at the rate that was best on the development sentences of each rank: single runs, with the standard
# error of one accuracy, 0.9 points.

from statistics import fmean

import matplotlib.pyplot as plt
from verification.experiments.finetuning.rules import MEASURED, RATES, stored

TASKS = {folder.name: stored(folder) for folder in sorted(MEASURED.iterdir())}
# sphinx_gallery_start_ignore
COLOURS = {"spectral": "C0", "adam": "C2", "adam-published": "C3", "lora": "k"}


def chosen(rows, rule, rank):
    """The runs of the first seed by rate."""
    wanted = (row for row in rows if (row["family"], row["budget"]) == (rule, rank))
    return {
        row["config"]["method"]["lr"]: row
        for row in wanted
        if row["config"]["plan"]["seed"] == 0
    }


def accuracy(row, part):
    """In percent; 0 for a run that diverged."""
    return 100.0 * (row["metrics"].get(part) or 0.0)


figure, axes = plt.subplots(1, 2, figsize=(8, 3.2), layout="constrained")
for ax, (task, rows) in zip(axes, TASKS.items(), strict=True):
    for rule in RATES:
        best = [
            max(
                chosen(rows, rule, rank).values(),
                key=lambda row: accuracy(row, "dev"),
                default=None,
            )
            for rank in (2, 8, 32)
        ]
        best = [row for row in best if row]
        ax.errorbar(
            [row["parameters"] for row in best],
            [accuracy(row, "test") for row in best],
            yerr=0.9,
            fmt="o-",
            capsize=3,
            color=COLOURS[rule],
            label=rule,
        )
    ax.set(
        title=task.upper(),
        xscale="log",
        xlabel="adapter parameters",
        ylabel="test accuracy, %",
    )
figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
# sphinx_gallery_end_ignore
plt.show()

# %%
# Test accuracy over the learning rate, the mean of the three ranks; rates are divided by the middle one that was tried. Where a
# curve falls to chance, a run has learned nothing.

# sphinx_gallery_start_ignore
figure, axes = plt.subplots(1, 2, figsize=(8, 3.2), layout="constrained")
for ax, (task, rows) in zip(axes, TASKS.items(), strict=True):
    for rule, rates in RATES.items():
        found = [
            [
                accuracy(chosen(rows, rule, rank)[rate], "test")
                for rank in (2, 8, 32)
                if rate in chosen(rows, rule, rank)
            ]
            for rate in rates
        ]
        means = [fmean(values) if values else float("nan") for values in found]
        ax.plot(
            [rate / rates[1] for rate in rates],
            means,
            "o-",
            color=COLOURS[rule],
            label=rule,
        )
    ax.set(
        title=task.upper(),
        xscale="log",
        xlabel="learning rate / middle rate",
        ylabel="test accuracy, %",
    )
    ax.set_xticks([10**-0.5, 1.0, 10**0.5], ["0.32", "1", "3.2"])
    ax.minorticks_off()
figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
# sphinx_gallery_end_ignore
plt.show()

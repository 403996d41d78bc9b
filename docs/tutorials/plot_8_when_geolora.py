r"""
When GeoLoRA, when LoRA
=======================

Choose by what each method is for: on short trainings of texts their accuracies cannot be told apart.

.. rendered:: verification.experiments.finetuning.study:choice

Every method trained all-MiniLM-L6-v2 for one epoch on two thousand sentences of each task, with five
seeds. GeoLoRA had one learning rate for all tasks; LoRA and DoRA had a rate tuned for each task. The
margin of the design was half a point. Neither interval of GeoLoRA lies within that margin, so its
equivalence to LoRA is not shown. :doc:`/study` has the design and all methods.

**What GeoLoRA adds.** A step of the default rule has a proved bound: it descends, but for the error of its
memory and the smoothing. Its learning rate bounds how far outputs move, relative to inputs, at every
rank and width. The bases stay orthonormal, so a rank can be cut at any time with a known error.

**What LoRA adds.** It needs no optimizer of its own, and every tool reads it. Its weights can be merged
into quantised bases. GeoLoRA trains adapters on quantised bases, but cannot merge them. A trained
GeoLoRA adapter exports to a plain LoRA checkpoint.
"""

# %%
# How far from LoRA?
# ------------------
# The mean difference over the five tasks, with its 95 % interval of Student's t. The band is the margin
# of half a point; numbers in brackets are trained parameters.

import matplotlib.pyplot as plt
from verification.experiments.finetuning import charts, rules, study
from verification.experiments.finetuning.analysis import read_campaign, read_runs
from verification.experiments.finetuning.design import counted

figure, ax = plt.subplots(figsize=(8, 3.6), layout="constrained")
study.draw_differences(ax)
ax.set_title("Difference from LoRA of rank 4, with 95 % intervals")
plt.show()

# %%
# How sensitive to the learning rate?
# -----------------------------------
# The development metric at rank 4 as a share of the best one: the mean of five tasks, one seed. Rates
# are in units of a middle rate: 0.02 for GeoLoRA, 0.01 for AdaLoRA, 0.0032 for LoRA and DoRA. At the
# right end runs have learned nothing; at the left end 125 steps were too few.

MARKED = {
    "geolora, budget, rms": ("GeoLoRA, budget", "C0"),
    "lora": ("LoRA", "k"),
    "dora": ("DoRA", "C1"),
    "adalora": ("AdaLoRA", "C2"),
}
figure, ax = plt.subplots(figsize=(8, 3.6), layout="constrained")
charts.draw_rates(ax, counted(read_campaign()), MARKED)
ax.set_ylabel("share of the best")
ax.set_title("Development metric over the learning rate")
figure.legend(loc="outside lower center", ncols=5, frameon=False)
plt.show()

# %%
# How accurate at how many parameters?
# ------------------------------------
# Test accuracy of single runs at ranks 2, 8 and 32, at the rate that was best on the development
# sentences of each rank, with the standard error of one accuracy. *spectral* is GeoLoRA's default rule,
# *adam-published* that of the paper.

figure, axes = plt.subplots(1, 2, figsize=(8, 3.2), layout="constrained")
for ax, folder in zip(axes, sorted(rules.MEASURED.iterdir()), strict=True):
    rules.draw(ax, read_runs(folder), rules.TEST_SENTENCES[folder.name])
    ax.set_title(f"{folder.name.upper()}: accuracy over parameters")
figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
plt.show()

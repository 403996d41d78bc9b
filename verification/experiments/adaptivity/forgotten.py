"""Forgetting at equal training loss, from the stored runs alone."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from geolora_ref.support.files import read_json
from verification.experiments.adaptivity.forgetting import METHODS, STORED
from verification.experiments.adaptivity.other_text import OTHERS, TRAINING
from verification.experiments.adaptivity.shown import with_interval
from verification.experiments.finetuning.analysis import half_width
from verification.support.shown import Rows, markdown_table

__all__ = ["at_loss", "equal_loss", "of_runs", "table"]

NAMES, TITLES = {"lora": "LoRA, rank 4", "geolora": "GeoLoRA"}, {"stsb": "STS-B", "sst2": "SST-2"}
JUDGED = (*OTHERS, "distance")
Record = Mapping[str, float]
Run = Mapping[str, Any]


def equal_loss(runs: Sequence[Run]) -> float:
    """ℓ*: the largest, over the runs, of the least training loss that a run recorded."""
    least: list[float] = [min(record[TRAINING] for record in run["records"]) for run in runs]
    return max(least)


def at_loss(run: Run, loss: float) -> Record:
    """The record of a run where its training loss first crosses ``loss``, linear between records;
    ``ValueError`` that names a run which never does.
    """
    records = run["records"]
    after = next((place for place, record in enumerate(records) if record[TRAINING] <= loss), None)
    if after is None:
        least = min(record[TRAINING] for record in records)
        raise ValueError(
            f"{run['family']}, seed {run['seed']}: expected a training loss of at most {loss:g}, found {least:g}"
        )
    last, one = records[max(after - 1, 0)], records[after]
    share = (last[TRAINING] - loss) / (last[TRAINING] - one[TRAINING]) if after else 0.0
    return {name: last[name] + share * (one[name] - last[name]) for name in one}


def _verdict(differences: Sequence[float], less: str, more: str) -> str:
    mean, half = statistics.fmean(differences), half_width(differences)
    return less if mean + half < 0.0 else more if mean - half > 0.0 else "no difference is shown"


def of_runs(runs: Sequence[Run]) -> Rows:
    """Before the tuning, at equal training loss and after the last step, means over the seeds; and
    GeoLoRA less LoRA at equal training loss, paired by seeds, with the verdict of the design.
    """
    first, loss = runs[0]["records"][0], equal_loss(runs)
    others = [head for name in OTHERS for head in (TITLES[name], "increase")]
    shown: Rows = [["", "training loss", *others, "distance, %", "test perplexity"]]

    def line(title: str, records: Sequence[Record], test: str) -> list[str]:
        means = {
            name: statistics.fmean(record[name] for record in records)
            for name in (TRAINING, *JUDGED)
        }
        found = [
            cell
            for name in OTHERS
            for cell in (f"{means[name]:.3f}", _signed(means[name] - first[name]))
        ]
        return [title, f"{means[TRAINING]:.3f}", *found, f"{100.0 * means['distance']:.2f}", test]

    by = {
        family: sorted(
            (run for run in runs if run["family"] == family), key=lambda run: run["seed"]
        )
        for family in METHODS
    }
    equal = {family: [at_loss(run, loss) for run in found] for family, found in by.items()}
    shown.append(line("before tuning", [first], f"{runs[0]['test'][0]:.1f}"))
    shown += [
        line(f"{NAMES[family]}, at equal training loss", equal[family], "") for family in METHODS
    ]
    for family, found in by.items():
        perplexity = statistics.fmean(run["test"][1] for run in found)
        shown.append(
            line(
                f"{NAMES[family]}, after the last step",
                [run["records"][-1] for run in found],
                f"{perplexity:.1f}",
            )
        )
    less = {
        name: [
            one[name] - other[name]
            for one, other in zip(equal["geolora"], equal["lora"], strict=True)
        ]
        for name in JUDGED
    }
    cells = [cell for name in OTHERS for cell in ("", with_interval(less[name], ".3f"))]
    percent = with_interval([100.0 * value for value in less["distance"]], ".2f")
    shown.append(["GeoLoRA less LoRA, at equal training loss", "", *cells, percent, ""])
    words = [
        cell
        for name in OTHERS
        for cell in ("", _verdict(less[name], "forgets less", "forgets more"))
    ]
    shown.append(["GeoLoRA", "", *words, _verdict(less["distance"], "is nearer", "is farther"), ""])
    return shown


def _signed(value: float) -> str:
    return f"{value:+.3f}".replace("-", "−")


def table() -> str:
    """The table of the stored runs, in Markdown."""
    return markdown_table(of_runs(read_json(STORED)["runs"]))

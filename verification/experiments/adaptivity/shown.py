"""What the documentation shows of the runs: accuracies under noise, and their differences from LoRA."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path

from verification.experiments.adaptivity.design import COMPARED, NOISE, SEEDS, UNTUNED, best_rate
from verification.experiments.finetuning.analysis import Difference, half_width, paired, test_of
from verification.experiments.finetuning.design import RunRow, Stored, runs_at
from verification.experiments.finetuning.stored import read_runs
from verification.support.shown import Rows, markdown_table

__all__ = [
    "at_tuned",
    "at_untuned",
    "difference",
    "is_equivalent",
    "less",
    "outcome",
    "tuned",
    "untuned",
    "with_interval",
]

MEASURED = Path(__file__).parent / "measured"
LABELS = dict(
    zip(COMPARED, ("LoRA, rank 8", "LoRA, rank 32", "GeoLoRA", "GeoLoRA, noise"), strict=True)
)
TITLES = {"trec": "TREC", "sst2": "SST-2"}
RIVALS, OURS = COMPARED[:2], COMPARED[2:]
MARGIN = 1.0
"""Points within which a method counts as equivalent to another one."""

Runs = Callable[[Sequence[RunRow], tuple[str, int]], Mapping[int, RunRow]]
"""By seed, the runs of a family and rank among all runs of a setting."""


@cache
def _stored() -> Stored:
    return {name: read_runs(MEASURED / name) for name in NOISE}


def at_untuned(rows: Sequence[RunRow], method: tuple[str, int]) -> Mapping[int, RunRow]:
    """The runs at the rate that clean labels chose."""
    family, rank = method
    return runs_at(rows, family, rank, UNTUNED[family])


def at_tuned(rows: Sequence[RunRow], method: tuple[str, int]) -> Mapping[int, RunRow]:
    """The runs at the rate that the development examples of the setting choose."""
    family, rank = method
    return runs_at(rows, family, rank, best_rate(rows, family, rank))


def difference(
    rows: Sequence[RunRow], one: tuple[str, int], other: tuple[str, int], at: Runs
) -> Difference:
    """One method less another one in a setting, in points, paired by seeds.

    Raises ``ValueError`` where runs are missing.
    """
    found = paired({"": rows}, lambda rows: at(rows, one), lambda rows: at(rows, other))
    pairs = 0 if found is None else len(found.pairs[""])
    if found is None or pairs != SEEDS:
        raise ValueError(f"expected {SEEDS} seeds with runs of {one} and {other}, found {pairs}")
    return found


def less(found: Difference) -> str:
    """A difference and its 95 % interval over the seeds, for a cell of a table."""
    return with_interval(next(iter(found.pairs.values())))


def with_interval(values: Sequence[float], form: str = ".1f") -> str:
    """The mean of differences and its 95 % interval of Student's t, for a cell of a table."""
    mean, half = statistics.fmean(values), half_width(values)
    return f"{mean:+{form}} ({mean - half:+{form}} to {mean + half:+{form}})".replace("-", "−")


def is_equivalent(found: Difference) -> bool:
    """Return whether the 90 % interval lies within the margin: two one-sided tests at 5 %."""
    return abs(found.mean) + half_width(found.pairs[""], 0.9) <= MARGIN


def outcome() -> str:
    """In how many settings each method is better than LoRA, worse or equivalent, as the design defines
    it, in Markdown.
    """
    shown: Rows = [
        ["rates", "method", "against", "better in", "worse in", "equivalent in", "settings"]
    ]
    stages = (("of clean labels", at_untuned), ("of the setting", at_tuned))
    for (rates, at), one, other in (
        (stage, one, other) for stage in stages for one in OURS for other in RIVALS
    ):
        found = [difference(rows, one, other, at) for rows in _stored().values()]
        better, worse = (
            sum(one.t_low > 0.0 for one in found),
            sum(one.t_high < 0.0 for one in found),
        )
        counts = (better, worse, sum(map(is_equivalent, found)), len(found))
        shown.append([rates, LABELS[one], LABELS[other], *map(str, counts)])
    return markdown_table(shown)


def untuned() -> str:
    """The accuracies at the rates that clean labels chose, in Markdown."""
    return _accuracies(at_untuned)


def tuned() -> str:
    """The accuracies at the rates that each setting chooses, in Markdown."""
    return _accuracies(at_tuned)


def _accuracies(at: Runs) -> str:
    """Test accuracies of each setting in percent, and differences of the default from LoRA in points."""
    against = [(OURS[0], other) for other in RIVALS]
    shown: Rows = [
        [
            "setting",
            *LABELS.values(),
            *(f"{LABELS[one]}, less {LABELS[other]}" for one, other in against),
        ]
    ]
    for name, rows in _stored().items():
        setting = NOISE[name]
        labels = (
            f"{100.0 * setting.wrong:.0f}\N{NO-BREAK SPACE}% wrong"
            if setting.wrong
            else "right labels"
        )
        means = (statistics.fmean(map(test_of, at(rows, method).values())) for method in COMPARED)
        cells = (less(difference(rows, one, other, at)) for one, other in against)
        shown.append(
            [
                f"{TITLES[setting.task]}, {setting.sentences} sentences, {labels}",
                *(f"{mean:.1f}" for mean in means),
                *cells,
            ]
        )
    counts = (
        statistics.fmean(
            row["parameters"] for rows in _stored().values() for row in at(rows, method).values()
        )
        for method in COMPARED
    )
    shown.append(
        ["thousand parameters", *(f"{count / 1e3:,.0f}" for count in counts), *[""] * len(against)]
    )
    return markdown_table(shown)

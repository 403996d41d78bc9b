"""What the documentation shows of the runs: accuracies under noise, and their differences from LoRA."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from functools import cache, partial
from pathlib import Path

from verification.experiments.adaptivity.design import COMPARED, NOISE, UNTUNED
from verification.experiments.finetuning.analysis import Difference, paired, test_of
from verification.experiments.finetuning.design import RunRow, Stored, runs_at
from verification.experiments.finetuning.stored import read_runs
from verification.support.shown import Rows, markdown_table

__all__ = ["difference", "outcome", "untuned"]

MEASURED = Path(__file__).parent / "measured"
LABELS = dict(zip(COMPARED, ("LoRA, rank 8", "LoRA, rank 32", "GeoLoRA", "GeoLoRA, noise"), strict=True))
TITLES = {"trec": "TREC", "sst2": "SST-2"}
RIVALS, OURS = COMPARED[:2], COMPARED[2:]


@cache
def _stored() -> Stored:
    return {name: read_runs(MEASURED / name) for name in NOISE}


def at_untuned(rows: Sequence[RunRow], method: tuple[str, int]) -> dict[int, RunRow]:
    """By seed, the runs of a family and rank at the rate that clean labels chose."""
    family, rank = method
    return runs_at(rows, family, rank, UNTUNED[family])


def difference(rows: Sequence[RunRow], one: tuple[str, int], other: tuple[str, int]) -> Difference:
    """One method less another one in a setting, in points, paired by seeds.

    Raises ``ValueError`` where runs are missing.
    """
    found = paired({"": rows}, partial(at_untuned, method=one), partial(at_untuned, method=other))
    if found is None:
        raise ValueError(f"expected runs of {one} and {other} with the same seeds, found no pair")
    return found


def _less(found: Difference) -> str:
    return f"{found.mean:+.1f} ({found.t_low:+.1f} to {found.t_high:+.1f})".replace("-", "−")


def outcome() -> str:
    """In how many settings each method is better than LoRA and in how many worse, as the design
    defines it, in Markdown.
    """
    shown: Rows = [["method", "against", "better in", "worse in", "settings"]]
    for one, other in ((one, other) for one in OURS for other in RIVALS):
        found = [difference(rows, one, other) for rows in _stored().values()]
        better, worse = sum(less.t_low > 0.0 for less in found), sum(less.t_high < 0.0 for less in found)
        shown.append([LABELS[one], LABELS[other], str(better), str(worse), str(len(found))])
    return markdown_table(shown)


def untuned() -> str:
    """Test accuracies of each setting in percent, and differences from LoRA in points, in Markdown."""
    against = [(OURS[0], other) for other in RIVALS]
    shown: Rows = [["setting", *LABELS.values(), *(f"{LABELS[one]}, less {LABELS[other]}" for one, other in against)]]
    for name, rows in _stored().items():
        setting = NOISE[name]
        labels = f"{100.0 * setting.wrong:.0f} % wrong" if setting.wrong else "right labels"
        means = (statistics.fmean(map(test_of, at_untuned(rows, method).values())) for method in COMPARED)
        cells = (_less(difference(rows, one, other)) for one, other in against)
        shown.append(
            [f"{TITLES[setting.task]}, {setting.sentences} sentences, {labels}", *(f"{mean:.1f}" for mean in means), *cells]
        )
    counts = (
        statistics.fmean(row["parameters"] for rows in _stored().values() for row in at_untuned(rows, method).values())
        for method in COMPARED
    )
    shown.append(["thousand parameters", *(f"{count / 1e3:,.0f}" for count in counts), *[""] * len(against)])
    return markdown_table(shown)

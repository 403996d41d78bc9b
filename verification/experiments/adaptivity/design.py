"""The design, fixed before its runs: settings, methods, rates, and which runs answer which question.

**Wrong labels and few sentences.**  Does a method that fits its ranks lose less than LoRA of rank 8
or 32 where labels are wrong or few?  SST-2 and TREC, each with 500 sentences of which 20 % or 40 %
have a wrong label, and with 200 sentences.  Development and test labels are right.

- *Untuned*: every method has the rate that the campaign on clean labels chose for all five tasks,
  0.0032 for LoRA and 0.0063 for GeoLoRA; five seeds.
- *Tuned*: the rates on either side, a factor √10 away, with the first seed; the best rate on the
  development examples, the smaller one of equals, has all five seeds.
- The figure is the difference from LoRA on the test examples, paired by seeds, with the 95 %
  interval of Student's t over the seeds.  A method *is better* if the interval lies above 0; it *is
  equivalent* if the 90 % interval lies within ±1 point.  Both are judged for each setting, and no
  verdict is adjusted for their number, 24 for a method.
- Test examples choose nothing.  Trials had seen TREC with 1,000 sentences and 40 %, with one seed:
  LoRA at 0.0032 had 81 %, at 0.001 91 %, GeoLoRA at 0.0063 91 %.

**Rates by ranks.**  How wide is the range of rates that learn, and does it move with the rank?  TREC
with 500 sentences, eight rates over two decades by ranks 1, 8 and 64, with one seed.  GeoLoRA begins
at the rank, LoRA has it (with scale 1, and with scale √r as *rsLoRA*), AdaLoRA ends at it; at rank 1
it does not run.

- A cell *diverged* if its run ends with a loss that is not finite, or if it is worse than a
  constant answer: below the share of the most frequent label.
- The *width* of a rank is the ratio of the largest to the least rate that keeps 95 % of the best
  metric of that rank; the *spread* is the ratio of the largest to the least best rate over the ranks.

**Large batches.**  Does LoRA lose more than full fine-tuning at large batches, because it learns a
product?  Who loses how much?  All of TREC in two epochs, with batches of 16, 128 and 1,024:
620, 78 and 10 steps.  LoRA and GeoLoRA (beginning) at rank 8, and full fine-tuning.

- SST-2 has longer sentences: one step on 1,024 of them takes 16 GB.
- *Tuned alike*: three rates a factor √10 apart, around the campaign's rate times √(batch/16), and the
  next one outward where the best is at an edge, at most twice.  The rate of the head is 0.001·√(batch/16)
  with every method.  The first seed and the development examples choose, the smaller one of equals;
  the best rate has three seeds.
- The figures are the loss of each method from batch 16 to the larger ones, and GeoLoRA less LoRA at
  each batch, on the test examples, paired by seeds, with the 95 % interval of Student's t.  Differences
  from full fine-tuning, and between losses, were added after the runs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from geolora_ref.finetune.methods import GeoLoRAMethod, Method
from verification.experiments.finetuning import methods
from verification.experiments.finetuning.design import (
    ROOT_TEN,
    Run,
    RunRow,
    Stored,
    dev_of,
    next_rates,
    rate_of,
    seed_of,
)
from verification.experiments.finetuning.tasks import BATCH

__all__ = [
    "BATCHES",
    "BATCH_SEEDS",
    "COMPARED",
    "LEARNING",
    "MAPPED",
    "MAPS",
    "NOISE",
    "RATES",
    "SEEDS",
    "SETTINGS",
    "Setting",
    "best_rate",
    "rates_of",
    "runs",
    "tuned_at",
    "wanted",
]

SEEDS = 5
LIMITS = {"dev": 300, "test": 500}


@dataclass(frozen=True)
class Setting:
    """A task with so many sentences, of which a share has a wrong label."""

    task: str
    sentences: int
    wrong: float
    epochs: int
    batch: int = BATCH

    @property
    def limits(self) -> dict[str, int]:
        """The number of examples of each part."""
        return {"train": self.sentences, **LIMITS}


NOISE: Mapping[str, Setting] = {
    f"{task}-{name}": replace(setting, task=task)
    for task in ("trec", "sst2")
    for name, setting in {
        "wrong-40": Setting("", 500, 0.4, 4),
        "wrong-20": Setting("", 500, 0.2, 4),
        "200": Setting("", 200, 0.0, 10),
    }.items()
}
"""The settings in which methods are compared."""
MAPS: Mapping[str, Setting] = {"trec-500": Setting("trec", 500, 0.0, 2)}
"""The settings of the maps."""
BATCHES: Mapping[str, Setting] = {
    f"trec-batch-{size}": Setting("trec", 4952, 0.0, 2, size) for size in (16, 128, 1024)
}
"""The settings of large batches, by ascending size."""
SETTINGS: Mapping[str, Setting] = {**NOISE, **MAPS, **BATCHES}


def _geolora(**options: Any) -> Callable[[float, int], Method]:
    return lambda lr, r: GeoLoRAMethod(lr=lr, rank=r, max_rank=max(4 * r, 32), **options)


MAKE: Mapping[str, Callable[[float, int], Method]] = {
    "geolora": _geolora(),
    "geolora, noise": _geolora(edge=0.5, noise=4.0),
    "lora": lambda lr, r: methods.LoRAMethod(lr=lr, rank=r),
    "rslora": lambda lr, r: methods.RsLoRAMethod(lr=lr, rank=r),
    "adalora": lambda lr, r: methods.AdaLoRAMethod(lr=lr, target_rank=r),
    "full": lambda lr, _: methods.FullMethod(lr=lr),
}
"""A method by its family, of a rate and a rank; GeoLoRA has every default but what its name says."""
UNTUNED = {"geolora": 6.3e-3, "geolora, noise": 6.3e-3, "lora": 3.2e-3}
COMPARED = (("lora", 8), ("lora", 32), ("geolora", 8), ("geolora, noise", 8))
"""Families and (initial) ranks under noise."""
MIDDLE = {"geolora": 6.3e-3, "lora": 3.2e-3, "rslora": 3.2e-3, "adalora": 1e-2}
MAPPED = tuple(MIDDLE)
RANKS = (1, 8, 64)
RATES = 8
LEARNING: Mapping[str, tuple[int, float]] = {
    "lora": (8, 3.2e-3),
    "geolora": (8, 6.3e-3),
    "full": (0, 1e-4),
}
"""Of each family under large batches the rank, and the middle rate at batches of 16."""
BATCH_SEEDS, HEAD_RATE = 3, 1e-3


def rates_of(family: str, middle: Mapping[str, float] = MIDDLE) -> list[float]:
    """The rates of a map: two decades around the family's middle rate, by default that of the campaign."""
    return [
        float(f"{middle[family] * 10.0 ** (2.0 * place / (RATES - 1) - 1.0):.2g}")
        for place in range(RATES)
    ]


def tried(family: str) -> list[float]:
    """The rates that are compared on the development examples."""
    middle = UNTUNED[family]
    return [float(f"{rate:.2g}") for rate in (middle / ROOT_TEN, middle, middle * ROOT_TEN)]


def best_rate(rows: Sequence[RunRow], family: str, rank: int) -> float | None:
    """The best rate on the development examples with the first seed, the smaller one of equals;
    None as long as one is missing.
    """
    dev = {
        rate_of(row): dev_of(row)
        for row in rows
        if (row["family"], row["budget"], seed_of(row)) == (family, rank, 0)
    }
    rates = tried(family)
    return max(rates, key=dev.__getitem__) if set(rates) <= set(dev) else None


def batch_run(name: str, family: str, rate: float, seed: int) -> Run:
    """One run with the batches of a setting, and the rate of the head that belongs to them."""
    rank, method = LEARNING[family][0], MAKE[family](rate, LEARNING[family][0])
    head_lr = float(f"{HEAD_RATE * (BATCHES[name].batch / BATCH) ** 0.5:.2g}")
    return Run(family, rank, replace(method, head_lr=head_lr), seed)  # type: ignore[type-var]


def tried_at(rows: Sequence[RunRow], family: str) -> dict[float, float]:
    """The development metric over the rates that a family was tried at, with the first seed."""
    return {
        rate_of(row): dev_of(row) for row in rows if (row["family"], seed_of(row)) == (family, 0)
    }


def tuned_at(rows: Sequence[RunRow], name: str, family: str) -> tuple[float | None, list[float]]:
    """The best rate of a family with the batches of a setting, or None and the rates to try still."""
    middle = LEARNING[family][1] * (BATCHES[name].batch / BATCH) ** 0.5
    dev = tried_at(rows, family)
    left = next_rates(
        [float(f"{rate:.2g}") for rate in (middle / ROOT_TEN, middle, middle * ROOT_TEN)], dev
    )
    return (None, left) if left else (max(sorted(dev), key=dev.__getitem__), [])


def of_batches(stored: Stored) -> Iterator[tuple[str, Run]]:
    """The runs with large batches: rates are looked for before they are repeated."""
    repeated: list[tuple[str, Run]] = []
    for family, name in ((f, n) for f in LEARNING for n in BATCHES):
        rows = stored.get(name, ())
        best, left = tuned_at(rows, name, family)
        yield from (
            (name, batch_run(name, family, rate, 0)) for rate in (*tried_at(rows, family), *left)
        )
        if best is not None:
            repeated += [(name, batch_run(name, family, best, seed)) for seed in range(BATCH_SEEDS)]
    yield from repeated


def runs(family: str, rank: int) -> bool:
    """Return whether the method exists at this rank: PEFT's mask of AdaLoRA has no smallest value at rank 1."""
    return (family, rank) != ("adalora", 1)


def run_of(family: str, rank: int, rate: float, seed: int) -> Run:
    """One run; its budget is the rank."""
    return Run(family, rank, MAKE[family](rate, rank), seed)


def wanted(stored: Stored) -> Iterator[tuple[str, Run]]:
    """Settings and runs in the order in which they are done, as far as the stored ones decide it."""
    for task in ("trec", "sst2"):
        names = [name for name, setting in NOISE.items() if setting.task == task]
        for name, seed, (family, rank) in (
            (n, s, c) for s in range(SEEDS) for n in names for c in COMPARED
        ):
            yield name, run_of(family, rank, UNTUNED[family], seed)
    for name in MAPS:
        for family, rank, rate in (
            (f, r, rate) for r in RANKS for f in MAPPED for rate in rates_of(f)
        ):
            if runs(family, rank):
                yield name, run_of(family, rank, rate, 0)
    yield from of_batches(stored)
    for name, (family, rank) in ((n, c) for n in NOISE for c in COMPARED):
        yield from ((name, run_of(family, rank, rate, 0)) for rate in tried(family))
    for name, seed, (family, rank) in (
        (n, s, c) for s in range(SEEDS) for n in NOISE for c in COMPARED
    ):
        if (best := best_rate(stored.get(name, ()), family, rank)) is not None:
            yield name, run_of(family, rank, best, seed)

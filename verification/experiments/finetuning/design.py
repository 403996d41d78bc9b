"""The design of the campaign as data: the stages of runs, the families of methods, and the order.

docs/study_record.md states the design and the changes that were made after runs had been seen.

- All methods are tuned alike: three learning rates a factor √10 apart at rank 4, with one seed.
  Development examples choose; a best rate at the edge requires the next one outward, at most twice.
- τ is 0.35 for GeoLoRA by tolerance and 0.1 for the published one.
- Parameters are matched: LoRA of rank r, GeoLoRA with the parameters of that LoRA as its budget,
  and GeoLoRA with rank r in every layer.
- At other ranks every method keeps its rate of rank 4; LoRA and its rival have the better of their
  two best.
- Nothing of "geolora", with every default, is tuned.
- Where time runs out, the stages are cut from the end of :data:`STAGES`.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from verification.experiments.finetuning.tasks import TEXTS

if TYPE_CHECKING:
    from geolora_ref.finetune.methods import Method

__all__ = [
    "DEFAULT_RATE",
    "FAMILIES",
    "FIXED_RATES",
    "MAIN_RANK",
    "MATCHED",
    "SEEDS",
    "STAGES",
    "Run",
    "best_rate",
    "fixed_rate",
    "from_rank",
    "is_perplexity",
    "kept_rate",
    "next_outer",
    "outer_rates",
    "runs_at",
    "second_best",
    "second_rate",
    "seed_of",
    "wanted",
]

MAIN_RANK, SEEDS = 4, 5
WARMUP = 0.1
DROPPED = ("cola",)
SHORT = {"shakespeare": 3}
"""Tasks with :data:`OF_SHORT`, the main rank and so many seeds: a run of the decoder takes five
minutes, and the metric on the way would double that.
"""
RANKS = (1, 2, 8, 16)
"""The ranks other than the main one."""
QUARTER = (("lora", 8), ("geolora, budget", 2), ("geolora, budget, rms", 2), ("lora", 2))
"""Comparisons at a quarter of LoRA's parameters: families and the ranks whose LoRA has as many."""
EXTENSIONS = 2
"""At most so many rates are added at either edge."""
INITIAL_RANKS = (1, 32)
ROOT_TEN = 10.0**0.5
RunRow = Mapping[str, Any]
"""A stored run."""
Stored = Mapping[str, Sequence[RunRow]]
"""The stored runs by task."""


@dataclass(frozen=True)
class Run:
    """One training: a method, a seed, and whether the development metric is recorded on the way."""

    family: str
    budget: int
    method: Method
    seed: int
    curve: bool = False


ADAM, SPECTRAL = (1e-3, 3.2e-3, 1e-2), (6.3e-3, 2e-2, 6.3e-2)
FAMILIES: Mapping[str, tuple[float, ...]] = {
    "lora": ADAM,
    "geolora, uniform": SPECTRAL,
    "geolora, budget": SPECTRAL,
    "geolora, tolerance": SPECTRAL,
    "geolora, tolerance, rms": SPECTRAL,
    "geolora, budget, rms": SPECTRAL,
    "published geolora": ADAM,
    "adalora": (3.2e-3, 1e-2, 3.2e-2),
    "rslora": ADAM,
    "dora": ADAM,
    "preconditioned lora": ADAM,
    "simultaneous": (3.2e-3, 1e-2, 3.2e-2),
    "full": (3.2e-5, 1e-4, 3.2e-4),
    "head only": ADAM,
}
"""The learning rates that a family is tried at first; ``families.py`` makes the method of each."""
MATCHED = ("geolora, uniform", "geolora, budget", "geolora, budget, rms")
"""The default rule at LoRA's number of parameters."""
DEFAULT_RATE = 6.3e-3
FIXED_RATES: Mapping[str, tuple[float, ...]] = {
    "geolora, tolerance, rms": (DEFAULT_RATE, 1.1e-2, 2e-2),
    "geolora, tolerance": (DEFAULT_RATE, 2e-2),
    "geolora, uniform": (DEFAULT_RATE,),
    "geolora, budget": (DEFAULT_RATE,),
    "geolora, budget, rms": (DEFAULT_RATE,),
}
"""Rates that are the same on every task, one of which became the default."""
OF_SHORT = ("lora", "geolora", *FIXED_RATES, *(f"{name}, default rate" for name in FIXED_RATES))
"""The families of the decoder."""
RECHOSEN = ("lora", "geolora, budget, rms")
"""The families whose rate is chosen by all seeds among their two best ones."""
STAGES: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("compare", ("lora", "geolora, uniform", "geolora, budget")),
    ("compare", ("geolora, tolerance",)),  # what the command did by default then
    ("second rates", ("lora",)),
    ("compare", ("published geolora", "adalora")),
    ("quarter", ("lora", "geolora, budget")),
    ("rates", ("lora", "geolora, budget")),
    ("neighbouring rates", ("lora",)),
    ("initial ranks", ("geolora, tolerance",)),
    ("compare", ("geolora, tolerance, rms",)),
    ("fixed rates", tuple(FIXED_RATES)),
    ("compare", ("geolora, budget, rms",)),
    ("quarter", ("geolora, budget, rms",)),
    ("rates", ("geolora, budget, rms",)),
    ("second rates", ("geolora, budget, rms",)),
    ("first choice", ("geolora, budget, rms",)),
    ("budgets", ("lora", "geolora, budget, rms")),
    ("compare", ("rslora", "dora", "preconditioned lora", "simultaneous", "full", "head only")),
    ("default", ("geolora",)),
    ("budgets", ("published geolora",)),
)
"""The stages in the order in which they are done."""


def runs_at(
    rows: Sequence[RunRow], family: str, rank: int, rate: float | None
) -> dict[int, RunRow]:
    """By seed, the runs of a family at a rank and a rate, be it its best, its second or a fixed one."""
    names = (family, second_rate(family), fixed_rate(family))
    return {
        seed_of(row): row
        for row in rows
        if row["family"] in names and (row["budget"], rate_of(row)) == (rank, rate)
    }


def rate_of(row: RunRow) -> float:
    """The learning rate of a stored run."""
    return float(row["config"]["method"]["lr"])


def dev_of(row: RunRow) -> float:
    """The metric of a stored run on the development examples, the larger the better: a perplexity
    has its sign changed; minus infinity if the run diverged or has none.
    """
    value = row["metrics"].get("dev")
    if row["diverged"] or value is None:
        return float("-inf")
    return -float(value) if is_perplexity(row) else float(value)


def is_perplexity(row: RunRow) -> bool:
    """Return whether the metrics of a stored run are perplexities."""
    return bool(row["config"]["plan"]["metric"] == "perplexity")


def swept(rows: Sequence[RunRow], family: str) -> dict[float, float]:
    """The development metric over the learning rate, at the main rank with the first seed."""
    chosen = (
        row
        for row in rows
        if (row["family"], row["budget"], seed_of(row)) == (family, MAIN_RANK, 0)
    )
    return {rate_of(row): dev_of(row) for row in chosen}


def seed_of(row: RunRow) -> int:
    """The seed of a stored run."""
    return int(row["config"]["plan"]["seed"])


def outward(tried: Sequence[float], *, up: bool) -> float:
    """The next rate beyond those tried, in two digits."""
    rate = max(tried) * ROOT_TEN if up else min(tried) / ROOT_TEN
    return float(f"{rate:.2g}")


def next_rates(first: Sequence[float], dev: Mapping[float, float]) -> list[float]:
    """The rates that have to be tried still before one is chosen."""
    missing = [rate for rate in first if rate not in dev]
    if missing:
        return missing
    best, tried = max(sorted(dev), key=dev.__getitem__), sorted(dev)
    for up, edge, limit in ((False, tried[0], min(first)), (True, tried[-1], max(first))):
        added = [rate for rate in tried if (rate > limit if up else rate < limit)]
        if best == edge and len(added) < EXTENSIONS:
            return [outward(tried, up=up)]
    return []


def best_rate(rows: Sequence[RunRow], name: str) -> float | None:
    """The best rate of a family on a task, the smaller one of equals; None as long as it is being
    looked for.
    """
    dev = swept(rows, name)
    if next_rates(FAMILIES[name], dev):
        return None
    return max(sorted(dev), key=dev.__getitem__)


def second_best(rows: Sequence[RunRow], name: str) -> float | None:
    """The rate of the tuning that is best but for one; None as long as rates are being looked for."""
    best = best_rate(rows, name)
    others = {rate: value for rate, value in swept(rows, name).items() if rate != best}
    return None if best is None else max(sorted(others), key=others.__getitem__)


def kept_rate(rows: Sequence[RunRow], name: str) -> float | None:
    """The rate that a family keeps at other ranks: those of :data:`RECHOSEN` the one of their two best
    rates that has the better mean on the development examples over all seeds; None as long as seeds
    are missing.  The decoder has no second rates.
    """
    best = best_rate(rows, name)
    if best is None or name not in RECHOSEN or is_perplexity(rows[0]):
        return best
    means: dict[float, float] = {}
    for rate in (best, second_best(rows, name)):
        values = [dev_of(row) for row in runs_at(rows, name, MAIN_RANK, rate).values()]
        if rate is None or len(values) < SEEDS:
            return None
        means[rate] = statistics.fmean(values)
    return max(means, key=means.__getitem__)


def second_rate(name: str) -> str:
    """The name of the runs of a family at the second best rate of its tuning."""
    return f"{name}, second rate"


def fixed_rate(name: str) -> str:
    """The name of the runs of a family at a rate of :data:`FIXED_RATES` that tuning did not ask for."""
    return f"{name}, default rate"


def wanted(stored: Stored, widths: Mapping[str, int]) -> Iterator[tuple[str, Run]]:
    """Tasks and runs in the order in which they are done, as far as the stored ones decide it;
    stored ones are among them.
    """
    stored = {task: rows for task, rows in stored.items() if task not in DROPPED}
    for kind, names in STAGES:
        for task, run in MAKERS[kind](names, stored, widths):
            if task not in SHORT:
                yield task, run
            elif run.family in OF_SHORT and run.budget == MAIN_RANK and run.seed < SHORT[task]:
                yield task, replace(run, curve=False)


def counted(stored: Stored) -> Stored:
    """The stored runs of the tasks that the means count.  None has a perplexity, so that means,
    differences and shares may take larger metrics for better ones.
    """
    return {task: rows for task, rows in stored.items() if task in TEXTS and task not in DROPPED}


def _made(name: str, rate: float, rank: int, width: int) -> Method:
    from verification.experiments.finetuning.families import (
        MAKE,
    )  # needs torch, which a page of stored runs does not

    return MAKE[name](rate, rank, width)


def _run(name: str, rate: float, rank: int, seed: int, width: int) -> Run:
    """Curves are recorded for one seed of what is compared by time."""
    curve = seed == 1 and rank == MAIN_RANK and name in ("lora", *MATCHED)
    return Run(name, rank, _made(name, rate, rank, width), seed, curve=curve)


def _compare(
    names: Sequence[str], stored: Stored, widths: Mapping[str, int]
) -> Iterator[tuple[str, Run]]:
    """The sweep of every task, then all seeds at the best rate."""
    for task, rows in stored.items():
        for name in names:
            dev = swept(rows, name)
            for rate in [*dev, *next_rates(FAMILIES[name], dev)]:
                yield task, _run(name, rate, MAIN_RANK, 0, widths[task])
    for seed in range(SEEDS):
        for task, rows in stored.items():
            for name in names:
                if (best := best_rate(rows, name)) is not None:
                    yield task, _run(name, best, MAIN_RANK, seed, widths[task])


def _default(
    names: Sequence[str], stored: Stored, widths: Mapping[str, int]
) -> Iterator[tuple[str, Run]]:
    """All seeds at the default rate."""
    for seed in range(SEEDS):
        for task in stored:
            yield from (
                (
                    task,
                    Run(name, MAIN_RANK, _made(name, DEFAULT_RATE, MAIN_RANK, widths[task]), seed),
                )
                for name in names
            )


def _quarter(
    names: Sequence[str], stored: Stored, widths: Mapping[str, int]
) -> Iterator[tuple[str, Run]]:
    return _at_ranks([(name, rank) for name, rank in QUARTER if name in names], stored, widths)


def _budgets(
    names: Sequence[str], stored: Stored, widths: Mapping[str, int]
) -> Iterator[tuple[str, Run]]:
    return _at_ranks([(name, rank) for rank in RANKS for name in names], stored, widths)


def _at_ranks(
    chosen: Sequence[tuple[str, int]], stored: Stored, widths: Mapping[str, int]
) -> Iterator[tuple[str, Run]]:
    """All seeds at the rates that the families keep."""
    for seed in range(SEEDS):
        for name, rank in chosen:
            for task, rows in stored.items():
                if (rate := kept_rate(rows, name)) is not None:
                    yield task, _run(name, rate, rank, seed, widths[task])


def _first_choice(
    names: Sequence[str], stored: Stored, widths: Mapping[str, int]
) -> Iterator[tuple[str, Run]]:
    """Stored runs at other ranks and at the rate of the first seed, from the time before all seeds
    chose; no run is repeated.
    """
    for task, rows in stored.items():
        for name in names:
            for row in rows:
                if (
                    row["family"] == name
                    and row["budget"] in RANKS
                    and rate_of(row) == best_rate(rows, name)
                ):
                    yield task, _run(name, rate_of(row), row["budget"], seed_of(row), widths[task])


def _second_rates(
    names: Sequence[str], stored: Stored, widths: Mapping[str, int]
) -> Iterator[tuple[str, Run]]:
    """All seeds at the second best rate, but for those that have it as a fixed one."""
    for task, rows in stored.items():
        for name in names:
            if (rate := second_best(rows, name)) is not None:
                method, fixed = (
                    _made(name, rate, MAIN_RANK, widths[task]),
                    runs_at(rows, fixed_rate(name), MAIN_RANK, rate),
                )
                yield from (
                    (task, Run(second_rate(name), MAIN_RANK, method, seed))
                    for seed in range(SEEDS)
                    if seed not in fixed
                )


def _fixed_rates(
    names: Sequence[str], stored: Stored, widths: Mapping[str, int]
) -> Iterator[tuple[str, Run]]:
    """All seeds at the fixed rates but the best one, which the tuning runs; after the sweep, whose runs
    are not done again.
    """
    for name, seed in ((name, seed) for name in names for seed in range(SEEDS)):
        for rate in FIXED_RATES[name]:
            for task, rows in stored.items():
                if best_rate(rows, name) not in (None, rate):
                    yield (
                        task,
                        Run(
                            fixed_rate(name),
                            MAIN_RANK,
                            _made(name, rate, MAIN_RANK, widths[task]),
                            seed,
                        ),
                    )


def _rates(
    names: Sequence[str], stored: Stored, widths: Mapping[str, int]
) -> Iterator[tuple[str, Run]]:
    """Rates outward; those that are better than the rates of the tuning are not chosen."""
    for task, rows in stored.items():
        for name in names:
            for rate in [*swept(rows, outer_rates(name)), *next_outer(rows, name)]:
                yield task, _outer(name, rate, widths[task])


def _neighbouring_rates(
    names: Sequence[str], stored: Stored, widths: Mapping[str, int]
) -> Iterator[tuple[str, Run]]:
    """The rates on either side of the kept one at the ranks of the quarter, with one seed; they are
    shown, and none is chosen.
    """
    for name, rank in (
        (name, rank) for name in names for family, rank in QUARTER if family == name
    ):
        for task, rows in stored.items():
            if (kept := kept_rate(rows, name)) is not None:
                for rate in (outward([kept], up=False), outward([kept], up=True)):
                    yield (
                        task,
                        Run(outer_rates(name), rank, _made(name, rate, rank, widths[task]), 0),
                    )


def next_outer(rows: Sequence[RunRow], name: str) -> list[float]:
    """The rates to be tried still, outward until the metric is below 95 % of the best one on either
    side; none before the tuning has ended.
    """
    tuned = swept(rows, name)
    if not tuned or next_rates(FAMILIES[name], tuned):
        return []
    outer, found = swept(rows, outer_rates(name)), []
    dev = tuned | outer
    for up in (False, True):
        edge = max(dev) if up else min(dev)
        added = [rate for rate in outer if (rate > max(tuned) if up else rate < min(tuned))]
        if len(added) < EXTENSIONS and dev[edge] >= 0.95 * max(dev.values()):
            found.append(outward(list(dev), up=up))
    return found


def outer_rates(name: str) -> str:
    """The name of the runs of a family at rates beyond those of its tuning."""
    return f"{name}, outer rates"


def _outer(name: str, rate: float, width: int) -> Run:
    return Run(outer_rates(name), MAIN_RANK, _made(name, rate, MAIN_RANK, width), 0)


def _initial_ranks(
    names: Sequence[str], stored: Stored, widths: Mapping[str, int]
) -> Iterator[tuple[str, Run]]:
    """The tolerance from a small and from a large rank, which is the ``budget`` of these runs."""
    for seed in range(SEEDS):
        for rank in INITIAL_RANKS:
            for task, rows in stored.items():
                for name in names:
                    if (rate := best_rate(rows, name)) is not None:
                        yield (
                            task,
                            Run(
                                from_rank(name, rank),
                                rank,
                                _made("initial rank", rate, rank, widths[task]),
                                seed,
                            ),
                        )


def from_rank(name: str, rank: int) -> str:
    """The name of the runs of a family that begin with another rank."""
    return f"{name}, from rank {rank}"


MAKERS = {
    "default": _default,
    "compare": _compare,
    "second rates": _second_rates,
    "first choice": _first_choice,
    "fixed rates": _fixed_rates,
    "rates": _rates,
    "neighbouring rates": _neighbouring_rates,
    "quarter": _quarter,
    "budgets": _budgets,
    "initial ranks": _initial_ranks,
}
"""Functions that make the runs of a stage, by its kind."""

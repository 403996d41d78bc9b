"""Compute the figures of the campaign from its stored runs; nothing is trained here, and no test
example chooses anything.
"""

from __future__ import annotations

import math
import statistics
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from scipy import stats

from verification.experiments.finetuning.design import (
    DEFAULT_RATE,
    FAMILIES,
    FIXED_RATES,
    INITIAL_RANKS,
    MAIN_RANK,
    QUARTER,
    RANKS,
    SEEDS,
    RunRow,
    Stored,
    best_rate,
    dev_of,
    from_rank,
    is_perplexity,
    kept_rate,
    outer_rates,
    rate_of,
    runs_at,
    seed_of,
    swept,
)
from verification.experiments.finetuning.stored import read_runs
from verification.experiments.finetuning.tasks import TASKS, TEXTS

__all__ = [
    "MARGIN",
    "MEASURED",
    "Difference",
    "at_best",
    "at_fixed_rates",
    "by_all_seeds",
    "differences",
    "equivalence",
    "front",
    "least_share",
    "paired",
    "questions",
    "rank_map",
    "rate_shares",
    "read_campaign",
    "test_of",
    "time_ratios",
    "wide_range",
]

MEASURED = Path(__file__).parent / "measured" / "campaign"
"""One folder for each task, with its runs; a campaign with this folder as ``--output`` continues them."""
DRAWS = 10_000
MARGIN = 0.5
"""Points within which the default counts as equivalent to LoRA."""
COMPARED = (
    ("geolora, budget", "geolora, uniform"),
    ("geolora, tolerance, rms", "geolora, tolerance"),
    ("geolora, budget, rms", "geolora, budget"),
    ("geolora, uniform", "published geolora"),
    ("geolora, uniform", "adalora"),
)
"""Comparisons at the rates of the tuning: the allocation, alpha twice, and the step twice."""
RIVALS = ("published geolora", "adalora", "rslora", "dora")
Base = Callable[[Sequence[RunRow]], Mapping[int, RunRow]]
"""Finds runs among those of a task; by seed."""


def read_campaign(folder: Path = MEASURED) -> dict[str, list[RunRow]]:
    """The runs of every task that has some.

    Raises ``ValueError`` that names a damaged file, or two runs that would stand for each other: of
    one family, budget, rate and seed, but with other options.
    """
    campaign = {task: rows for task in TASKS if (rows := read_runs(folder / task))}
    for task, rows in campaign.items():
        names = Counter((row["family"], row["budget"], rate_of(row), seed_of(row)) for row in rows)
        name, times = names.most_common(1)[0]
        if times > 1:
            raise ValueError(
                f"{folder / task}: expected one run of each family, budget, rate and seed, found {times} of {name}"
            )
    return campaign


def at_best(rows: Sequence[RunRow], family: str, rank: int = MAIN_RANK) -> dict[int, RunRow]:
    """By seed, the runs of a family on one task at the rate that was best on the development
    examples at the main rank.
    """
    return runs_at(rows, family, rank, best_rate(rows, family))


def by_all_seeds(
    rows: Sequence[RunRow], family: str = "lora", rank: int = MAIN_RANK
) -> dict[int, RunRow]:
    """By seed, the runs of a family at the rate that it keeps at other ranks
    (:func:`~verification.experiments.finetuning.design.kept_rate`).
    """
    return runs_at(rows, family, rank, kept_rate(rows, family))


def test_of(row: RunRow) -> float:
    """The metric on the test examples in percent; a run that diverged has 0, which is chance or below.
    A perplexity is as it is, and that of a run that diverged infinite.
    """
    value = row["metrics"].get("test")
    if is_perplexity(row):
        return float("inf") if row["diverged"] or value is None else float(value)
    return 0.0 if row["diverged"] or value is None else 100.0 * float(value)


@dataclass(frozen=True)
class Difference:
    """The mean over tasks of some runs minus others, in points, and the differences of pairs by task.

    ``low``, ``high`` : 95 % of the bootstrap.  ``t_low``, ``t_high`` : the 95 % interval of Student's t
    over the means of the tasks, of one task over its pairs, infinite for one pair.  Of few tasks the
    first is too narrow.
    ``parameters`` : of both, means over all their runs.
    """

    mean: float
    low: float
    high: float
    t_low: float
    t_high: float
    pairs: Mapping[str, Sequence[float]]
    parameters: tuple[float, float]


def half_width(values: Sequence[float], level: float = 0.95) -> float:
    """Half the width of the interval of Student's t around the mean of at least two values."""
    quantile = float(stats.t.ppf(0.5 * (1.0 + level), len(values) - 1))
    return quantile * statistics.stdev(values) / math.sqrt(len(values))


def paired(stored: Stored, one: Base, other: Base) -> Difference | None:
    """The runs that ``one`` finds minus those that ``other`` finds, paired by task and seed; None
    where a task has no pair, or a run of a decoder that diverged.
    """
    pairs: dict[str, list[float]] = {}
    parameters: tuple[list[float], list[float]] = ([], [])
    for task, rows in stored.items():
        found = one(rows), other(rows)
        pairs[task] = [
            test_of(found[0][seed]) - test_of(found[1][seed])
            for seed in sorted(found[0].keys() & found[1].keys())
        ]
        for counts, runs in zip(parameters, found, strict=True):
            counts += [row["parameters"] for row in runs.values()]
    if not pairs or not all(values and np.isfinite(values).all() for values in pairs.values()):
        return None
    means = [statistics.fmean(values) for values in pairs.values()]
    mean, spread = statistics.fmean(means), float("inf")
    samples = means if len(means) > 1 else next(iter(pairs.values()))
    if len(samples) > 1:
        spread = half_width(samples)
    low, high = interval(list(pairs.values()))
    both = (statistics.fmean(parameters[0]), statistics.fmean(parameters[1]))
    return Difference(mean, low, high, mean - spread, mean + spread, pairs, both)


def differences(
    stored: Stored, base: Base = lambda rows: at_best(rows, "lora")
) -> dict[str, Difference]:
    """Every family minus the runs that ``base`` finds, if the family has pairs on every task."""
    found = {name: paired(stored, partial(at_best, family=name), base) for name in FAMILIES}
    return {name: one for name, one in found.items() if one is not None}


def questions(stored: Stored) -> dict[str, Difference]:
    """The differences apart from those from LoRA at tuned rates of the main rank, as far as they have runs:
    what one rate for all tasks gives, the allocation of ranks, alpha and the step of the rivals, a
    quarter of LoRA's parameters, other ranks, and the initial rank.
    """
    pairs = _at_one_rate() | _among_methods() | _at_ranks() | _from_ranks()
    found = {question: paired(stored, *both) for question, both in pairs.items()}
    return {question: one for question, one in found.items() if one is not None}


def equivalence(stored: Stored, rank: int) -> tuple[Difference, float, float] | None:
    """The method with every default less LoRA of a rank, with the 90 % interval of t over the tasks: two
    one-sided tests of 5 % each.  The margin of the design is :data:`MARGIN`.
    """
    default = partial(runs_at, family="geolora", rank=MAIN_RANK, rate=DEFAULT_RATE)
    one = paired(stored, default, partial(by_all_seeds, rank=rank))
    if one is None or len(one.pairs) < 2:
        return None
    means = [statistics.fmean(values) for values in one.pairs.values()]
    spread = half_width(means, 0.9)
    return one, one.mean - spread, one.mean + spread


def _at_one_rate() -> dict[str, tuple[Base, Base]]:
    """At rates that are the same on every task, less LoRA at its own, and less alpha = 1."""
    pairs: dict[str, tuple[Base, Base]] = {}
    for name, rate in ((name, rate) for name, rates in FIXED_RATES.items() for rate in rates):
        at_rate = partial(runs_at, rank=MAIN_RANK, rate=rate)
        pairs[f"{name}, at {rate:g}, less lora"] = partial(at_rate, family=name), by_all_seeds
        one = name.removesuffix(", rms")
        if one != name and rate in FIXED_RATES[one]:
            pairs[f"{name}, at {rate:g}, less alpha = 1"] = (
                partial(at_rate, family=name),
                partial(at_rate, family=one),
            )
    return pairs


def _among_methods() -> dict[str, tuple[Base, Base]]:
    """At the rates of the tuning, then at the default one: there the rivals keep theirs."""
    default = partial(runs_at, rank=MAIN_RANK, rate=DEFAULT_RATE)
    pairs: dict[str, tuple[Base, Base]] = {
        f"{one}, less {other}": (partial(at_best, family=one), partial(at_best, family=other))
        for one, other in COMPARED
    }
    one, other = COMPARED[0]
    pairs[f"{one}, at {DEFAULT_RATE:g}, less {other}"] = (
        partial(default, family=one),
        partial(default, family=other),
    )
    one = "geolora, tolerance, rms"
    pairs[f"geolora, at {DEFAULT_RATE:g}, less {one}, at {DEFAULT_RATE:g}"] = (
        partial(default, family="geolora"),
        partial(default, family=one),
    )
    for rival in RIVALS:
        pairs[f"{one}, at {DEFAULT_RATE:g}, less {rival}"] = (
            partial(default, family=one),
            partial(at_best, family=rival),
        )
    return pairs


def _at_ranks() -> dict[str, tuple[Base, Base]]:
    """Differences: a quarter of LoRA's parameters less that LoRA, then the same rank on either side."""
    (_, large), *smaller = QUARTER
    compared = [(name, rank, large) for name, rank in [*smaller, ("lora", MAIN_RANK)]]
    compared += [
        (name, rank, rank)
        for name in ("geolora, budget, rms", "published geolora")
        for rank in sorted((MAIN_RANK, *RANKS))
    ]
    return {
        f"{name}, rank {rank}, less lora, rank {base}": (
            partial(by_all_seeds, family=name, rank=rank),
            partial(by_all_seeds, family="lora", rank=base),
        )
        for name, rank, base in compared
    }


def _from_ranks() -> dict[str, tuple[Base, Base]]:
    """The tolerance from other ranks less the same from the usual one."""
    family = "geolora, tolerance"
    return {
        f"{from_rank(family, rank)} less from rank {2 * MAIN_RANK}": (
            partial(_begun, family=family, rank=rank),
            partial(at_best, family=family),
        )
        for rank in INITIAL_RANKS
    }


def _begun(rows: Sequence[RunRow], family: str, rank: int) -> dict[int, RunRow]:
    """By seed, the runs of a family that begin with another rank."""
    return runs_at(rows, from_rank(family, rank), rank, best_rate(rows, family))


def interval(groups: Sequence[Sequence[float]]) -> tuple[float, float]:
    """95 % of the bootstrap means: tasks are drawn with replacement, then seeds within each task [ET93]."""
    rng, slots = np.random.default_rng(0), []
    for _ in groups:
        means = np.stack(
            [rng.choice(group, size=(DRAWS, len(group))).mean(axis=1) for group in groups]
        )
        slots.append(means[rng.integers(len(groups), size=DRAWS), np.arange(DRAWS)])
    low, high = np.quantile(np.mean(slots, axis=0), (0.025, 0.975))
    return float(low), float(high)


def front(stored: Stored) -> dict[str, list[tuple[float, float]]]:
    """By family, (parameters, metric in percent) for every rank that all tasks have with all seeds,
    means over tasks and seeds.
    """
    points: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for name in FAMILIES:
        for rank in sorted((MAIN_RANK, *RANKS)):
            runs = [list(by_all_seeds(rows, name, rank).values()) for rows in stored.values()]
            if runs and all(len(found) == SEEDS for found in runs):
                parameters = statistics.fmean(row["parameters"] for found in runs for row in found)
                metric = statistics.fmean(statistics.fmean(map(test_of, found)) for found in runs)
                points[name].append((parameters, metric))
    return dict(points)


def rate_shares(stored: Stored, family: str) -> dict[str, dict[float, float]]:
    """By task, the development metric over the rate as a share of the family's best one there; one
    seed, the main rank.
    """
    shares = {}
    for task, rows in stored.items():
        dev = swept(rows, family) | swept(rows, outer_rates(family))
        if dev and (best := max(dev.values())) > 0:
            shares[task] = {rate: max(0.0, dev[rate]) / best for rate in sorted(dev)}
    return shares


def at_fixed_rates(stored: Stored) -> dict[tuple[str, float], dict[str, tuple[float, int]]]:
    """By family and rate that is the same on every task, and by task: the mean metric on the
    development examples, and of how many seeds.
    """
    found: dict[tuple[str, float], dict[str, tuple[float, int]]] = defaultdict(dict)
    for name, rates in {"lora": (3.2e-3,), **FIXED_RATES}.items():
        for rate in rates:
            for task, rows in stored.items():
                if values := [dev_of(row) for row in runs_at(rows, name, MAIN_RANK, rate).values()]:
                    mean = statistics.fmean(values)
                    found[name, rate][task] = (
                        -mean if is_perplexity(rows[0]) else mean,
                        len(values),
                    )
    return dict(found)


def least_share(stored: Stored, family: str, rate: float) -> float:
    """The least share, over the tasks, of the best mean that the family has at one of its rates: of
    perplexities the best over the own one.
    """
    means = {at: found for (name, at), found in at_fixed_rates(stored).items() if name == family}
    shares = []
    for task, (own, _) in means[rate].items():
        others = [found[task][0] for found in means.values() if task in found]
        shares.append(min(others) / own if is_perplexity(stored[task][0]) else own / max(others))
    return min(shares)


def wide_range(shares: Mapping[float, float]) -> tuple[float, bool]:
    """The widest range of neighbouring rates that keep 95 % of the best metric, largest over
    smallest; if it ends inside.
    """
    rates, start = sorted(shares), None
    widest = (1.0, True)
    for rate in rates:
        start = None if shares[rate] < 0.95 else rate if start is None else start
        if start is not None and rate / start >= widest[0]:
            widest = rate / start, start > rates[0] and rate < rates[-1]
    return widest


def time_ratios(stored: Stored, family: str) -> dict[str, tuple[float, float]]:
    """Steps and seconds by task until the family reaches the last development metric of LoRA at its
    better rate, over those of LoRA; without the tasks where that has no curve.

    Infinite where the family never reaches it.  Seconds are those of the steps alone, of runs on a
    shared machine.
    """
    found = {}
    for task, rows in stored.items():
        own, other = (
            runs.get(1, {}).get("curve", []) for runs in (at_best(rows, family), by_all_seeds(rows))
        )
        if own and other:
            reached = next(
                ((steps, seconds) for steps, seconds, value in own if value >= other[-1][2]), None
            )
            first = next(
                (steps, seconds) for steps, seconds, value in other if value >= other[-1][2]
            )
            inf = float("inf")
            found[task] = (
                (inf, inf) if reached is None else (reached[0] / first[0], reached[1] / first[1])
            )
    return found


def rank_map(stored: Stored, family: str) -> dict[tuple[int, str], float]:
    """Mean rank by block and kind of layer, over the tasks of texts and over seeds at the best rate."""
    ranks: dict[tuple[int, str], list[int]] = defaultdict(list)
    for rows in (stored[task] for task in stored if task in TEXTS):
        for row in at_best(rows, family).values():
            for name, rank in row["ranks"].items():
                _, _, block, kind = name.split(".", maxsplit=3)
                ranks[int(block), kind].append(rank)
    return {place: statistics.fmean(values) for place, values in ranks.items()}

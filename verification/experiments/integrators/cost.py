"""``python -m verification.experiments.integrators.cost``: how the processor time of one step grows
with m and with r.

Writes cost.json (sealed) and cost.md, the table of it; docs/integrators.md shows the figures in
``measured/``.

The heat equation with a banded A and a source of low rank (:class:`Lyapunov`), m = n, explicit
Euler sub-steps, fixed rank, one thread.  Expected is a·m r² + b·r³ + c·m r + d; a dense field would
cost m² r.  The deterministic form of the same statement, by counted operations, is
``tests/integrators/test_cost.py``.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import scipy.optimize
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from geolora_ref import LowRank
from geolora_ref.integrators import EXPLICIT_EULER, Integrator
from geolora_ref.problems import Lyapunov
from geolora_ref.support.files import locked, read_json, write_atomically, write_json
from geolora_ref.support.options import nonempty_path
from geolora_ref.support.terminal import Terminal
from verification.instruments.integrator_family import FAMILY, member
from verification.instruments.slopes import slope
from verification.support.command_line import ProgressBar, integer_from
from verification.support.machine import provenance
from verification.support.shown import markdown_table

__all__ = [
    "LATER",
    "MEASURED",
    "campaign",
    "exponents",
    "fit",
    "main",
    "measure",
    "stored_table",
    "summary",
    "table",
]

MEASURED = Path(__file__).parent / "measured" / "cost.json"
"""A stored run of the whole command."""
LATER = (
    "augmented splitting (abc-PSI)",
    "generalised Nyström",
    "Runge–Kutta BUG, Heun",
    "Runge–Kutta BUG, RK4",
    "oblique Runge–Kutta",
)
"""Members that the stored run lacks; their operations are counted in the tests."""
SIZES = (256, 512, 1024, 2048, 4096, 8192, 16384)
RANKS = (4, 8, 16, 32, 64)
REPEATS = 5
ROUNDS = 3
SHOWN = (4096, 16)
"""m and r (the largest m, if that is smaller) whose time the table has."""


def seconds_of_a_step(integrator: Integrator, problem: Lyapunov, Y: LowRank, repeats: int) -> float:
    """Processor time of the fastest of some steps: whatever else the machine does can only add."""
    found = []
    for _ in range(repeats):
        started = time.process_time()
        integrator.step(problem, 0.0, Y, 1e-9)
        found.append(time.process_time() - started)
    return min(found)


def measure(name: str, sizes: Sequence[int], ranks: Sequence[int]) -> NDArray[np.float64]:
    """Seconds of one step, sizes x ranks."""
    seconds = np.empty((len(sizes), len(ranks)))
    for i, m in enumerate(sizes):
        problem = Lyapunov(m, [1.0, 0.5], np.random.default_rng(0), diffusion=1e-9)
        for j, r in enumerate(ranks):
            Y = LowRank.random((m, m), np.linspace(1.0, 0.5, r), np.random.default_rng(1))
            seconds[i, j] = seconds_of_a_step(member(name, r, EXPLICIT_EULER), problem, Y, REPEATS)
    return seconds


def exponents(
    sizes: Sequence[int], ranks: Sequence[int], seconds: NDArray[np.float64]
) -> tuple[float, float]:
    """Exponents of m (largest rank, upper half of the sizes, two at least) and of r (largest size,
    upper three ranks).
    """
    upper = min(len(sizes) // 2, len(sizes) - 2)
    return slope(sizes[upper:], seconds[upper:, -1].tolist()), slope(
        ranks[-3:], seconds[-1, -3:].tolist()
    )


def fit(
    sizes: Sequence[int], ranks: Sequence[int], seconds: NDArray[np.float64]
) -> tuple[NDArray[np.float64], float]:
    """(a, b, c, d) ≥ 0 of a·m r² + b·r³ + c·m r + d by relative least squares, and the median
    relative misfit.
    """
    m, r = (axis.ravel().astype(float) for axis in np.meshgrid(sizes, ranks, indexing="ij"))
    model = np.column_stack([m * r**2, r**3, m * r, np.ones_like(m)])
    measured = seconds.ravel()
    coefficients, _ = scipy.optimize.nnls(model / measured[:, None], np.ones_like(measured))
    return coefficients, float(np.median(np.abs(model @ coefficients / measured - 1.0)))


def summary(
    name: str, sizes: Sequence[int], ranks: Sequence[int], rounds: Sequence[NDArray[np.float64]]
) -> dict[str, Any]:
    """From the seconds (sizes x ranks) of several rounds: medians and their fit, the exponents of
    each round, and their medians.

    A machine that does something else in one round changes the exponents of that round only.
    """
    of_m, of_r = zip(*(exponents(sizes, ranks, seconds) for seconds in rounds), strict=True)
    seconds = np.median(rounds, axis=0)
    coefficients, misfit = fit(sizes, ranks, seconds)
    return {
        "integrator": name,
        "exponent of m": float(np.median(of_m)),
        "exponent of r": float(np.median(of_r)),
        "rounds": {"exponent of m": list(of_m), "exponent of r": list(of_r)},
        "coefficients": dict(zip(("m r²", "r³", "m r", "1"), coefficients.tolist(), strict=True)),
        "misfit": misfit,
        "seconds": seconds.tolist(),
    }


def campaign(
    names: Iterable[str], sizes: Sequence[int], ranks: Sequence[int], rounds: int
) -> dict[str, Any]:
    """The contents of cost.json: measures every integrator in every round, on one thread, with a
    progress bar.
    """
    names, about = list(names), provenance()
    seconds: dict[str, list[NDArray[np.float64]]] = {name: [] for name in names}
    with threadpool_limits(1), ProgressBar(Terminal(stderr=True), width=24) as bar:
        task = bar.add_task("starting", total=rounds * len(names))
        for _ in range(rounds):
            for name in names:
                bar.update(task, description=name)
                seconds[name].append(measure(name, sizes, ranks))
                bar.advance(task)
    found = [summary(name, sizes, ranks, seconds[name]) for name in names]
    return {
        "format": 1,
        **about,
        "sizes": list(sizes),
        "ranks": list(ranks),
        "rounds": rounds,
        "integrators": found,
    }


def table(found: Mapping[str, Any]) -> str:
    """The table of the documentation, in Markdown: median exponents, their range over the rounds,
    and the time of one step.
    """
    sizes, ranks = found["sizes"], found["ranks"]
    m, r = min(SHOWN[0], sizes[-1]), SHOWN[1]
    rows = [["integrator", "exponent of m", "exponent of r", f"ms, m = {m}, r = {r}"]]
    for one in found["integrators"]:
        shown = [
            _with_range(one[key], one["rounds"][key]) for key in ("exponent of m", "exponent of r")
        ]
        rows.append(
            [
                one["integrator"],
                *shown,
                f"{1e3 * one['seconds'][sizes.index(m)][ranks.index(r)]:.1f}",
            ]
        )
    return markdown_table(rows)


def stored_table() -> str:
    """The table of the stored measurements."""
    return table(read_json(MEASURED))


def _with_range(value: float, values: Sequence[float]) -> str:
    return f"{value:.2f} [{min(values):.2f}, {max(values):.2f}]"


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status 0: measured and written; 2: the folder cannot be written or is in use."""
    parser = argparse.ArgumentParser(
        prog="python -m verification.experiments.integrators.cost",
        description="How the time of one step grows with m and r.",
    )
    parser.add_argument(
        "--integrator",
        action="append",
        choices=list(FAMILY),
        help="only this one (may be given several times)",
    )
    parser.add_argument(
        "--largest",
        type=integer_from(SIZES[1]),
        default=SIZES[-1],
        help="the largest m (default: 16384)",
    )
    parser.add_argument(
        "--rounds",
        type=integer_from(1),
        default=ROUNDS,
        help=f"of which medians are taken (default: {ROUNDS})",
    )
    parser.add_argument(
        "--output",
        type=nonempty_path,
        default=Path("build") / "experiments" / "integrators",
        metavar="FOLDER",
    )
    options = parser.parse_args(argv)
    sizes = [m for m in SIZES if m <= options.largest]
    try:
        with locked(options.output):
            found = campaign(options.integrator or FAMILY, sizes, RANKS, options.rounds)
            write_json(options.output / "cost.json", found)
            write_atomically(options.output / "cost.md", table(found) + "\n")
    except OSError as error:
        parser.error(str(error))
    print(table(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())

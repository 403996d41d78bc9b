"""``python -m verification.experiments.integrators.cost``: how the processor time of one step grows with m and with r.

The heat equation with a banded A and a source of low rank (:class:`Lyapunov`), m = n, explicit Euler sub-steps, fixed rank, one
thread.  Expected is a·m r² + b·r³ + c·m r + d; a dense field would cost m² r.  The deterministic form of the same statement, by
counted operations, is ``tests/integrators/test_cost.py``.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence

import numpy as np
import scipy.optimize
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from threadpoolctl import threadpool_limits

from geolora_ref import LowRank
from geolora_ref.integrators import EXPLICIT_EULER, Integrator
from geolora_ref.problems import Lyapunov
from verification.command_line import integer_from
from verification.integrator_family import FAMILY, member
from verification.slopes import slope

SIZES = (256, 512, 1024, 2048, 4096, 8192, 16384)
RANKS = (4, 8, 16, 32, 64)
REPEATS = 5


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


def exponents(sizes: Sequence[int], ranks: Sequence[int], seconds: NDArray[np.float64]) -> tuple[float, float]:
    """Of m at the largest rank over the upper half of the sizes, two at least; of r at the largest size over the upper three."""
    upper = min(len(sizes) // 2, len(sizes) - 2)
    return slope(sizes[upper:], seconds[upper:, -1].tolist()), slope(ranks[-3:], seconds[-1, -3:].tolist())


def fit(sizes: Sequence[int], ranks: Sequence[int], seconds: NDArray[np.float64]) -> tuple[NDArray[np.float64], float]:
    """(a, b, c, d) ≥ 0 of a·m r² + b·r³ + c·m r + d by relative least squares, and the median relative misfit."""
    m, r = (axis.ravel().astype(float) for axis in np.meshgrid(sizes, ranks, indexing="ij"))
    model = np.column_stack([m * r**2, r**3, m * r, np.ones_like(m)])
    measured = seconds.ravel()
    coefficients, _ = scipy.optimize.nnls(model / measured[:, None], np.ones_like(measured))
    return coefficients, float(np.median(np.abs(model @ coefficients / measured - 1.0)))


def main(argv: Sequence[str] | None = None) -> None:
    """Print one row an integrator."""
    parser = argparse.ArgumentParser(description="How the time of one step grows with m and r.")
    parser.add_argument("--integrator", action="append", choices=list(FAMILY), help="only this one (may be given several times)")
    parser.add_argument("--largest", type=integer_from(SIZES[1]), default=SIZES[-1], help="the largest m (default: 16384)")
    options = parser.parse_args(argv)
    sizes = [m for m in SIZES if m <= options.largest]
    table = Table(
        "integrator", "exponent of m", "exponent of r", "a (m r²)", "b (r³)", "c (m r)", "d", "misfit", "m = 4096, r = 16"
    )
    with threadpool_limits(1):
        for name in options.integrator or FAMILY:
            seconds = measure(name, sizes, RANKS)
            in_m, in_r = exponents(sizes, RANKS, seconds)
            coefficients, misfit = fit(sizes, RANKS, seconds)
            shown = seconds[sizes.index(min(4096, sizes[-1])), RANKS.index(16)]
            numbers = [f"{in_m:.2f}", f"{in_r:.2f}", *(f"{c:.1e}" for c in coefficients)]
            table.add_row(name, *numbers, f"{100 * misfit:.0f} %", f"{1e3 * shown:.1f} ms")
    Console().print(table)


if __name__ == "__main__":
    main()

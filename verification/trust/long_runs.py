"""Long runs, ``python -m verification.trust.long_runs``: many thousand steps on a small problem, in
which nothing may drift.

The target changes between rank 6 and rank 1, so that ranks grow and shrink all the time.  Rounding
adds up in the bases: with one target and without a cure their defect grows without bound (4500 eps
after 16 000 steps in float64).  The cure is a Newton–Schulz step
(:meth:`geolora_ref.LowRank.polished`).
"""

from __future__ import annotations

import argparse
import io
import resource
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

from geolora_ref import LowRank, ProjectedGradients, geolora_step
from geolora_ref.problems import Quadratic
from verification.support.command_line import integer_from

__all__ = ["long_run", "main", "verdict"]

SHAPE, PERIOD, TENTHS = (12, 10), 100, 10
SPECTRA = ((1.0, 0.9, 0.8, 0.7, 0.6, 0.5), (1.0,))
LEAST = 2 * TENTHS * PERIOD
"""The fewest steps in each tenth of which both targets are met."""
LEAK = 4096
"""KiB by which the process may grow after the first tenth."""


def long_run(steps: int, dtype: str, polish: int = PERIOD, period: int = PERIOD) -> dict[str, Any]:
    """The measurements of a run of ``steps`` steps, at least LEAST, tenth by tenth.

    ``polish`` : the bases are cured every so many steps (0: never); ``period`` : the target changes
    every so many steps.  The defect of the bases is measured just before a cure.  The second half
    is done once more from a stored copy of the state, and must end bit for bit the same.
    """
    Y = LowRank.random(SHAPE, [1e-3, 1e-3], np.random.default_rng(6))
    state = _Run(LowRank(*(X.astype(dtype) for X in Y)), polish, period)
    tenths, sizes, stored, middle = [], [], b"", steps // 2
    ends = [(tenth + 1) * steps // TENTHS for tenth in range(TENTHS)]
    for end in ends:
        if state.k < middle <= end:
            state.advance(middle)
            stored = _stored(state.Y)
        state.advance(end)
        tenths.append({"defect": state.defect, "ranks": sorted(state.ranks)})
        sizes.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
        state.defect, state.ranks = 0.0, set()
    again = _Run(_loaded(stored), polish, period, middle)
    again.advance(steps)
    return {
        "eps": float(np.finfo(dtype).eps),
        "tenths": tenths,
        "grown_kib": sizes[-1] - sizes[0],
        "restored": all(a.tobytes() == b.tobytes() for a, b in zip(state.Y, again.Y, strict=True)),
    }


def verdict(found: dict[str, Any]) -> dict[str, bool]:
    """The checks of a run by name, and whether each holds."""
    defects = [tenth["defect"] / found["eps"] for tenth in found["tenths"]]
    ranks = [tenth["ranks"] for tenth in found["tenths"]]
    return {
        "the drift of the bases is bounded": max(defects[1:]) <= 4.0 * defects[0]
        and max(defects) <= 1000.0,
        "ranks grow and shrink": all(seen[0] == 1 and seen[-1] >= 6 for seen in ranks),
        "no leak of memory": found["grown_kib"] <= LEAK,
        "restored bit for bit": found["restored"],
    }


class _Run:
    """A state, the number of its steps, and what was seen since the last tenth."""

    def __init__(self, Y: LowRank, polish: int, period: int, k: int = 0) -> None:
        problems = (Quadratic.random(SHAPE, S, np.random.default_rng(5)) for S in SPECTRA)
        self.fields = [tuple(X.astype(Y.S.dtype) for X in (p.H1, p.A, p.H2)) for p in problems]
        self.Y, self.polish, self.period, self.k = Y, polish, period, k
        self.defect, self.ranks = 0.0, set[int]()

    def advance(self, end: int) -> None:
        """Take the steps up to number ``end``."""
        while self.k < end:
            H1, A, H2 = self.fields[self.k // self.period % 2]
            gradients = ProjectedGradients.from_dense(self.Y, H1 @ (self.Y.full() - A) @ H2)
            self.Y = geolora_step(self.Y, gradients, learning_rate=1.0, tau=0.02).Y
            self.k += 1
            self.ranks.add(self.Y.rank)
            if self.k % PERIOD == 0:
                self.defect = max(self.defect, _defect(self.Y))
            if self.polish and self.k % self.polish == 0:
                self.Y = self.Y.polished()


def _defect(Y: LowRank) -> float:
    wide, one = [B.astype(np.float64) for B in (Y.U, Y.V)], np.eye(Y.rank)
    return max(float(np.linalg.norm(B.T @ B - one)) for B in wide)


def _stored(Y: LowRank) -> bytes:
    """The bits of U, S, V, and their order in memory, on which products depend."""
    file = io.BytesIO()
    np.savez(file, U=Y.U, S=Y.S, V=Y.V)
    return file.getvalue()


def _loaded(stored: bytes) -> LowRank:
    with np.load(io.BytesIO(stored), allow_pickle=False) as arrays:
        return LowRank(arrays["U"], arrays["S"], arrays["V"])


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status 0: every check holds in both precisions; 1: one does not."""
    parser = argparse.ArgumentParser(
        prog="python -m verification.trust.long_runs", description="Many steps, and no drift."
    )
    parser.add_argument(
        "--steps", type=integer_from(LEAST), default=100_000, help="default: 100000"
    )
    options, holds = parser.parse_args(argv), True
    for dtype in ("float32", "float64"):
        found = long_run(options.steps, dtype)
        defects = ", ".join(f"{tenth['defect'] / found['eps']:.1f}" for tenth in found["tenths"])
        print(f"{options.steps} steps in {dtype}: defect / eps {defects}")
        for check, held in verdict(found).items():
            print(f"  {'yes' if held else 'NO '}  {check}")
            holds &= held
    return 0 if holds else 1


if __name__ == "__main__":
    sys.exit(main())

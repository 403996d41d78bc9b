"""Long runs: many thousand steps on a small problem, ``python -m verification.rigor.long_runs``; writes long_runs.json.

The target changes between rank 6 and rank 1, so that ranks grow and shrink all the time.  Watched, tenth by tenth of the run: the
defect of the bases, the ranks, the seconds a step and the memory of the process.  After half of the steps the state is saved,
loaded and run on beside the original; both must end bit for bit the same.

Rounding adds up in the bases as long as their directions are kept: with one target and without a cure the defect grows without
bound (4500 eps after 16 000 steps in float64).  The cure is one Newton–Schulz step (:meth:`geolora_ref.LowRank.polished`) now and
then, ``--polish K`` every K steps.
"""

from __future__ import annotations

import argparse
import io
import resource
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from geolora_ref import LowRank, ProjectedGradients, geolora_step
from geolora_ref.files import write_json
from geolora_ref.problems import Quadratic

__all__ = ["long_run", "main"]

SHAPE, PERIOD, TENTHS = (12, 10), 100, 10


def long_run(steps: int, dtype: str, polish: int, progress: Any = lambda done: None, period: int = PERIOD) -> dict[str, Any]:
    """The measurements of one run of ``steps`` steps, at least 2·TENTHS·PERIOD; the target changes every ``period`` steps."""
    problems = [
        Quadratic.random(SHAPE, spectrum, np.random.default_rng(5)) for spectrum in ([1.0, 0.9, 0.8, 0.7, 0.6, 0.5], [1.0])
    ]
    fields = [tuple(X.astype(dtype) for X in (p.H1, p.A, p.H2)) for p in problems]

    def step(Y: LowRank, k: int) -> LowRank:
        H1, A, H2 = fields[k // period % 2]
        gradients = ProjectedGradients.from_dense(Y, H1 @ (Y.full() - A) @ H2)
        Y = geolora_step(Y, gradients, learning_rate=1.0, tau=0.02).Y
        return Y.polished() if polish and (k + 1) % polish == 0 else Y

    Y = LowRank(*(X.astype(dtype) for X in LowRank.random(SHAPE, [1e-3, 1e-3], np.random.default_rng(6))))
    twin: LowRank | None = None
    found: dict[str, Any] = {"steps": steps, "dtype": dtype, "polish": polish, "eps": float(np.finfo(dtype).eps), "tenths": []}
    for tenth in range(TENTHS):
        begin, end = tenth * steps // TENTHS, (tenth + 1) * steps // TENTHS
        ranks, defect, started = set(), 0.0, time.perf_counter()
        for k in range(begin, end):
            Y = step(Y, k)
            ranks.add(Y.rank)
            if k % PERIOD == PERIOD - 1:
                defect = max(defect, _defect(Y))
        seconds = (time.perf_counter() - started) / max(end - begin, 1)
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        found["tenths"].append({"defect": defect, "ranks": sorted(ranks), "seconds": seconds, "peak_kib": memory})
        if tenth == TENTHS // 2 - 1:
            middle, twin = end, _restored(Y)
        progress(end)
    assert twin is not None
    for k in range(middle, steps):
        twin = step(twin, k)
    found["restored bit for bit"] = all(a.tobytes() == b.tobytes() for a, b in zip(Y, twin, strict=True))
    return found | verdict(found)


def verdict(found: dict[str, Any]) -> dict[str, Any]:
    """What must hold: bounded defect, ranks that grow and shrink in every tenth, no leak of memory or time."""
    tenths = found["tenths"]
    early, late = tenths[1], tenths[-1]
    defects = [tenth["defect"] / found["eps"] for tenth in tenths]
    reasons = {
        "the drift of the bases is bounded": max(defects[1:]) <= 4.0 * defects[0] and max(defects) <= 1000.0,
        "ranks grow and shrink": all(tenth["ranks"][0] == 1 and tenth["ranks"][-1] >= 6 for tenth in tenths),
        "no leak of memory": late["peak_kib"] <= early["peak_kib"] + 4096,
        "no growth of the time a step": late["seconds"] <= 3.0 * min(tenth["seconds"] for tenth in tenths[:-1]),
        "restored bit for bit": found["restored bit for bit"],
    }
    return {"checks": reasons, "passed": all(reasons.values())}


def _defect(Y: LowRank) -> float:
    one = np.eye(Y.rank)
    return float(max(np.linalg.norm(B.T.astype(np.float64) @ B.astype(np.float64) - one) for B in (Y.U, Y.V)))


def _restored(Y: LowRank) -> LowRank:
    file = io.BytesIO()
    np.savez(file, U=Y.U, S=Y.S, V=Y.V)
    file.seek(0)
    with np.load(file, allow_pickle=False) as stored:
        return LowRank(stored["U"], stored["S"], stored["V"])


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status 0: every check of every run holds."""
    parser = argparse.ArgumentParser(prog="python -m verification.rigor.long_runs", description="Many steps on a small problem.")
    parser.add_argument("--float32", type=int, default=100_000, metavar="STEPS", help="in single precision (default: 100000)")
    parser.add_argument("--float64", type=int, default=1_000_000, metavar="STEPS", help="in double precision (default: 1000000)")
    parser.add_argument("--polish", type=int, default=100, metavar="K", help="every K steps (default: 100; 0: never)")
    parser.add_argument("--output", type=Path, default=Path("build") / "rigor", metavar="FOLDER")
    options = parser.parse_args(argv)
    runs = []
    for dtype, steps in (("float32", options.float32), ("float64", options.float64)):
        if steps:
            runs.append(long_run(steps, dtype, options.polish, lambda done: print(f"{done} steps", file=sys.stderr)))  # noqa: T201
    write_json(options.output / "long_runs.json", {"format": 1, "runs": runs})
    for run in runs:
        defects = ", ".join(f"{tenth['defect'] / run['eps']:.1f}" for tenth in run["tenths"])
        print(f"{run['steps']} steps in {run['dtype']}: defect / eps {defects}")  # noqa: T201
        print("\n".join(f"  {'yes' if holds else 'NO '}  {check}" for check, holds in run["checks"].items()))  # noqa: T201
    return 0 if all(run["passed"] for run in runs) else 1


if __name__ == "__main__":
    sys.exit(main())

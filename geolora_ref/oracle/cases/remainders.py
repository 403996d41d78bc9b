"""Cases for what is left over of vectors and tiles: every remainder of m and n by 4 meets every r, and nearly
every limit of the rank there.

Kernels compute four or eight numbers at a time and treat the rest in a branch of its own, often one
that is compiled for r = 8, 16 or 32.  The cases are a covering array of remainders, ranks, limits,
cores and layouts, as in :mod:`geolora_ref.oracle.cases.covering`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from geolora_ref.oracle.cases.case import ConformanceCase, question
from geolora_ref.oracle.cases.covering import Options, covering_array
from geolora_ref.oracle.cases.own import in_words
from geolora_ref.oracle.cases.step_case import CaseParameters

__all__ = ["COUNTS", "OPTIONS", "remainder_cases", "remainder_options"]

VECTOR = 4
OPTIONS: dict[str, tuple[str, ...]] = {
    "r": ("1", "2", "4", "5", "7", "8", "16", "32"),
    "rest of m": ("0", "1", "2", "3"),
    "rest of n": ("0", "1", "2", "3"),
    "limit": ("none", "tau", "theta", "max", "min", "fixed beyond"),
    "vectors of m": ("0", "1", "2", "3"),
    "vectors of n": ("0", "1", "2", "3"),
    "core": ("dense", "diagonal", "zero"),
    "layout": ("rows", "columns", "padded"),
}
"""The values of every option.  A size is the least multiple of 8 above 2r, and so many vectors of
``VECTOR`` numbers and a rest more: every remainder by 16 occurs.
"""
COUNTS = {"real": 240, "complex": 96}
SEED = 20261203


def remainder_cases() -> Iterator[ConformanceCase]:
    """All cases of this module, real ones first."""
    for numbers in COUNTS:
        for k, options in enumerate(remainder_options(numbers)):
            yield _case(
                f"{k}" if numbers == "real" else f"complex-{k}",
                options,
                complex_data=numbers == "complex",
            )


def remainder_options(numbers: str) -> list[Options]:
    """The options of the cases with "real" or "complex" numbers, in the order of ``OPTIONS``."""
    rng = np.random.default_rng([SEED, [*COUNTS].index(numbers)])
    return covering_array(OPTIONS, COUNTS[numbers], rng)


def _case(name: str, options: Options, *, complex_data: bool) -> ConformanceCase:
    """The case with these options."""
    named = dict(zip(OPTIONS, options, strict=True))
    r = int(named["r"])
    least = 8 * (2 * r // 8 + 1)
    m, n = (
        least + VECTOR * int(named[f"vectors of {of}"]) + int(named[f"rest of {of}"])
        for of in ("m", "n")
    )
    limits: dict[str, dict[str, Any]] = {
        "none": {},
        "tau": {"tau": 0.3},
        "theta": {"tau": None, "theta": round(0.03 * float(np.sqrt((m + n) * r)), 3)},
        "max": {"max_rank": r},
        "min": {"tau": 1.0, "min_rank": r + 1},
        "fixed beyond": {"min_rank": 2 * r + 1, "max_rank": 2 * r + 1},
    }
    plain = CaseParameters(
        m, n, r, "algebraic", named["core"], "tangent", complex=complex_data, bases="thin"
    )
    parameters, layout = replace(plain, **limits[named["limit"]]), named["layout"]
    words = in_words(parameters, {"layout": layout, "steps": 1, "trained": False})
    reason = f"{words}: vectors of {VECTOR} or 8 numbers leave a rest"
    flags = (*(["complex"] if complex_data else []), f"r-{r}")
    return question("remainder", name, flags, reason, parameters, layout=layout)

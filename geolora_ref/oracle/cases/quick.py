"""The small part of the catalogue for ``--quick``, which is enough to reject every mutant."""

from __future__ import annotations

__all__ = ["QUICK"]

NAMED = (
    *("shape-square-dense", "shape-tall-zero", "shape-one-by-one-diagonal"),
    "trap-all-values-equal-the-threshold-is-a-tie",
    *("complex-square-dense", "complex-tall-dense", "complex-wide-dense", "directions-dense"),
    *(
        f"threshold-tau-{precision}-{side}-diagonal"
        for precision in ("double", "single")
        for side in ("below", "above")
    ),
    *("gradient-quadratic-diagonal-rate-0", "layout-columns-square", "magnitude-1e-170-dense"),
    *("truncation-tau-0.3-unclipped", "truncation-tau-0.5-max-below", "path-eights-max-below"),
)
DRAWN = (*(f"covering-{k}" for k in range(220)), *(f"covering-complex-{k}" for k in range(80)))
QUICK = frozenset({*NAMED, *DRAWN})
"""The ids of the quick cases: those that some mutant needs, and the first drawn ones, which cover
the most combinations of options.
"""

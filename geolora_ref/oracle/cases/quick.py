"""The small part of the catalogue for ``--quick``, which is enough to reject every mutant.

It has the cases that narrow mutants name, and the cases that the other mutants need.
"""

from __future__ import annotations

from geolora_ref.oracle.broken.narrow_mutants import NARROW_MUTANTS

__all__ = ["QUICK"]

BESIDE = (
    *("shape-square-dense", "shape-tall-zero", "shape-one-by-one-diagonal", "trap-all-values-equal-the-threshold-is-a-tie"),
    *("complex-square-dense", "complex-tall-dense", "complex-wide-dense", "directions-dense"),
    *(f"threshold-tau-{precision}-{side}-diagonal" for precision in ("double", "single") for side in ("below", "above")),
    *("gradient-quadratic-diagonal-rate-0", "layout-columns-square"),
)
QUICK = frozenset({*BESIDE, *(case for mutant in NARROW_MUTANTS.values() for case in mutant.cases)})
"""The ids of the quick cases."""

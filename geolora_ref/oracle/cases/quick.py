"""The small part of the catalogue for ``--quick``, which is enough to reject every mutant.

It has the cases that narrow mutants name, the cases that the other mutants need, and the first drawn
cases, which cover the most combinations of options.
"""

from __future__ import annotations

from geolora_ref.oracle.broken.narrow_mutants import NARROW_MUTANTS

__all__ = ["QUICK", "SLOW"]

OTHERS = (
    *(
        "shape-square-dense",
        "shape-tall-zero",
        "shape-one-by-one-diagonal",
        "trap-all-values-equal-the-threshold-is-a-tie",
    ),
    *("complex-square-dense", "complex-tall-dense", "complex-wide-dense", "directions-dense"),
    *(
        f"threshold-tau-{precision}-{side}-diagonal"
        for precision in ("double", "single")
        for side in ("below", "above")
    ),
    *("gradient-quadratic-diagonal-rate-0", "layout-columns-square"),
)
DRAWN = (*(f"covering-{k}" for k in range(220)), *(f"covering-complex-{k}" for k in range(80)))
SLOW = (
    *(
        "layer-attention-tau",
        "layer-attention-max-at",
        "layer-attention-theta",
        "layer-square-none",
        "layer-long-max-at",
    ),
    *(
        "layer-long-wide-max-at",
        "layer-core-200-none",
        "layer-vocabulary-wide-none",
        "layer-wide-theta",
        "layer-tall-max-above",
    ),
    *("layer-mlp-theta", "layer-mlp-wide-theta", "layer-equal-values"),
)
"""Cases that narrow mutants name, and which take too long for a quick run."""
QUICK = frozenset(
    {*OTHERS, *DRAWN, *(case for mutant in NARROW_MUTANTS.values() for case in mutant.cases)}
    - {*SLOW}
)
"""The ids of the quick cases."""

"""The single-step cases of the catalogue that become vectors: from most groups, real and complex.

Most are no larger than 14 x 14; the cases of the last two groups have the sizes of layers, up to
129 x 97 with r = 33.
"""

from __future__ import annotations

__all__ = ["SELECTION"]

_BY_GROUP = {
    "shape": (
        "square-dense square-zero square-negative tall-dense tall-unsorted wide-dense rank-one-negative "
        "full-rank-tall-dense full-rank-wide-dense full-rank-square-dense beyond-half-dense beyond-half-zero "
        "one-by-one-diagonal one-by-one-zero one-row-diagonal one-column-diagonal"
    ),
    "spectrum": (
        "flat-dense-zero geometric-dense-quadratic geometric-negative-zero algebraic-unsorted-zero "
        "clustered-dense-quadratic one-tiny-diagonal-quadratic zero-tail-dense-quadratic "
        "zero-tail-diagonal-quadratic denormal-diagonal-zero denormal-diagonal-quadratic"
    ),
    "gradient": (
        "quadratic-dense-rate-0 quadratic-dense-rate-1e-14 quadratic-zero-rate-1 quadratic-diagonal-rate-1e6 "
        "zero-dense-rate-1 zero-zero-rate-1 tangent-diagonal-rate-1 normal-dense-rate-1e-3 normal-diagonal-rate-1 "
        "rank-one-dense-rate-1e-3 rank-one-zero-rate-1 nearly-in-the-range-dense-rate-1 "
        "nearly-in-the-range-diagonal-rate-1e-3 huge-dense-rate-1e-3 tiny-diagonal-rate-1 tiny-dense-rate-1e-14"
    ),
    "magnitude": "1e-140-dense 1e-140-zero 1e140-dense 1e140-diagonal 1e-15-diagonal 1e15-zero",
    "truncation": (
        "tau-0-max-below tau-0-max-at tau-0.1-unclipped tau-0.1-min-above tau-0.3-unclipped tau-0.3-max-above "
        "tau-1-unclipped tau-1-min-below theta-0-unclipped theta-0.25-unclipped theta-large-unclipped"
    ),
    "trap": (
        "all-values-equal-the-threshold-is-a-tie keep-nothing-but-the-minimum everything-is-kept the-usual-start at-the-cap "
        "no-step complex-and-dense"
    ),
    "complex": "square-dense tall-dense tall-zero wide-dense full-rank-wide-dense rank-one-dense",
    "path": (
        "fours-max-below eights-theta eights-tiny eights-complex whole-remainder-max-below tile-remainder-tau"
    ),
    "hard": "attention-nearly-in-the-range",
}

SELECTION = tuple(f"{group}-{name}" for group, names in _BY_GROUP.items() for name in names.split())
"""The ids of the selected cases.  Append-only: an id never changes its meaning and never disappears."""

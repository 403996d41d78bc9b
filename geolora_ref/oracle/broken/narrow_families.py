"""Families of narrow defects: the defect, its place, and the case of the catalogue that shows it."""

from __future__ import annotations

from geolora_ref.oracle.broken.narrow_places import (
    BACKWARDS,
    BEYOND,
    LAYOUTS,
    NAMES,
    SHAPES,
    THRESHOLDS,
    TINY,
)

__all__ = ["FAMILIES", "STACKS"]

FAMILIES: dict[str, dict[str, str]] = {
    "multiples-of-4": {
        "s-step-missing": "path-fours-none",
        "max-rank-ignored": "path-fours-max-below",
        "min-rank-ignored": "path-fours-min-above",
        "l1-tail": "path-fours-tau",
        "theta-taken-relative": "path-fours-theta",
    },
    "multiples-of-8": {
        "k-step-sign": "path-eights-none",
        "cap-off-by-one": "path-eights-max-below",
        "min-rank-ignored": "path-eights-min-above",
        "relative-to-largest": "path-eights-tau",
        "theta-taken-relative": "path-eights-theta",
        "squares-out-of-range": "path-eights-tiny",
    },
    "multiples-of-16": {
        "single-pass-residual": "hard-attention-nearly-in-the-range",
        "gram-singular-values": "hard-attention-geometric-zero",
        "not-orthogonalised": "path-tile-none",
        "cap-off-by-one-low": "path-capacity-max-above",
        "energy-share": "path-capacity-tau",
    },
    "multiples-of-32": {
        "s-gradient-transposed": "path-tile-none",
        "no-cap-taken-for-rank": "path-tile-none",
        "cap-before-truncation": "path-tile-max-at",
        "built-in-minimum": "path-tile-all",
        "cap-before-threshold": "path-tile-capped",
        "single-pass-residual": "hard-tile-nearly-in-the-range",
    },
    "rank-of-8": {
        "l-step-sign": "path-template-none",
        "half-rank-fallback": "path-template-none",
        "strict-threshold": "path-template-nothing",
        "off-by-one-low": "path-template-tau",
    },
    "rank-8": {
        "zero-start-inverse": "path-template-start",
        "single-pass-residual": "hard-template-nearly-in-the-range",
        "max-rank-ignored": "path-template-max-above",
        "theta-taken-relative": "path-template-theta",
        "relative-to-old-norm": "path-template-tau",
        "cap-before-threshold": "path-template-capped",
        "rank-never-grows": "path-template-min-above",
        "off-by-one-high": "path-template-tau",
        "core-of-k": "directions-larger",
    },
    "rank-8-aligned": {
        "s-step-missing": "path-template-none",
        "min-rank-ignored": "path-template-min-below",
        "cap-before-truncation": "path-template-max-at",
        "kept-value-perturbed": "path-template-max-below",
        "squares-out-of-range": "path-template-tiny",
        "gram-singular-values": "hard-template-nearly-in-the-range",
        "upper-right-unconjugated": "path-template-complex",
    },
    "rank-16": {
        "rank-in-eights": "hard-attention-geometric-zero",
        "qr-sign": "hard-attention-left",
    },
    "rank-32": {
        "cap-off-by-one": "path-tile-max-above",
        "min-rank-ignored": "path-tile-min-above",
        "theta-taken-relative": "path-tile-theta",
        "tau-taken-absolute": "path-tile-tau",
        "capacity-of-32": "path-tile-none",
        "zero-start-inverse": "path-tile-start",
        "missing-lower-block": "path-tile-none",
    },
    "rank-64": {
        "capacity-of-64": "path-capacity-max-above",
        "max-rank-ignored": "path-capacity-max-above",
        "min-rank-ignored": "path-capacity-min-below",
        "one-by-one": "path-capacity-tau",
        "theta-taken-relative": "path-capacity-theta",
        "strict-threshold": "path-capacity-nothing",
        "blocks-exchanged": "path-capacity-tau",
        "missing-conjugate": "path-capacity-complex",
    },
    "rank-1-large": {
        "s-step-missing": "path-vector-none",
        "max-rank-ignored": "path-vector-max-at",
        "min-rank-ignored": "path-vector-min-above",
        "theta-taken-relative": "path-vector-theta",
        "zero-start-inverse": "path-vector-start",
    },
    "rank-1-aligned": {
        "lower-left-sign": "path-vector-none",
        "cap-before-truncation": "path-vector-max-at",
        "squares-out-of-range": "path-vector-tiny",
        "missing-conjugate": "path-vector-complex",
    },
    "row-past-a-tile": {
        "rows-of-k-lost": "path-template-remainder-none",
        "max-rank-ignored": "path-template-remainder-max-below",
        "min-rank-ignored": "path-template-remainder-min-above",
        "theta-taken-relative": "path-template-remainder-theta",
        "single-pass-residual": "hard-remainder-nearly-in-the-range",
        "squares-out-of-range": "path-template-remainder-tiny",
        "zero-start-inverse": "path-template-remainder-start",
        "missing-conjugate": "path-template-remainder-complex",
    },
    "column-past-a-tile": {
        "rows-of-l-lost": "path-template-remainder-none",
        "cap-off-by-one": "path-template-remainder-max-above",
        "l1-tail": "path-template-remainder-tau",
        "min-rank-ignored": "path-vector-remainder-min-above",
    },
    "rank-past-a-tile": {
        "rows-of-s-lost": "path-tile-remainder-none",
        "capacity-of-64": "path-tile-remainder-none",
        "rank-in-fours": "path-tile-remainder-max-at",
        "max-rank-ignored": "path-tile-remainder-max-below",
        "theta-taken-relative": "path-tile-remainder-theta",
    },
    "large": {
        "silent-regularisation": "path-vector-tiny",
        "augmented-with-old": "path-tile-none",
    },
    "long": {
        "last-column-lost": "path-long-theta",
        "max-rank-ignored": "path-long-max-below",
        "min-rank-ignored": "path-long-wide-min-above",
        "theta-taken-relative": "path-long-theta",
        "v-not-augmented": "path-long-wide-min-above",
        "missing-conjugate": "path-long-complex",
    },
    "whole": {
        "s-step-missing": "path-whole-none",
        "max-rank-ignored": "path-whole-remainder-max-below",
        "min-rank-ignored": "path-whole-remainder-min-below",
        "theta-taken-relative": "path-whole-theta",
    },
    "whole-aligned": {
        "s-gradient-transposed": "path-whole-none",
        "cap-off-by-one": "path-whole-max-below",
        "one-by-one": "path-whole-tau",
        "squares-out-of-range": "path-whole-tiny",
    },
    "half": {
        "v-not-augmented": "path-capacity-tau",
        "cap-before-threshold": "path-capacity-capped",
    },
    "square-64": {
        "swap-truncation-factors": "hard-attention-left",
        "blocks-exchanged": "hard-attention-left",
    },
    "nothing": {
        "completed-by-zeros": "nothing-square-min-2",
        "min-rank-ignored": "nothing-rank-one-min-2",
    },
    "theta-0": {"strict-threshold": "nothing-square-theta-0"},
    "beyond-one": {"min-rank-ignored": "threshold-beyond-one-min-dense"},
    "complex-near": {"conjugate-lost": "complex-gradient-near"},
    "complex-near-v": {"upper-right-unconjugated": "complex-gradient-near"},
    "no-core": {"k-step-missing": "basis-unit-off-core"},
    "left-alone": {"k-step-missing": "basis-unit-left"},
    "right-alone": {"l-step-missing": "basis-unit-right"},
    "complex-small": {"upper-right-unconjugated": "complex-gradient-small-rate"},
    "complex-still": {"completed-by-conjugates": "complex-gradient-none"},
    "rank-1": {
        "squares-out-of-range": "magnitude-rank-one-1e160-dense",
        "single-pass-residual": "hard-vector-remainder-nearly-the-core",
        "core-of-l": "directions-rank-one",
    },
    "wide": {"core-of-k": "directions-wide"},
    "theta": {"core-of-l": "directions-theta"},
    "min": {"core-of-k": "directions-min"},
    "complex-8": {"core-of-l": "directions-larger-complex"},
    "one-row": {
        "conjugate-lost": "complex-one-row-dense",
        "gradient-of-s-conjugated": "complex-one-by-one-dense",
    },
    **{f"{name}-strided": {"strides-assumed": f"array-{name}-columns-eights"} for name in NAMES},
    "factors-strided": {
        "strides-assumed": "array-swapped-template",
        "conjugate-lost": "array-complex-swapped-tall",
    },
    "gradient-expanded": {
        "strides-assumed": "array-expanded-template",
        "k-step-missing": "array-expanded-tall",
    },
    "complex-strided": {
        "conjugate-lost": "array-complex-padded-eights",
        "upper-right-unconjugated": "array-complex-padded-eights",
    },
    "layer-attention": {
        "relative-to-largest": "layer-attention-tau",
        "cap-before-truncation": "layer-attention-max-at",
        "theta-taken-relative": "layer-attention-theta",
    },
    "layer-tall": {
        "min-rank-ignored": "layer-tall-min-above",
        "cap-off-by-one": "layer-tall-max-above",
    },
    "layer-wide": {
        "theta-taken-relative": "layer-wide-theta",
        "max-rank-ignored": "layer-wide-max-below",
    },
    "layer-square": {"s-step-missing": "layer-square-none"},
    "layer-long": {"cap-before-truncation": "layer-long-max-at"},
    "layer-long-wide": {"cap-before-truncation": "layer-long-wide-max-at"},
    "layer-mlp": {"theta-taken-relative": "layer-mlp-theta"},
    "layer-mlp-wide": {"theta-taken-relative": "layer-mlp-wide-theta"},
    "layer-power": {"relative-to-largest": "layer-power-tau"},
    "layer-power-wide": {"relative-to-largest": "layer-power-wide-tau"},
    "layer-skinny": {"single-pass-residual": "layer-skinny-nearly-in-the-range"},
    "layer-skinny-wide": {"single-pass-residual": "layer-skinny-wide-nearly-in-the-range"},
    "nearly-all-cut": {"clipped-at-0.99": "threshold-near-one"},
    "layer-index": {"index-of-16-bits": "layer-index-tau"},
    "layer-index-wide": {"index-of-16-bits": "layer-index-wide-tau"},
    "layer-vocabulary": {"index-of-16-bits": "layer-vocabulary-none"},
    "layer-vocabulary-wide": {"index-of-16-bits": "layer-vocabulary-wide-none"},
    "layer-core": {"l1-tail": "layer-core-tau"},
    "layer-core-200": {"room-for-150": "layer-core-200-none"},
    "layer-rank-96": {"theta-taken-relative": "layer-rank-96-theta"},
    **{
        f"{layout}-{name}": {"strides-assumed": f"layout-{layout}-{name}"}
        for layout in BACKWARDS
        for name in SHAPES
    },
    **{
        f"{layout}-complex-{name}": {"conjugate-lost": f"layout-{layout}-complex-{name}"}
        for layout in LAYOUTS
        for name in SHAPES
        if name != "rank-one"
    },
    **{
        f"{kind}-{precision}-{core}": {"k-step-missing": f"magnitude-{kind}-{precision}-{core}"}
        for kind in ("subnormal", "smallest")
        for precision in TINY
        for core in ("dense", "zero")
    },
    **{
        f"small-{name}-{core}": {
            "rounding-cut"
            if name == "theta-0"
            else "tiny-is-zero": f"threshold-small-{name}-{core}"
        }
        for name in THRESHOLDS
        for core in ("diagonal", "dense")
    },
    **{
        f"negated-{name}": {"sign-of-the-memory": f"array-negated-{name}"}
        for name in ("tall", "larger", *NAMES)
    },
    "two-rows": {"k-step-missing": "shape-two-rows-dense", "s-step-sign": "shape-two-rows-zero"},
    "two-columns": {
        "l-step-missing": "shape-two-columns-dense",
        "s-step-missing": "shape-two-columns-zero",
    },
    "two-by-two": {
        "blocks-exchanged": "shape-two-by-two-dense",
        "k-step-sign": "shape-two-by-two-zero",
    },
    "three-rows": {
        "k-step-missing": "shape-three-rows-dense",
        "k-step-sign": "shape-three-rows-zero",
    },
    "all-cut": {"clipped-at-0.999": "layer-equal-values"},
    "core-above-100": {
        "tails-in-single": "layer-core-104-tail-tau-above",
        "tolerance-of-single": "layer-core-104-tail-tau-below",
    },
    "core-above-100-theta": {
        "tails-in-single": "layer-core-104-tail-theta-above",
        "tolerance-of-single": "layer-core-104-tail-theta-below",
    },
    "core-above-192": {
        "tails-in-single": "layer-core-200-tail-tau-above",
        "tolerance-of-single": "layer-core-200-tail-tau-below",
    },
    "core-above-192-theta": {
        "tails-in-single": "layer-core-200-tail-theta-above",
        "tolerance-of-single": "layer-core-200-tail-theta-below",
    },
    "fixed-beyond": {"rank-never-grows": "limit-rank-one-fixed-beyond"},
    **{
        f"fixed-beyond-{state}": {"rank-never-grows": f"limit-{state}-fixed-beyond"}
        for state in BEYOND
    },
    "rank-8-m-3": {
        "k-step-sign": "remainder-37",
        "max-rank-ignored": "remainder-197",
        "theta-taken-relative": "remainder-202",
        "min-rank-ignored": "remainder-191",
    },
    "rank-16-m-2": {
        "cap-before-truncation": "remainder-36",
        "theta-taken-relative": "remainder-161",
        "l1-tail": "remainder-62",
    },
    "rank-32-m-3": {"min-rank-ignored": "remainder-156", "max-rank-ignored": "remainder-0"},
    "rank-8-n-2": {
        "l-step-sign": "remainder-21",
        "max-rank-ignored": "remainder-58",
        "min-rank-ignored": "remainder-226",
        "zero-start-inverse": "remainder-61",
    },
    "rank-16-n-1": {
        "l-step-sign": "remainder-8",
        "theta-taken-relative": "remainder-65",
        "min-rank-ignored": "remainder-139",
    },
    "rank-4-n-3": {"zero-start-inverse": "remainder-15"},
    "rank-32-n-1": {
        "theta-taken-relative": "remainder-212",
        "max-rank-ignored": "remainder-115",
        "l1-tail": "remainder-28",
    },
    "theta-capped": {"theta-ignored": "covering-4"},
    "theta-min-above": {"min-rank-ignored": "covering-24"},
    "theta-still": {"theta-taken-relative": "covering-69"},
    "theta-wide": {"theta-taken-relative": "covering-59"},
    "zero-capped": {"max-rank-ignored": "covering-13"},
    "same-bases": {"symmetrised": "covering-7"},
    "nearly-diagonal": {"diagonal-alone": "covering-5"},
    "nearly-symmetric": {"symmetrised": "covering-2"},
    "one-left": {"k-step-missing": "covering-20"},
    "dL-alone-0": {"rank-never-grows": "covering-27"},
    "dK-alone-0": {"rank-never-grows": "covering-3"},
    "cap-1": {"power-iteration": "covering-43"},
    "columns-capped": {"max-rank-ignored": "covering-0"},
    "complex-theta": {"theta-taken-relative": "covering-complex-44"},
}
"""By place and defect: the case."""

STACKS = {4: "stack-6-small", 8: "stack-9-small", 16: "stack-17-eights", 32: "stack-33-eights"}
"""The largest stack that is right, and a case with a larger one."""

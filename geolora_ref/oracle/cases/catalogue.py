"""The conformance cases by trap: a stable id, flags that name the trap, and the reason why the case exists.

This module is data only.  Ids are append-only: a case may be added, but an id never changes its meaning.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from geolora_ref.oracle.cases.case import ConformanceCase, question
from geolora_ref.oracle.cases.covering import covering_cases
from geolora_ref.oracle.cases.paths import path_cases
from geolora_ref.oracle.cases.spectra import SPECTRA
from geolora_ref.oracle.cases.step_case import (
    CORES,
    GRADIENTS,
    ONE_SIDED,
    SIGNS,
    TRAPS,
    CaseParameters,
)

__all__ = ["FLOOR", "catalogue"]

FLOOR = 300
"""A whole run judges at least this many cases in every dtype."""

SHAPES = {
    "square": (
        8,
        8,
        3,
        "U and V have equal sizes: exchanged factors go unnoticed elsewhere, not here",
    ),
    "tall": (
        13,
        5,
        2,
        "m, n and r differ: every transposed product has the wrong shape or the wrong value",
    ),
    "wide": (5, 13, 2, "m < n: the mirror image of tall"),
    "rank-one": (9, 6, 1, "r = 1: matrices that degenerate to vectors"),
    "full-rank-tall": (10, 4, 4, "r = n: V has no new column, Ŝ is not square"),
    "full-rank-wide": (4, 10, 4, "r = m: U has no new column, Ŝ is not square"),
    "full-rank-square": (
        6,
        6,
        6,
        "r = m = n: no new column at all, the step is plain gradient descent",
    ),
    "beyond-half": (7, 6, 4, "2r > min(m, n): fewer new columns than r"),
    "one-by-one": (1, 1, 1, "the smallest matrix"),
    "one-row": (1, 7, 1, "m = 1"),
    "one-column": (7, 1, 1, "n = 1"),
    "short-wide": (6, 13, 4, "0 < m − r < r ≤ n − r: fewer new columns than r on one side alone"),
    "short-tall": (13, 6, 4, "0 < n − r < r ≤ m − r: the mirror image of short-wide"),
    "larger": (48, 33, 8, "rounding errors grow with the size; the criteria's scale must follow"),
}
SMALLEST = {
    "two-rows": (2, 7, 1, "m = 2r = 2: old and new column of U are all of the space"),
    "two-columns": (7, 2, 1, "n = 2r = 2: old and new column of V are all of the space"),
    "two-by-two": (2, 2, 1, "m = n = 2, r = 1: the smallest matrix with new columns"),
    "three-rows": (
        3,
        5,
        1,
        "m = 3, r = 1: the smallest space with a direction that is neither old nor new",
    ),
}
"""Further shapes, with a dense S and with S = 0: m, n, r, the reason."""
LIMITED = {
    "no-step": (CaseParameters(14, 11, 4, "algebraic", "dense", learning_rate=0.0), "λ = 0"),
    "full-rank": (CaseParameters(9, 4, 4, "algebraic", "diagonal"), "no new column on one side"),
    "rank-one": (CaseParameters(9, 7, 1, "algebraic", "negative"), "r = 1"),
    "from-zero": (CaseParameters(11, 9, 3, "algebraic", "zero"), "S = 0"),
    "from-zero-by-rank-one": (
        CaseParameters(11, 9, 2, "algebraic", "zero", "rank one"),
        "S = 0 and Ŵ has r directions, of the 2r in its bases",
    ),
    "complex": (CaseParameters(10, 8, 3, "algebraic", "dense", complex=True), "complex numbers"),
    "complex-no-step": (
        CaseParameters(10, 8, 3, "algebraic", "dense", learning_rate=0.0, complex=True),
        "complex numbers, λ = 0",
    ),
    "large": (
        CaseParameters(10, 8, 3, "algebraic", "dense", magnitude=100.0),
        "‖W‖ is not of size 1",
    ),
    "no-gradient": (
        CaseParameters(11, 8, 3, "algebraic", "dense", "zero"),
        "no gradient: new directions may be any",
    ),
    "beyond-half": (CaseParameters(7, 6, 4, "algebraic", "dense"), "2r > min(m, n)"),
}
"""States in which limits are often forgotten, because code handles these states in a separate branch."""
LIMITS = {
    "tau": "a relative threshold",
    "theta": "an absolute threshold",
    "min": "a minimum rank above what the threshold keeps",
    "min-beyond": "a minimum rank above what there is: all directions are kept, which are orthonormal all the same",
    "max": "a cap below r",
    "at": "a cap at r",
    "max-beyond": "a cap above what there is",
}
NEVER = {"full-rank": ("min-beyond", "at"), "rank-one": ("max",), "beyond-half": ("min-beyond",)}
"""States in which a limit of LIMITS is impossible: it would be at or beyond all columns, below 1,
or beyond min(m, n).
"""
CLOSE = 100.0 * 4.0 * 21.0**0.5 * 2.0
"""The distance, in eps, at which a tail is clearly on one side of a threshold near 1: 100 units of
4√(m + n)·s with m + n = 21 and s = ‖Σ‖ = 2, where 30(1 + τ) units may be rounding."""
DOUBLE, SINGLE = CLOSE * 2.0**-52, CLOSE * 2.0**-23
THRESHOLDS: dict[str, tuple[dict[str, Any], str]] = {
    "tau-just-above": (
        {"tau": 0.5 + 5e-10},
        "four equal values, ‖Σ‖ = 2: the tail 1 is 1e-9 below the threshold (double precision sees it), one goes",
    ),
    "tau-just-below": (
        {"tau": 0.5 - 5e-10},
        "the tail is 1e-9 above the threshold, which a decision in single precision does not see",
    ),
    "theta-just-above": ({"tau": None, "theta": 1.0 + 1e-9}, "the same with an absolute threshold"),
    "theta-just-below": ({"tau": None, "theta": 1.0 - 1e-9}, "the same with an absolute threshold"),
    "tau-above": ({"tau": 0.505}, "a hundredth above: equal values are cut apart"),
    "tau-below": ({"tau": 0.495}, "a hundredth below"),
    "beyond-one": ({"tau": 1.5}, "τ > 1 lets everything go, but the minimum rank"),
    "beyond-one-min": (
        {"tau": 1.5, "min_rank": 3},
        "τ > 1 lets everything go but a minimum rank above 1",
    ),
    **{
        f"{kind}-{precision}-{side}": (
            {"tau": 0.5 + sign * 0.5 * gap}
            if kind == "tau"
            else {"tau": None, "theta": 1.0 + sign * gap},
            f"the tail 1 is {gap:.1e} {other} the threshold, 100 units of {precision} precision: a tolerance has no room there",
        )
        for kind in ("tau", "theta")
        for precision, gap in (("double", DOUBLE), ("single", SINGLE))
        for side, other, sign in (("above", "below", 1.0), ("below", "above", -1.0))
    },
}
BLOCKS = {
    "aligned-tall": (
        256,
        128,
        16,
        "every size is a multiple of 16: the branch without a remainder, which real layers take",
    ),
    "aligned-wide": (128, 256, 16, "the same with m < n"),
    "rows": (
        1100,
        70,
        20,
        "more than 1024 rows, 64 columns and cores of 32: second blocks, and remainders in all of them",
    ),
    "columns": (70, 1100, 20, "the mirror image of rows"),
    "core": (150, 140, 68, "cores larger than 128, ranks larger than 64"),
}
SIZES = {
    "capacity-32": (83, 71, 32, "r = 32, as large as storage often is"),
    "capacity-64": (148, 135, 64, "r = 64, as large as storage often is"),
    "beyond-half": (70, 60, 40, "2r > m > n: fewer new columns than r on both sides, of many"),
}
"""Further blocks, with a dense S alone."""
DEFICIENT = {
    "rank one": "the residuals have rank one, as where the rows of a batch are alike",
    "graded": "the residuals' singular values fall to 3e-11, as those of real gradients do",
}
"""Gradients of large blocks whose residuals are rank deficient, exactly or nearly."""
BLOCK_REASONS = {
    "diagonal": "the rank is capped as in training",
    "dense": "S was trained, there is no cap",
    "zero": "the usual start, everything is kept",
}
SPECTRUM_REASONS = {
    "flat": "all singular values are equal: every truncation is a tie",
    "geometric": "singular values from 1 to 1e-8",
    "algebraic": "a tail of many small values, none negligible alone",
    "clustered": "clusters that rounding cannot tell apart",
    "one_tiny": "one singular value of 1e-14",
    "zero_tail": "exact zeros behind the first half",
    "denormal": "the smallest singular values are subnormal numbers",
}
BASES: dict[str, tuple[CaseParameters, str]] = {
    "unit-zero": (
        CaseParameters(9, 7, 3, "algebraic", "diagonal", "zero", bases="unit"),
        "no gradient",
    ),
    "unit-min": (
        CaseParameters(9, 7, 3, "algebraic", "diagonal", "zero", bases="unit", min_rank=5),
        "no gradient, and new directions are wanted: the first unit vectors are in the bases already",
    ),
    "unit-sparse": (
        CaseParameters(9, 7, 3, "algebraic", "diagonal", "sparse", bases="unit"),
        "the residuals begin with a zero, whose sign is 0",
    ),
    "unit-off-core": (
        CaseParameters(9, 7, 3, "algebraic", "dense", "off core", bases="unit"),
        "∇_S is 0, and not only up to rounding; ∇_K and ∇_L are not",
    ),
    "unit-left": (
        CaseParameters(9, 7, 3, "algebraic", "dense", "left", bases="unit"),
        "∇_L and ∇_S are 0 exactly",
    ),
    "unit-right": (
        CaseParameters(9, 7, 3, "algebraic", "dense", "right", bases="unit"),
        "∇_K and ∇_S are 0 exactly",
    ),
    "padded": (
        CaseParameters(9, 7, 2, "algebraic", "dense", "padded", bases="padded"),
        "two rows are zero and stay so",
    ),
}
"""Bases and gradients with exact zeros, which random ones never have."""
DIRECTIONS: dict[str, tuple[CaseParameters, str]] = {
    "dense": (CaseParameters(14, 11, 4, "algebraic", "dense", SIGNS, tau=0.05), "S was trained"),
    "from-zero": (
        CaseParameters(11, 9, 3, "algebraic", "zero", SIGNS),
        "the first step from the usual start",
    ),
    "capped": (
        CaseParameters(12, 10, 4, "algebraic", "diagonal", SIGNS, max_rank=4),
        "the cap is at r, as in training",
    ),
    "full-rank": (
        CaseParameters(9, 4, 4, "algebraic", "dense", SIGNS),
        "no new column on one side",
    ),
    "complex": (
        CaseParameters(10, 8, 3, "algebraic", "dense", SIGNS, complex=True),
        "complex numbers",
    ),
    "rank-one": (CaseParameters(9, 6, 1, "algebraic", "dense", SIGNS), "r = 1"),
    "wide": (CaseParameters(6, 13, 3, "algebraic", "dense", SIGNS, tau=0.05), "m < n"),
    "theta": (
        CaseParameters(12, 9, 3, "algebraic", "dense", SIGNS, tau=None, theta=0.3),
        "an absolute threshold",
    ),
    "min": (
        CaseParameters(12, 9, 3, "algebraic", "dense", SIGNS, tau=1.0, min_rank=4),
        "a minimum rank above what the threshold keeps",
    ),
    "larger": (
        CaseParameters(48, 33, 8, "algebraic", "dense", SIGNS, tau=0.05),
        "a rank that real adapters have",
    ),
    "larger-complex": (
        CaseParameters(48, 33, 8, "algebraic", "dense", SIGNS, tau=0.05, complex=True),
        "complex numbers at a rank that real adapters have",
    ),
}
"""Directions of an optimizer in place of gradients, for backends that accept them."""
COMPLEX_GRADIENTS: dict[str, tuple[dict[str, Any], str]] = {
    "near": (
        {"gradient": "nearly the core"},
        "both residuals are 1e-9 of the gradient: every pass of orthogonalisation conjugates, not the first alone",
    ),
    "small-rate": (
        {"learning_rate": 1e-8},
        "K_new is nearly in the range of U, because λ is small",
    ),
    "none": ({"gradient": "zero", "min_rank": 5}, "no gradient, and new directions are wanted"),
}
"""Gradients for which code may take another path, besides complex numbers: their parameters, the reason."""
SCHEDULES: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "rate": ({"max_rank": 4}, {"learning_rate": 0.03}, "λ"),
    "tau": ({"max_rank": 4}, {"tau": 0.5}, "τ"),
    "theta": ({"tau": None, "theta": 0.0, "max_rank": 4}, {"theta": 3.0}, "ϑ"),
    "to-theta": ({"max_rank": 4}, {"tau": None, "theta": 3.0}, "the threshold, ϑ in place of τ,"),
    "to-tau": (
        {"tau": None, "theta": 0.0, "max_rank": 4},
        {"tau": 0.5, "theta": None},
        "the threshold, τ in place of ϑ,",
    ),
    "min": ({"tau": 1.0, "min_rank": 4}, {"min_rank": 2}, "the minimum rank"),
    "max": ({"max_rank": 4}, {"max_rank": 2}, "the cap"),
    "no-max": ({"max_rank": 4}, {"max_rank": None}, "the cap, which is gone,"),
    "warm-up": (
        {"learning_rate": 0.0, "max_rank": 4},
        {"learning_rate": 0.1},
        "λ, which is 0 before,",
    ),
    "to-max": ({"m": 9, "n": 4}, {"max_rank": 2}, "the cap, of which there is none before,"),
    "to-min": ({"tau": 1.0}, {"min_rank": 2}, "the minimum rank, which is 1 before,"),
}
"""Schedules of sequences: the options of all steps, the options that differ in the last step, and
the name.
"""
PLAIN_SCHEDULES = ("rate", "tau", "theta", "min", "max")
"""Those that are run with the backend's own results, too."""
GRADES = {
    "graded": "of the residuals' singular values the last is 3e-11: small, and no rounding",
    "steep": "the residuals' singular values fall to 1e-7: their squares to the rounding of double precision",
}
TAILS = {"above": 1.0 + 1e-9, "below": 1.0 - 1e-9}
GRADIENT_REASONS = {
    "quadratic": "the gradient depends on the state",
    "zero": "no gradient: W may not move",
    "tangent": "the gradient lies in the tangent space: P(W)G is all of it",
    "core": "UᴴGV is all there is: new columns are there, and K and L carry rounding in them",
    "normal": "P(W)G = 0: a fixed point, however large G is",
    "rank one": "the residual has rank one: its other columns are noise that must be made orthogonal all the same",
    "nearly in the range": "the residual is 1e-9 of the gradient: one pass of orthogonalisation is not enough",
    "huge": "the gradient dwarfs W",
    "tiny": "the gradient is lost beside W in K − λ∇_K",
    "off core": "UᴴGV = 0, as where S has been trained to stationarity: K and L move all the same",
    "left": "only K moves: dL and dS are zero up to rounding",
    "right": "only L moves: dK and dS are zero up to rounding",
}
REASONS_FROM_ZERO = {
    "huge": "the gradient is huge, W = 0",
    "tiny": "the gradient is tiny, but W = 0: Ŵ is all of it, and its squares may leave the range of the dtype",
    "0": "λ = 0: W = 0 stays",
    "1e-14": "λ is tiny, but there is no W that λ‖G‖ could be lost beside",
    "1e6": "Ŵ is a million times as large as the gradient",
}
"""Reasons for W = 0, where those of GRADIENT_REASONS and RATES would mislead."""
RATES = {
    "0": (0.0, "λ = 0: the truncation of W alone"),
    "1e-14": (1e-14, "λ‖G‖ is below the rounding of W: the new directions of K_new are noise"),
    "1e-3": (1e-3, "an ordinary step"),
    "1": (1.0, "a step as large as W"),
    "1e6": (1e6, "W is lost beside the step"),
}
MAGNITUDES = {
    -140: ("double-range", "products of three"),
    140: ("double-range", "products of three"),
    -15: ("wide-range", "products of three"),
    15: ("wide-range", "products of three"),
    -170: ("double-range", "squares"),
    160: ("double-range", "squares"),
    -25: ("wide-range", "squares"),
    25: ("wide-range", "squares"),
    -3: ("", "squares"),
    3: ("", "squares"),
}
"""Exponents of the size of all numbers: the range that they need, and what leaves it (for the last
two, that of float16).
"""
TRUNCATIONS: dict[str, tuple[dict[str, Any], str]] = {
    "tau-0": ({"tau": 0.0}, "nothing but exact zeros may be cut"),
    "tau-0.1": ({"tau": 0.1}, "the usual relative threshold"),
    "tau-0.3": ({"tau": 0.3}, "a large relative threshold: ℓ¹ and ℓ² tails differ"),
    "tau-0.5": (
        {"tau": 0.5},
        "a cap that comes before the threshold, and not behind it, leaves another tail",
    ),
    "tau-0.6": ({"tau": 0.6}, "the same where fewer directions are kept"),
    "tau-1": ({"tau": 1.0}, "everything may be cut: the minimum rank decides"),
    "theta-0": ({"tau": None, "theta": 0.0}, "an absolute threshold of zero is a threshold"),
    "theta-0.25": (
        {"tau": None, "theta": 0.25},
        "an absolute threshold is not relative to anything",
    ),
    "theta-large": ({"tau": None, "theta": 1e3}, "an absolute threshold above ‖W‖"),
}
LAYOUT_SHAPES = ("square", "tall", "wide")
STRIDED = ("rank-one",)
"""Further shapes of every layout but "mixed": a single column has any stride."""
LARGER = ("larger",)
"""Further shapes of every layout: r = 8, for code that reads four numbers at a time or has a path
for larger arrays.
"""
COMPLEX = (
    *(
        "square",
        "tall",
        "wide",
        "full-rank-wide",
        "rank-one",
        "full-rank-tall",
        "beyond-half",
        "short-wide",
        "short-tall",
    ),
    "full-rank-square",
)
LAYOUTS = {
    "columns": "the arguments lie in memory column by column, as a transposed array does",
    "spaced": "the arguments are every second column of wider arrays, as a slice is; between them is NaN",
    "mixed": "the factors lie in memory row by row, the gradients column by column: each array has strides of its own",
    "padded": "the arguments are the first columns of wider arrays, of stacks every second problem; behind them is NaN",
    "long": "the arguments are the first rows of longer arrays that lie column by column; below them is NaN",
    "reversed": "the arguments are views of arrays whose rows are in reverse order: strides are negative",
    "flat": "the arguments are packed and begin after the first number of a buffer, as parameters in a flat one do",
    "backwards": "the arguments are views of arrays whose columns are in reverse order, as those of eigh are turned",
    "turned": "the arguments are views of arrays whose rows and columns are in reverse order",
}
NEGATED = (
    "the arguments have their negative bit set, as the imaginary part of a conjugate has in torch"
)
SUBNORMAL: dict[str, tuple[float, float, str, str]] = {
    "subnormal-double": (
        1e-310,
        0.1,
        "double-range",
        "all numbers are subnormal in double precision",
    ),
    "subnormal-single": (1e-40, 0.1, "wide-range", "all numbers are subnormal in single precision"),
    "smallest-double": (
        2e-307,
        0.01,
        "double-range",
        "λ∇ is subnormal in double precision, and W is not",
    ),
    "smallest-single": (
        1e-37,
        0.01,
        "wide-range",
        "λ∇ is subnormal in single precision, and W is not",
    ),
}
"""The size of all numbers, λ, the range needed, the reason."""
SMALL: dict[str, tuple[dict[str, Any], str]] = {
    "theta-0": (
        {"tau": None, "theta": 0.0},
        "ϑ = 0, and the last singular value is 9e-13: it is no exact zero",
    ),
    "theta-tiny": (
        {"tau": None, "theta": 4e-12},
        "ϑ = 4e-12 lets the last singular value go, which is 9e-13: ϑ is not 0",
    ),
    "tau-tiny": (
        {"tau": 3e-12},
        "τ = 3e-12 lets the last singular value go, which is 9e-13: τ is not 0",
    ),
}
"""Thresholds near 0, for the spectrum "small"."""
CLIPPINGS: dict[str, tuple[dict[str, Any], str]] = {
    "unclipped": ({}, "no cap"),
    "min-below": ({"min_rank": 2}, "min_rank < r"),
    "min-at": ({"min_rank": 4}, "min_rank = r"),
    "min-above": ({"min_rank": 6}, "min_rank > r"),
    "max-below": (
        {"max_rank": 2},
        "max_rank < r: directions must go although the threshold would keep them",
    ),
    "max-at": (
        {"max_rank": 4},
        "max_rank = r: the basis must still move (cap after the truncation, not before)",
    ),
    "max-above": ({"max_rank": 6}, "r < max_rank < 2r"),
    "fixed": ({"min_rank": 4, "max_rank": 4}, "min_rank = max_rank = r: fixed rank"),
}
FIXED: dict[str, tuple[dict[str, Any], str]] = {
    "fixed-above": (
        {"min_rank": 6, "max_rank": 6},
        "min_rank = max_rank > r: a fixed rank that is not yet reached",
    ),
    "fixed-below": (
        {"min_rank": 2, "max_rank": 2},
        "min_rank = max_rank < r: a fixed rank that the start is above",
    ),
    "beyond": (
        {"min_rank": 9, "max_rank": 10},
        "both limits are above what there is: all directions are kept",
    ),
}
"""Both limits at once, for some of the thresholds."""
FIXED_AT = ("tau-0", "tau-0.3", "tau-1", "theta-0.25", "theta-large")


@functools.cache
def catalogue() -> tuple[ConformanceCase, ...]:
    """All cases, in a fixed order."""
    cases = (
        *_shapes(),
        *_spectra(),
        *_gradients(),
        *_magnitudes(),
        *_truncations(),
        *_traps(),
        *_complex(),
        *_one_sided(),
        *_limits(),
        *_thresholds(),
        *_blocks(),
        *_sequences(),
        *_returned(),
        *_schedules(),
        *_long_runs(),
        *_layouts(),
        *_bases(),
        *_graded(),
        *_tails(),
        *_directions(),
        *_complex_gradients(),
        *path_cases(),
        *_subnormal(),
        *_small(),
        *_long_trained(),
        *_negated(),
        *covering_cases(),
        *_fixed_beyond(),
        *_smallest(),
    )
    return tuple(
        replace(case, parameters=replace(case.parameters, seed=_seed(case.id))) for case in cases
    )


def _seed(name: str) -> int:
    """A seed that depends on the id alone, so that adding cases changes no other."""
    return int.from_bytes(name.encode(), "little") % (2**31 - 1)


def _shapes() -> Iterator[ConformanceCase]:
    for name, (m, n, r, reason) in SHAPES.items():
        for core in CORES:
            yield question(
                "shape",
                f"{name}-{core}",
                (name, core),
                reason,
                CaseParameters(m, n, r, "algebraic", core, tau=0.05),
            )


def _spectra() -> Iterator[ConformanceCase]:
    for spectrum, reason in SPECTRUM_REASONS.items():
        for core in ("diagonal", "dense", "unsorted", "negative"):
            for gradient in ("zero", "quadratic"):
                parameters = CaseParameters(
                    12, 9, 4, spectrum, core, gradient, learning_rate=0.01, tau=1e-3
                )
                range_needed = ("double-range",) if spectrum == "denormal" else ()
                yield question(
                    "spectrum",
                    f"{spectrum}-{core}-{gradient}",
                    (spectrum, core, *range_needed),
                    reason,
                    parameters,
                )


def _gradients() -> Iterator[ConformanceCase]:
    for gradient in GRADIENTS:
        for name, (rate, rate_reason) in RATES.items():
            for core in ("diagonal", "dense", "zero"):
                parameters = CaseParameters(
                    11, 8, 3, "algebraic", core, gradient, learning_rate=rate, tau=0.0
                )
                reasons = {gradient: GRADIENT_REASONS[gradient], name: rate_reason}
                if core == "zero":
                    reasons |= {
                        key: reason for key, reason in REASONS_FROM_ZERO.items() if key in reasons
                    }
                range_needed = (
                    ("wide-range",) if gradient == "huge" or name in ("1e-14", "1e6") else ()
                )
                flags = (gradient, core, *range_needed)
                yield question(
                    "gradient",
                    f"{gradient}-{core}-rate-{name}",
                    flags,
                    "; ".join(reasons.values()),
                    parameters,
                )


def _magnitudes() -> Iterator[ConformanceCase]:
    for exponent, (needed, products) in MAGNITUDES.items():
        flags, dtype = ((needed,), "the dtype") if needed else ((), "float16")
        for core in ("diagonal", "dense", "zero"):
            parameters = CaseParameters(
                9, 7, 3, "algebraic", core, tau=0.05, magnitude=10.0**exponent
            )
            reason = f"all numbers are of size 1e{exponent}: {products} leave the range of {dtype} unless they are scaled"
            yield question("magnitude", f"1e{exponent}-{core}", (core, *flags), reason, parameters)
        if products == "squares":
            size = 10.0**exponent
            parameters = CaseParameters(
                9, 7, 3, "algebraic", "dense", tau=None, theta=0.2 * size, magnitude=size
            )
            reason = f"all numbers are of size 1e{exponent}, the absolute threshold too: its square leaves the range of {dtype}"
            yield question(
                "magnitude", f"1e{exponent}-theta", ("theta", *flags), reason, parameters
            )


def _truncations() -> Iterator[ConformanceCase]:
    for name, (threshold, reason) in TRUNCATIONS.items():
        both = FIXED if name in FIXED_AT else {}
        for clip, (ranks, clip_reason) in (CLIPPINGS | both).items():
            parameters = CaseParameters(
                14, 11, 4, "algebraic", "dense", learning_rate=0.05, **(threshold | ranks)
            )
            yield question(
                "truncation", f"{name}-{clip}", (name, clip), f"{reason}; {clip_reason}", parameters
            )


def _traps() -> Iterator[ConformanceCase]:
    for name, parameters in TRAPS.items():
        flags = ("complex",) if parameters.complex else ()
        yield question("trap", name.replace(",", ""), flags, name, parameters)


def _complex() -> Iterator[ConformanceCase]:
    for name in COMPLEX:
        for core in ("dense", "diagonal", "zero"):
            m, n, r, _ = SHAPES[name]
            parameters = CaseParameters(m, n, r, "algebraic", core, tau=0.05, complex=True)
            yield question(
                "complex",
                f"{name}-{core}",
                ("complex", name, core),
                "every transpose is a conjugate transpose",
                parameters,
            )


def _one_sided() -> Iterator[ConformanceCase]:
    for gradient in ONE_SIDED:
        for name in ("1e-3", "1"):
            for core in ("diagonal", "dense"):
                parameters = CaseParameters(
                    11, 8, 3, "algebraic", core, gradient, learning_rate=RATES[name][0], tau=0.0
                )
                yield question(
                    "gradient",
                    f"{gradient}-{core}-rate-{name}",
                    (gradient, core),
                    GRADIENT_REASONS[gradient],
                    parameters,
                )


def _limits() -> Iterator[ConformanceCase]:
    for state, (p, where) in LIMITED.items():
        limits: dict[str, dict[str, Any]] = {
            "tau": {"tau": 0.3},
            "theta": {"tau": None, "theta": 0.3 * p.magnitude},
            "min": {"tau": 1.0, "min_rank": 2},
            "min-beyond": {"tau": 0.3, "min_rank": 2 * p.r + 1},
            "max": {"tau": 0.0, "max_rank": p.r - 1},
            "at": {"tau": 0.0, "max_rank": p.r},
            "max-beyond": {"tau": 0.0, "max_rank": 64},
        }
        for name, reason in LIMITS.items():
            if name in NEVER.get(state, ()):
                continue
            flags = (state, name, *(("complex",) if p.complex else ()))
            yield question(
                "limit", f"{state}-{name}", flags, f"{where}: {reason}", replace(p, **limits[name])
            )


def _fixed_beyond() -> Iterator[ConformanceCase]:
    for state in ("no-step", "rank-one", "from-zero", "no-gradient", "complex"):
        p, where = LIMITED[state]
        rank = 2 * p.r + 1
        flags = (state, "fixed-beyond", *(("complex",) if p.complex else ()))
        reason = f"{where}: min_rank = max_rank > 2r: all directions are kept"
        yield question(
            "limit",
            f"{state}-fixed-beyond",
            flags,
            reason,
            replace(p, tau=0.3, min_rank=rank, max_rank=rank),
        )


def _smallest() -> Iterator[ConformanceCase]:
    for name, (m, n, r, reason) in SMALLEST.items():
        for core in ("dense", "zero"):
            yield question(
                "shape",
                f"{name}-{core}",
                (name, core),
                reason,
                CaseParameters(m, n, r, "algebraic", core, tau=0.05),
            )


def _thresholds() -> Iterator[ConformanceCase]:
    for name, (threshold, reason) in THRESHOLDS.items():
        for core in ("diagonal", "dense"):
            parameters = CaseParameters(12, 9, 4, "flat", core, "zero", **threshold)
            yield question("threshold", f"{name}-{core}", (name, core), reason, parameters)
    parameters, reason = (
        CaseParameters(12, 9, 4, "small", "diagonal", "zero"),
        "τ = 0, and the last singular value is 9e-13",
    )
    yield question("threshold", "small-diagonal", ("small", "diagonal"), reason, parameters)
    parameters = CaseParameters(12, 9, 4, "algebraic", "diagonal", "zero", tau=0.565, max_rank=2)
    reason = "τ is relative to all of Ŵ, and not to the largest max_rank values, by which 2 directions would stay, and not 1"
    yield question(
        "threshold", "capped-diagonal", ("tau", "max_rank", "diagonal"), reason, parameters
    )


def _blocks() -> Iterator[ConformanceCase]:
    for name, (m, n, r, reason) in BLOCKS.items():
        for core, core_reason in BLOCK_REASONS.items():
            tau, cap = (0.05 if core == "dense" else 0.0), (r if core == "diagonal" else None)
            parameters = CaseParameters(m, n, r, "algebraic", core, tau=tau, max_rank=cap)
            yield question(
                "block", f"{name}-{core}", (name, core), f"{reason}; {core_reason}", parameters
            )
    for name, (m, n, r, reason) in SIZES.items():
        yield question(
            "block",
            f"{name}-dense",
            (name, "dense"),
            reason,
            CaseParameters(m, n, r, "algebraic", "dense", tau=0.05),
        )
    m, n, r, reason = SIZES["capacity-64"]
    parameters = CaseParameters(m, n, r, "geometric", "dense", "zero", tau=3e-9)
    reason += "; of a tail of 3e-9 the whole sum of squares less the leading part is rounding"
    yield question(
        "block", "capacity-64-threshold", ("capacity-64", "tau", "dense"), reason, parameters
    )
    for name in ("aligned-tall", "core"):
        m, n, r, reason = BLOCKS[name]
        parameters = CaseParameters(m, n, r, "algebraic", "zero", "zero")
        yield question(
            "block",
            f"{name}-nothing",
            (name, "zero"),
            f"{reason}; S = 0 and no gradient: Ŵ = 0",
            parameters,
        )
    for name in ("aligned-tall", "rows"):
        m, n, r, reason = BLOCKS[name]
        parameters = CaseParameters(m, n, r, "algebraic", "dense", tau=0.05, complex=True)
        yield question(
            "block",
            f"{name}-complex",
            (name, "complex"),
            f"{reason}; transposes are conjugate there, too",
            parameters,
        )
    for name in ("rows", "columns"):
        for gradient, gradient_reason in DEFICIENT.items():
            m, n, r, reason = BLOCKS[name]
            parameters = CaseParameters(m, n, r, "algebraic", "dense", gradient, tau=0.05)
            yield question(
                "block",
                f"{name}-{gradient}",
                (name, gradient),
                f"{reason}; {gradient_reason}",
                parameters,
            )


def _sequences() -> Iterator[ConformanceCase]:
    for core in ("diagonal", "zero"):
        for trained in (False, True):
            for name, parameters in {
                "growing": CaseParameters(16, 12, 2, "algebraic", core, tau=1e-4, max_rank=10),
                "shrinking": CaseParameters(
                    16, 12, 8, "geometric", core, learning_rate=0.5, tau=0.3
                ),
                "capped": CaseParameters(16, 12, 4, "algebraic", core, tau=0.0, max_rank=4),
            }.items():
                trap = (
                    "S is trained between the steps" if trained else "each output is the next input"
                )
                suffix = "trained" if trained else "plain"
                reason = f"20 steps with {name} rank; {trap}: errors that one step hides add up"
                yield question(
                    "sequence",
                    f"{name}-{core}-{suffix}",
                    (name, core, suffix),
                    reason,
                    parameters,
                    steps=20,
                    trained=trained,
                )


def _returned() -> Iterator[ConformanceCase]:
    for core in ("diagonal", "zero"):
        parameters = CaseParameters(16, 12, 4, "algebraic", core, tau=0.0, max_rank=4)
        reason = "20 steps, S₁ is trained in the array that the backend has returned: what it remembers of it is no longer so"
        flags = ("returned", core)
        yield question(
            "sequence",
            f"returned-{core}",
            flags,
            reason,
            parameters,
            steps=20,
            trained=True,
            returned=True,
        )


def _schedules() -> Iterator[ConformanceCase]:
    for name, (special, changed, what) in SCHEDULES.items():
        parameters = replace(CaseParameters(16, 12, 4, "algebraic", "dense"), **special)
        reason = f"{what} changes in the fifth step, in the arrays of all steps before: nothing may be kept with them"
        more: dict[str, Any] = {"steps": 5, "last": tuple(changed.items())}
        yield question(
            "sequence",
            f"scheduled-{name}",
            ("scheduled", name),
            reason,
            parameters,
            trained=True,
            **more,
        )
        if name in PLAIN_SCHEDULES:
            reason = f"{what} changes in the fifth step, and each output is the next input: nothing may be kept with results"
            flags = ("scheduled", name, "plain")
            yield question("sequence", f"scheduled-{name}-plain", flags, reason, parameters, **more)


def _complex_gradients() -> Iterator[ConformanceCase]:
    for name, (changed, reason) in COMPLEX_GRADIENTS.items():
        parameters = replace(
            CaseParameters(11, 8, 3, "algebraic", "dense", complex=True), **changed
        )
        yield question(
            "complex",
            f"gradient-{name}",
            ("complex", name),
            f"complex numbers, and {reason}",
            parameters,
        )
    parameters = CaseParameters(16, 12, 3, "algebraic", "dense", tau=1e-3, max_rank=6, complex=True)
    reason = "complex numbers over 10 steps, and S is trained in between"
    yield question(
        "complex", "sequence", ("complex", "trained"), reason, parameters, steps=10, trained=True
    )


def _long_runs() -> Iterator[ConformanceCase]:
    for name, gradient in (
        ("quadratic", "quadratic"),
        ("zero-gradient", "zero"),
        ("rank-one-gradient", "rank one"),
    ):
        parameters = CaseParameters(
            20, 14, 4, "algebraic", "diagonal", gradient, learning_rate=0.02, tau=1e-3, max_rank=6
        )
        reason = "100 steps: the bases must stay orthonormal, a defect may not grow like the number of steps"
        yield question("long-run", name, ("orthonormality",), reason, parameters, steps=100)


def _layouts() -> Iterator[ConformanceCase]:
    for layout, reason in LAYOUTS.items():
        for name in (*LAYOUT_SHAPES, *(() if layout == "mixed" else STRIDED), *LARGER):
            m, n, r, _ = SHAPES[name]
            parameters = CaseParameters(m, n, r, "algebraic", "dense", tau=0.05)
            yield question(
                "layout",
                f"{layout}-{name}",
                (layout, name),
                f"{reason}: strides have to be read",
                parameters,
                layout=layout,
            )
        m, n, r, _ = SIZES["capacity-32"]
        parameters = CaseParameters(m, n, r, "algebraic", "dense", tau=0.05)
        yield question(
            "block",
            f"layout-{layout}",
            ("layout", layout),
            f"{reason}, where there are blocks, too",
            parameters,
            layout=layout,
        )
    for layout in ("columns", "long"):
        m, n, r, _ = SHAPES["tall"]
        parameters = CaseParameters(m, n, r, "algebraic", "dense", tau=0.05, complex=True)
        reason = f"{LAYOUTS[layout]}: what is transposed by its strides is not conjugated"
        yield question(
            "layout", f"{layout}-complex", (layout, "complex"), reason, parameters, layout=layout
        )


def _bases() -> Iterator[ConformanceCase]:
    for name, (parameters, reason) in BASES.items():
        yield question(
            "basis", name, (parameters.bases,), f"U and V have exact zeros: {reason}", parameters
        )


def _graded() -> Iterator[ConformanceCase]:
    for gradient, reason in GRADES.items():
        parameters = CaseParameters(12, 10, 3, "algebraic", "dense", gradient, learning_rate=1.0)
        yield question(
            "gradient", f"{gradient}-dense-rate-1", (gradient, "dense"), reason, parameters
        )


def _tails() -> Iterator[ConformanceCase]:
    sigma = SPECTRA["algebraic"](4)
    tails = [float(np.linalg.norm(sigma[kept:])) for kept in range(4)]
    for kept in (1, 3):
        for side, factor in TAILS.items():
            limits: dict[str, dict[str, Any]] = {
                "tau": {"tau": factor * tails[kept] / tails[0]},
                "theta": {"tau": None, "theta": factor * tails[kept]},
            }
            for kind, threshold in limits.items():
                parameters = CaseParameters(12, 9, 4, "algebraic", "diagonal", "zero", **threshold)
                reason = f"the threshold is 1e-9 {side} the tail behind {kept}, in numbers that single precision has not"
                yield question(
                    "threshold",
                    f"tail-{kept}-{kind}-{side}-diagonal",
                    (kind, side, "diagonal"),
                    reason,
                    parameters,
                )


def _directions() -> Iterator[ConformanceCase]:
    for name, (parameters, reason) in DIRECTIONS.items():
        flags = ("complex",) if parameters.complex else ()
        said = f"the directions of an optimizer, dS is neither UᴴdK nor (VᴴdL)ᴴ: {reason}"
        yield question("directions", name, flags, said, parameters)


def _subnormal() -> Iterator[ConformanceCase]:
    for name, (size, rate, needed, reason) in SUBNORMAL.items():
        for core in ("dense", "zero"):
            parameters = CaseParameters(
                9, 7, 3, "algebraic", core, learning_rate=rate, tau=0.05, magnitude=size
            )
            yield question(
                "magnitude", f"{name}-{core}", (core, needed, "subnormal"), reason, parameters
            )


def _negated() -> Iterator[ConformanceCase]:
    for name in ("tall", "larger"):
        m, n, r, _ = SHAPES[name]
        parameters = CaseParameters(m, n, r, "algebraic", "dense", tau=0.05)
        yield question(
            "array", f"negated-{name}", ("negated", name), NEGATED, parameters, layout="negated"
        )
    m, n, r, _ = SHAPES["tall"]
    for name in ("U", "S", "V", "dK", "dL", "dS"):
        parameters = CaseParameters(m, n, r, "algebraic", "dense", tau=0.05)
        reason = f"{name} alone has its negative bit set, as the imaginary part of a conjugate has in torch"
        yield question(
            "array",
            f"negated-{name}",
            ("negated", name),
            reason,
            parameters,
            layout=f"negated:{name}",
        )


def _small() -> Iterator[ConformanceCase]:
    for name, (threshold, reason) in SMALL.items():
        for core in ("diagonal", "dense"):
            parameters = CaseParameters(12, 9, 4, "small", core, "zero", **threshold)
            yield question(
                "threshold", f"small-{name}-{core}", ("small", name, core), reason, parameters
            )


def _long_trained() -> Iterator[ConformanceCase]:
    parameters = CaseParameters(
        12, 9, 3, "algebraic", "diagonal", learning_rate=0.02, tau=1e-3, max_rank=3
    )
    reason = "60 steps, S is trained in place: what is kept with arrays for some steps is wrong in later ones"
    yield question("long-run", "trained", ("trained",), reason, parameters, steps=60, trained=True)
    reason = "64 equal values: τ = 0.995 lets all but one go, and 0.99 only 62"
    parameters = CaseParameters(
        64, 64, 64, "flat", "dense", "zero", learning_rate=0.0, tau=0.995, bases="thin"
    )
    yield question("threshold", "near-one", ("tau", "near-one"), reason, parameters)

"""Cases at the sizes of layers: multiples of 512, more numbers in a factor than 16 bits count, and
cores above 144.

The cases are data only and belong to the catalogue.  Gradients lie in the tangent space and ranks
are small, so that a case takes some 0.1 s.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from geolora_ref.oracle.cases.case import ConformanceCase, question
from geolora_ref.oracle.cases.spectra import SPECTRA
from geolora_ref.oracle.cases.step_case import CaseParameters

__all__ = ["layer_cases"]

SIZES: dict[str, tuple[int, int, int, str, dict[str, dict[str, Any]]]] = {
    "attention": (
        *(768, 768, 4, "m = n = 768, the usual width of a layer"),
        {"tau": {"tau": 0.3}, "max-at": {"max_rank": 4}, "theta": {"tau": None, "theta": 2.0}},
    ),
    "tall": (
        *(1024, 512, 4, "m and n are multiples of 512, m > n"),
        {"min-above": {"tau": 1.0, "min_rank": 6}, "max-above": {"max_rank": 5}},
    ),
    "wide": (
        *(512, 1024, 4, "m and n are multiples of 512, m < n"),
        {"theta": {"tau": None, "theta": 2.0}, "max-below": {"max_rank": 3}},
    ),
    "square": (1024, 1024, 2, "m·n = 2²⁰", {"none": {}}),
    "long": (4096, 512, 3, "m = 4096, and m·n·r > 2²²", {"max-at": {"max_rank": 3}}),
    "long-wide": (512, 4096, 2, "n = 4096", {"max-at": {"max_rank": 2}}),
    "mlp": (
        3072,
        768,
        2,
        "m = 3072, as in a multilayer perceptron",
        {"theta": {"tau": None, "theta": 1.0}},
    ),
    "mlp-wide": (
        768,
        3072,
        2,
        "n = 3072, as in a multilayer perceptron",
        {"theta": {"tau": None, "theta": 1.0}},
    ),
    "power": (2048, 256, 2, "m = 2048", {"tau": {"tau": 0.3}}),
    "power-wide": (256, 2048, 2, "n = 2048", {"tau": {"tau": 0.3}}),
    "index": (
        8192,
        16,
        9,
        "m·r > 65536: an index of 16 bits into dK, U or K_new wraps",
        {"tau": {"tau": 0.1}},
    ),
    "index-wide": (
        16,
        8192,
        9,
        "n·r > 65536: an index of 16 bits into dL, V or L_new wraps",
        {"tau": {"tau": 0.1}},
    ),
    "vocabulary": (
        65664,
        3,
        2,
        "m > 65536, as in an embedding: an index of 16 bits of a row wraps",
        {"none": {}},
    ),
    "vocabulary-wide": (
        3,
        65664,
        2,
        "n > 65536: an index of 16 bits of a column wraps",
        {"none": {}},
    ),
    "core": (170, 165, 80, "Ŝ is 160 x 160", {"tau": {"tau": 0.01}}),
    "core-200": (205, 202, 100, "Ŝ is 200 x 200", {"none": {}}),
    "rank-96": (
        200,
        200,
        96,
        "r = 96: 32 and 64, and 2r = 192",
        {"theta": {"tau": None, "theta": 0.1}},
    ),
}
"""m, n, r, the reason, and the limits of the rank."""


HARD = {
    "skinny": (2304, 16, 4, "m is more than a hundred times n"),
    "skinny-wide": (16, 2304, 4, "n is more than a hundred times m"),
}
"""Sizes at which the residual is 1e-9 of the gradient."""
TAILS = {"104": (110, 107, 104), "200": (204, 202, 200)}
"""m, n, r of cores whose sums of squares single precision does not hold."""
KEPT = 20
CLOSE = {"above": 1.0 + 1e-9, "below": 1.0 - 1e-9}
EQUAL = 512
"""The number of equal singular values: more than 1/(1 − 0.999²) = 500.3, so that a τ of 0.999 keeps
two of them.
"""


def layer_cases() -> Iterator[ConformanceCase]:
    """All cases of this module."""
    for shape, (m, n, r, why, limits) in SIZES.items():
        plain = CaseParameters(m, n, r, "algebraic", "dense", "tangent", bases="thin")
        for name, limit in limits.items():
            yield question(
                "layer",
                f"{shape}-{name}",
                (shape, name),
                f"the size of a layer: {why}",
                replace(plain, **limit),
            )
    for shape, (m, n, r, why) in HARD.items():
        parameters = CaseParameters(
            m, n, r, "algebraic", "dense", "nearly in the range", learning_rate=1.0, bases="thin"
        )
        reason = f"the size of a layer: {why}; one pass of orthogonalisation is not enough"
        yield question("layer", f"{shape}-nearly-in-the-range", (shape,), reason, parameters)
    yield from _tails()
    parameters = CaseParameters(
        EQUAL, EQUAL, EQUAL, "flat", "diagonal", "zero", learning_rate=0.0, tau=1.0, bases="thin"
    )
    reason = f"{EQUAL} equal values: τ = 1 lets all but one go, and 0.999 only all but two"
    yield question("layer", "equal-values", ("tau", "equal-values"), reason, parameters)


def _tails() -> Iterator[ConformanceCase]:
    for name, (m, n, r) in TAILS.items():
        sigma = SPECTRA["algebraic"](r)
        tail = float(np.linalg.norm(sigma[KEPT:]))
        for side, factor in CLOSE.items():
            limits: dict[str, dict[str, Any]] = {
                "tau": {"tau": factor * tail / float(np.linalg.norm(sigma))},
                "theta": {"tau": None, "theta": factor * tail},
            }
            for kind, threshold in limits.items():
                parameters = CaseParameters(
                    m, n, r, "algebraic", "diagonal", "zero", bases="thin", **threshold
                )
                reason = f"Ŝ has {n} columns; the threshold is 1e-9 {side} the tail after {KEPT}: sums need double precision"
                yield question(
                    "layer",
                    f"core-{name}-tail-{kind}-{side}",
                    ("tail", kind, side),
                    reason,
                    parameters,
                )

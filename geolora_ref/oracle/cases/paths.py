"""Cases that combine the sizes for which kernels have separate paths with the options and states
such a path may forget.

The cases are data only and belong to the catalogue.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from geolora_ref.oracle.cases.case import ConformanceCase, question
from geolora_ref.oracle.cases.step_case import CONSTANT, CaseParameters

__all__ = ["TOGETHER", "at_size", "path_cases"]

SIZES = {
    "vector": (128, 144, 1, "r = 1 at aligned sizes: one column has a path for vectors"),
    "fours": (
        *(20, 12, 4),
        "all sizes are multiples of 4, and of nothing larger: four numbers are read at a time",
    ),
    "eights": (
        *(24, 40, 8),
        "all sizes are multiples of 8, and not of 16: eight numbers are read at a time",
    ),
    "template": (
        *(128, 160, 8),
        "r = 8 at sizes that are multiples of 32: the rank for which code is compiled",
    ),
    "tile-remainder": (
        *(129, 97, 33),
        "one past a multiple of 32 in every size: the remainder is one row, one column",
    ),
    "whole-remainder": (33, 33, 33, "r = m = n, one past a tile"),
}
"""m, n, r and the reason; other sizes are for ``--shape``."""
LIMITS = {
    "none": "no limit: everything is kept",
    "tau": "a relative threshold",
    "theta": "an absolute threshold",
    "all": "τ = 1 lets everything go but one direction",
    "min-below": "a minimum rank below r, above what the threshold keeps",
    "min-at": "a minimum rank of r, above what the threshold keeps",
    "min-above": "a minimum rank above r, and above what the threshold keeps",
    "min-beyond": "a minimum rank above what there is",
    "max-below": "a cap below r",
    "max-at": "a cap at r",
    "max-above": "a cap above r",
    "capped": "a cap and a relative threshold, which is relative to all of Ŵ",
    "fixed": "min_rank = max_rank, another rank than r",
}
STATES = {
    "still": "λ = 0 and a cap: the truncation of W alone",
    "start": "S = 0, the usual start, and a relative threshold",
    "nothing": "Ŵ = 0 and a minimum rank above 1: directions are completed from nothing",
    "no-gradient": "no gradient, and new directions are wanted",
    "tiny": "squares leave the range of double precision",
    "small": "squares leave the range of single precision",
    "diagonal": "a diagonal S with a cap, as in training",
    "complex": "complex numbers",
    "sequence": "3 steps: each output is the next input, and S is trained in between",
}
FEW = {
    "tile-remainder": ("tau", "min-above", "max-below", "start", "complex"),
    "whole-remainder": ("tau", "max-below"),
}
"""The limits and states of some sizes, where all would take too long."""
HARD_SIZES = {
    "attention": (
        64,
        64,
        16,
        "m = n and nothing is left over of any block, as in the layers of an attention",
    ),
}
HARD_GRADIENTS = {
    "nearly in the range": "the residual is 1e-9 of the gradient: one pass of orthogonalisation is not enough",
    "rank one": "the residuals have rank one, as where the rows of a batch are alike",
    "graded": "the residuals' singular values fall to 3e-11, as those of real gradients do",
    "steep": "the residuals' singular values fall to 1e-7: their squares to the rounding of double precision",
    "normal": "P(W)G = 0: a fixed point, however large G is",
    "core": "UᴴGV is all there is: K and L carry rounding in their new columns",
    "left": "only K moves",
    "right": "only L moves",
    "huge": "the gradient dwarfs W",
    "tiny": "the gradient is lost beside W",
}
HARD_SPECTRA = {
    "flat": "all singular values are equal: every truncation is a tie",
    "geometric": "singular values from 1 to 1e-8",
    "clustered": "clusters that rounding cannot tell apart",
    "one_tiny": "one singular value of 1e-14",
    "zero_tail": "exact zeros behind the first half",
}
TIES = {"above": 0.5 + 5e-10, "below": 0.5 - 5e-10}
"""τ on either side of the tail after the first three quarters of equal singular values."""
SMALLEST = {
    "one-by-one": (1, 1, 1, "Ŵ = 0, of one number"),
    "rank-one": (9, 7, 1, "Ŵ = 0 at r = 1"),
    "full-rank": (9, 4, 4, "Ŵ = 0 without a new column on one side"),
    "square": (7, 7, 3, "Ŵ = 0"),
}
EXPONENTS = {
    -170: "double-range",
    -140: "double-range",
    140: "double-range",
    160: "double-range",
    -25: "wide-range",
    25: "wide-range",
}
SINGLE = ("U", "S", "V", "dK", "dL", "dS")
"""Arguments, each of which is once the only one that is not in row-major order."""
ALONE = {
    "columns": "column by column, as a transposed array does",
    "padded": "in the first columns of a wider array",
    "spaced": "in every second column of a wider array",
}
TOGETHER = {
    "swapped": "the factors lie in memory column by column, the gradients row by row",
    "expanded": "the rows of dK and dL are one row that is repeated with a stride of 0, as an expanded gradient has it",
    "mixed": "the factors lie in memory row by row, the gradients column by column",
    "padded": "the arguments are the first columns of wider arrays",
    "lazy": "the arguments are conjugates of what lies in memory, as torch's conj() and mH leave them",
}
STRIDED_SIZES = {
    "square": (8, 8, 3),
    "tall": (13, 5, 2),
    "wide": (5, 13, 2),
}
STACKS = {
    6: "more than five problems",
    9: "one more than eight",
    17: "one more than sixteen",
    33: "one more than 32",
}


def limits(m: int, n: int, r: int) -> dict[str, dict[str, Any]]:
    """Every way to limit the rank, as parameters, by the names of ``LIMITS`` that are possible at
    this size.
    """
    columns, theta = min(2 * r, m, n), round(0.03 * ((m + n) * r) ** 0.5, 3)
    found: dict[str, dict[str, Any]] = {
        "none": {},
        "tau": {"tau": 0.3},
        "theta": {"tau": None, "theta": theta},
        "all": {"tau": 1.0},
        "min-below": {"tau": 1.0, "min_rank": r - 1},
        "min-at": {"tau": 1.0, "min_rank": r},
        "min-above": {"tau": 1.0, "min_rank": min(r + max(2, r // 4), columns)},
        "min-beyond": {"tau": 0.3, "min_rank": columns + 1},
        "max-below": {"max_rank": r - 1},
        "max-at": {"max_rank": r},
        "max-above": {"max_rank": r + max(1, r // 4)},
        "capped": {"tau": 0.5, "max_rank": max(5 * r // 8, 1)},
        "fixed": {"min_rank": max(r - 2, 2), "max_rank": max(r - 2, 2)},
    }
    # no matrix has a rank above min(m, n), so backends may refuse such a minimum rank
    absent = {
        "min-above": columns == r,
        "min-below": r == 1,
        "max-below": r == 1,
        "min-beyond": columns == min(m, n),
    }
    absent["fixed"] = min(m, n) == 1
    return {name: limit for name, limit in found.items() if not absent.get(name, False)}


def states(r: int, columns: int) -> dict[str, dict[str, Any]]:
    """States that code for a size may forget, as parameters of a case, by the names of ``STATES``."""
    more = min(r + 2, columns)
    return {
        "still": {"learning_rate": 0.0, "max_rank": max(r // 2, 1)},
        "start": {"tau": 0.3, "core": "zero"},
        "nothing": {"core": "zero", "gradient": "zero", "min_rank": more},
        "no-gradient": {"gradient": "zero", "min_rank": more},
        "tiny": {"tau": 0.1, "magnitude": 1e-170},
        "small": {"tau": 0.1, "magnitude": 1e-25},
        "diagonal": {"core": "diagonal", "max_rank": r},
        "complex": {"tau": 0.1, "complex": True},
        "sequence": {"tau": 0.1, "max_rank": r + 2},
    }


def at_size(
    group: str, shape: str, m: int, n: int, r: int, why: str, only: tuple[str, ...] = ()
) -> Iterator[ConformanceCase]:
    """The cases with every limit and every state at one size, or only with the named ones."""
    plain = CaseParameters(m, n, r, "algebraic", "dense", "tangent", bases="thin")
    options, reasons = limits(m, n, r) | states(r, min(2 * r, m, n)), LIMITS | STATES
    for name in only or options:
        if name not in options:
            continue
        needed = {"tiny": ("double-range",), "small": ("wide-range",), "complex": ("complex",)}.get(
            name, ()
        )
        more = {"steps": 3, "trained": True} if name == "sequence" else {}
        parameters = replace(plain, **options[name])
        yield question(
            group,
            f"{shape}-{name}",
            (shape, name, *needed),
            f"{why}: {reasons[name]}",
            parameters,
            **more,
        )


def path_cases() -> Iterator[ConformanceCase]:
    """All cases of this module."""
    for shape, (m, n, r, why) in SIZES.items():
        yield from at_size("path", shape, m, n, r, why, FEW.get(shape, ()))
    yield from _hard()
    yield from _nothing()
    yield from _magnitudes()
    yield from _arrays()
    yield from _complex()
    for count, many in STACKS.items():
        parameters = CaseParameters(
            12, 9, 3, "algebraic", "dense", "tangent", tau=0.1, bases="thin"
        )
        reason = f"a stack of {count} problems, {many}: the rest of a grid of blocks"
        flags = ("stack", "small")
        yield question("stack", f"{count}-small", flags, reason, parameters, problems=count)


def _hard() -> Iterator[ConformanceCase]:
    for shape, (m, n, r, why) in HARD_SIZES.items():
        plain = CaseParameters(m, n, r, "algebraic", "dense", bases="thin")
        for gradient, trap in HARD_GRADIENTS.items():
            range_needed = ("wide-range",) if gradient == "huge" else ()
            parameters = replace(plain, gradient=gradient, learning_rate=1.0)
            yield question(
                "hard",
                f"{shape}-{gradient}",
                (shape, gradient, *range_needed),
                f"{why}: {trap}",
                parameters,
            )
        for spectrum, trap in HARD_SPECTRA.items():
            for gradient in ("zero", "tangent"):
                parameters = replace(
                    plain, spectrum=spectrum, gradient=gradient, learning_rate=0.01, tau=1e-3
                )
                flags = (shape, spectrum, gradient)
                yield question(
                    "hard", f"{shape}-{spectrum}-{gradient}", flags, f"{why}: {trap}", parameters
                )
        for side, tau in TIES.items():
            parameters = replace(plain, spectrum="flat", gradient="zero", tau=tau)
            reason = f"{why}: of equal singular values the tail is 1e-9 {'below' if side == 'above' else 'above'} the threshold"
            yield question(
                "hard", f"{shape}-tau-just-{side}", (shape, "tau", side), reason, parameters
            )


def _nothing() -> Iterator[ConformanceCase]:
    for shape, (m, n, r, why) in SMALLEST.items():
        for least in sorted({2, r + 1} & set(range(min(m, n) + 1))):
            parameters = CaseParameters(m, n, r, "algebraic", "zero", "zero", min_rank=least)
            reason = f"{why}; min_rank = {least}: directions are completed from nothing"
            yield question("nothing", f"{shape}-min-{least}", (shape,), reason, parameters)
        parameters = CaseParameters(
            m,
            n,
            r,
            "algebraic",
            "zero",
            "zero",
            learning_rate=0.0,
            tau=0.3,
            min_rank=min(2, m, n),
            max_rank=3,
        )
        yield question(
            "nothing", f"{shape}-still", (shape,), f"{why}, λ = 0; a minimum and a cap", parameters
        )
        parameters = CaseParameters(m, n, r, "algebraic", "zero", "zero", tau=None, theta=0.0)
        reason = f"{why}, ϑ = 0: one direction is enough, because the others may go where their tail is at most ϑ"
        yield question("nothing", f"{shape}-theta-0", (shape, "theta"), reason, parameters)


def _magnitudes() -> Iterator[ConformanceCase]:
    for exponent, needed in EXPONENTS.items():
        for core in ("dense", "zero"):
            for shape, (m, n) in {"rank-one": (9, 7), "one-row": (1, 7)}.items():
                if core == "zero" and shape == "one-row":
                    continue
                parameters = CaseParameters(
                    m, n, 1, "algebraic", core, tau=0.05, magnitude=10.0**exponent
                )
                reason = f"r = 1, all numbers are of size 1e{exponent}: squares or products of three leave the range of the dtype"
                yield question(
                    "magnitude",
                    f"{shape}-1e{exponent}-{core}",
                    (core, shape, needed),
                    reason,
                    parameters,
                )


def _arrays() -> Iterator[ConformanceCase]:
    tall = CaseParameters(13, 5, 2, "algebraic", "dense", "tangent", tau=0.05, bases="thin")
    for name in SINGLE:
        for layout, how in ALONE.items():
            reason = f"{name} alone lies in memory {how}: each argument has strides of its own"
            where, flags = f"{layout}:{name}", (name, layout, "tall")
            yield question("array", f"{name}-{layout}-tall", flags, reason, tall, layout=where)
    for layout in ("swapped", "expanded"):
        for shape, (m, n, r) in STRIDED_SIZES.items():
            gradient = CONSTANT if layout == "expanded" else "tangent"
            plain = CaseParameters(m, n, r, "algebraic", "dense", gradient, tau=0.05, bases="thin")
            name, reason = f"{layout}-{shape}", TOGETHER[layout]
            yield question("array", name, (layout, shape), reason, plain, layout=layout)


def _complex() -> Iterator[ConformanceCase]:
    for name in SINGLE:
        parameters = CaseParameters(
            13, 5, 2, "algebraic", "dense", "tangent", tau=0.05, complex=True, bases="thin"
        )
        reason = f"{name} alone is the conjugate of what lies in memory, as torch's mH leaves it"
        yield question(
            "array",
            f"complex-lazy-{name}",
            ("complex", "lazy", name),
            reason,
            parameters,
            layout=f"lazy:{name}",
        )
    for shape, (m, n) in {"one-row": (1, 7), "one-column": (7, 1), "one-by-one": (1, 1)}.items():
        for core in ("dense", "zero"):
            parameters = CaseParameters(m, n, 1, "algebraic", core, tau=0.05, complex=True)
            reason = "a conjugate transpose of a single row or column is no reshaping"
            yield question(
                "complex", f"{shape}-{core}", ("complex", shape, core), reason, parameters
            )
    for layout in ("spaced", "padded", "reversed", "flat", "mixed", "swapped", "expanded", "lazy"):
        gradient = CONSTANT if layout == "expanded" else "tangent"
        parameters = CaseParameters(
            13, 5, 2, "algebraic", "dense", gradient, tau=0.05, complex=True, bases="thin"
        )
        reason = (
            TOGETHER["lazy"]
            if layout == "lazy"
            else f"complex numbers in the layout {layout}: real and imaginary parts alternate"
        )
        name, flags = f"complex-{layout}-tall", ("complex", layout, "tall")
        yield question("array", name, flags, reason, parameters, layout=layout)

"""The inputs for which backends may take a path of their own: sizes, layouts and states, by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from geolora_ref.arrays import Matrix

__all__ = [
    "BACKWARDS",
    "BEYOND",
    "LAYOUTS",
    "NAMES",
    "PLACES",
    "SHAPES",
    "THRESHOLDS",
    "TINY",
    "Given",
    "Place",
    "negated",
]

NAMES = ("U", "S", "V", "dK", "dL", "dS")
"""The arguments of a step."""
LAYERS = {
    "attention": (768, 768, 4),
    "tall": (1024, 512, 4),
    "wide": (512, 1024, 4),
    "square": (1024, 1024, 2),
    "long": (4096, 512, 3),
    "long-wide": (512, 4096, 2),
    "mlp": (3072, 768, 2),
    "mlp-wide": (768, 3072, 2),
    "power": (2048, 256, 2),
    "power-wide": (256, 2048, 2),
    "skinny": (2304, 16, 4),
    "skinny-wide": (16, 2304, 4),
    "index": (8192, 16, 9),
    "index-wide": (16, 8192, 9),
    "vocabulary": (65664, 3, 2),
    "vocabulary-wide": (3, 65664, 2),
    "core": (170, 165, 80),
    "core-200": (205, 202, 100),
    "rank-96": (200, 200, 96),
}
"""m, n and r of layers."""
SHAPES = {
    "square": (8, 8, 3),
    "tall": (13, 5, 2),
    "wide": (5, 13, 2),
    "rank-one": (9, 6, 1),
    "larger": (48, 33, 8),
}
BACKWARDS = ("backwards", "turned")
LAYOUTS = ("columns", "spaced", "mixed", "padded", "long", "reversed", "flat", *BACKWARDS)
"""Memory layouts of the kit."""
THRESHOLDS = ("theta-0", "theta-tiny", "tau-tiny")
TINY = {"double": (2.0**-1074, 2.0**-1022), "single": (2.0**-149, 2.0**-126)}
"""The smallest subnormal and normal numbers."""


class Given(NamedTuple):
    """The inputs by which code may choose a branch: the sizes, the arrays by name, and the parameters."""

    m: int
    n: int
    r: int
    arrays: Mapping[str, Matrix]
    parameters: Mapping[str, Any]

    @staticmethod
    def of(arrays: Sequence[Matrix], parameters: Mapping[str, Any]) -> Given:
        """The inputs of a step with these arguments."""
        named = dict(zip(NAMES, arrays, strict=True))
        return Given(len(named["U"]), len(named["V"]), len(named["S"]), named, parameters)

    @property
    def strided(self) -> set[str]:
        """The names of the arguments that are not C-contiguous."""
        return {
            name
            for name, X in self.arrays.items()
            if isinstance(X, np.ndarray) and not X.flags.c_contiguous
        }


@dataclass(frozen=True)
class Place:
    """The inputs for which a separate path is taken, in words and as a predicate."""

    words: str
    holds: Callable[[Given], bool]


def _alone(name: str) -> Place:
    return Place(f"{name} alone does not lie row by row", lambda x: x.strided == {name})


def _multiples(k: int) -> Place:
    return Place(f"m, n and r are multiples of {k}", lambda x: x.m % k == x.n % k == x.r % k == 0)


def _left_over(name: str, rest: int, r: int) -> Place:
    """m or n has this remainder by 4 at this rank, as a kernel for the rank has it in vectors of 4."""
    return Place(
        f"r = {r} and {name} ≡ {rest} (mod 4)", lambda x: x.r == r and getattr(x, name) % 4 == rest
    )


def _large_core(size: int, threshold: str) -> Place:
    """A core with more columns than this, and a relative or an absolute threshold."""
    words = "a relative" if threshold == "tau" else "an absolute"
    return Place(
        f"Ŝ has more than {size} columns, and there is {words} threshold",
        lambda x: min(2 * x.r, x.m, x.n) > size and bool(x.parameters[threshold]),
    )


def _fixed_beyond(x: Given, state: Callable[[Given], bool] = lambda x: True) -> bool:
    """Return whether the rank is fixed beyond all singular values, in such a state."""
    return bool(2 * x.r < x.parameters["min_rank"] == x.parameters["max_rank"]) and state(x)


BEYOND: dict[str, tuple[str, Callable[[Given], bool]]] = {
    "no-step": ("λ = 0", lambda x: x.parameters["learning_rate"] == 0.0),
    "from-zero": ("S = 0", lambda x: not x.arrays["S"].any()),
    "no-gradient": ("no gradient", lambda x: not x.arrays["dK"].any()),
    "complex": ("complex numbers", lambda x: np.iscomplexobj(x.arrays["S"])),
}
"""States of a fixed rank beyond 2r, in words and as predicates."""


def _nearly(x: Given, basis: str, name: str) -> bool:
    """Return whether complex gradients lie in the range of a basis but for less than a millionth,
    and for more than rounding.
    """
    B, X = x.arrays[basis], x.arrays[name]
    size = float(np.linalg.norm(X))
    return np.iscomplexobj(B) and bool(
        1e-12 * size < np.linalg.norm(X - B @ (B.conj().T @ X)) < 1e-6 * size
    )


def _sizes(m: int, n: int, r: int) -> Place:
    return Place(f"m = {m}, n = {n} and r = {r}", lambda x: (x.m, x.n, x.r) == (m, n, r))


def _lying(X: Matrix) -> str:
    """The layout of an array by its strides, by the names of the kit; one column or row has none."""
    rows, columns = (stride // X.itemsize for stride in X.strides)
    by_signs = {(True, False): "reversed", (False, True): "backwards", (True, True): "turned"}
    if min(rows, columns) < 0:
        return by_signs[rows < 0, columns < 0]
    if columns == 1:
        inner = X.base is not None and np.asarray(X.base).size == X.size + 2
        return "padded" if rows > X.shape[1] else "flat" if inner else "rows"
    return "spaced" if rows > columns else "long" if columns > len(X) else "columns"


def _layout(layout: str, m: int, n: int, r: int, *, complex_data: bool) -> Place:
    """Arguments in a layout of the kit at one size."""
    expected = {"mixed": ("rows", "columns")}.get(layout, (layout, layout))

    def holds(x: Given) -> bool:
        found = _lying(x.arrays["U"]), _lying(x.arrays["dK"])
        return (
            (x.m, x.n, x.r) == (m, n, r)
            and np.iscomplexobj(x.arrays["S"]) == complex_data
            and found == expected
        )

    return Place(
        f"{'complex' if complex_data else 'real'} arguments in the layout {layout}, {m} x {n} of rank {r}",
        holds,
    )


def _largest(X: Matrix) -> float:
    return float(np.max(np.abs(X), initial=0.0))


def _subnormal(smallest: float, tiny: float, *, zero: bool) -> Place:
    """All numbers are subnormal in a precision; S = 0 or not."""
    name = "dK" if zero else "S"
    where = f"{'S = 0 and ' if zero else ''}all entries of {name} are below {tiny:.2g}"
    return Place(
        where, lambda x: smallest < _largest(x.arrays[name]) < tiny and x.arrays["S"].any() != zero
    )


def _near_subnormal(tiny: float, *, zero: bool) -> Place:
    """λ∇_K is subnormal in a precision, and ∇_K is not; S = 0 or not."""

    def holds(x: Given) -> bool:
        size = _largest(x.arrays["dK"])
        return bool(
            x.parameters["learning_rate"] * size < tiny <= size < 1e4 * tiny
            and x.arrays["S"].any() != zero
        )

    return Place(f"{'S = 0 and ' if zero else ''}λ∇_K is below {tiny:.2g}, ∇_K is not", holds)


def _tiny_threshold(name: str, core: str) -> Place:
    """A threshold of 0 for ϑ, or one below 1e-10, with no gradient and a diagonal or dense S."""

    def holds(x: Given) -> bool:
        kind = name.partition("-")[0]
        value = x.parameters[kind]
        S = x.arrays["S"]
        is_diagonal = not np.any(S - np.diag(np.diag(S)))
        here = value is not None and (value == 0.0 if name == "theta-0" else 0.0 < value < 1e-10)
        return (
            here
            and is_diagonal == (core == "diagonal")
            and bool(S.any())
            and not x.arrays["dK"].any()
        )

    return Place(f"{name} with a {core} S and no gradient", holds)


def negated(X: Any) -> bool:
    """Return whether a tensor of torch has its negative bit set."""
    return bool(getattr(X, "is_neg", bool)())


def _negated(names: set[str], r: int) -> Place:
    return Place(
        f"{', '.join(sorted(names))} with a negative bit, r = {r}",
        lambda x: {name for name in NAMES if negated(x.arrays[name])} == names and x.r == r,
    )


def _beside_diagonal(x: Given) -> float:
    """The part of S off its diagonal, relative to S."""
    S = x.arrays["S"]
    return float(np.linalg.norm(S - np.diag(np.diag(S))) / (np.linalg.norm(S) or 1.0))


def _nearly_symmetric(x: Given) -> bool:
    S = x.arrays["S"]
    size = float(np.linalg.norm(S))
    return 0.0 < float(np.linalg.norm(S - S.conj().T)) < 1e-7 * size and _beside_diagonal(x) > 1e-8


def _one_sided(x: Given, there: str, missing: str) -> bool:
    above = x.parameters["min_rank"] > x.r
    return above and bool(x.arrays[there].any()) and not x.arrays[missing].any()


def _zero(x: Given) -> set[str]:
    """The names of the gradients that are exactly 0."""
    return {name for name in ("dK", "dL", "dS") if not x.arrays[name].any()}


PLACES: dict[str, Place] = {
    **{f"multiples-of-{k}": _multiples(k) for k in (4, 8, 16, 32)},
    "rank-of-8": Place("r is a multiple of 8", lambda x: x.r % 8 == 0),
    "rank-8": Place("r = 8, the rank for which code is compiled", lambda x: x.r == 8),
    "rank-8-aligned": Place(
        "r = 8, m and n are multiples of 32", lambda x: x.r == 8 and x.m % 32 == x.n % 32 == 0
    ),
    "rank-16": Place("r = 16", lambda x: x.r == 16),
    "rank-32": Place("r = 32", lambda x: x.r == 32),
    "rank-64": Place("r = 64", lambda x: x.r == 64),
    "rank-1-large": Place("r = 1 and m ≥ 128", lambda x: x.r == 1 and x.m >= 128),
    "rank-1-aligned": Place(
        "r = 1, m and n are multiples of 16", lambda x: x.r == 1 and x.m % 16 == x.n % 16 == 0
    ),
    "row-past-a-tile": Place(
        "m is one past a multiple of 32", lambda x: x.m > 32 and x.m % 32 == 1
    ),
    "column-past-a-tile": Place(
        "n is one past a multiple of 32", lambda x: x.n > 32 and x.n % 32 == 1
    ),
    "rank-past-a-tile": Place(
        "r is one past a multiple of 32", lambda x: x.r > 32 and x.r % 32 == 1
    ),
    "large": Place("m ≥ 128", lambda x: x.m >= 128),
    "long": Place("m or n is above 2048", lambda x: max(x.m, x.n) > 2048),
    "whole": Place("r = m = n ≥ 32", lambda x: x.r == x.m == x.n >= 32),
    "whole-aligned": Place(
        "r = m = n, a multiple of 32", lambda x: x.r == x.m == x.n and x.m % 32 == 0
    ),
    "half": Place("r ≥ 32 and 2r ≥ min(m, n)", lambda x: x.r >= 32 and 2 * x.r >= min(x.m, x.n)),
    "square-64": Place("m = n, a multiple of 64", lambda x: x.m == x.n and x.m % 64 == 0),
    "nothing": Place(
        "Ŵ = 0", lambda x: not (x.arrays["S"].any() or x.arrays["dK"].any() or x.arrays["dL"].any())
    ),
    "theta-0": Place("ϑ = 0 is an absolute threshold", lambda x: x.parameters["theta"] == 0.0),
    "beyond-one": Place("τ > 1", lambda x: (x.parameters["tau"] or 0.0) > 1.0),
    "complex-near": Place(
        "complex numbers, and of ∇_K less than a millionth is outside of U",
        lambda x: _nearly(x, "U", "dK"),
    ),
    "complex-near-v": Place(
        "complex numbers, and of ∇_L less than a millionth is outside of V",
        lambda x: _nearly(x, "V", "dL"),
    ),
    "no-core": Place("∇_S alone is 0", lambda x: _zero(x) == {"dS"}),
    "left-alone": Place("∇_L and ∇_S are 0", lambda x: _zero(x) == {"dL", "dS"}),
    "right-alone": Place("∇_K and ∇_S are 0", lambda x: _zero(x) == {"dK", "dS"}),
    "complex-small": Place(
        "complex numbers, and 0 < λ < 1e-6",
        lambda x: np.iscomplexobj(x.arrays["S"]) and 0.0 < x.parameters["learning_rate"] < 1e-6,
    ),
    "complex-still": Place(
        "complex numbers, and no gradient",
        lambda x: np.iscomplexobj(x.arrays["S"]) and not x.arrays["dK"].any(),
    ),
    "one-row": Place("m = 1 or n = 1", lambda x: min(x.m, x.n) == 1),
    "rank-1": Place("r = 1", lambda x: x.r == 1),
    "wide": Place("m < n", lambda x: x.m < x.n),
    "theta": Place("the threshold is absolute", lambda x: x.parameters["theta"] is not None),
    "min": Place("the minimum rank is above 1", lambda x: x.parameters["min_rank"] > 1),
    "complex-8": Place(
        "complex numbers, and r = 8", lambda x: x.r == 8 and np.iscomplexobj(x.arrays["S"])
    ),
    **{f"{name}-strided": _alone(name) for name in NAMES},
    "factors-strided": Place(
        "the factors do not lie row by row, and the gradients do",
        lambda x: {"U", "V"} <= x.strided <= {"U", "V", "S"},
    ),
    "gradient-expanded": Place(
        "dK or dL has a stride of 0",
        lambda x: any(0 in x.arrays[name].strides for name in ("dK", "dL")),
    ),
    "complex-strided": Place(
        "complex numbers do not lie row by row",
        lambda x: np.iscomplexobj(x.arrays["S"]) and bool(x.strided),
    ),
    **{f"layer-{shape}": _sizes(*sizes) for shape, sizes in LAYERS.items()},
    **{
        f"{layout}-{name}": _layout(layout, *size, complex_data=False)
        for layout in BACKWARDS
        for name, size in SHAPES.items()
    },
    **{
        f"{layout}-complex-{name}": _layout(layout, *size, complex_data=True)
        for layout in LAYOUTS
        for name, size in SHAPES.items()
        if name != "rank-one"
    },
    **{
        f"subnormal-{precision}-{core}": _subnormal(smallest, tiny, zero=core == "zero")
        for precision, (smallest, tiny) in TINY.items()
        for core in ("dense", "zero")
    },
    **{
        f"smallest-{precision}-{core}": _near_subnormal(tiny, zero=core == "zero")
        for precision, (_, tiny) in TINY.items()
        for core in ("dense", "zero")
    },
    **{
        f"small-{name}-{core}": _tiny_threshold(name, core)
        for name in THRESHOLDS
        for core in ("diagonal", "dense")
    },
    **{f"negated-{name}": _negated({*NAMES}, SHAPES[name][2]) for name in ("tall", "larger")},
    **{f"negated-{name}": _negated({name}, SHAPES["tall"][2]) for name in NAMES},
    "nearly-all-cut": Place("0.99 < τ < 1", lambda x: 0.99 < (x.parameters["tau"] or 0.0) < 1.0),
    "two-rows": Place("m = 2 and r = 1", lambda x: x.m == 2 and x.r == 1),
    "two-columns": Place("n = 2 and r = 1", lambda x: x.n == 2 and x.r == 1),
    "two-by-two": Place("m = n = 2 and r = 1", lambda x: x.m == x.n == 2 and x.r == 1),
    "three-rows": Place("m = 3 and r = 1", lambda x: x.m == 3 and x.r == 1),
    "all-cut": Place("τ ≥ 1", lambda x: (x.parameters["tau"] or 0.0) >= 1.0),
    **{f"core-above-{size}": _large_core(size, "tau") for size in (100, 192)},
    **{f"core-above-{size}-theta": _large_core(size, "theta") for size in (100, 192)},
    **{f"rank-{r}-m-{m}": _left_over("m", m, r) for r, m in ((8, 3), (16, 2), (32, 3))},
    **{f"rank-{r}-n-{n}": _left_over("n", n, r) for r, n in ((8, 2), (16, 1), (4, 3), (32, 1))},
    "fixed-beyond": Place("min_rank = max_rank > 2r", _fixed_beyond),
    **{
        f"fixed-beyond-{state}": Place(
            f"min_rank = max_rank > 2r, {words}", partial(_fixed_beyond, state=holds)
        )
        for state, (words, holds) in BEYOND.items()
    },
    "theta-capped": Place(
        "ϑ and a cap",
        lambda x: x.parameters["theta"] is not None and x.parameters["max_rank"] is not None,
    ),
    "theta-min-above": Place(
        "ϑ and min_rank > r",
        lambda x: x.parameters["theta"] is not None and x.parameters["min_rank"] > x.r,
    ),
    "theta-still": Place(
        "ϑ and λ = 0",
        lambda x: x.parameters["theta"] is not None and x.parameters["learning_rate"] == 0.0,
    ),
    "theta-wide": Place("ϑ and m < n", lambda x: x.parameters["theta"] is not None and x.m < x.n),
    "zero-capped": Place(
        "S = 0 and a cap",
        lambda x: not x.arrays["S"].any() and x.parameters["max_rank"] is not None,
    ),
    "same-bases": Place(
        "U = V", lambda x: x.m == x.n and bool(np.array_equal(x.arrays["U"], x.arrays["V"]))
    ),
    "nearly-diagonal": Place(
        "S is diagonal up to 1e-8 of its size", lambda x: 0.0 < _beside_diagonal(x) < 1e-8
    ),
    "nearly-symmetric": Place(
        "S is Hermitian up to 1e-7 of its size, and not diagonal", _nearly_symmetric
    ),
    "one-left": Place("m − r = 1 or n − r = 1", lambda x: 1 in (x.m - x.r, x.n - x.r)),
    "dL-alone-0": Place(
        "∇_L is 0, ∇_K is not, and min_rank > r", lambda x: _one_sided(x, "dK", "dL")
    ),
    "dK-alone-0": Place(
        "∇_K is 0, ∇_L is not, and min_rank > r", lambda x: _one_sided(x, "dL", "dK")
    ),
    "cap-1": Place("max_rank = 1 < r", lambda x: x.parameters["max_rank"] == 1 < x.r),
    "columns-capped": Place(
        "S lies column by column, and there is a cap",
        lambda x: "S" in x.strided and bool(x.parameters["max_rank"]),
    ),
    "complex-theta": Place(
        "complex numbers and ϑ",
        lambda x: np.iscomplexobj(x.arrays["S"]) and x.parameters["theta"] is not None,
    ),
}
"""The places by name; the predicates use sizes, arrays and parameters, as the branches of real
kernels do.
"""

"""The inputs for which backends may take a path of their own: sizes, layouts and states, by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["NAMES", "PLACES", "Given", "Place"]

Matrix = NDArray[Any]
NAMES = ("U", "S", "V", "dK", "dL", "dS")
"""The arguments of a step."""


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
        return {name for name, X in self.arrays.items() if not X.flags.c_contiguous}


@dataclass(frozen=True)
class Place:
    """The inputs for which a separate path is taken, in words and as a predicate."""

    words: str
    holds: Callable[[Given], bool]


def _alone(name: str) -> Place:
    return Place(f"{name} alone does not lie row by row", lambda x: x.strided == {name})


def _multiples(k: int) -> Place:
    return Place(f"m, n and r are multiples of {k}", lambda x: x.m % k == x.n % k == x.r % k == 0)


def _nearly(x: Given, basis: str, name: str) -> bool:
    """Whether complex gradients lie in the range of a basis but for less than a millionth, and for
    more than rounding.
    """
    B, X = x.arrays[basis], x.arrays[name]
    size = float(np.linalg.norm(X))
    return np.iscomplexobj(B) and bool(1e-12 * size < np.linalg.norm(X - B @ (B.conj().T @ X)) < 1e-6 * size)


def _zero(x: Given) -> set[str]:
    """The names of the gradients that are exactly 0."""
    return {name for name in ("dK", "dL", "dS") if not x.arrays[name].any()}


PLACES: dict[str, Place] = {
    **{f"multiples-of-{k}": _multiples(k) for k in (4, 8, 16, 32)},
    "rank-of-8": Place("r is a multiple of 8", lambda x: x.r % 8 == 0),
    "rank-8": Place("r = 8, the rank for which code is compiled", lambda x: x.r == 8),
    "rank-8-aligned": Place("r = 8, m and n are multiples of 32", lambda x: x.r == 8 and x.m % 32 == x.n % 32 == 0),
    "rank-16": Place("r = 16", lambda x: x.r == 16),
    "rank-32": Place("r = 32", lambda x: x.r == 32),
    "rank-64": Place("r = 64", lambda x: x.r == 64),
    "rank-1-large": Place("r = 1 and m ≥ 128", lambda x: x.r == 1 and x.m >= 128),
    "rank-1-aligned": Place("r = 1, m and n are multiples of 16", lambda x: x.r == 1 and x.m % 16 == x.n % 16 == 0),
    "row-past-a-tile": Place("m is one past a multiple of 32", lambda x: x.m > 32 and x.m % 32 == 1),
    "column-past-a-tile": Place("n is one past a multiple of 32", lambda x: x.n > 32 and x.n % 32 == 1),
    "rank-past-a-tile": Place("r is one past a multiple of 32", lambda x: x.r > 32 and x.r % 32 == 1),
    "large": Place("m ≥ 128", lambda x: x.m >= 128),
    "long": Place("m or n is above 2048", lambda x: max(x.m, x.n) > 2048),
    "whole": Place("r = m = n ≥ 32", lambda x: x.r == x.m == x.n >= 32),
    "whole-aligned": Place("r = m = n, a multiple of 32", lambda x: x.r == x.m == x.n and x.m % 32 == 0),
    "half": Place("r ≥ 32 and 2r ≥ min(m, n)", lambda x: x.r >= 32 and 2 * x.r >= min(x.m, x.n)),
    "square-64": Place("m = n, a multiple of 64", lambda x: x.m == x.n and x.m % 64 == 0),
    "nothing": Place("Ŵ = 0", lambda x: not (x.arrays["S"].any() or x.arrays["dK"].any() or x.arrays["dL"].any())),
    "theta-0": Place("ϑ = 0 is an absolute threshold", lambda x: x.parameters["theta"] == 0.0),
    "beyond-one": Place("τ > 1", lambda x: (x.parameters["tau"] or 0.0) > 1.0),
    "complex-near": Place("complex numbers, and of ∇_K less than a millionth is outside of U", lambda x: _nearly(x, "U", "dK")),
    "complex-near-v": Place("complex numbers, and of ∇_L less than a millionth is outside of V", lambda x: _nearly(x, "V", "dL")),
    "no-core": Place("∇_S alone is 0", lambda x: _zero(x) == {"dS"}),
    "left-alone": Place("∇_L and ∇_S are 0", lambda x: _zero(x) == {"dL", "dS"}),
    "right-alone": Place("∇_K and ∇_S are 0", lambda x: _zero(x) == {"dK", "dS"}),
    "complex-small": Place(
        "complex numbers, and 0 < λ < 1e-6",
        lambda x: np.iscomplexobj(x.arrays["S"]) and 0.0 < x.parameters["learning_rate"] < 1e-6,
    ),
    "complex-still": Place(
        "complex numbers, and no gradient", lambda x: np.iscomplexobj(x.arrays["S"]) and not x.arrays["dK"].any()
    ),
    "one-row": Place("m = 1 or n = 1", lambda x: min(x.m, x.n) == 1),
    "rank-1": Place("r = 1", lambda x: x.r == 1),
    "wide": Place("m < n", lambda x: x.m < x.n),
    "theta": Place("the threshold is absolute", lambda x: x.parameters["theta"] is not None),
    "min": Place("the minimum rank is above 1", lambda x: x.parameters["min_rank"] > 1),
    "complex-8": Place("complex numbers, and r = 8", lambda x: x.r == 8 and np.iscomplexobj(x.arrays["S"])),
    **{f"{name}-strided": _alone(name) for name in NAMES},
    "factors-strided": Place(
        "the factors do not lie row by row, and the gradients do", lambda x: {"U", "V"} <= x.strided <= {"U", "V", "S"}
    ),
    "gradient-expanded": Place("dK or dL has a stride of 0", lambda x: any(0 in x.arrays[name].strides for name in ("dK", "dL"))),
    "complex-strided": Place(
        "complex numbers do not lie row by row", lambda x: np.iscomplexobj(x.arrays["S"]) and bool(x.strided)
    ),
}
"""The places by name; the predicates use sizes, arrays and parameters, as the branches of real
kernels do.
"""

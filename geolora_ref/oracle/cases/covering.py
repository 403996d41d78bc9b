"""Drawn cases of every run: each pair of options occurs in one of them, and most triples do.

Defects live where two or three options meet, such as an absolute threshold and a cap for m < n.
Independent draws meet few such combinations.  These cases are drawn from a fixed seed, one after the
other: of ``CANDIDATES`` random combinations of options the one is taken that has the most pairs, and
among those the most triples, which no earlier case has (a greedy covering array).  The first cases
therefore cover the most.

Like all cases, these keep their meaning by id.  More options need another group with a seed of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geolora_ref.oracle.cases.case import ConformanceCase, question
from geolora_ref.oracle.cases.own import in_words
from geolora_ref.oracle.cases.step_case import CaseParameters

__all__ = ["OPTIONS", "Options", "covering_array", "covering_cases", "drawn_options"]

Options = tuple[str, ...]

SIZES = {
    "tall": (9, 7, 3),
    "wide": (7, 9, 3),
    "square": (8, 8, 3),
    "one row more than r": (5, 10, 4),
    "one column more than r": (10, 5, 4),
    "one more than r": (5, 5, 4),
    "full rank, tall": (9, 4, 4),
    "full rank, wide": (4, 9, 4),
    "full rank": (6, 6, 6),
    "rank one": (8, 6, 1),
    "beyond half": (7, 6, 4),
    "eights": (24, 16, 8),
}
LIMITS: dict[str, tuple[str, ...]] = {
    "threshold": (
        "tau 0",
        "tau tiny",
        "tau",
        "tau 1",
        "tau beyond 1",
        "theta 0",
        "theta tiny",
        "theta",
    ),
    "max": ("none", "one", "below", "at", "above", "beyond"),
    "min": ("one", "two", "at", "above", "all"),
}
OPTIONS: dict[str, tuple[str, ...]] = {
    "size": tuple(SIZES),
    "spectrum": (
        "flat",
        "geometric",
        "algebraic",
        "clustered",
        "gaps",
        "dominant",
        "one_tiny",
        "zero_tail",
    ),
    "core": (
        "diagonal",
        "dense",
        "unsorted",
        "negative",
        "zero",
        "nearly diagonal",
        "nearly symmetric",
    ),
    "gradient": (
        *(
            "quadratic",
            "zero",
            "tangent",
            "normal",
            "rank one",
            "nearly in the range",
            "huge",
            "tiny",
        ),
        *("off core", "core", "left alone", "right alone", "nearly the core"),
    ),
    "rate": ("0", "tiny", "small", "1", "large"),
    **LIMITS,
    "magnitude": ("1", "1e-2", "50", "single", "double"),
    "passing": (
        *(
            "rows",
            "columns",
            "spaced",
            "mixed",
            "swapped",
            "padded",
            "long",
            "reversed",
            "backwards",
            "flat",
        ),
        *("results", "trained"),
    ),
    "bases": ("random", "unit", "padded", "same"),
}
"""The values of every option.  ``max`` and ``min`` are relative to r.  Squares of numbers of the
magnitude "single" or "double" leave the range of this precision.  ``passing`` is a layout of the
arguments, or three steps whose results are passed again or trained in between.
"""
COUNTS = {"real": 280, "complex": 140}
CANDIDATES = 60
SEED = 20261202


def covering_cases() -> Iterator[ConformanceCase]:
    """All cases of this module, real ones first."""
    for number, numbers in enumerate(COUNTS):
        rng = np.random.default_rng([SEED, number])
        for k, options in enumerate(drawn_options(numbers)):
            name = f"{k}" if numbers == "real" else f"complex-{k}"
            yield _case(name, options, rng, complex_data=numbers == "complex")


def drawn_options(numbers: str) -> list[Options]:
    """The options of the cases with "real" or "complex" numbers, in the order of ``OPTIONS``."""
    rng = np.random.default_rng([SEED, len(COUNTS) + [*COUNTS].index(numbers)])
    return covering_array(OPTIONS, COUNTS[numbers], rng, _possible)


def covering_array(
    options: Mapping[str, tuple[str, ...]],
    count: int,
    rng: np.random.Generator,
    possible: Callable[[Options], bool] | None = None,
) -> list[Options]:
    """So many possible combinations of options, each chosen for the pairs and triples that none
    before it has.
    """
    values = [*options.values()]
    counts = np.array([len(names) for names in values])
    kinds = [_places(counts, together) for together in (2, 3)]
    seen = [np.zeros(size, bool) for _, size in kinds]
    found = []
    for _ in range(count):
        drawn = rng.integers(0, counts, (CANDIDATES, len(counts)))
        if possible is not None:
            drawn = drawn[[possible(_named(row, values)) for row in drawn]]
        codes = [places(drawn) for places, _ in kinds]
        pairs, triples = (
            np.count_nonzero(~known[code], axis=1) for known, code in zip(seen, codes, strict=True)
        )
        best = int(np.argmax(1000 * pairs + triples))
        for known, code in zip(seen, codes, strict=True):
            known[code[best]] = True
        found.append(_named(drawn[best], values))
    return found


def _named(row: NDArray[np.int64], values: list[tuple[str, ...]]) -> Options:
    return tuple(names[k] for names, k in zip(values, row, strict=True))


def _places(counts: NDArray[np.int64], together: int) -> tuple[Any, int]:
    """A function from options (k, options) to numbers (k, combinations), one number for every
    combination of so many values, and how many numbers there are.
    """
    columns = np.array([*combinations(range(len(counts)), together)])
    sizes = np.prod(counts[columns], axis=1)
    begin = np.concatenate([[0], np.cumsum(sizes)])

    def places(drawn: NDArray[np.int64]) -> NDArray[np.int64]:
        number = np.zeros((len(drawn), len(columns)), np.int64)
        for column in columns.T:
            number = number * counts[column] + drawn[:, column]
        return np.asarray(begin[:-1] + number)

    return places, int(begin[-1])


def _possible(options: Options) -> bool:
    """Return whether limits and bases of this combination exist at its size."""
    named = dict(zip(OPTIONS, options, strict=True))
    m, n, r = SIZES[named["size"]]
    least, most = _ranks(named, m, n, r)
    fits = {"same": m == n, "padded": min(m, n) >= r + 2}.get(named["bases"], True)
    absent = (named["max"] == "below" and r < 3) or (named["max"] == "above" and r >= min(m, n))
    return fits and not absent and least <= min(m, n, most or least)


def _ranks(named: dict[str, str], m: int, n: int, r: int) -> tuple[int, int | None]:
    """min_rank and max_rank."""
    least = {"one": 1, "two": 2, "at": r, "above": r + 1, "all": min(2 * r, m, n)}
    most = {"none": None, "one": 1, "below": r - 1, "at": r, "above": r + 1, "beyond": 64}
    return least[named["min"]], most[named["max"]]


def _case(
    name: str, options: Options, rng: np.random.Generator, *, complex_data: bool
) -> ConformanceCase:
    """The case with these options; numbers are drawn with all bits of their mantissa."""
    named = dict(zip(OPTIONS, options, strict=True))
    m, n, r = SIZES[named["size"]]
    extreme = {"single": (1e-25, 1e25), "double": (1e-170, 1e150)}.get(named["magnitude"])
    magnitude = float(
        rng.choice(extreme) * rng.uniform(1.0, 2.0) if extreme else named["magnitude"]
    )
    rates = {
        "0": 0.0,
        "tiny": 1e-8 * rng.uniform(1.0, 2.0),
        "small": rng.uniform(0.01, 0.3),
        "1": 1.0,
        "large": rng.uniform(20, 40),
    }
    relative = {
        "0": 0.0,
        "tiny": 1e-9 * rng.uniform(1.0, 10.0),
        "": rng.uniform(0.05, 0.6),
        "1": 1.0,
        "beyond 1": 1.7,
    }
    kind, _, size = named["threshold"].partition(" ")
    threshold: dict[str, Any] = {"tau": relative[size]}
    if kind == "theta":
        threshold = {"tau": None, "theta": float(magnitude * relative[size])}
    least, most = _ranks(named, m, n, r)
    plain = CaseParameters(
        m, n, r, named["spectrum"], named["core"], named["gradient"], min_rank=least, max_rank=most
    )
    parameters = replace(
        plain,
        learning_rate=float(rates[named["rate"]]),
        magnitude=magnitude,
        bases=named["bases"],
        complex=complex_data,
    )
    parameters = replace(parameters, **threshold)
    more: dict[str, Any] = {"layout": named["passing"]}
    if named["passing"] in ("results", "trained"):
        more = {"steps": 3, "trained": named["passing"] == "trained"}
    flags = (*(["complex"] if complex_data else []), *_ranges(named))
    words = in_words(parameters, {"layout": "rows", "steps": 1, "trained": False} | more)
    return question("covering", name, flags, words, parameters, **more)


def _ranges(named: dict[str, str]) -> Iterator[str]:
    """The exponents that the numbers need."""
    squared = (
        named["magnitude"] == "single" and named["gradient"] == "rank one"
    )  # a product of two drawn vectors
    if named["magnitude"] == "double" or squared:
        yield "double-range"
    elif (
        named["magnitude"] == "single"
        or named["gradient"] in ("huge", "tiny")
        or named["rate"] in ("tiny", "large")
    ):
        yield "wide-range"

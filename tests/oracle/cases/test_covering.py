"""Drawn cases of every run: their options meet as often as is possible, and each case adds something."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import combinations

import numpy as np
import pytest

from geolora_ref.oracle.cases.catalogue import catalogue
from geolora_ref.oracle.cases.covering import COUNTS, OPTIONS, _possible, drawn_options
from geolora_ref.oracle.cases.step_case import StepCase
from geolora_ref.oracle.trial.choice import applicable
from geolora_ref.oracle.trial.conversion import Conversion

Place = tuple[tuple[int, str], ...]


def together(cases: Iterable[tuple[str, ...]], count: int) -> Iterator[set[Place]]:
    """For each case, the combinations of so many of its options."""
    for options in cases:
        yield {*combinations(enumerate(options), count)}


def possible(draws: int) -> set[Place]:
    """The pairs of options that occur in possible combinations."""
    rng, values = np.random.default_rng(1), [*OPTIONS.values()]
    drawn = (tuple(names[rng.integers(len(names))] for names in values) for _ in range(draws))
    return set().union(*together(filter(_possible, drawn), 2))


def test_pairs_of_options() -> None:
    """Every possible pair occurs with real numbers, and 90 of 100 with complex ones, of which there are half as many cases."""
    pairs = possible(6000)
    assert len(pairs) > 3000
    for numbers, least in (("real", 1.0), ("complex", 0.9)):
        met = set().union(*together(drawn_options(numbers), 2))
        assert len(pairs & met) >= least * len(pairs)


@pytest.mark.parametrize("numbers", COUNTS)
def test_every_case_adds_a_triple(numbers: str) -> None:
    """A defect where these three meet is rejected by this case alone."""
    triples = [*together(drawn_options(numbers), 3)]
    count = Counter(triple for case in triples for triple in case)
    assert all(min(count[triple] for triple in case) == 1 for case in triples)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_numbers_are_finite(dtype: str) -> None:
    """In the first step, and so are the right results."""
    conversion = Conversion("numpy", dtype)
    for case in catalogue():
        if applicable(case, dtype) and max(case.parameters.m, case.parameters.n) < 500:
            assert (
                StepCase.build(case.parameters)
                .inputs("float32" if dtype == "float16" else dtype)
                .representable(conversion.largest)
            )

"""Drawn cases of every run: their options meet as often as is possible, and each case adds something."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import combinations

import numpy as np
import pytest

from geolora_ref.oracle.cases import remainders
from geolora_ref.oracle.cases.catalogue import catalogue
from geolora_ref.oracle.cases.covering import COUNTS, OPTIONS, _possible, drawn_options
from geolora_ref.oracle.cases.remainders import remainder_cases, remainder_options
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


def test_every_possible_pair_of_options_occurs_with_real_numbers() -> None:
    """And 90 of 100 with complex ones, of which there are half as many cases."""
    pairs = possible(6000)
    assert len(pairs) > 3000
    for numbers, least in (("real", 1.0), ("complex", 0.9)):
        met = set().union(*together(drawn_options(numbers), 2))
        assert len(pairs & met) >= least * len(pairs)


@pytest.mark.parametrize("numbers", COUNTS)
def test_every_case_has_a_triple_of_options_that_no_other_has(numbers: str) -> None:
    """A defect where these three meet is rejected by this case alone."""
    triples = [*together(drawn_options(numbers), 3)]
    count = Counter(triple for case in triples for triple in case)
    assert all(min(count[triple] for triple in case) == 1 for case in triples)


def test_the_first_cases_cover_more_than_independent_draws() -> None:
    rng, values = np.random.default_rng(2), [*OPTIONS.values()]
    drawn: list[tuple[str, ...]] = []
    while len(drawn) < COUNTS["real"]:
        options = tuple(names[rng.integers(len(names))] for names in values)
        drawn += [options] if _possible(options) else []
    covered, independent = (
        len(set().union(*together(cases, 3))) for cases in (drawn_options("real"), drawn)
    )
    assert covered > 1.05 * independent


def test_every_rest_of_a_vector_meets_every_rank() -> None:
    """Nine of ten combinations of rank, rest and limit occur with real numbers, and all pairs."""
    found = remainder_options("real")
    values = [*remainders.OPTIONS.values()]
    for one, other in combinations(range(len(values)), 2):
        assert len({(options[one], options[other]) for options in found}) == len(values[one]) * len(
            values[other]
        )
    names = [*remainders.OPTIONS]
    for rest in ("rest of m", "rest of n"):
        places = [names.index(name) for name in ("r", rest, "limit")]
        met = {tuple(options[place] for place in places) for options in found}
        assert len(met) >= 0.9 * np.prod([len(values[place]) for place in places])


def test_a_size_leaves_the_rest_that_it_is_drawn_for() -> None:
    for case, options in zip(remainder_cases(), remainder_options("real"), strict=False):
        named, p = dict(zip(remainders.OPTIONS, options, strict=True)), case.parameters
        assert (p.r, p.m % 4, p.n % 4) == tuple(
            int(named[of]) for of in ("r", "rest of m", "rest of n")
        )
        assert min(p.m, p.n) > 2 * p.r


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_all_numbers_of_the_catalogue_are_finite(dtype: str) -> None:
    """In the first step, and so are the right results."""
    conversion = Conversion("numpy", dtype)
    for case in catalogue():
        if applicable(case, dtype) and max(case.parameters.m, case.parameters.n) < 500:
            assert (
                StepCase.build(case.parameters)
                .inputs("float32" if dtype == "float16" else dtype)
                .representable(conversion.largest)
            )

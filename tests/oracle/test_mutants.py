"""Every mutant is rejected, at the line where it is wrong, and every criterion is needed by some mutant."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import cache

import pytest

from geolora_ref.oracle.criteria import FAIL, Verdict, judge, judge_stages
from geolora_ref.oracle.mutants import MUTANTS, Mutant
from tests.oracle.drawn import REFERENCE, drawn_inputs

pytestmark = pytest.mark.usefixtures("module_unchecked")

CASES, SEED = 150, 3
CRITERIA = (
    "output",
    "orthonormal U",
    "orthonormal V",
    "stationarity",
    "dominance",
    "optimality",
    "rank clipping",
    "rank not too low",
    "rank not too high",
    "S diagonal",
    "S nonnegative",
    "S sorted",
)
WITHOUT_A_MUTANT_OF_THEIR_OWN = ("dominance", "optimality")
"""Optimality follows from stationarity and dominance.  Dominance alone fires only where neighbouring singular values are
exchanged beside a large tail; no mutant does that by itself, ``test_criteria.py`` does."""

VISIBLE = [mutant for mutant in MUTANTS.values() if mutant.visible_in == "output"]
HIDDEN = [mutant for mutant in MUTANTS.values() if mutant.visible_in == "stages"]
STAGED = [mutant for mutant in MUTANTS.values() if mutant.stages is not None]


def _ids(mutants: list[Mutant]) -> list[str]:
    return [mutant.id for mutant in mutants]


@cache
def _verdicts(name: str) -> tuple[Verdict, ...]:
    """The verdict on one mutant in every case."""
    return tuple(judge(x, MUTANTS[name].step(*(X.copy() for X in x.arrays), **x.parameters)) for x in drawn_inputs(CASES, SEED))


def _first_failing_line(mutant: Mutant) -> Counter[str]:
    """How often each line of Algorithm 1 is the first that fails."""
    lines: Counter[str] = Counter()
    assert mutant.stages is not None
    for x in drawn_inputs(CASES, SEED):
        stages = mutant.stages.run(*x.arrays, **x.parameters)
        verdicts = judge_stages(x, stages, stages.pop("output"))
        lines.update([next((line for line, verdict in verdicts.items() if not verdict.passed), "none")])
    return lines


def test_the_reference_survives() -> None:
    """Else a rejection of mutants would mean nothing."""
    for x in drawn_inputs(CASES, SEED):
        stages = REFERENCE.run(*x.arrays, **x.parameters)
        output = stages.pop("output")
        assert judge(x, output).worst_ratio <= FAIL
        assert all(verdict.worst_ratio <= FAIL for verdict in judge_stages(x, stages, output).values())


@pytest.mark.parametrize("mutant", VISIBLE, ids=_ids(VISIBLE))
def test_a_mutant_is_rejected(mutant: Mutant) -> None:
    assert any(not verdict.passed for verdict in _verdicts(mutant.id))


@pytest.mark.parametrize("mutant", HIDDEN, ids=_ids(HIDDEN))
def test_a_hidden_mutant_shows_in_line_3_only(mutant: Mutant) -> None:
    """Its output is right: what is wrong in K or L lies inside the old range and cancels."""
    assert all(verdict.passed for verdict in _verdicts(mutant.id))
    assert _first_failing_line(mutant)["line 3"] > 0


@pytest.mark.parametrize("mutant", STAGED, ids=_ids(STAGED))
def test_a_mutant_is_rejected_at_its_line(mutant: Mutant) -> None:
    lines = _first_failing_line(mutant)
    assert lines[f"line {mutant.line}"] > 0
    assert set(lines) <= {f"line {mutant.line}", "none"}


@cache
def _alone() -> dict[str, set[str]]:
    """For every criterion the mutants that it alone rejects in some case."""
    found: dict[str, set[str]] = {criterion: set() for criterion in CRITERIA}
    for name in MUTANTS:
        for verdict in _verdicts(name):
            if len(verdict.failed_criteria) == 1:
                found[verdict.failed_criteria[0]].add(name)
    return found


@pytest.mark.parametrize("criterion", CRITERIA)
def test_every_criterion_is_needed(criterion: str) -> None:
    """Without it some mutant would pass some case."""
    assert bool(_alone()[criterion]) == (criterion not in WITHOUT_A_MUTANT_OF_THEIR_OWN)


def test_no_criterion_is_unknown_here() -> None:
    seen = {name for mutant in MUTANTS for verdict in _verdicts(mutant) for name in verdict.ratios}
    assert seen == set(CRITERIA) - {"output"}


@pytest.mark.parametrize("published", [True, False])
def test_mutants_of_both_origins_are_there(published: bool) -> None:
    assert sum(mutant.published is published for mutant in MUTANTS.values()) >= 20


@pytest.mark.parametrize("line", [3, 4, 5, 6])
def test_mutants_of_every_line_are_there(line: int) -> None:
    assert sum(mutant.line == line for mutant in MUTANTS.values()) >= 5


def _kill_table() -> str:
    """Mutants down, criteria across: in how many of the cases the criterion rejects the mutant."""
    width = max(map(len, MUTANTS))
    lines = [f"kill table: of {CASES} cases, how many each criterion rejects"]
    lines += [" " * (width + 3) + "  " * i + name for i, name in enumerate(CRITERIA)]
    for mutant in MUTANTS.values():
        counts = Counter(name for verdict in _verdicts(mutant.id) for name in verdict.failed_criteria)
        row = " ".join(f"{counts[name] or '.':>4}" for name in CRITERIA)
        lines.append(f"{mutant.id:<{width}} {row}")
    return "\n".join(lines)


def test_the_kill_table(record_property: Callable[[str, object], None]) -> None:
    """Printed in the summary of the test run."""
    table = _kill_table()
    assert all(mutant in table for mutant in MUTANTS)
    record_property("table", table)

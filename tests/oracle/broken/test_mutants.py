"""Every mutant is rejected, at the line where it is wrong, and every criterion is needed by some mutant."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator

import numpy as np
import pytest

from geolora_ref.oracle.broken.mutants import MUTANTS, Mutant
from geolora_ref.oracle.broken.stages import Stages
from geolora_ref.oracle.cases.step_case import CaseParameters, StepCase
from geolora_ref.oracle.check import run_case
from geolora_ref.oracle.judges.criteria import FAIL, judge, judge_stages
from geolora_ref.oracle.reports.report import Row
from geolora_ref.oracle.trial.choice import questions as questions_of
from geolora_ref.oracle.trial.harness import Harness
from tests.nightly import NIGHTLY
from tests.oracle.drawn import REFERENCE, drawn_inputs
from verification.trust.kill_matrix import (
    ALONE,
    CASES,
    CRITERIA,
    SEED,
    STAYS,
    matrix,
    passing,
    verdicts,
)

pytestmark = pytest.mark.usefixtures("module_unchecked")

VISIBLE = [mutant for mutant in MUTANTS.values() if mutant.visible_in == "output"]
DTYPES = ("float64", "complex128", "float32")
HIDDEN = [mutant for mutant in MUTANTS.values() if mutant.visible_in == "stages"]
CATALOGUED = [mutant for mutant in MUTANTS.values() if mutant.visible_in == "catalogue"]
STAGED = [
    mutant
    for mutant in MUTANTS.values()
    if mutant.stages is not None and mutant.visible_in != "catalogue"
]


def _ids(mutants: list[Mutant]) -> list[str]:
    return [mutant.id for mutant in mutants]


def _first_failing_line(mutant: Mutant) -> Counter[str]:
    """How often each line of Algorithm 1 is the first that fails; a third of the cases shows it for
    every mutant.
    """
    lines: Counter[str] = Counter()
    assert mutant.stages is not None
    for x in drawn_inputs(CASES if NIGHTLY else CASES // 3, SEED):
        stages = mutant.stages.run(*x.arrays, **x.parameters)
        verdicts = judge_stages(x, stages, stages.pop("output"))
        lines.update(
            [next((line for line, verdict in verdicts.items() if not verdict.passed), "none")]
        )
    return lines


def test_reference_survives() -> None:
    """A rejection of mutants would mean nothing otherwise."""
    for x in drawn_inputs(CASES, SEED):
        stages = REFERENCE.run(*x.arrays, **x.parameters)
        output = stages.pop("output")
        assert judge(x, output).worst_ratio <= FAIL
        assert all(
            verdict.worst_ratio <= FAIL for verdict in judge_stages(x, stages, output).values()
        )


@pytest.mark.parametrize("mutant", MUTANTS.values(), ids=MUTANTS)
def test_mutant_returns_factors(mutant: Mutant) -> None:
    """Rejected for what it returns: one that raises would be rejected whatever the criteria are."""
    for x in drawn_inputs(CASES, SEED):
        if x.U.shape[1] < min(len(x.U), len(x.V)) and np.linalg.cond(x.S) < 1e6:
            with np.errstate(all="ignore"):
                returned = mutant.step(*(X.copy() for X in x.arrays), **x.parameters)
            assert len(returned) == 3


@pytest.mark.parametrize("mutant", CATALOGUED, ids=_ids(CATALOGUED))
def test_catalogued_mutant(mutant: Mutant) -> None:
    """So every one of these beginnings of an id is needed, and of the cases that are no combination
    of drawn options these alone reject the mutant.

    Of the others the nightly run tries all, an ordinary one every fortieth.
    """
    with np.errstate(all="ignore"):
        rows = [row for dtype in DTYPES for row in rows_of(mutant, dtype)]
    failed = [row.id for row in rows if row.outcome == "failed" and row.group != "covering"]
    assert {mutant.pattern_of(name) or name for name in failed} == set(mutant.only_in)
    assert all(verdict.passed for verdict in verdicts(mutant.id))


def rows_of(mutant: Mutant, dtype: str) -> Iterator[Row]:
    harness = Harness.of(mutant.step, dtype=dtype, directions=True)
    chosen = (
        case
        for i, case in enumerate(questions_of(harness))
        if NIGHTLY or i % 40 == 0 or mutant.pattern_of(case.id)
    )
    return (run_case(harness, case)[0] for case in chosen)


@pytest.mark.parametrize("mutant", HIDDEN, ids=_ids(HIDDEN))
def test_hidden_mutant(mutant: Mutant) -> None:
    """Its output is right: what is wrong in K or L lies inside the old range and cancels."""
    assert all(verdict.passed for verdict in verdicts(mutant.id))
    assert mutant in STAGED  # so that it is rejected at its line, in the next test
    assert mutant.line == 3


@pytest.mark.parametrize("mutant", STAGED, ids=_ids(STAGED))
def test_rejected_at_its_line(mutant: Mutant) -> None:
    lines = _first_failing_line(mutant)
    assert lines[f"line {mutant.line}"] > 0
    assert set(lines) <= {f"line {mutant.line}", "none"}


@pytest.mark.parametrize("criterion", CRITERIA)
def test_criterion_is_needed(criterion: str) -> None:
    """Without it some mutant would pass some case; or the page says why it stays."""
    assert (ALONE in {marks[criterion] for marks in matrix().values()}) == (criterion not in STAYS)


def test_visible_mutants_are_rejected() -> None:
    assert {name for name, marks in matrix().items() if any(marks.values())} == set(_ids(VISIBLE))
    assert matrix().keys() == MUTANTS.keys()


def test_stages() -> None:
    """The augmented bases are no part of what a backend shows, and are what claims look at:
    Û = [U | Ũ], V̂ = [V | Ṽ].
    """
    inputs = StepCase.build(CaseParameters(7, 6, 2)).inputs()
    found = Stages().run(*inputs.arrays, **inputs.parameters)
    names = ["K_new", "L_new", "S_new", "U_tilde", "V_tilde", "U_hat", "V_hat", "S_hat", "output"]
    assert list(found) == names
    for old, name in ((inputs.U, "U"), (inputs.V, "V")):
        np.testing.assert_array_equal(
            found[f"{name}_hat"], np.hstack([old, found[f"{name}_tilde"]])
        )


def test_coarser_precisions_lose_mutants() -> None:
    """All are rejected in double precision; every coarser precision loses some of them."""
    lost = [set(passing(precision)) for precision in ("float64", "float32", "float16", "bfloat16")]
    assert lost[0] == set()
    assert all(finer < coarser for finer, coarser in itertools.pairwise(lost))
    assert lost[-1] < set(_ids(VISIBLE))

"""Every mutant is rejected, at the line where it is wrong, and every criterion is needed by some mutant."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from geolora_ref.oracle.broken.mutants import MUTANTS, Mutant
from geolora_ref.oracle.broken.narrow_mutants import NARROW_MUTANTS, NarrowMutant
from geolora_ref.oracle.broken.stages import Stages
from geolora_ref.oracle.cases.catalogue import catalogue
from geolora_ref.oracle.cases.step_case import CaseParameters, StepCase
from geolora_ref.oracle.check import Tally, run_case
from geolora_ref.oracle.judges.criteria import FAIL, judge, judge_stages
from geolora_ref.oracle.reports.report import Row
from geolora_ref.oracle.trial.choice import questions as questions_of
from geolora_ref.oracle.trial.harness import Harness
from tests.nightly import NIGHTLY
from tests.oracle.departures import DTYPES, departure, questions, recorded, same
from tests.oracle.drawn import REFERENCE, drawn_inputs
from verification.trust.kill_matrix import (
    ALONE,
    CASES,
    CRITERIA,
    SEED,
    STAYS,
    main,
    matrix,
    page,
    passing,
    verdicts,
)

pytestmark = pytest.mark.usefixtures("module_unchecked")

DOCS = Path(__file__).parents[3] / "docs"
VISIBLE = [mutant for mutant in MUTANTS.values() if mutant.visible_in == "output"]
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


def test_the_reference_survives() -> None:
    """A rejection of mutants would mean nothing otherwise."""
    for x in drawn_inputs(CASES, SEED):
        stages = REFERENCE.run(*x.arrays, **x.parameters)
        output = stages.pop("output")
        assert judge(x, output).worst_ratio <= FAIL
        assert all(
            verdict.worst_ratio <= FAIL for verdict in judge_stages(x, stages, output).values()
        )


@pytest.mark.parametrize("mutant", MUTANTS.values(), ids=MUTANTS)
def test_a_mutant_is_a_wrong_step_and_not_a_broken_program(mutant: Mutant) -> None:
    """Rejected for what it returns: one that raises would be rejected whatever the criteria are."""
    for x in drawn_inputs(CASES, SEED):
        if x.U.shape[1] < min(len(x.U), len(x.V)) and np.linalg.cond(x.S) < 1e6:
            with np.errstate(all="ignore"):
                returned = mutant.step(*(X.copy() for X in x.arrays), **x.parameters)
            assert len(returned) == 3


@pytest.mark.parametrize("mutant", MUTANTS.values(), ids=MUTANTS)
def test_a_mutant_keeps_the_dtype_and_says_what_is_wrong_where(mutant: Mutant) -> None:
    for x in questions("float32"):
        with np.errstate(all="ignore"):
            U, S, V = mutant.step(*(X.copy() for X in x.arrays), **x.parameters)
        assert (U.dtype, S.dtype, V.dtype) == (x.U.dtype, x.S.dtype, x.V.dtype)
    assert mutant.line in (3, 4, 5, 6)
    assert isinstance(mutant.defect, str)
    assert " " in mutant.defect


def test_a_mutant_is_seen_by_its_output_and_of_our_own_making_unless_it_says_otherwise() -> None:
    plain = Mutant("plain", 3, "a defect", REFERENCE.step)
    assert (plain.published, plain.stages, plain.visible_in) == (False, None, "output")


def test_a_view_that_leaves_its_memory_is_noticed(owned_memory: list[str]) -> None:
    """Every test checks this: a mutant would read other values from run to run."""
    memory = np.zeros((3, 4))
    np.lib.stride_tricks.as_strided(memory[1:], (2, 2, 2), (32, 8, 16))
    np.lib.stride_tricks.as_strided(memory[::-1], (3, 4), (-32, 8))
    np.lib.stride_tricks.as_strided(memory[2:], (9, 4), (0, 8))
    np.lib.stride_tricks.as_strided(memory[2:], (0, 4), (32, 8))
    assert owned_memory == []
    np.lib.stride_tricks.as_strided(memory[2:], (2, 4), (32, 8))
    np.lib.stride_tricks.as_strided(memory.T, (1, 2), (8, -32))
    assert len(owned_memory) == 2
    owned_memory.clear()


def test_a_generator_that_is_seeded_is_in_the_same_state_every_time() -> None:
    x = questions("float64")[0]
    before, states = np.random.get_state(), list[Any]()  # noqa: NPY002
    for _ in range(2):
        MUTANTS["global-rng"].step(*x.arrays, **x.parameters)
        state: Any = np.random.get_state()  # noqa: NPY002
        states.append(state[1])
    np.random.set_state(before)  # noqa: NPY002
    assert np.array_equal(*states)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("mutant", MUTANTS.values(), ids=MUTANTS)
def test_a_mutant_does_what_is_on_record(mutant: Mutant, dtype: str) -> None:
    """Its name and description would be wrong otherwise; `python -m tests.oracle.departures`
    records again.
    """
    now, then = [departure(mutant, x) for x in questions(dtype)], recorded()[mutant.id][dtype]
    assert [same(a, b) for a, b in zip(now, then, strict=True)] == len(now) * [True]


def test_the_record_tells_the_mutants_apart() -> None:
    """All but those whose defect is of the size of rounding, is a sign that QR chooses, lies in
    what they do to the caller, shows in cases of the catalogue only, or cuts in these few questions
    as another one does.
    """
    record = recorded()
    assert list(record) == list(MUTANTS)
    untold = {
        "silent-regularisation",
        "global-rng",
        "qr-sign",
        "old-new-alias",
        "signs-lost",
        "one-by-one",
        *_ids(CATALOGUED),
    }
    distinct = [str(of) for name, of in record.items() if name not in untold]
    assert len(set(distinct)) == len(distinct) == len(MUTANTS) - len(untold)


COVERING = ("covering", "remainder")
"""Groups of drawn combinations of options."""


@pytest.mark.parametrize("mutant", CATALOGUED, ids=_ids(CATALOGUED))
def test_a_mutant_of_the_catalogue_is_rejected_in_its_cases_and_in_no_other(mutant: Mutant) -> None:
    """So every one of these beginnings of an id is needed, and of the cases that are no combination
    of drawn options these alone reject the mutant.

    Of the others the nightly run tries all, an ordinary one every fortieth.
    """
    with np.errstate(all="ignore"):
        rows = [row for dtype in DTYPES for row in rows_of(mutant, dtype)]
    failed = [row.id for row in rows if row.outcome == "failed" and row.group not in COVERING]
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


@pytest.mark.parametrize("mutant", NARROW_MUTANTS.values(), ids=NARROW_MUTANTS)
def test_a_narrow_mutant_is_rejected_by_the_last_of_its_cases_alone(mutant: NarrowMutant) -> None:
    """Those before it, which something is kept from, are right."""
    results, cases = (
        Tally(Harness.of(mutant.make(), **mutant.options)),
        {case.id: case for case in catalogue()},
    )
    with np.errstate(all="ignore"):
        rows = [results.ask(cases[name]) for name in mutant.cases]
    assert [row.outcome for row in rows] == (len(rows) - 1) * ["passed"] + ["failed"]


@pytest.mark.parametrize("mutant", NARROW_MUTANTS.values(), ids=NARROW_MUTANTS)
def test_a_narrow_mutant_is_right_elsewhere(mutant: NarrowMutant) -> None:
    """Called once, at a size, in a state and in a layout that no place is."""
    x, step = (
        StepCase.build(CaseParameters(11, 7, 3, "algebraic", "dense", tau=0.1)).inputs(),
        mutant.make(),
    )
    if mutant.options.get("batched"):
        [output] = step(*(X[None] for X in x.arrays), **x.parameters)
    else:
        output = step(*x.arrays, **x.parameters)
    assert judge(x, output).passed


def test_the_narrow_mutants_are_many_and_of_every_line() -> None:
    assert len(NARROW_MUTANTS) >= 60
    assert {mutant.line for mutant in NARROW_MUTANTS.values()} == {3, 4, 5, 6}


def test_only_mutants_of_the_catalogue_name_cases() -> None:
    assert {mutant.id for mutant in MUTANTS.values() if mutant.only_in} == set(_ids(CATALOGUED))


@pytest.mark.parametrize("mutant", HIDDEN, ids=_ids(HIDDEN))
def test_a_hidden_mutant_shows_in_line_3_only(mutant: Mutant) -> None:
    """Its output is right: what is wrong in K or L lies inside the old range and cancels."""
    assert all(verdict.passed for verdict in verdicts(mutant.id))
    assert mutant in STAGED  # so that it is rejected at its line, in the next test
    assert mutant.line == 3


@pytest.mark.parametrize("mutant", STAGED, ids=_ids(STAGED))
def test_a_mutant_is_rejected_at_its_line(mutant: Mutant) -> None:
    lines = _first_failing_line(mutant)
    assert lines[f"line {mutant.line}"] > 0
    assert set(lines) <= {f"line {mutant.line}", "none"}


@pytest.mark.parametrize("criterion", CRITERIA)
def test_every_criterion_is_needed(criterion: str) -> None:
    """Without it some mutant would pass some case; or the page says why it stays."""
    assert (ALONE in {marks[criterion] for marks in matrix().values()}) == (criterion not in STAYS)


def test_the_page_is_what_is_printed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    committed = (DOCS / "kill_matrix.md").read_text("utf-8")
    assert committed == page(), "python -m verification.trust.kill_matrix > docs/kill_matrix.md"
    monkeypatch.setattr("verification.trust.kill_matrix.page", lambda: "the page")
    main([])
    assert capsys.readouterr().out == "the page"


def test_a_mutant_is_rejected_by_some_criterion_if_its_output_shows_it() -> None:
    assert {name for name, marks in matrix().items() if any(marks.values())} == set(_ids(VISIBLE))
    assert matrix().keys() == MUTANTS.keys()


def test_what_a_precision_cannot_tell_apart_is_what_the_pages_say() -> None:
    """All are distinguished in double precision; every step down loses some, and keeps those that it
    lost before.
    """
    lost = [set(passing(precision)) for precision in ("float64", "float32", "float16", "bfloat16")]
    assert lost[0] == set()
    assert all(finer < coarser for finer, coarser in itertools.pairwise(lost))
    assert lost[-1] < set(_ids(VISIBLE))
    page = " ".join((DOCS / "conformance.md").read_text("utf-8").split())
    stored = [len(passing("float32", storage)) for storage in ("float16", "bfloat16")]
    sentence = "of the {} mutants that the output shows {} pass in float32, {} stored in float16 and {} stored in bfloat16"
    assert sentence.format(len(VISIBLE), len(lost[1]), *stored) in page
    assert (
        "half of s ({} mutants) and four times s ({})".format(*(len(names) for names in lost[2:]))
        in page
    )


def test_no_criterion_is_unknown_here() -> None:
    seen = {
        name for mutant in VISIBLE for verdict in verdicts(mutant.id) for name in verdict.ratios
    }
    assert seen == set(CRITERIA) - {"output"}


def test_mutants_of_both_origins_and_of_every_line_are_there() -> None:
    assert (
        min(
            Counter(mutant.published for mutant in MUTANTS.values())[published]
            for published in (True, False)
        )
        >= 20
    )
    assert (
        min(Counter(mutant.line for mutant in MUTANTS.values())[line] for line in (3, 4, 5, 6)) >= 5
    )


def test_the_intermediate_results_have_their_names() -> None:
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

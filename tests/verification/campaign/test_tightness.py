"""The record of how sharp every inequality is: what counts as a change, and that nothing is missing
from it.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from geolora_ref.oracle.judges.criteria import FAIL
from geolora_ref.support.files import read_json, write_json
from tests.verification.campaign.test_runner import GOOD
from verification.campaign import record, tightness
from verification.campaign.outcomes import ClaimOutcome, ControlOutcome
from verification.campaign.record import (
    LEAST,
    MOST,
    ClaimRecord,
    changes,
    condensed,
    measured,
    recorded,
    unequal,
)
from verification.claim import CaseResult, Table
from verification.claims import CLAIMS


def outcome(
    values: list[float], control: float = 2.0, limit: float = 1.0, name: str = "1 ≤ 2"
) -> ClaimOutcome:
    """The outcome of a claim with one inequality and one control, with ratios in units of the limit."""
    results = [CaseResult(f"{k}", {name: [limit * value]}) for k, value in enumerate(values)]
    wrong = [CaseResult("bad", {name: [limit * control]})]
    return ClaimOutcome(
        replace(GOOD, limit=limit, scale="‖W‖"),
        results,
        [ControlOutcome(GOOD.controls[0], wrong, limit)],
    )


SHARP = outcome([0.2, 0.5, 0.9])
RECORD = measured(SHARP)


def test_what_is_recorded() -> None:
    assert RECORD.medians == {"": {"1 ≤ 2": 0.5}, "bad": {"1 ≤ 2": 2.0}}
    assert RECORD.largest == {"1 ≤ 2": 0.9}
    assert RECORD.cases.startswith("3 (")
    assert RECORD.words == []
    results = [CaseResult("0", {"a": [float("nan")], "b": [0.0], "c": [1e9], "none": []})]
    assert condensed(results, 1.0, max) == {
        "a": MOST,
        "b": LEAST,
        "c": MOST,
    }


@pytest.mark.parametrize(
    ("found", "changed"),
    [
        (SHARP, []),
        (outcome([0.2, 0.2, 0.2]), []),
        (
            outcome([0.01, 0.01, 0.9], limit=FAIL),
            ["1 ≤ 2: median ratio 0.01 of the limit, on record 0.5"],
        ),
        (outcome([0.5], control=0.5), []),
        (outcome([0.5], control=0.1), []),
        (outcome([0.5], control=1000.0), []),
        (outcome([0.1], limit=FAIL), []),
        (
            outcome([0.5], name="1 < 2"),
            [
                "1 < 2: median ratio 0.5 of the limit, on record none",
                "1 ≤ 2: median ratio none of the limit, on record 0.5",
                "control bad, 1 < 2: median ratio 2 of the limit, on record none",
                "control bad, 1 ≤ 2: median ratio none of the limit, on record 2",
            ],
        ),
    ],
    ids=[
        "same",
        "within a factor",
        "looser",
        "control within a factor",
        "weaker control",
        "wilder control",
        "rounding",
        "other name",
    ],
)
def test_what_is_a_change(found: ClaimOutcome, changed: list[str]) -> None:
    """With another seed bounds may change by a factor 5, rounding errors by 10, controls at will."""
    same = RECORD._replace(cases=measured(found).cases, largest=measured(found).largest)
    assert [text.partition(" (python")[0] for text in changes(found, same, 7)] == changed


@pytest.mark.parametrize(
    ("value", "control", "limit", "count"),
    [
        (0.48, 2.0, 1.0, 0),
        (0.47, 2.0, 1.0, 1),
        (0.53, 2.0, 1.0, 1),
        (0.5, 1.7, 1.0, 0),
        (0.5, 1.5, 1.0, 1),
        (0.13, 2.0, FAIL, 0),
        (0.12, 2.0, FAIL, 1),
        (0.5, 0.6, FAIL, 1),
    ],
)
def test_with_the_seed_of_the_record_less_is_a_change(
    value: float, control: float, limit: float, count: int
) -> None:
    """A factor 1.05 for bounds and 1.3 in their controls, 3.85 for rounding errors."""
    found = outcome([value] * 3, control, limit)
    record = RECORD._replace(largest=measured(found).largest, shares=measured(found).shares)
    assert len(changes(found, record, 0)) == count
    assert not changes(found, record, 7)


@pytest.mark.parametrize(
    ("largest", "limit", "seed", "same"),
    [
        (0.86, 1.0, 0, True),
        (0.85, 1.0, 0, False),
        (0.24, FAIL, 0, True),
        (0.23, FAIL, 0, False),
        (0.71, 1.0, 7, True),
    ],
)
def test_the_largest_ratio_is_on_record_next_to_the_median(
    largest: float, limit: float, seed: int, same: bool
) -> None:
    """It belongs to the case that decides; the same factors hold for it."""
    record = measured(outcome([0.1, 0.15, 0.9], limit=limit))
    found = changes(outcome([0.1, 0.15, largest], limit=limit), record, seed)
    expected = [] if same else [f"1 ≤ 2: largest ratio {largest:g} of the limit, on record 0.9"]
    assert [text.partition(" (python")[0] for text in found] == expected


def test_what_may_be_rounding_or_an_accident_may_differ_more() -> None:
    faint = measured(outcome([0.04] * 3, control=0.5))
    assert not changes(outcome([0.01] * 3, control=0.1), faint, 0)
    assert (
        len(changes(outcome([0.007] * 3, control=0.03), faint, 0)) == 3
    )  # median, largest, control


def test_the_share_of_the_cases_in_which_a_control_fails_is_on_record() -> None:
    record = measured(SHARP)
    assert record.shares == {"bad": 1.0}
    change = "control bad: fails in a share of 1 of its cases, on record 0.5"
    assert [
        text.partition(" (python")[0]
        for text in changes(SHARP, record._replace(shares={"bad": 0.5}), 0)
    ] == [change]
    assert not changes(SHARP, record._replace(shares={"bad": 0.5}), 7)


def test_with_another_seed_faint_is_faint() -> None:
    """A bound far from its limit may be farther still: 0.12 and 0.001 are no change, 0.9 and 0.001 are."""
    record = measured(outcome([0.12] * 3))
    assert not changes(outcome([0.001] * 3), record, 7)
    assert not changes(outcome([0.12] * 3), measured(outcome([0.001] * 3)), 7)
    assert len(changes(outcome([0.001] * 3), measured(outcome([0.9] * 3)), 7)) == 2
    assert (
        len(changes(outcome([0.001] * 3, limit=FAIL), measured(outcome([0.12] * 3, limit=FAIL)), 7))
        == 2
    )


def test_a_claim_that_has_become_loose_does_not_stand() -> None:
    loose = outcome([0.01, 0.01, 0.01])
    assert loose.holds
    assert not replace(loose, changes=changes(loose, RECORD, 0)).holds
    assert replace(SHARP, changes=changes(SHARP, RECORD, 0)).holds


def test_other_cases_and_other_words_are_changes() -> None:
    """Numbers may differ, words may not."""
    tabled = replace(
        SHARP,
        claim=replace(
            GOOD, tables=(Table("t", lambda results: [["exact", "yes", "0.5 (2 … 3)", ""]]),)
        ),
    )
    record = measured(tabled)
    assert record.words == ["exact", "yes"]
    assert not changes(tabled, record, 0)
    found = changes(tabled, record._replace(words=["exact", "no"], cases="2 (01234567)"), 0)
    assert [text.partition(" (python")[0] for text in found] == [
        "tables: - no",
        "tables: + yes",
        f"cases: {record.cases}, on record 2 (01234567)",
    ]
    renamed = replace(
        tabled, results=[replace(tabled.results[0], case="other"), *tabled.results[1:]]
    )
    assert measured(renamed).cases != record.cases


def test_numbers_in_tables_are_on_record() -> None:
    """Up to a half, or one in the last digit; only with the seed of the record, for they depend on it."""
    row = ["exact", "4 of 9", "-0.50 ± 0.00", "2.0e-15"]
    tabled = replace(SHARP, claim=replace(GOOD, tables=(Table("t", lambda results: [row]),)))
    record = measured(tabled)
    assert record.numbers == ["4", "9", "-0.50", "0.00", "2.0e-15"]
    assert record.words == ["exact"]
    for numbers, count in (
        (["4", "9", "-0.50", "0.00", "7e-13"], 0),
        (["5", "10", "-0.30", "0.01", "0"], 0),
        (["4", "9", "-0.20", "0.02", "0"], 2),
        (["4", "9", "0.50", "-0.01", "1e-9"], 2),
        (["4", "9", "0.00"], 1),
    ):
        assert len(changes(tabled, record._replace(numbers=numbers), 0)) == count
        assert not changes(tabled, record._replace(numbers=numbers), 7)


def test_an_empty_entry_counts_as_0() -> None:
    """Another processor may count 1 there."""
    tabled = replace(SHARP, claim=replace(GOOD, tables=(Table("t", lambda results: [["", "3"]]),)))
    record = measured(tabled)
    assert record.numbers == ["0", "3"]
    for number, count in (("1", 0), ("2", 1)):
        assert len(changes(tabled, record._replace(numbers=[number, "3"]), 0)) == count


@pytest.mark.parametrize(
    ("comparisons", "change"),
    [
        ([9, 6], None),
        ([9, 4], None),
        ([9, 2], "comparisons that decide nothing: 6, on record 2"),
        ([10, 6], "comparisons: 9, on record 10"),
        ([8, 6], "comparisons: 9, on record 8"),
    ],
)
def test_every_comparison_counts(comparisons: list[int], change: str | None) -> None:
    """Which of them decide nothing may depend on the processor, how many there are may not."""
    found = replace(
        SHARP,
        claim=replace(GOOD, undecided=1.0),
        results=[replace(result, undecided=2) for result in SHARP.results],
    )
    record = measured(found)
    assert record.comparisons == [9, 6]
    reported = [
        text.partition(" (python")[0]
        for text in changes(found, record._replace(comparisons=comparisons), 0)
    ]
    assert reported == ([] if change is None else [change])


def test_help_and_unknown_claims_record_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(tightness, "write_json", lambda *_: pytest.fail("recorded"))
    monkeypatch.setattr(tightness, "run", lambda *_, **__: pytest.fail("run"))
    for argv, status in ((["--help"], 0), (["--only", "no-such-claim"], 2)):
        with pytest.raises(SystemExit) as stopped:
            tightness.main(argv)
        assert stopped.value.code == status
    assert "no-such-claim" in capsys.readouterr().err


def test_a_claim_that_does_not_stand_is_not_recorded(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A check that broke has no ratios, which would then be what is on record."""
    broken = replace(
        SHARP,
        results=[
            replace(SHARP.results[0], error="ValueError: no (test.py:1)\nTraceback"),
            *SHARP.results[1:],
        ],
    )
    monkeypatch.setattr(tightness, "run", lambda *_, **__: [broken])
    monkeypatch.setattr(tightness, "write_json", lambda *_: pytest.fail("recorded"))
    assert tightness.main(["--only", "curvature-tail"]) == 1
    printed = capsys.readouterr().out
    assert "broke: ValueError: no" in printed
    assert "nothing was recorded" in printed


@pytest.mark.parametrize("surroundings", ["MALLOC_PERTURB_", "PYTHONHASHSEED"])
def test_what_depends_on_memory_or_on_the_order_of_sets_is_not_recorded(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], surroundings: str
) -> None:
    def found(*_: object, **__: object) -> list[ClaimOutcome]:
        row = ["a word", f"{4 + int(os.environ[surroundings])} of 9"]
        return [replace(SHARP, claim=replace(GOOD, tables=(Table("t", lambda results: [row]),)))]

    monkeypatch.setattr(tightness, "run", found)
    monkeypatch.setattr(tightness, "write_json", lambda *_: pytest.fail("recorded"))
    monkeypatch.delenv(surroundings, raising=False)
    assert tightness.main(["--only", "curvature-tail"]) == 1
    other = {"MALLOC_PERTURB_": 174, "PYTHONHASHSEED": 5}[surroundings]
    expected = (
        f"made-up: two runs differ: number 0 of the tables: 4, then {other}\nnothing was recorded\n"
    )
    assert capsys.readouterr().out == expected
    assert surroundings not in os.environ


def test_every_entry_in_which_two_records_differ_is_named() -> None:
    tabled = replace(
        SHARP, claim=replace(GOOD, tables=(Table("t", lambda results: [["yes", "4"]]),))
    )
    record = measured(tabled)
    assert unequal(record, record) == []
    fields: dict[str, Any] = {
        "medians": {"": {"1 ≤ 2": 0.501}},
        "largest": {"1 < 2": 0.9},
        "shares": {"bad": 0.5},
        "cases": "2 (01234567)",
        "comparisons": [3, 1],
        "words": ["no"],
        "numbers": [],
    }
    assert set(fields) == set(ClaimRecord._fields)
    found = [
        entry
        for name, value in fields.items()
        for entry in unequal(record, record._replace(**{name: value}))
    ]
    assert found == [
        "1 ≤ 2: median ratio: 0.5, then 0.501",
        "control bad, 1 ≤ 2: median ratio: 2.0, then none",
        "1 ≤ 2: largest ratio: 0.9, then none",
        "1 < 2: largest ratio: none, then 0.9",
        "control bad: the share of its cases in which it fails: 1.0, then 0.5",
        f"cases: {record.cases}, then 2 (01234567)",
        "comparisons that decide nothing: 0, then 1",
        "word 0 of the tables: yes, then no",
        "number 0 of the tables: 4, then none",
    ]


def test_a_claim_is_recorded_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Whatever is on record of the others stays as it is; and what is on record is what is measured."""
    ledger = tmp_path / "tightness.json"
    before = read_json(record.LEDGER)
    write_json(
        ledger, before | {"claims": before["claims"] | {"one-backward-pass": RECORD._asdict()}}
    )
    monkeypatch.setattr(record, "LEDGER", ledger)
    assert tightness.main(["--only", "one-backward-pass"]) == 0
    after = read_json(ledger)
    assert list(after["claims"]) == list(before["claims"])
    assert (
        after["claims"]["one-backward-pass"]["cases"]
        == before["claims"]["one-backward-pass"]["cases"]
    )
    assert after["claims"] | {"one-backward-pass": None} == before["claims"] | {
        "one-backward-pass": None
    }


def test_every_claim_and_every_control_is_on_record() -> None:
    assert {name: set(of.medians) for name, of in recorded().items()} == {
        claim.id: {"", *(control.id for control in claim.controls)} for claim in CLAIMS.values()
    }


def test_every_limit_that_no_case_comes_near_has_its_reason() -> None:
    """With 0.8 times the limit all others would fail."""
    largest = {name: of.largest for name, of in recorded().items()}
    bounds = [claim for claim in CLAIMS.values() if claim.limit == 1.0]
    found = {
        claim.id: {name for name, ratio in largest[claim.id].items() if ratio < 0.8}
        for claim in bounds
    }
    assert {claim: names for claim, names in found.items() if names} == {
        c.id: set(c.slack) for c in CLAIMS.values() if c.slack
    }


def test_what_is_1_by_nature_is_a_comparison_whose_largest_ratio_is_1() -> None:
    largest = {name: of.largest for name, of in recorded().items()}
    found = {
        claim.id: {name: largest[claim.id].get(name) for name in claim.by_nature}
        for claim in CLAIMS.values()
    }
    assert {claim: names for claim, names in found.items() if set(names.values()) - {1.0}} == {}
    assert sum(map(len, found.values())) >= 10

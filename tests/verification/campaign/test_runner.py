"""The runner believes nothing: false claims, passing controls, broken checks and empty runs do not
stand.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console
from threadpoolctl import ThreadpoolController, threadpool_info, threadpool_limits

from geolora_ref.support.files import read_json
from verification.campaign import runner
from verification.campaign.journal import Journal
from verification.campaign.outcomes import ClaimOutcome
from verification.campaign.record import NOTHING
from verification.campaign.runner import run
from verification.claim import Case, CaseResult, Claim, Control, Figure, Measurements, Plan, Table
from verification.claims import CLAIMS
from verification.command import print_outcomes
from verification.report.report import as_data, drawn, write_report

pytestmark = pytest.mark.usefixtures("stored_pages_once", "module_unchecked")

PLAN = Plan()


def cases(plan: Plan) -> Iterator[Case]:
    for k in range(3):
        yield Case(f"{k}", {"k": k})


def several(values: Sequence[float]) -> Callable[[Case], CaseResult]:
    def check(case: Case) -> CaseResult:
        out = Measurements()
        for value in values:
            out.ratio("ratio", value)
        return out.result(case)

    return check


def ratio(value: float) -> Callable[[Case], CaseResult]:
    return several((value,))


def broken(case: Case) -> CaseResult:
    raise ZeroDivisionError("the check itself is wrong")


def broken_in_lines(case: Case) -> CaseResult:
    raise ValueError("\n  expected a thing\n\n  details: 3\n")


def leaving(case: Case) -> CaseResult:
    raise SystemExit(3)


def returning_nothing(case: Case) -> Any:
    return None


def unwritable(case: Case) -> CaseResult:
    return replace(GOOD.check(case), series={(1, 2): 3})  # type: ignore[dict-item]


def nothing(case: Case) -> CaseResult:
    return Measurements().result(case)


def violating(case: Case) -> CaseResult:
    out = Measurements()
    out.ratio("ratio", 0.5)
    out.require("λ < 2/β", False)
    return out.result(case)


def one_of_three(case: Case) -> CaseResult:
    return ratio(2.0 if case["k"] == 0 else 0.5)(case)


def diverging(*before: float) -> Callable[[Case], CaseResult]:
    def check(case: Case) -> CaseResult:
        out = Measurements()
        for value in before:
            out.ratio("ratio", value)
        assert out.diverges("step 3", np.ones(2), np.array([1.0, np.nan]))
        return out.result(case)

    return check


def undecided(case: Case) -> CaseResult:
    out = Measurements()
    out.ratio("ratio", 0.5)
    out.at_most("ratio", 0.0, 1e-16, rounding=1e-16)
    return out.result(case)


def another(case: Case) -> CaseResult:
    out = Measurements()
    out.ratio("another", 0.5)
    return out.result(case)


GOOD = Claim(
    "made-up",
    "A made-up claim",
    "0",
    "1 ≤ 2",
    (),
    ("GeoLoRA",),
    cases,
    ratio(0.5),
    (Control("bad", "2 > 1", cases, ratio(2.0)),),
    1,
    "Neither side is computed.",
)


@pytest.fixture
def outcome(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Claim], ClaimOutcome]:
    def of(claim: Claim) -> ClaimOutcome:
        monkeypatch.setitem(CLAIMS, claim.id, claim)
        return run([claim], PLAN, Journal(tmp_path, PLAN, fresh=True), jobs=1)[0]

    return of


def test_controls_of_one_name_are_refused() -> None:
    """The second would not be run, and count as failing with the first."""
    with pytest.raises(ValueError, match="controls: expected an id of its own for each"):
        replace(GOOD, controls=(GOOD.controls[0], GOOD.controls[0]))


def test_a_result_is_what_a_later_run_reads(outcome: Callable[[Claim], ClaimOutcome]) -> None:
    """Or a report is drawn from arrays at first and from lists once the run is resumed."""

    def with_an_array(case: Case) -> CaseResult:
        return replace(GOOD.check(case), series={"t": np.arange(3.0), "pair": (2, 3)})

    assert outcome(replace(GOOD, check=with_an_array)).results[0].series == {
        "t": [0.0, 1.0, 2.0],
        "pair": [2, 3],
    }


def test_good_claim_stands(outcome: Callable[[Claim], ClaimOutcome]) -> None:
    result = outcome(GOOD)
    assert result.holds
    assert (result.count, result.worst) == (3, 0.5)


@pytest.mark.parametrize(
    ("claim", "reason"),
    [
        (replace(GOOD, check=ratio(1.01)), "ratio 1.01 above 1"),
        (replace(GOOD, check=ratio(float("nan"))), "ratio nan, which counts as one above 1"),
        (replace(GOOD, check=ratio(float("-inf"))), "ratio -inf, which counts as one above 1"),
        (replace(GOOD, check=violating), "hypothesis violated: λ < 2/β"),
        (
            replace(GOOD, check=broken),
            "ZeroDivisionError: the check itself is wrong (test_runner.py:",
        ),
        (
            replace(GOOD, check=broken_in_lines),
            "case 0 broke: ValueError: expected a thing (test_runner.py:",
        ),
        (replace(GOOD, check=leaving), "case 0 broke: SystemExit: 3 (test_runner.py:"),
        (
            replace(GOOD, check=returning_nothing),
            "expected a CaseResult, the check of made-up returned None",
        ),
        (
            replace(GOOD, check=unwritable),
            "case 0 broke: TypeError: keys must be str, int, float, bool or None, not tuple",
        ),
        (replace(GOOD, cases=lambda plan: ()), "it has no cases"),
        (replace(GOOD, floor=4), "only 3 comparisons, at least 4 are needed"),
        (replace(GOOD, controls=()), "no control fails: ratio"),
        (replace(GOOD, check=another), "no control fails: another"),
        (
            replace(GOOD, controls=(Control("bad", "2 > 1", cases, ratio(0.9)),)),
            "control bad passed",
        ),
        (replace(GOOD, controls=(Control("bad", "2 > 1", cases, broken),)), "control bad broke"),
        (replace(GOOD, controls=(Control("bad", "2 > 1", cases, nothing),)), "control bad passed"),
        (
            replace(GOOD, controls=(Control("bad", "2 > 1", lambda plan: (), ratio(2.0)),)),
            "control bad has no cases",
        ),
        (
            replace(GOOD, controls=(Control("bad", "2 > 1", cases, one_of_three),)),
            "fail in a share of 1 of its cases, found 0.333",
        ),
        (
            replace(GOOD, controls=(Control("bad", "2 > 1", cases, ratio(float("nan"))),)),
            "control bad passed",
        ),
        (
            replace(GOOD, controls=(Control("bad", "2 > 1", cases, ratio(float("inf"))),)),
            "control bad passed",
        ),
        (replace(GOOD, check=undecided), "3 of 6 comparisons decide nothing, a share of 0 may"),
        (
            replace(GOOD, check=diverging(0.5)),
            "case 0: diverged (step 3: an entry beyond 1e+70), which counts as a ratio above 1",
        ),
        (
            replace(GOOD, controls=(Control("bad", "2 > 1", cases, diverging(0.5)),)),
            "control bad passed (ratio inf)",
        ),
        (replace(GOOD, check=nothing), "nothing was compared, which counts as a ratio above 1"),
    ],
)
def test_what_does_not_stand(
    outcome: Callable[[Claim], ClaimOutcome], claim: Claim, reason: str
) -> None:
    result = outcome(claim)
    assert not result.holds
    assert any(reason in problem for problem in result.problems), result.problems


@pytest.mark.parametrize(
    "claim",
    [
        replace(GOOD, controls=(Control("bad", "2 > 1", cases, one_of_three, share=0.3),)),
        replace(
            GOOD, controls=(Control("bad", "2 > 1", cases, ratio(float("inf")), infinite=True),)
        ),
        replace(GOOD, check=undecided, undecided=0.5),
        replace(GOOD, controls=(Control("bad", "2 > 1", cases, diverging(0.5, 2.0)),)),
    ],
    ids=["share", "infinite", "undecided", "diverging after a ratio"],
)
def test_what_a_claim_declares_stands(
    outcome: Callable[[Claim], ClaimOutcome], claim: Claim
) -> None:
    assert outcome(claim).holds


def test_a_plan_with_more_cases_needs_more_comparisons() -> None:
    results = [CaseResult(f"{k}", {"ratio": [0.5]}) for k in range(30)]
    assert ClaimOutcome(replace(GOOD, floor=2), results, []).floor == 20


def test_equal_case_ids_are_refused(outcome: Callable[[Claim], ClaimOutcome]) -> None:
    with pytest.raises(ValueError, match="expected cases with ids of their own, found twice"):
        outcome(replace(GOOD, cases=lambda plan: [Case("same", {}), Case("same", {})]))


def test_a_case_has_one_thread_of_libraries_that_were_loaded_since_as_well(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    threads, looked, counts = list[int](), list[Any](), list[int]()

    def counting(case: Case) -> CaseResult:
        threads.extend(library["num_threads"] for library in threadpool_info())
        return ratio(0.5)(case)

    def looking() -> ThreadpoolController:
        looked.append(ThreadpoolController())
        return looked[-1]

    monkeypatch.setattr(runner, "ThreadpoolController", looking)
    monkeypatch.setitem(CLAIMS, GOOD.id, replace(GOOD, check=counting))
    with threadpool_limits(2):
        for module in ("loaded_first", None, "loaded_since"):
            if module:
                monkeypatch.setitem(sys.modules, module, runner)
            assert not runner.work((GOOD.id, "", Case("0", {}))).error
            counts.append(len(looked))
    assert {*threads} == {1}
    assert counts == [1, 1, 2]


def test_finished_cases_are_not_done_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(CLAIMS, GOOD.id, GOOD)
    first = run([GOOD], PLAN, Journal(tmp_path, PLAN, fresh=True), jobs=1)[0]
    monkeypatch.setitem(CLAIMS, GOOD.id, replace(GOOD, check=broken))
    again = run([CLAIMS[GOOD.id]], PLAN, Journal(tmp_path, PLAN, fresh=False), jobs=1)[0]
    assert again.ratios == first.ratios


def test_what_raised_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory was short once: the error is the outcome of that run, and the next one does the case again."""
    monkeypatch.setitem(CLAIMS, GOOD.id, short := replace(GOOD, check=broken))
    first = run([short], PLAN, Journal(tmp_path, PLAN, fresh=True), jobs=1)[0]
    assert [bool(result.error) for result in first.results] == [True] * 3
    monkeypatch.setitem(CLAIMS, GOOD.id, GOOD)
    journal = Journal(tmp_path, PLAN, fresh=False)
    assert len(journal.done) == 3, "those of the control"
    assert run([GOOD], PLAN, journal, jobs=1)[0].holds


@pytest.mark.parametrize("other", [Plan("full"), Plan(seed=5)])
def test_a_fresh_run_leaves_the_journals_of_others_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, other: Plan
) -> None:
    monkeypatch.setitem(CLAIMS, GOOD.id, GOOD)
    run([GOOD], other, Journal(tmp_path, other, fresh=False), jobs=1)
    run([GOOD], PLAN, Journal(tmp_path, PLAN, fresh=False), jobs=1)
    assert not Journal(tmp_path, PLAN, fresh=True).done
    assert len(Journal(tmp_path, other, fresh=False).done) == 6


def test_what_is_not_a_number_is_the_worst(outcome: Callable[[Claim], ClaimOutcome]) -> None:
    """Whichever comes first: max(0.5, nan) is 0.5."""
    for values in ((0.5, math.nan), (math.nan, 0.5)):
        result = outcome(replace(GOOD, check=several(values)))
        assert [(one.name, one.count, one.worst) for one in result.compared] == [
            ("ratio", 6, math.inf)
        ]
    (half,) = outcome(replace(GOOD, check=several((0.25, 0.5)))).compared
    assert (half.median, half.worst) == (0.375, 0.5)


def test_the_report_shows_a_ratio_that_is_no_number(
    outcome: Callable[[Claim], ClaimOutcome], tmp_path: Path
) -> None:
    progress: list[tuple[str, int, int]] = []
    result = outcome(replace(GOOD, check=several((0.5, math.nan)), controls=()))
    sections = drawn([result], lambda *where: progress.append(where))
    html = write_report(sections, PLAN, tmp_path, 1.0).read_text(encoding="utf-8")
    assert '<td>ratio</td><td class="n">6</td><td class="n">nan</td><td class="n">∞</td>' in html
    assert progress == [(GOOD.id, 0, 1), ("report", 1, 1)]


def test_the_report_says_where_a_control_diverges(
    outcome: Callable[[Claim], ClaimOutcome], tmp_path: Path
) -> None:
    result = outcome(replace(GOOD, controls=(Control("bad", "2 > 1", cases, diverging(2.0)),)))
    html = write_report(drawn([result]), PLAN, tmp_path, 1.0).read_text(encoding="utf-8")
    assert "It diverges (0, step 3: an entry beyond 1e+70)." in html
    (control,) = read_json(tmp_path / "results.json")["claims"][0]["controls"]
    assert (control["worst"], control["fails"], control["diverged"]) == (
        "inf",
        True,
        "0, step 3: an entry beyond 1e+70",
    )


def test_a_long_list_of_problems_says_that_there_are_more(
    outcome: Callable[[Claim], ClaimOutcome], tmp_path: Path
) -> None:
    result = outcome(
        replace(GOOD, cases=lambda plan: [Case(str(k), {}) for k in range(33)], check=broken)
    )
    printed = StringIO()
    print_outcomes([result], Console(file=printed, width=200))
    assert len(result.problems) > 33
    assert f"and {len(result.problems) - 10} more, see results.json" in printed.getvalue()
    html = write_report(drawn([result]), PLAN, tmp_path, 1.0).read_text(encoding="utf-8")
    assert f"<li>and {len(result.problems) - 20} more, see results.json</li>" in html


def test_other_plans_have_other_journals(tmp_path: Path) -> None:
    assert (
        Journal(tmp_path, Plan(seed=1), fresh=True).path
        != Journal(tmp_path, Plan(seed=2), fresh=True).path
    )


def test_report_is_written_although_a_case_broke(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The report says what broke; the figures, which need its series, are left out."""
    claim = CLAIMS["local-error"]
    first = next(iter(claim.cases(PLAN))).id
    half_broken = replace(
        claim, check=lambda case: broken(case) if case.id == first else claim.check(case)
    )
    monkeypatch.setitem(CLAIMS, claim.id, half_broken)
    outcomes = run([half_broken], PLAN, Journal(tmp_path, PLAN, fresh=True), jobs=1)
    html = write_report(drawn(outcomes), PLAN, tmp_path, 1.0).read_text(encoding="utf-8")
    assert f"case {first} broke: ZeroDivisionError: the check itself is wrong" in html
    assert f"<summary>Traceback of case {first}</summary><pre>ZeroDivisionError" in html
    assert "data:image" not in html
    stored = read_json(tmp_path / "results.json")["claims"][0]
    assert list(stored["errors"]) == [first]
    assert "Traceback (most recent call last)" in stored["errors"][first]


def raising(*_: Any) -> Any:
    raise OverflowError("no axis goes there")


@pytest.mark.parametrize("effort", ["quick", "full"])
@pytest.mark.parametrize(
    ("part", "message"),
    [
        (
            {"figures": (Figure("A figure", "caption", raising),)},
            "figure 'A figure' cannot be drawn: OverflowError: no axis goes",
        ),
        (
            {"tables": (Table("A table", raising),)},
            "table 'A table' cannot be made: OverflowError: no axis goes there",
        ),
        (
            {"tables": (Table("A table", lambda results: []),)},
            "expected a row at least, the names of the columns, found none",
        ),
    ],
)
def test_what_cannot_be_drawn_is_a_reason_and_the_rest_is_shown(
    part: dict[str, Any], message: str, effort: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its claim does not stand, since no reader can see why; the report and the record are of one run."""
    claim, plan = replace(GOOD, **part), Plan(effort)
    monkeypatch.setitem(CLAIMS, GOOD.id, claim)
    monkeypatch.setattr(
        runner, "records", lambda plan: {GOOD.id: NOTHING} if plan.effort == "quick" else {}
    )
    sections = drawn(run([claim], plan, Journal(tmp_path, plan, fresh=True), jobs=1))
    html = write_report(sections, plan, tmp_path, 1.0).read_text(encoding="utf-8")
    (stored,) = read_json(tmp_path / "results.json")["claims"]
    assert (stored["holds"], sections[0].outcome.holds) == (False, False)
    assert any(message in problem for problem in stored["problems"])
    assert "does not stand" in html
    assert "holds</span>" not in html


def test_numbers_in_a_table_are_shown(
    outcome: Callable[[Claim], ClaimOutcome], tmp_path: Path
) -> None:
    result = outcome(
        replace(GOOD, tables=(Table("A table", lambda results: [["n"], [len(results)]]),))
    )  # type: ignore[list-item]
    assert "<td>3</td>" in write_report(drawn([result]), PLAN, tmp_path, 1.0).read_text(
        encoding="utf-8"
    )


def test_report_is_self_contained(tmp_path: Path) -> None:
    claim = CLAIMS["simultaneous-descent"]
    outcomes = run([claim], PLAN, Journal(tmp_path, PLAN, fresh=True), jobs=1)
    html = write_report(drawn(outcomes), PLAN, tmp_path, 1.0).read_text(encoding="utf-8")
    assert claim.title in html
    assert "s = (1 + 2σ<sub>max</sub>²)‖Z‖" in html
    assert 'src="data:image/svg+xml;base64,' in html
    for outside in ('src="http', 'href="http', "url(h", 'url("h', "<script", "<link", "@import"):
        assert outside not in html
    stored = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))
    assert stored["claims"] == as_data(outcomes, PLAN, 1.0)["claims"]
    assert stored["claims"][0]["ratios"]

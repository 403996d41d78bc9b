"""Two results side by side: verdicts, cases, ratios, controls; and an exit status that says whether
a claim was lost.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from geolora_ref.support.files import write_json
from verification.__main__ import main
from verification.campaign.outcomes import ClaimOutcome, ControlOutcome
from verification.claim import Case, CaseResult, Claim, Control, Plan
from verification.report.report import as_data

pytestmark = pytest.mark.usefixtures("module_unchecked")


def results(
    name: str = "mine", ratio: float = 0.5, cases: int = 3, bad: float = 2.0
) -> dict[str, Any]:
    """The results of one made-up claim, as a run writes them."""

    def of(value: float, count: int) -> list[CaseResult]:
        return [CaseResult(f"[{k}]", {"ratio": [value]}) for k in range(count)]

    def nothing(case: Case) -> CaseResult:
        raise NotImplementedError

    control = Control("bad", "2 > 1", lambda plan: (), nothing)
    claim = Claim(name, "t", "", "s", (), (), lambda plan: (), nothing, (control,), 1, "e")
    return as_data(
        [ClaimOutcome(claim, of(ratio, cases), [ControlOutcome(control, of(bad, 1), 1.0)])],
        Plan(),
        1.0,
    )


def undecided(count: int) -> dict[str, Any]:
    """The same, with so many comparisons that decide nothing."""
    found = results()
    found["claims"][0]["undecided"] = count
    return found


Changed = Callable[[dict[str, Any]], dict[str, Any]]


@pytest.mark.parametrize(
    ("old", "new", "status", "lines"),
    [
        (results(), results(), 0, ["every claim that stood stands (0 claims have changes)"]),
        (
            results(),
            results(ratio=0.25),
            0,
            ["worst ratio 0.5 0.25", "of case [0] 0.5 0.25", "(1 claims have changes)"],
        ),
        (results(), results(cases=4), 0, ["cases 3 4", "comparisons 3 4", "of case [3] none 0.5"]),
        (
            results(),
            undecided(2),
            0,
            ["comparisons that decide nothing 0 2", "(1 claims have changes)"],
        ),
        (
            results(),
            results(cases=19),
            0,
            ["of case [7] none 0.5", "mine: 11 cases more have another ratio"],
        ),
        (
            results(),
            results(ratio=1.5),
            1,
            ["verdict holds does not stand", "1 claims stood and do not any more: mine"],
        ),
        (results(ratio=1.5), results(), 0, ["verdict does not stand holds"]),
        (results(ratio=1.5), results(ratio=float("inf")), 0, ["worst ratio 1.5 ∞"]),
        (results(), results(ratio=float("nan")), 1, ["of case [0] 0.5 ∞"]),
        (
            results(),
            results(bad=0.9),
            1,
            ["control bad fails passes", "verdict holds does not stand"],
        ),
        (
            results(),
            results("another"),
            1,
            ["mine verdict holds not checked", "another verdict not checked holds"],
        ),
        (results(ratio=1.5), results("another"), 0, ["mine verdict does not stand not checked"]),
    ],
)
def test_what_has_changed_is_reported(
    old: dict[str, Any],
    new: dict[str, Any],
    status: int,
    lines: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    write_json(tmp_path / "a" / "results.json", old)
    write_json(tmp_path / "b.json", new)
    assert main(["--compare", str(tmp_path / "a"), str(tmp_path / "b.json")]) == status
    printed = " ".join(capsys.readouterr().out.split())
    for words in (
        *lines,
        f"A: {tmp_path / 'a'}: {old['machine']['date']}, quick, seed 0, 1 claims, geolora_ref ",
    ):
        assert words in printed


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        (None, "No such file"),
        (
            {"format": 1},
            "expected results of python -m verification, found another form (KeyError: 'claims')",
        ),
        ({"claims": 3}, "found another form (TypeError: "),
        ({"claims": [3]}, "found another form (TypeError: "),
        (results() | {"machine": None}, "found another form (TypeError: "),
        (
            results()
            | {
                "claims": [
                    {
                        "id": "x",
                        "holds": True,
                        "cases": 1,
                        "compared": 1,
                        "undecided": 0,
                        "worst": "much",
                    }
                ]
            },
            "form (ValueError: ",
        ),
    ],
)
def test_what_are_no_results_is_status_2(
    contents: dict[str, Any] | None,
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    write_json(tmp_path / "a.json", results())
    if contents is not None:
        write_json(tmp_path / "b.json", contents)
    assert main(["--compare", str(tmp_path / "a.json"), str(tmp_path / "b.json")]) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert message in said
    assert str(tmp_path / "b.json") in said

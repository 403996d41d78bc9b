"""python -m verification: exit status, options, and what is printed."""

from __future__ import annotations

import importlib
import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from io import StringIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from geolora_ref.files import write_json
from verification import record, tightness
from verification.__main__ import main, print_outcomes
from verification.claim import Plan
from verification.claims import CLAIMS

pytestmark = pytest.mark.usefixtures("module_unchecked")  # as a user runs it

ROOT = Path(__file__).parent.parent.parent
CLAIM = "curvature-tail"


def test_list_names_every_claim_and_control(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--list"]) == 0
    printed = capsys.readouterr().out
    assert all(name in printed for name in CLAIMS)
    assert "must fail: naive-factor-euler" in printed


def test_unknown_claim_is_refused_with_the_names(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["--only", "no-such-claim"])
    assert stopped.value.code == 2
    assert "expected one of one-backward-pass, " in capsys.readouterr().err


@pytest.mark.parametrize(("option", "value", "least"), [("--seed", "-1", 0), ("--seed", "one", 0), ("--jobs", "0", 1)])
def test_a_seed_or_a_number_that_is_none_is_refused(
    capsys: pytest.CaptureFixture[str], option: str, value: str, least: int
) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["--only", CLAIM, option, value])
    assert stopped.value.code == 2
    assert f"argument {option}: expected an integer >= {least}, found '{value}'" in capsys.readouterr().err


def test_success_is_status_0_and_prints_the_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "[run]"
    assert main(["--only", CLAIM, "--only", CLAIM, "--jobs", "1", "--output", str(folder)]) == 0  # once
    printed = capsys.readouterr().out.replace("\n", "")
    assert f"{CLAIM}  " in printed
    assert "3 of 3     holds" in printed
    assert f"; 1 of {len(CLAIMS)} claims were checked)" in printed
    assert "earlier run" not in printed
    assert str(folder / "report.html") in printed, "brackets are no markup"


def test_what_an_earlier_run_had_finished_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its time is not in the seconds, and its processor need not be that of the table of the machine."""
    claim = CLAIMS[CLAIM]
    own, of_control = list(claim.cases(Plan()))[:2], list(claim.controls[0].cases(Plan()))[:1]
    few = replace(claim.controls[0], cases=lambda plan: of_control)
    monkeypatch.setitem(CLAIMS, CLAIM, replace(claim, cases=lambda plan: own, controls=(few,)))
    monkeypatch.setitem(CLAIMS, "another", replace(CLAIMS[CLAIM], id="another"))
    main(["--only", "another", "--full", "--jobs", "1", "--output", str(tmp_path)])  # whose cases are in the same journal
    assert "earlier run" not in capsys.readouterr().out
    for found in (False, True):
        assert main(["--only", CLAIM, "--full", "--jobs", "1", "--output", str(tmp_path)]) in (0, 1)
        printed, stored = capsys.readouterr().out, json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))
        html = (tmp_path / "report.html").read_text(encoding="utf-8")
        assert stored["all_claims"] == len(CLAIMS)
        assert stored["sources"].keys() == {"geolora_ref", "verification"}
        assert stored["sources"]["verification"] in html
        told = f"{stored['resumed']} cases are from an earlier run" in printed, "cases from an earlier run" in html
        assert (bool(stored["resumed"]), *told) == (found, found, found)
    assert stored["resumed"] == 3


def test_failure_is_status_1_and_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(CLAIMS, CLAIM, replace(CLAIMS[CLAIM], limit=0.5))
    assert main(["--only", CLAIM, "--jobs", "1", "--output", str(tmp_path)]) == 1
    printed = capsys.readouterr().out
    assert "1 of 1 claims do not stand" in printed
    assert "above 0.5" in printed


@pytest.mark.parametrize("contents", ["{", None], ids=["truncated", "another form"])
def test_a_damaged_record_is_told_before_anything_is_done(
    contents: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(record, "LEDGER", ledger := tmp_path / "tightness.json")
    if contents is None:
        write_json(ledger, {"format": 1, "claims": {CLAIM: {"median": 1.0}}})
    else:
        ledger.write_text(contents, encoding="utf-8")
    monkeypatch.setattr("verification.__main__.run", lambda *_, **__: pytest.fail("cases were done"))
    assert main(["--only", CLAIM, "--jobs", "1", "--output", str(tmp_path / "run")]) == 2
    assert f"cannot go on: {ledger}: expected " in capsys.readouterr().out
    with pytest.raises(SystemExit) as stopped:
        tightness.main(["--only", CLAIM])
    assert stopped.value.code == 2
    ledger.unlink()
    assert main(["--only", CLAIM, "--jobs", "1", "--output", str(tmp_path / "run")]) == 2
    assert str(ledger) in capsys.readouterr().out


@pytest.mark.parametrize("columns", [80, 200])
def test_the_table_is_whole_on_a_terminal_of_80_columns(columns: int) -> None:
    """The longest names and numbers that there are, and the wrong verdict, which is the longer one."""
    control = SimpleNamespace(failed={"an inequality"})
    outcomes: Any = [
        SimpleNamespace(
            claim=claim, results=[None] * 54321, count=7654321, worst=1.23e120, controls=[control] * 12, holds=holds, problems=[]
        )
        for claim in CLAIMS.values()
        for holds in (True, False)
    ]
    printed = StringIO()
    print_outcomes(outcomes, Console(file=printed, width=columns))
    lines = printed.getvalue().splitlines()
    assert "…" not in printed.getvalue()
    assert max(map(len, lines)) <= columns
    for claim in CLAIMS.values():
        pattern = rf"{claim.id} +54321  7654321  1\.23e\+120 +{claim.limit:g}  12 of 12 +(holds|does not)"
        assert sum(bool(re.match(pattern, line)) for line in lines) == 2


@pytest.mark.parametrize("text", ["‖[i,j <= r]‖ ≤ 1", "ends with [/", "no [/tag] of that name", "[red]a[/red]"])
def test_brackets_of_a_text_are_printed(text: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """They look like the markup of the table: as such they would vanish, or stop the command."""
    control = replace(CLAIMS[CLAIM].controls[0], why=text)
    claim = replace(CLAIMS[CLAIM], title=text, statement=text, controls=[control])
    outcome: Any = SimpleNamespace(claim=claim, results=[], count=0, worst=2.0, controls=[], holds=False, problems=[text])
    printed = StringIO()
    print_outcomes([outcome], Console(file=printed, width=200))
    assert f"{CLAIM}: {text}" in printed.getvalue()
    monkeypatch.setitem(CLAIMS, CLAIM, claim)
    assert main(["--list"]) == 0
    assert capsys.readouterr().out.count(text) == 3


def test_json_is_printed_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--only", CLAIM, "--jobs", "1", "--json", "--output", str(tmp_path)]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["claims"][0]["holds"]


def test_a_stream_without_the_characters_of_the_claims_shows_them_escaped() -> None:
    asked = [sys.executable, "-m", "verification", "--list"]
    environment = os.environ | {"PYTHONIOENCODING": "ascii"}
    done = subprocess.run(asked, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "\\u2207" in done.stdout


@pytest.mark.parametrize("module", ["parity.__main__", "rigor.__main__", "rigor.ladder", "rigor.long_runs", "rigor.faults"])
def test_a_folder_that_cannot_be_written_is_told_before_the_work(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], module: str
) -> None:
    (tmp_path / "file").write_text("mine")
    command = importlib.import_module(f"verification.{module}")
    with pytest.raises(SystemExit) as stopped:
        command.main(["--output", str(tmp_path / "file" / "folder")])
    assert stopped.value.code == 2
    assert "argument --output: expected a folder that can be written, found '" in capsys.readouterr().err

"""python -m verification: exit status, options, and what is printed."""

from __future__ import annotations

import importlib
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from io import StringIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console
from verification.campaign import record, tightness

from geolora_ref.support.files import write_json
from verification.__main__ import main
from verification.claim import Claim, Plan
from verification.claims import CLAIMS
from verification.command import print_outcomes
from verification.report.report import FILES, PAGES
from verification.support import command_line
from verification.support.options import known

pytestmark = pytest.mark.usefixtures("module_unchecked", "stored_pages_once")  # as a user runs it

ROOT = Path(__file__).parent.parent.parent
CLAIM = "one-backward-pass"


def test_list_names_every_claim_and_control(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--list"]) == 0
    printed = capsys.readouterr().out
    assert all(name in printed for name in CLAIMS)
    assert "must fail: naive-factor-euler" in printed


@pytest.mark.parametrize("terminal", [False, True])
def test_a_log_has_lines_of_progress(monkeypatch: pytest.MonkeyPatch, *, terminal: bool) -> None:
    monkeypatch.setattr(command_line, "SILENCE", 0.0)
    shown = StringIO()
    with command_line.ProgressBar(
        Console(file=shown, force_terminal=terminal), what="checked"
    ) as bar:
        bar.update(
            bar.add_task("starting", total=None), description="descent", completed=3, total=9
        )
    assert ("descent: 3 of 9 checked\n" in shown.getvalue()) is not terminal


WITHOUT_TORCH = """
import sys
from pathlib import Path
from verification.__main__ import main
from verification.claim import Plan
from verification.report.report import write_pages_beside, write_report

main(["--list"])
write_pages_beside(Path(sys.argv[1]))
write_report([], Plan(), Path(sys.argv[1]), 1.0)
sys.exit("torch" in sys.modules)
"""


def test_claims_are_listed_and_a_report_is_written_without_torch(tmp_path: Path) -> None:
    """To load it takes most of the time of a short command, and none of the claims needs it before
    it is checked.
    """
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH, str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert {path.name for path in tmp_path.iterdir()} == {*FILES, *PAGES}


@pytest.mark.parametrize("there_are", [CLAIMS, {CLAIM: CLAIMS[CLAIM]}], ids=["a part", "all"])
def test_a_report_of_all_claims_has_pages_next_to_it(
    there_are: Mapping[str, Claim],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The measurements of other commands do not depend on the selection: a claim alone need not
    wait for their pictures.
    """
    for module in ("verification.command", "verification.report.report"):
        monkeypatch.setattr(f"{module}.CLAIMS", there_are)
    assert main(["--only", CLAIM, "--jobs", "1", "--output", str(tmp_path)]) == 0
    assert "the claim holds, every negative control fails" in capsys.readouterr().out
    pages = {name for name in PAGES if (tmp_path / name).exists()}
    report = (tmp_path / "report.html").read_text("utf-8")
    assert '<p class="verdict good">' in report
    part = f"1 of {len(CLAIMS)} claims checked" if len(there_are) > 1 else "Yes"
    assert f"{part}: the claim holds, and its " in report
    linked = set(re.findall(r'href="([\w-]+\.html)"', report))
    assert pages == linked == ({*PAGES} if len(there_are) == 1 else set())


def test_one_claim_may_be_listed_a_line_for_each_of_its_texts(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["--list", "--only", CLAIM]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 + len(CLAIMS[CLAIM].controls)
    assert lines[1].strip() == CLAIMS[CLAIM].statement


@pytest.mark.parametrize("full", ["--list", "--only"])
def test_a_full_disk_under_the_output_is_status_2(full: str, tmp_path: Path) -> None:
    """Reported where there is room; the end of the process does not fail on it again."""
    call = [
        sys.executable,
        "-m",
        "verification",
        full,
        *([CLAIM, "--jobs", "1"] if full == "--only" else []),
    ]
    with Path("/dev/full").open("wb") as stdout:
        done = subprocess.run(
            [*call, "--output", str(tmp_path)],
            cwd=ROOT,
            stdout=stdout,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert (done.returncode, "Traceback" in done.stderr) == (2, False), done.stderr
    assert "cannot go on: [Errno 28] No space left on device" in done.stderr


@pytest.mark.parametrize(
    ("only", "name"),
    [*((("--only", CLAIM), name) for name in FILES), *(((), name) for name in (*FILES, *PAGES))],
)
def test_a_file_that_cannot_be_written_is_refused_before_the_work(
    only: Sequence[str],
    name: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / name).mkdir()
    monkeypatch.setattr("verification.command.run", lambda *_, **__: pytest.fail("cases were done"))
    assert main([*only, "--jobs", "1", "--output", str(tmp_path)]) == 2
    printed = " ".join(capsys.readouterr().err.split())
    assert f"cannot go on: [Errno 21] Is a directory: '{tmp_path / name}'" in printed


@pytest.mark.usefixtures("interruptible")
@pytest.mark.parametrize(("signum", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("when", ["run", "drawn", "write_report"])
def test_interrupted_and_terminated_have_a_sentence_and_a_status(
    when: str,
    signum: signal.Signals,
    status: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Whenever it comes; the earlier handler of the signal is there again afterwards."""

    def interrupted(*_: Any, **__: Any) -> None:
        signal.raise_signal(signum)

    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(f"verification.command.{when}", interrupted)
    for effort, kept in (
        ("--full", "0 finished cases are kept"),
        ("--jobs=1", "without --full the next run starts over"),
    ):
        if when != "run" and effort == "--full":
            continue
        assert main(["--only", CLAIM, "--jobs", "1", effort, "--output", str(tmp_path)]) == status
        printed = capsys.readouterr().out
        assert ("terminated:" if status == 143 else "interrupted:") in printed
        assert (kept if when == "run" else "what had been written is whole") in printed
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--fresh"], "--fresh: expected with --full only, without it every run starts over"),
        (["--list", "--json"], "--json: expected without --list, which has no results"),
        (["--backend", "dask"], "--scheduler: expected with --backend dask and only there"),
        (
            ["--scheduler", "tcp://host:1"],
            "--scheduler: expected with --backend dask and only there",
        ),
        (
            ["--backend", "dask", "--scheduler", "tcp://host:1", "--jobs", "2"],
            "--jobs: expected with --backend loky only",
        ),
        (["--backend", "ray"], "invalid choice"),
        (["--only", "no-such-claim"], "expected one of accumulated-estimate, "),
        (
            ["--only", CLAIM, "--seed", "-1"],
            "argument --seed: expected an integer >= 0, found '-1'",
        ),
        (
            ["--only", CLAIM, "--seed", "one"],
            "argument --seed: expected an integer >= 0, found 'one'",
        ),
        (["--only", CLAIM, "--jobs", "0"], "argument --jobs: expected an integer >= 1, found '0'"),
    ],
)
def test_options_that_mean_nothing_are_refused(
    options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(options)
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err


def test_names_between_colons_stay(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--only", CLAIM, "--jobs", "1", "--output", str(tmp_path / ":smile: [x]")]) == 0
    assert "/:smile: [x]/report.html" in capsys.readouterr().out


def test_success_is_status_0_and_prints_the_report(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "[run]"
    assert (
        main(["--only", CLAIM, "--only", CLAIM, "--jobs", "1", "--output", str(folder)]) == 0
    )  # once
    printed = capsys.readouterr().out.replace("\n", "")
    assert f"{CLAIM}  " in printed
    assert "4 of 4     holds" in printed
    assert f"; 1 of {len(CLAIMS)} claims were checked)" in printed
    assert "earlier run" not in printed
    assert str(folder / "report.html") in printed, "brackets are no markup"


def test_what_an_earlier_run_had_finished_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its time is not in the seconds, and its processor need not be that of the table of the machine."""
    claim = CLAIMS[CLAIM]
    own, of_control = list(claim.cases(Plan()))[:2], list(claim.controls[0].cases(Plan()))[:1]
    few = replace(claim.controls[0], cases=lambda plan: of_control)
    monkeypatch.setitem(CLAIMS, CLAIM, replace(claim, cases=lambda plan: own, controls=(few,)))
    monkeypatch.setattr("verification.support.options.known", lambda: [CLAIM, "another"])
    monkeypatch.setitem(CLAIMS, "another", replace(CLAIMS[CLAIM], id="another"))
    main(
        ["--only", "another", "--full", "--jobs", "1", "--output", str(tmp_path)]
    )  # whose cases are in the same journal
    assert "earlier run" not in capsys.readouterr().out
    for found in (False, True):
        assert main(["--only", CLAIM, "--full", "--jobs", "1", "--output", str(tmp_path)]) in (0, 1)
        printed, stored = (
            capsys.readouterr().out,
            json.loads((tmp_path / "results.json").read_text(encoding="utf-8")),
        )
        html = (tmp_path / "report.html").read_text(encoding="utf-8")
        assert stored["all_claims"] == len(CLAIMS)
        assert stored["sources"].keys() == {"geolora_ref", "verification"}
        assert stored["sources"]["verification"] in html
        said = (
            f"{stored['resumed']} cases are from an earlier run" in printed,
            "cases from an earlier run" in html,
        )
        assert (bool(stored["resumed"]), *said) == (found, found, found)
    assert stored["resumed"] == 3


def test_failure_is_status_1_and_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(CLAIMS, CLAIM, replace(CLAIMS[CLAIM], limit=1e-3))
    assert main(["--only", CLAIM, "--jobs", "1", "--output", str(tmp_path)]) == 1
    printed = capsys.readouterr().out
    assert "1 of 1 claims do not stand" in printed
    assert "above 0.001" in printed
    verdict = f'<p class="verdict bad">No: 1 of 1 claim does not stand: <a href="#{CLAIM}">'
    assert verdict in (tmp_path / "report.html").read_text("utf-8")


@pytest.mark.parametrize("contents", ["{", None], ids=["truncated", "another form"])
def test_a_damaged_record_is_reported_before_anything_is_done(
    contents: str | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(record, "LEDGER", ledger := tmp_path / "tightness.json")
    if contents is None:
        write_json(ledger, {"format": 1, "claims": {CLAIM: {"median": 1.0}}})
    else:
        ledger.write_text(contents, encoding="utf-8")
    monkeypatch.setattr("verification.command.run", lambda *_, **__: pytest.fail("cases were done"))
    assert main(["--only", CLAIM, "--jobs", "1", "--output", str(tmp_path / "run")]) == 2
    assert f"cannot go on: {ledger}: expected " in capsys.readouterr().err
    with pytest.raises(SystemExit) as stopped:
        tightness.main(["--only", CLAIM])
    assert stopped.value.code == 2
    ledger.unlink()
    assert main(["--only", CLAIM, "--jobs", "1", "--output", str(tmp_path / "run")]) == 2
    assert str(ledger) in capsys.readouterr().err


@pytest.mark.parametrize("columns", [80, 200])
def test_the_table_is_whole_on_a_terminal_of_80_columns(columns: int) -> None:
    """The longest names and numbers that there are, and the wrong verdict, which is the longer one."""
    control = SimpleNamespace(failed={"an inequality"})
    outcomes: Any = [
        SimpleNamespace(
            claim=claim,
            results=[None] * 54321,
            count=7654321,
            worst=1.23e120,
            controls=[control] * 12,
            holds=holds,
            on_record=False,
            verdict="holds, not on record" if holds else "does not stand",
            problems=[],
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
        pattern = (
            rf"{claim.id} +54321  7654321  1\.23e\+120 +{claim.limit:g}  12 of 12 +(holds|does not)"
        )
        assert sum(bool(re.match(pattern, line)) for line in lines) == 2


@pytest.mark.parametrize(
    "text", ["‖[i,j <= r]‖ ≤ 1", "ends with [/", "no [/tag] of that name", "[red]a[/red]"]
)
def test_brackets_of_a_text_are_printed(
    text: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """They look like the markup of the table: as such they would vanish, or stop the command."""
    control = replace(CLAIMS[CLAIM].controls[0], why=text)
    claim = replace(CLAIMS[CLAIM], title=text, statement=text, controls=[control])
    outcome: Any = SimpleNamespace(
        claim=claim,
        results=[],
        count=0,
        worst=2.0,
        controls=[],
        holds=False,
        verdict="does not stand",
        problems=[text],
    )
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
    call = [sys.executable, "-m", "verification", "--list"]
    environment = os.environ | {"PYTHONIOENCODING": "ascii"}
    done = subprocess.run(
        call, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "\\u2207" in done.stdout


@pytest.mark.parametrize(
    "module",
    [
        "parity.__main__",
        "certificates.__main__",
    ],
)
def test_a_folder_that_cannot_be_written_is_refused_before_the_work(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], module: str
) -> None:
    (tmp_path / "file").write_text("mine")
    command = importlib.import_module(f"verification.{module}")
    with pytest.raises(SystemExit) as stopped:
        command.main(["--output", str(tmp_path / "file" / "folder")])
    assert stopped.value.code == 2
    assert (
        "argument --output: expected a folder that can be written, found '"
        in capsys.readouterr().err
    )


WITHOUT_CLAIMS = """
import sys
from verification.__main__ import main

try:
    main(sys.argv[1:])
except SystemExit as stopped:
    sys.exit(stopped.code + 10 * ("verification.claims" in sys.modules) + 20 * ("numpy" in sys.modules))
"""


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--only", "nothing"], "--only: expected one of .*one-backward-pass, .*; found nothing"),
        (["--fresh"], "--fresh: expected with --full only"),
        (["--jobs", "0"], "--jobs: expected an integer >= 1, found '0'"),
    ],
)
def test_wrong_options_are_refused_before_the_claims_are_imported(
    arguments: Sequence[str], message: str
) -> None:
    call = [sys.executable, "-c", WITHOUT_CLAIMS, *arguments]
    done = subprocess.run(call, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stderr
    assert re.search(message, done.stderr)


def test_the_names_of_the_claims_are_those_of_their_files() -> None:
    assert known() == sorted(CLAIMS)

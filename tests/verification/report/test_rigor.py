"""The page "Rigor": what is there is shown with its verdict, else what is stored; damage is named;
the nightly run.
"""

from __future__ import annotations

import functools
import json
import math
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from geolora_ref.support.files import read_json, write_atomically, write_json
from verification.report import ladder_figure
from verification.report.report import write_page
from verification.report.rigor import MEASURED, PAGE
from verification.report.totals import main
from verification.support.machine import sources
from verification.support.shown import overview

ROOT = Path(__file__).parents[3]
draw = functools.cache(lambda text: ladder_figure.figure(json.loads(text)))
MACHINE = {"date": "2026-01-02 03:04 UTC", "processor": "Abacus", "commit": "abc1234"}
STORED: dict[str, dict[str, Any]] = {path.name: read_json(path) for path in MEASURED.glob("*.json")}
CORE = STORED["mutation.json"]["scopes"][0]
CHANGED: dict[str, dict[str, Any]] = {  # what is not there as long as all is well
    "results.json": {
        "refuted": {
            "k-step-sign": {"instance": "7", "statements": ["descent"], "followed": True},
            "other": None,
            "third": None,
        },
        "not_refuted": ["other", "third"],
        "objections": ["descent: claimed certified, found undecided"],
    },
    "faults.json": {
        "faults": 4,
        "verdicts": {"finetune": {"kill": {"fine": 2, "lost": 1}, "flip": {"fine": 1}}},
        "findings": [
            {
                "word": "lost",
                "program": "finetune",
                "kind": "kill",
                "reason": "2 of 5 finished steps",
            }
        ],
    },
    "mutation.json": {
        "scopes": [
            CORE | {"floor": 0.97},
            CORE | {"score": None, "sampled": True, "objections": ["no such mutant: f"]},
        ],
    },
    "coverage.json": {"total": 99.0, "least": 96.0},
}
GOOD = {
    name: {key: value for key, value in data.items() if key != "sources"}
    | CHANGED.get(name, {})
    | {"machine": MACHINE}
    for name, data in STORED.items()
}


@pytest.fixture(autouse=True)
def ladder_drawn_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its figure takes seconds, and most tests show the same."""
    monkeypatch.setattr("verification.report.rigor.figure", lambda found: draw(json.dumps(found)))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, data in GOOD.items():
        write_json(tmp_path / name, data)
    return tmp_path


def test_everything_that_was_run_is_shown(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert {item.file for item in PAGE.items} == set(GOOD)
    assert main(["--results", str(folder)]) == 0
    proofs, ladder, fuzzing = (GOOD[f"{name}.json"] for name in ("results", "ladder", "fuzzing"))
    counted = f"{fuzzing['operations']:,} operations, {fuzzing['steps']:,} of them steps"
    assert counted in capsys.readouterr().out
    html = (folder / "rigor-report.html").read_text("utf-8")
    for shown in (
        counted,
        proofs["statements"]["descent"]["text"],
        "k-step-sign",
        "1 of 3 broken steps refuted by proof",
        "1 objections of the independent checker",
        "descent: claimed certified, found undecided",
        "4 faults of 2 kinds in 1 programs: 1 lost, 0 accepted damaged, 0 hangs, 0 tracebacks",
        "2 of 5 finished steps",
        "float64",
        'src="data:image/svg',
        f"{100.0 * CORE['score']:.1f} %",
        "97 %",
        "no such mutant: f",
        "99.0 %",
        "96 %",
        f"{ladder['lossy steps']['reference, float64']['error']:.1e}",
    ):
        assert shown in html
    assert "not run" not in html
    assert "stored</span>" not in html
    assert html.count("2026-01-02 03:04 UTC, commit abc1234, Abacus") >= len(GOOD)
    for outside in ('src="http', 'href="http', "url(h", 'url("h', "<script", "<link", "@import"):
        assert outside not in html


@pytest.mark.parametrize(
    ("about", "note"),
    [
        ({}, "made with sources that the file does not name"),
        ({"sources": {}}, "made with sources that the file does not name"),
        ({"sources": sources("verification", "tests")}, "made with the sources that are here"),
        (
            {"sources": sources("verification") | {"tests": "others"}},
            "made with other sources (tests changed since)",
        ),
        (
            {"sources": {"verification": "others"}},
            "made with other sources (verification changed since)",
        ),
    ],
)
def test_results_of_other_sources_are_marked(
    folder: Path, about: dict[str, Any], note: str
) -> None:
    """The commit of the page is not theirs."""
    machine = {"date": "2020-01-01 00:00 UTC", "commit": "abcdef1", "processor": "a processor"}
    write_json(folder / "faults.json", GOOD["faults.json"] | about | {"machine": machine})
    html = write_page(PAGE, folder, folder).read_text("utf-8")
    assert f"2020-01-01 00:00 UTC, commit abcdef1, a processor: {note}" in html


def test_what_was_not_run_here_is_shown_as_it_is_stored(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """On a fresh clone: nothing of it was measured here, which the page says, with its date and
    processor.
    """
    shown = {item.id: shown for item, shown in overview(PAGE.items, tmp_path)}
    stored = {item.id: item.stored for item in PAGE.items if item.stored}
    assert {name for name, one in shown.items() if one.run} == set(stored)
    for name, path in stored.items():
        machine = read_json(path)["machine"]
        assert shown[name].verdict == "passed, stored"
        assert (
            f"{machine['date']}, commit {machine['commit']}, {machine['processor']}: "
            in shown[name].origin
        )
    assert shown["ladder"].image
    assert main(["--results", str(tmp_path)]) == 0
    assert "Certificates       passed, stored" in capsys.readouterr().out


def test_what_was_never_run_says_so_and_how(tmp_path: Path) -> None:
    nothing = [replace(item, stored=None) for item in PAGE.items]
    assert all(
        shown.passed is None and item.command in shown.line
        for item, shown in overview(nothing, tmp_path)
    )
    assert "make mutation" in write_page(PAGE, tmp_path, tmp_path).read_text("utf-8")


def test_a_damaged_stored_file_is_named(tmp_path: Path) -> None:
    write_atomically(
        tmp_path / "stored.json",
        (MEASURED / "faults.json").read_text("utf-8").replace('"faults": ', '"faults": 1'),
    )
    (faults,) = (item for item in PAGE.items if item.id == "faults")
    ((_, shown),) = overview([replace(faults, stored=tmp_path / "stored.json")], tmp_path)
    assert shown.passed is False
    assert "stored.json cannot be shown" in shown.line
    assert "altered or damaged" in shown.line


@pytest.mark.parametrize("name", GOOD)
def test_every_item_can_fail(folder: Path, name: str) -> None:
    """The verdict is that of the machine that measured it."""
    write_json(folder / name, GOOD[name] | {"passed": False})
    assert [item.file for item, shown in overview(PAGE.items, folder) if shown.passed is False] == [
        name
    ]
    assert main(["--results", str(folder)]) == 1


@pytest.mark.parametrize("contents", [b"{", b'{"sha256": "0"}', None])
def test_a_damaged_or_foreign_file_is_named(folder: Path, contents: bytes | None) -> None:
    if contents is None:
        write_json(folder / "faults.json", {"format": 1})
    else:
        write_atomically(folder / "faults.json", contents)
    (shown,) = (shown for _, shown in overview(PAGE.items, folder) if shown.passed is False)
    assert "faults.json cannot be shown" in shown.line


def test_a_page_that_cannot_be_written_is_no_failure_of_what_it_shows(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SystemExit) as stopped:
        main(["--results", str(tmp_path / "file")])
    assert stopped.value.code == 2
    assert "error: [Errno" in capsys.readouterr().err


# --- who runs all of it ---------------------------------------------------------------------------


@pytest.mark.skipif(shutil.which("make") is None, reason="there is no make here")
def test_the_nightly_run_calls_whatever_the_page_shows() -> None:
    """One command an item, but for the fuzzing, which is a test; and the page."""
    done = subprocess.run(
        ["make", "-n", "nightly"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    called = set(re.findall(r"-m verification\.((?:certificates|trust|report)\S*)", done.stdout))
    trust = ("long_runs", "faults", "branch_coverage", "mutation")
    assert called == {
        "certificates",
        "certificates.ladder",
        "report.totals",
        *(f"trust.{program}" for program in trust),
    }
    assert len(PAGE.items) == len(called)
    assert (
        "verification/certificates/checker.py build/rigor/certificates.json build/rigor/refutations.json"
        in done.stdout
    )
    assert "HYPOTHESIS_PROFILE=nightly" in done.stdout


# --- the documentation ----------------------------------------------------------------------------


def documented(stored: dict[str, Any]) -> list[str]:
    """The statements of docs/rigor.md about the stored files, piece by piece."""
    proofs, ladder, fuzzing = (stored[name] for name in ("results", "ladder", "fuzzing"))
    broken, refuted = len(proofs["refuted"]), len(proofs["refuted"]) - len(proofs["not_refuted"])
    slope = {name: f"{value:.3f}".replace("-", "−") for name, value in ladder["slopes"].items()}
    named = {"W_hat": "Ŵ", "W_1": "W₁"}
    stages = ", ".join(f"{named.get(stage, stage)} {slope[stage]}" for stage in ladder["errors"])
    routes = ("published", "division-free", "augmented with K_new", "augmented with the gradient")
    off = {name: f"{one['error'] / one['u']:.1f}" for name, one in ladder["real steps"].items()}
    fast = ", ".join(
        f"{off[f'fast, {dtype}']} ({dtype})"
        for dtype in ("bfloat16", "float16", "float32", "float64")
    )
    beyond = {name: one["error"] / one["allowed"] for name, one in ladder["lossy steps"].items()}
    fine = [
        beyond[f"{step}, {dtype}"]
        for step in ("reference", "fast")
        for dtype in ("float32", "float64")
    ]
    (run,) = stored["long_runs"]["runs"]
    defect = max(tenth["defect"] for tenth in run["tenths"]) / run["eps"]
    (core,) = stored["mutation"]["scopes"]
    killed = f"{core['killed']} of {core['killed'] + core['survived']} killed"
    a_step = [1e3 * tenth["seconds"] / tenth["steps"] for tenth in run["tenths"]]
    return [
        f"{proofs['instances']} instances every statement is certified or void, none undecided at 53 bits, no objection;",
        f"{refuted} of {broken} broken steps and projections are refuted by proof.",
        f"{stages}; every error is below 3 u.",
        *(f"(slope {slope[name]}" for name in routes),
        f"the reference is {off['reference, float32']} (float32) and {off['reference, float64']} (float64) off,",
        f"the fast path {fast}.",
        f"exceeds the allowance by a factor of at least {math.floor(10.0 * min(fine)) / 10.0};",
        f"three bits less exceed it by {beyond['fast, float16']:.1f}.",
        f"{fuzzing['operations']:,} operations, {fuzzing['steps']:,} of them steps, no violation, {fuzzing['seconds']:.0f} s",
        f"at most {defect:.1f} eps in {run['steps']:,} steps of {run['dtype']},",
        f"{min(a_step):.2f} to {max(a_step):.2f} ms a step. Only this run is stored:",
        f"core {killed}, {core['equivalent']} more equivalent; all were tried;",
        f"Branch coverage of the core: {stored['coverage']['total']:g} %.",
    ]


def test_the_documentation_has_the_stored_figures() -> None:
    text = " ".join((ROOT / "docs" / "rigor.md").read_text(encoding="utf-8").split())
    stored = {path.stem: read_json(path) for path in MEASURED.glob("*.json")}
    assert all(data["passed"] for data in stored.values())
    assert [piece for piece in documented(stored) if piece not in text] == []
    proofs, ladder, fuzzing = (stored[name] for name in ("results", "ladder", "fuzzing"))
    assert (proofs["more_bits"], proofs["objections"], fuzzing["violation"]) == (0, [], "")
    units = [
        error * 2.0**bits
        for errors in ladder["errors"].values()
        for error, bits in zip(errors, ladder["bits"].values(), strict=True)
    ]
    assert max(units) < 3.0
    proofs |= {"instances": 111, "not_refuted": ["one"]}
    ladder["slopes"] = {name: value + 1e-2 for name, value in ladder["slopes"].items()}
    fuzzing["steps"] += 1
    stored["coverage"]["total"] -= 1.0
    stored["mutation"]["scopes"][0]["killed"] -= 1
    for tenth in stored["long_runs"]["runs"][0]["tenths"]:
        tenth |= {"defect": 2.0 * tenth["defect"], "seconds": 2.0 * tenth["seconds"]}
    for one in (*ladder["real steps"].values(), *ladder["lossy steps"].values()):
        one["error"] *= 2.0
    assert [piece for piece in documented(stored) if piece in text] == []

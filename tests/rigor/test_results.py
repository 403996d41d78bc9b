"""The page "Rigor": what is there is shown with its verdict, what is not is said, damage is named; the judge of kills."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from geolora_ref.files import write_atomically, write_json
from verification.machine import sources
from verification.report import write_page
from verification.rigor.faults import judge, units
from verification.rigor.page import main
from verification.rigor.results import PAGE
from verification.shown import overview

TENTH = {"steps": 10, "defect": 1e-15, "ranks": [1, 6], "seconds": 1.0, "peak_kib": 1000}
RUN = {
    "steps": 100,
    "dtype": "float64",
    "eps": 2e-16,
    "resumed": 0,
    "tenths": [TENTH] * 10,
    "checks": {"x": True},
    "passed": True,
}
GOOD: dict[str, dict[str, Any]] = {
    "results.json": {
        "seconds": 1.0,
        "instances": 2,
        "more_bits": 0,
        "statements": {"descent": {"section": "Every step descends", "text": "L(W₁) ≤ …"}},
        "outcomes": {"descent": {"certified": 1, "void": 1}},
        "objections": [],
        "refuted": {"k-step-sign": {"instance": "7", "statements": ["descent"], "followed": True}, "other": None, "third": None},
        "not_refuted": ["other", "third"],
        "passed": True,
    },
    "ladder.json": {
        "bits": {"float64": 53},
        "slopes": {"W_1": 1.0},
        "predicted": {"W_1": 1.0},
        "as predicted": {"W_1": True},
        "tolerance": 0.1,
        "passed": True,
    },
    "long_runs.json": {"runs": [RUN], "passed": True},
    "faults.json": {
        "claims": ["a"],
        "cases": 9,
        "kills": 20,
        "signals": {"SIGKILL": 20},
        "campaigns": 3,
        "resumed": 17,
        "lost": 0,
        "doubled": 0,
        "identical": True,
        "passed": True,
    },
    "fuzzing.json": {
        "operations": 9,
        "steps": 5,
        "floor": 5,
        "violation": "",
        "seconds": 1.0,
        "counts": {"step": 5, "cast": 4},
        "passed": True,
    },
    "mutation.json": {
        "scopes": [
            {
                "name": "core",
                "mutants": 9,
                "killed": 8,
                "equivalent": 1,
                "survived": 0,
                "score": 1.0,
                "floor": 0.97,
                "sampled": False,
                "objections": [],
            },
            {
                "name": "none counted",
                "mutants": 1,
                "killed": 0,
                "equivalent": 1,
                "survived": 0,
                "score": None,
                "floor": 0.9,
                "sampled": True,
                "objections": ["no such mutant: f"],
            },
        ],
        "passed": True,
    },
    "coverage.json": {"branch_percent": {"algorithm": 99.0}, "total": 99.0, "least": 96.0, "passed": True},
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, data in GOOD.items():
        write_json(tmp_path / name, data)
    write_atomically(tmp_path / "ladder.svg", "<svg/>")
    return tmp_path


def test_everything_that_was_run_is_shown(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert {item.file for item in PAGE.items} == set(GOOD)
    assert main(["--results", str(folder)]) == 0
    assert "9 operations, 5 of them steps" in capsys.readouterr().out
    html = (folder / "rigor-report.html").read_text("utf-8")
    for shown in (
        "L(W₁) ≤ …",
        "k-step-sign",
        "1 of 3 broken steps refuted by proof",
        "20 SIGKILL",
        "float64",
        'src="data:image/svg',
        "100.0 %",
        "97 %",
        "no such mutant: f",
        "99.0 %",
        "96 %",
    ):
        assert shown in html
    assert "not run" not in html
    for outside in ('src="http', 'href="http', "url(", "<script", "<link", "@import"):
        assert outside not in html


@pytest.mark.parametrize(
    ("about", "told"),
    [
        ({}, "the file does not name the sources"),
        ({"sources": {}}, "the file does not name the sources"),
        ({"sources": sources("verification", "tests")}, "made with the sources that are here"),
        ({"sources": sources("verification") | {"tests": "others"}}, "made with other sources (tests changed since)"),
        ({"sources": {"verification": "others"}}, "made with other sources (verification changed since)"),
    ],
)
def test_results_of_other_sources_are_marked(folder: Path, about: dict[str, Any], told: str) -> None:
    """The commit of the page is not theirs."""
    machine = {"date": "2020-01-01 00:00 UTC", "commit": "abcdef1", "processor": "a processor"}
    write_json(folder / "faults.json", GOOD["faults.json"] | about | {"machine": machine})
    html = write_page(PAGE, folder, folder).read_text("utf-8")
    assert f"2020-01-01 00:00 UTC, commit abcdef1, a processor: {told}" in html


def test_what_was_not_run_says_so_and_how(tmp_path: Path) -> None:
    assert all(shown.passed is None and item.command in shown.line for item, shown in overview(PAGE.items, tmp_path))
    assert "make mutation" in write_page(PAGE, tmp_path, tmp_path).read_text("utf-8")


@pytest.mark.parametrize("name", GOOD)
def test_every_item_can_fail(folder: Path, name: str) -> None:
    """The verdict is that of whoever measured it."""
    write_json(folder / name, GOOD[name] | {"passed": False})
    assert [item.file for item, shown in overview(PAGE.items, folder) if shown.passed is False] == [name]
    assert main(["--results", str(folder)]) == 1


@pytest.mark.parametrize("contents", [b"{", b'{"sha256": "0"}', None])
def test_a_damaged_or_foreign_file_is_named(folder: Path, contents: bytes | None) -> None:
    if contents is None:
        write_json(folder / "faults.json", {"format": 1})
    else:
        write_atomically(folder / "faults.json", contents)
    (shown,) = (shown for _, shown in overview(PAGE.items, folder) if shown.passed is False)
    assert "faults.json cannot be shown" in shown.line


def test_the_judge_of_kills_sees_what_is_lost_changed_and_doubled(tmp_path: Path) -> None:
    before, after = [("a", "1"), ("b", "2")], [("a", "1"), ("b", "2"), ("c", "3")]
    assert judge(before, after) == (0, 0)
    assert judge(before, after[1:]) == (1, 0)
    assert judge(before, [("a", "other"), ("b", "2")]) == (1, 0)
    assert judge(before, [*after, ("a", "again")]) == (0, 1)
    write_atomically(tmp_path / "journal-1.jsonl", '{"unit": "a"}\n{"unit": "b"}\n{"un')
    assert [unit for unit, _ in units(tmp_path)] == ["a", "b"]

"""The command line, the pytest class and the pytest option."""

from __future__ import annotations

import json
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from geolora_ref.cli import main
from geolora_ref.oracle.catalogue import catalogue
from geolora_ref.oracle.check import applicable

WRONG = "backend:wrong"
COUNT = sum(applicable(case, "float64") for case in catalogue())
BACKENDS = """
from geolora_ref.oracle import conformance_suite
from geolora_ref.oracle.mutants import MUTANTS
from geolora_ref.oracle.stages import Stages

right = Stages().step
wrong = MUTANTS["swap-truncation-factors"].step
"""
SUITE = """
from backend import conformance_suite, right, wrong

class TestRight(conformance_suite(right)): ...
class TestWrong(conformance_suite(wrong)): ...
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "backend.py").write_text(BACKENDS)
    (tmp_path / "test_suite.py").write_text(SUITE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "backend", raising=False)
    return tmp_path


def test_right_backend_is_status_0(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "backend:right"]) == 0
    assert f"conforms: {COUNT} cases" in capsys.readouterr().out


def test_wrong_backend_is_status_1_with_a_diagnosis(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", WRONG, "--json", "report.json", "--junit", "report.xml"]) == 1
    printed = capsys.readouterr().out
    assert "DOES NOT CONFORM" in printed
    assert "the SVD factors are swapped" in printed
    report = json.loads(Path("report.json").read_text())
    assert not report["passed"]
    assert len(report["rows"]) == COUNT
    suite = ET.parse("report.xml").getroot()
    assert int(suite.attrib["failures"]) == sum(row["outcome"] == "failed" for row in report["rows"]) > 100


def test_known_failures_come_from_a_file(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["check", WRONG, "--tests", "group=trap", "--json", "report.json"])
    failing = [row["id"] for row in json.loads(Path("report.json").read_text())["rows"] if row["outcome"] == "failed"]
    Path("xfail.txt").write_text("# known\n" + "".join(f"{name} swapped factors\n" for name in failing))
    assert main(["check", WRONG, "--tests", "group=trap", "--xfail", "xfail.txt"]) == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["check", "backend"], "expected package.module:function"),
        (["check", "backend:right", "--tests", "shape"], "expected KEY=VALUE, found 'shape'"),
        (["check", "backend:right", "--xfail", "missing.txt"], "missing.txt"),
        (["check", "backend:right", "--dtype", "bfloat16"], "numpy has no bfloat16"),
    ],
)
def test_wrong_call_is_status_2(folder: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err


def run_pytest(folder: Path, *arguments: str) -> str:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False).stdout


def test_pytest_class(folder: Path) -> None:
    printed = run_pytest(folder, "test_suite.py")
    assert "FAILED test_suite.py::TestWrong::test_case[shape-square-dense]" in printed
    assert "FAILED test_suite.py::TestRight" not in printed


def test_pytest_option(folder: Path) -> None:
    (folder / "test_suite.py").unlink()
    assert f"{COUNT} passed" in run_pytest(folder, "--geolora-backend", "backend:right")
    assert "failed" in run_pytest(folder, "--geolora-backend", WRONG)

"""The command line and the pytest plugin: exit statuses, files, crashes, hangs, interruptions."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import geolora_ref
from geolora_ref import cli
from geolora_ref.cli import main
from geolora_ref.oracle.directions import definitions

pytestmark = pytest.mark.usefixtures("module_unchecked")  # as a user runs it

WRONG = "backend:wrong"
TRAPS, FEW = ("--tests", "group=trap"), ("--tests", "id=shape-s")
BACKENDS = """
import ctypes, io, os, sys, time
import numpy as np
from geolora_ref.oracle import conformance_suite
from geolora_ref.oracle.broken.mutants import MUTANTS
from geolora_ref.oracle.broken.stages import Stages

right = Stages().step
wrong = MUTANTS["swap-truncation-factors"].step

def here(parameters):
    return (parameters["theta"], parameters["min_rank"], parameters["max_rank"]) == (0.0, 1, None)

def sleeping(*arrays, **parameters):
    if here(parameters):
        print("asleep", flush=True)
        time.sleep(60.0)
    return right(*arrays, **parameters)

def ending(*arrays, **parameters):
    return os._exit(3) if here(parameters) else right(*arrays, **parameters)

def crashing(*arrays, **parameters):
    return ctypes.string_at(0) if here(parameters) else right(*arrays, **parameters)

def gone(*arrays, **parameters):
    os._exit(0)

def closing(*arrays, **parameters):
    sys.stdout.close()
    sys.stderr = None
    return wrong(*arrays, **parameters)

def moving(*arrays, **parameters):
    os.chdir("/")
    return right(*arrays, **parameters)

def colourful(*arrays, **parameters):
    raise RuntimeError("\\x1b[31mCUDA error\\x1b[0m in \\udc80")

def rough(*arrays, **parameters):
    given = (X.astype(np.float32) for X in arrays)
    return tuple(X.astype(np.float64) for X in right(*given, **parameters))

def whole(U, S, V, gradients, **parameters):
    G = gradients(U @ S @ V.T)
    return right(U, S, V, G @ V, G.T @ U, U.T @ G @ V, **parameters)

def stacked(*arrays, **parameters):
    return [right(*problem, **parameters) for problem in zip(*arrays)]
"""
SUITE = """
from backend import conformance_suite, right, wrong

class TestRight(conformance_suite(right)): ...
class TestWrong(conformance_suite(wrong)): ...
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "backend.py").write_text(BACKENDS)
    (tmp_path / "exits.py").write_text("import sys\nsys.exit(0)\n")
    (tmp_path / "suites.py").write_text(SUITE)
    (tmp_path / "README.md").write_text("mine")
    (tmp_path / "known.txt").write_text("\ufeff# known\nshape-tall-dense\ta reason\n", "utf-8")
    (tmp_path / "misspelt.txt").write_text("shape-tal-dense\n")
    (tmp_path / "twice.txt").write_text("shape-tall-dense\nshape-tall-dense a reason\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "backend", raising=False)
    return tmp_path


def report() -> Any:
    return json.loads(Path("report.json").read_text("utf-8"))


def test_status(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """0 conforms, 1 does not, with a diagnosis; the folder is that of the call."""
    assert main(["check", "backend:moving", *TRAPS, "--json", "report.json"]) == 0
    os.chdir(folder)
    assert report()["passed"]
    assert main(["check", WRONG, *TRAPS, "--json", "report.json"]) == 1
    assert "DOES NOT CONFORM" in capsys.readouterr().out
    assert report()["defect"]["mutant"] == "swap-truncation-factors"
    assert main(["check", WRONG, "--tests", "id=shape-tall-dense", "--xfail", "known.txt"]) == 0
    assert main(["scoreboard", "report.json", "report.json"]) == 0
    assert "| line 6: swap-truncation-factors |" not in capsys.readouterr().out  # common to both
    with pytest.raises(SystemExit, match="0"):
        main(["--version"])
    assert capsys.readouterr().out == f"geolora-ref {geolora_ref.__version__}\n"


REFUSED = {
    "check backend": "expected package.module:function",
    "check exits:step": "the import of 'exits:step' raised SystemExit: 0",
    "check backend:right --tests shape": "expected KEY=VALUE, found 'shape'",
    "check backend:right --tests id=a --tests id=b": "expected each key once",
    "check backend:right --tests group=nonsense": "the groups are shape, spectrum, ",
    "check backend:right --xfail missing.txt": "missing.txt",
    "check backend:right --xfail twice.txt": "expected each id once",
    "check backend:right --xfail misspelt.txt": "expected ids of cases, found shape-tal-dense",
    "check backend:right --xfail ''": "expected a path, found an empty one",
    "check backend:right --dtype float8": "dtype: expected one of float64",
    "check backend:right --array torch --device bogus": "device: expected torch to make",
    "check backend:right --stages exits:step": "stages: the import of",
    "check backend:right --timeout 0": "timeout: expected seconds > 0, found 0.0",
    "check backend:right --jobs 0": "jobs: expected an integer >= 1, found 0",
    "check backend:right --jobs 1 --reproduce x": "--jobs: expected none with --reproduce",
    "check backend:right --stages a:b --reproduce x": "--stages: expected none with --reproduce",
    "check backend:right --momentum 0.5": "unrecognized arguments: --momentum 0.5",
    "check backend:right --json .": "Is a directory",
    "check backend:right --json README.md/x": "File exists",
    "check-rule adam backend:right --momentum 0.5": "unrecognized arguments: --momentum 0.5",
    "check-rule adam backend:right --name y --reproduce x": "--name: expected none with",
    "check-rule backend:right": "invalid choice: 'backend:right'",
    "scoreboard README.md": "README.md: expected a report of geolora-ref check",
    "vectors export .": "found other contents in README.md",
    "vectors judge vectors outputs": "expected vectors/*.json, found none",
}


@pytest.mark.parametrize("call", REFUSED)
def test_refused(folder: Path, capsys: pytest.CaptureFixture[str], call: str) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(shlex.split(call))
    printed = capsys.readouterr()
    assert REFUSED[call] in printed.err
    assert printed.out == ""
    assert Path("README.md").read_text() == "mine"


@pytest.mark.parametrize(
    ("module", "array", "how"),
    [("torch", "torch", "'geolora-ref[torch]'"), ("jax.numpy", "jax", "pip install jax")],
)
def test_missing_library(
    module: str,
    array: str,
    how: str,
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(SystemExit, match="2"):
        main(["check", "backend:right", "--array", array])
    assert how in capsys.readouterr().err


def test_rules() -> None:
    assert list(cli.RULES) == list(definitions.RULES)


# --- streams and files ----------------------------------------------------------------------------


def run(folder: Path, *arguments: str, before: str = "", **options: Any) -> tuple[int, str, str]:
    """The command in a process of its own, after some shell code."""
    words = shlex.join([sys.executable, "-B", "-m", "geolora_ref", *arguments])
    given: dict[str, Any] = {"cwd": folder, "capture_output": True, "text": True, **options}
    done = subprocess.run(["bash", "-c", f"{before}{words}"], check=False, **given)
    return done.returncode, done.stdout, done.stderr


def test_spoilt_streams(folder: Path) -> None:
    """No verdict is lost by a closed stream, an encoding, or a reader that has gone."""
    call = ["check", "backend:closing", *FEW, "--json", "report.json"]
    status, printed, errors = run(folder, *call, env=os.environ | {"PYTHONIOENCODING": "ascii"})
    assert (status, errors) == (1, "")
    assert "\nDOES NOT CONFORM: " in printed
    for before in ("exec 1>&-; ", "exec > >(exit 0); sleep 0.1; "):
        (folder / "report.json").unlink()
        assert run(folder, *call, before=before)[::2] == (1, "")
        assert not json.loads((folder / "report.json").read_text())["passed"]


# --- crashes, hangs, interruptions ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("backend", "error", "watched"),
    [
        ("ending", "ended its process with exit status 3", ["--jobs", "1"]),
        ("crashing", "ended its process by SIGSEGV", ["--jobs", "2"]),
        ("sleeping", "gave no answer within", ["--timeout", "1.5"]),
    ],
)
def test_lost(
    folder: Path, backend: str, error: str, watched: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """A crash and a hang are rows; the run continues in a new process, without a diagnosis."""
    selected = ("--tests", "id=truncation-theta-0-", "--json", "report.json")
    assert main(["check", f"backend:{backend}", *watched, *selected]) == 1
    rows = report()["rows"]
    lost = [row["id"] for row in rows if row["error"].startswith(error)]
    assert lost == ["truncation-theta-0-unclipped"]
    assert [row["outcome"] for row in rows].count("passed") == len(rows) - 1 == 7
    assert "diagnosis" not in capsys.readouterr().out


def test_jobs(folder: Path) -> None:
    """Several processes find what one finds, in its order."""
    rows = []
    for count in ([], ["--jobs", "2"]):
        assert main(["check", WRONG, *TRAPS, "--json", "report.json", *count]) == 1
        assert report()["defect"]["mutant"] == "swap-truncation-factors"
        rows.append([{**row, "seconds": 0.0} for row in report()["rows"]])
    assert rows[0] == rows[1]


@pytest.mark.parametrize("watched", [[], ["--jobs", "1"]])
def test_interrupt(folder: Path, watched: list[str]) -> None:
    heeded = "signal.signal(signal.SIGINT, signal.default_int_handler)"  # ignored in the background
    program = f"import signal, sys; {heeded}; from geolora_ref.cli import main; sys.exit(main())"
    group = ["--tests", "group=truncation", "--json", "report.json", *watched]
    arguments = [sys.executable, "-c", program, "check", "backend:sleeping", *group]
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(arguments, cwd=folder, **pipes) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "asleep\n"
        process.send_signal(signal.SIGINT)
        printed, errors = process.communicate(timeout=30)
    assert (process.returncode, errors) == (130, "")
    assert re.search(
        r"PROBLEM interrupted in case truncation-theta-0-unclipped, after \d+", printed
    )
    assert "INTERRUPTED: " in printed
    assert not report()["passed"]


# --- pytest ---------------------------------------------------------------------------------------

NAMED = "backend:wrong (numpy, float64): This is what happens when line 6 has this defect"
PLUGIN: dict[str, tuple[list[str], int, str]] = {
    "a diagnosis": ([WRONG], 1, NAMED),
    "xdist": ([WRONG, "-p", "xdist", "-n", "2"], 1, NAMED),
    "fewer bits": (["backend:rough"], 1, "failed"),
    "as claimed": (["backend:rough", "--geolora-precision", "float32"], 0, "5 passed"),
    "a whole step": (["backend:whole", "--geolora-whole"], 0, "5 passed"),
    "stacks": (["backend:stacked", "--geolora-batched"], 0, "5 passed"),
    "known": ([WRONG, "--geolora-xfail", "known.txt"], 1, "1 xfailed"),
    "not failing": (["backend:right", "--geolora-xfail", "known.txt"], 1, "take it off the list"),
    "unknown": (["backend:right", "--geolora-xfail", "misspelt.txt"], 4, "expected ids of cases"),
    "no module": (["no_such:step"], 4, "ERROR: geolora: backend: the import of 'no_such:step'"),
    "no dtype": (["backend:right", "--geolora-dtype", "float8"], 4, "ERROR: geolora: dtype: "),
}
ONE_BY_ONE = """
import contextlib, io, json, sys
import pytest

def run(arguments):
    path, printed = sys.path[:], io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
        status = pytest.main(["-q", "-p", "no:cacheprovider", "-p", "no:xdist", *arguments])
    sys.path[:] = path
    return status, printed.getvalue()

json.dump([run(arguments) for arguments in json.load(sys.stdin)], sys.stdout)
"""


def test_plugin(folder: Path) -> None:
    """In one process, whose imports take longer than the runs."""
    shapes = ["-k", "shape-tall"]
    runs = [["--geolora-backend", *arguments, *shapes] for arguments, _, _ in PLUGIN.values()]
    runs += [["--geolora-dtype", "float32"], ["suites.py", *shapes]]
    done = subprocess.run(
        [sys.executable, "-P", "-O", "-W", "ignore", "-c", ONE_BY_ONE],
        cwd=folder,
        input=json.dumps(runs),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    *found, (lonely, refusal), (status, printed) = json.loads(done.stdout)
    for name, (its_status, words) in zip(PLUGIN, found, strict=True):
        _, right, message = PLUGIN[name]
        assert (its_status, message in words) == (right, True), (name, words)
    assert "geolora::test_conformance[shape-tall-dense]" in found[0][1]
    assert (lonely, "expected --geolora-backend with it" in refusal) == (4, True)
    assert status == 1
    assert "FAILED suites.py::TestWrong::test_case[shape-tall-dense]" in printed
    assert "TestRight" not in printed

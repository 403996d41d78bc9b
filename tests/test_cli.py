"""The command line, the pytest class and the pytest option."""

from __future__ import annotations

import itertools
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest

import geolora_ref
from geolora_ref import cli
from geolora_ref.cli import main
from geolora_ref.oracle import command, jobs
from geolora_ref.oracle.broken.stages import Stages
from geolora_ref.oracle.check import check_step
from geolora_ref.oracle.directions import definitions
from geolora_ref.oracle.reports.scoreboard import read_report
from geolora_ref.oracle.reports.text import junit
from geolora_ref.oracle.trial.choice import Choice, questions
from geolora_ref.oracle.trial.harness import Harness

pytestmark = pytest.mark.usefixtures("module_unchecked")  # as a user runs it

WRONG = "backend:wrong"
COUNT = len(questions(Harness.of(Stages().step)))
QUICK = len(Choice(quick=True).cases(Harness.of(Stages().step)))
TRAPS, FEW = ("--tests", "group=trap"), ("--tests", "id=shape-s")
BACKENDS = """
import ctypes
import io
import os
import sys
import time
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

def stopping(*arrays):
    calls.append(arrays)
    if len(calls) > 7:
        raise KeyboardInterrupt
    return arrays[2:5], None

calls = []

def redirecting(way):
    def step(*arrays, **parameters):
        way()
        return wrong(*arrays, **parameters)
    return step

def nowhere():
    sys.stdout = sys.stderr = io.StringIO()

closing = redirecting(lambda: (sys.stdout.close(), sys.stderr.close()))
detaching = redirecting(lambda: sys.stdout.closed or sys.stdout.detach())
replacing = redirecting(nowhere)
emptying = redirecting(lambda: os.dup2(os.open(os.devnull, os.O_WRONLY), 1))
deleting = redirecting(lambda: setattr(sys, "stdout", None) or setattr(sys, "stderr", None))

def colourful(*arrays, **parameters):
    raise RuntimeError("\\x1b[31mCUDA error\\x1b[0m in \\udc80")
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
    (tmp_path / "README.md").write_text("mine")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "backend", raising=False)
    return tmp_path


def test_right_backend_is_status_0(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "backend:right", "--quick"]) == 0
    assert f"conforms: {QUICK} cases" in capsys.readouterr().out


def test_wrong_backend_is_status_1_with_a_diagnosis(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["check", WRONG, "--quick", "--json", "report.json", "--junit", "report.xml"]) == 1
    printed = capsys.readouterr().out
    assert "DOES NOT CONFORM" in printed
    assert "the SVD factors are swapped" in printed
    report = json.loads(Path("report.json").read_text())
    assert not report["passed"]
    assert len(report["rows"]) == QUICK
    suite = ET.parse("report.xml").getroot()
    assert (
        int(suite.attrib["failures"])
        == sum(row["outcome"] == "failed" for row in report["rows"])
        > QUICK // 4
    )


def test_known_failures_come_from_a_file(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["check", WRONG, "--tests", "group=trap", "--json", "report.json"])
    failing = [
        row["id"]
        for row in json.loads(Path("report.json").read_text())["rows"]
        if row["outcome"] == "failed"
    ]
    listed = "".join(
        f"{name}{gap}swapped factors\n"
        for name, gap in zip(failing, itertools.cycle((" ", "\t", "  \t")), strict=False)
    )
    Path("xfail.txt").write_text(
        f"\ufeff# known\n{listed}complex-tall-dense\nshape-tall-dense\tnot run here\n", "utf-8"
    )
    files = ["--json", "report.json", "--junit", "report.xml"]
    assert main(["check", WRONG, "--tests", "group=trap", "--xfail", "xfail.txt", *files]) == 0
    rows = json.loads(Path("report.json").read_text())["rows"]
    assert {row["error"] for row in rows if row["outcome"] == "xfailed"} == {"swapped factors"}
    skipped = ET.parse("report.xml").getroot().findall("testcase/skipped")
    assert [known.attrib["message"] for known in skipped] == ["swapped factors"] * len(failing)
    assert f"{len(failing)} known to fail, worst ratio of the others" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["check", "backend"], "expected package.module:function"),
        (["check", "backend:right", "--tests", "shape"], "expected KEY=VALUE, found 'shape'"),
        (
            ["check", "backend:right", "--tests", "group=shape", "--tests", "group=trap"],
            "expected each key once, found group twice",
        ),
        (
            ["check", "backend:right", "--tests", "group=nonsense"],
            "matches {'group': 'nonsense'}; the groups are shape, spectrum, ",
        ),
        (["check", "backend:right", "--xfail", "missing.txt"], "missing.txt"),
        (
            ["check", "backend:right", "--xfail", "latin.txt"],
            "latin.txt: expected text in UTF-8, found",
        ),
        (
            ["check", "backend:right", "--xfail", "twice.txt"],
            "twice.txt: expected each id once, found shape-tall-dense twice",
        ),
        (
            ["check", "backend:right", "--xfail", "misspelt.txt"],
            "misspelt.txt: expected ids of cases, found shape-tal-dense",
        ),
        (["check", "backend:right", "--dtype", "bfloat16"], "numpy has no bfloat16"),
        (
            ["check", "backend:right", "--dtype", "float8"],
            "geolora-ref: dtype: expected one of float64, float32, ",
        ),
        (
            ["check", "backend:right", "--precision", "float8"],
            "geolora-ref: precision: expected one of float64, float32, ",
        ),
        (
            ["check", "backend:right", "--array", "mxnet"],
            "geolora-ref: array: expected one of numpy, torch, jax, cupy, found",
        ),
        (
            ["check", "backend:right", "--stages", ""],
            "stages: expected package.module:function, found ''",
        ),
        (
            ["check", "backend:right", "--xfail", ""],
            "argument --xfail: expected a path, found an empty one",
        ),
        (["vectors", "export", ""], "expected a path, found an empty one"),
        (["vectors", "export", "."], "found other contents in README.md"),
        (
            ["vectors", "judge", "vectors", "outputs"],
            "vectors: expected vectors/*.json, found none",
        ),
    ],
)
def test_wrong_call_is_status_2(
    folder: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    Path("latin.txt").write_bytes("shape-tall-dense für später\n".encode("latin-1"))
    Path("misspelt.txt").write_text("shape-tal-dense\n")
    Path("twice.txt").write_text("shape-tall-dense\nshape-wide-dense\nshape-tall-dense a reason\n")
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err


def test_a_library_that_is_missing_is_named_with_its_extra(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, array, extra in (
        ("torch", "torch", "pip install 'geolora-ref[torch]'"),
        ("jax.numpy", "jax", "pip install jax"),
    ):
        monkeypatch.setitem(sys.modules, name, None)
        with pytest.raises(SystemExit) as stopped:
            main(["check", "backend:right", "--array", array])
        assert stopped.value.code == 2
        assert extra in capsys.readouterr().err


def test_a_backend_that_changes_the_folder_moves_no_report(folder: Path) -> None:
    (folder / "moving.py").write_text(
        "import os\nfrom backend import right\ndef step(*a, **k):\n    os.chdir('/')\n    return right(*a, **k)\n"
    )
    assert (
        main(["check", "moving:step", *TRAPS, "--json", "report.json", "--junit", "report.xml"])
        == 0
    )
    assert (folder / "report.json").exists()
    assert (folder / "report.xml").exists()


def test_a_reader_that_goes_ends_nothing(folder: Path) -> None:
    """``head`` ends so: no message, the report is written and the status is the verdict."""
    reading, writing = os.pipe()
    os.close(reading)
    command = [
        sys.executable,
        "-m",
        "geolora_ref.cli",
        "check",
        WRONG,
        *FEW,
        "--json",
        "report.json",
    ]
    run = subprocess.run(
        command, cwd=folder, stdout=writing, stderr=subprocess.PIPE, text=True, check=False
    )
    os.close(writing)
    assert (run.returncode, run.stderr) == (1, "")
    assert not json.loads((folder / "report.json").read_text())["passed"]


def test_no_stream_that_a_backend_spoils_costs_a_verdict(folder: Path) -> None:
    """One that it closes, replaces or leads elsewhere: the next ones find it as it was."""
    spoilt = [
        f"backend:{name}" for name in ("closing", "detaching", "replacing", "emptying", "deleting")
    ]
    program = f"from geolora_ref.cli import main; print(*[main(['check', one, *{FEW}]) for one in {spoilt}])"
    run = subprocess.run(
        [sys.executable, "-c", program], cwd=folder, capture_output=True, text=True, check=False
    )
    assert re.findall("^(backend:.*?)  ", run.stdout, re.MULTILINE) == spoilt
    assert run.stdout.count("\nDOES NOT CONFORM: ") == len(spoilt)
    assert run.stdout.endswith("\n1 1 1 1 1\n")
    assert run.stderr == ""


@pytest.mark.parametrize(
    ("closed", "backend", "status"),
    [("1", "backend:right", 0), ("2", WRONG, 1)],
    ids=["stdout", "stderr"],
)
@pytest.mark.skipif(
    np.__version__ < "2.1", reason="numpy 2.0 cannot be imported by scipy without stderr"
)
def test_a_stream_that_is_closed_costs_no_verdict(
    folder: Path, backend: str, status: int, closed: str
) -> None:
    """The interpreter has none then."""
    command = shlex.join(
        [sys.executable, "-m", "geolora_ref", "check", backend, *FEW, "--json", "report.json"]
    )
    run = subprocess.run(
        ["bash", "-c", f"{command} {closed}>&-"],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (run.returncode, run.stderr) == (status, "")
    assert json.loads((folder / "report.json").read_text())["passed"] == (status == 0)


def test_the_version_is_reported(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["--version"])
    assert capsys.readouterr().out == f"geolora-ref {geolora_ref.__version__}\n"


# --- what comes out, wherever it goes -------------------------------------------------------------


def test_a_failed_vector_is_reported_with_the_criterion(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["vectors", "export", "vectors"])
    with pytest.raises(SystemExit, match="2"):
        main(["vectors", "judge", "vectors", "outputs"])
    assert "outputs: expected a folder of outputs, found none" in capsys.readouterr().err
    Path("outputs").mkdir()
    exact = json.loads(Path("vectors/vectors/exact-tie.json").read_text("utf-8"))["exact"]
    update = {"id": "exact-tie", **{name: exact[name] for name in ("K_new", "L_new", "S_new")}}
    Path("outputs/exact-tie.json").write_text(json.dumps(update | {"theta": 7.0}))
    assert main(["vectors", "judge", "vectors", "outputs", "--json", "report.json"]) == 1
    assert "FAILED exact-tie: ratio inf in theta\n" in capsys.readouterr().out
    report = read_report(Path("report.json"))
    [tie] = [row for row in report["rows"] if row["id"] == "exact-tie"]
    assert (report["backend"], tie["group"], tie["outcome"], tie["ratio"]) == (
        "outputs",
        "exact",
        "failed",
        "inf",
    )
    assert report["environment"]["catalogue"].startswith("vectors ")
    Path("outputs/exact-tie.json").write_text(json.dumps(update))
    main(["vectors", "judge", "vectors", "outputs"])
    assert "FAILED exact-tie:" not in capsys.readouterr().out


def test_a_stream_that_cannot_hold_a_character_costs_no_verdict(folder: Path) -> None:
    for arguments, status, said in (
        (("check", WRONG, *FEW), 1, "DOES NOT CONFORM"),
        (("check", "--help"), 0, "--tests"),
    ):
        command, setting = (
            [sys.executable, "-m", "geolora_ref.cli", *arguments],
            os.environ | {"PYTHONIOENCODING": "ascii"},
        )
        run = subprocess.run(
            command, cwd=folder, env=setting, capture_output=True, text=True, check=False
        )
        assert (run.returncode, run.stderr) == (status, "")
        assert said in run.stdout


def test_what_a_backend_raises_can_be_read_in_every_report(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Control characters, which XML has not and a terminal obeys, and half a surrogate pair, which
    no encoding has.
    """
    assert (
        main(
            ["check", "backend:colourful", *TRAPS, "--json", "report.json", "--junit", "report.xml"]
        )
        == 1
    )
    error = r"raised RuntimeError: \x1b[31mCUDA error\x1b[0m in \udc80"
    assert error in capsys.readouterr().out
    assert json.loads(Path("report.json").read_text("utf-8"))["rows"][0]["error"] == error
    failure = ET.parse("report.xml").getroot().find("testcase/failure")
    assert failure is not None
    line = (
        BACKENDS.splitlines().index(next(line for line in BACKENDS.splitlines() if "CUDA" in line))
        + 1
    )
    assert failure.attrib["message"] == f"{error} (at {folder / 'backend.py'}:{line})"


def test_a_problem_is_a_failure_in_junit() -> None:
    report = check_step(Stages().step, select={"group": "trap"}, xfail={"misspelt": "a reason"})
    suite = ET.fromstring(junit(report))
    cases = suite.findall("testcase")
    assert (suite.attrib["failures"], suite.attrib["tests"]) == ("1", str(len(cases)))
    [failure] = suite.findall("testcase[@classname='problem']/failure")
    assert failure.attrib["message"] == "xfail: no case has the id 'misspelt'"


@pytest.mark.parametrize("option", ["--json", "--junit"])
def test_an_unusable_path_is_refused_before_the_run(
    folder: Path, capsys: pytest.CaptureFixture[str], option: str
) -> None:
    Path("file").write_text("old")
    for path, message in (
        ("", "expected a path"),
        (".", "Is a directory: '.'"),
        ("file/x", "File exists"),
        ("/proc/1/x", ""),
    ):
        with pytest.raises(SystemExit) as stopped:
            main(["check", "backend:right", *TRAPS, option, path])
        assert stopped.value.code == 2
        printed = capsys.readouterr()
        assert message in printed.err
        assert path.removesuffix("/x") in printed.err
        assert printed.out == ""
    assert Path("file").read_text() == "old"


def test_a_full_disk_costs_no_verdict(folder: Path) -> None:
    """The limit of the file size stands for a full disk; it also cuts bytecode off (hence -B), which
    breaks every later import.
    """
    script = shlex.join(
        [
            sys.executable,
            "-B",
            "-m",
            "geolora_ref.cli",
            "check",
            WRONG,
            *FEW,
            "--json",
            "report.json",
        ]
    )
    run = subprocess.run(
        ["bash", "-c", f"ulimit -f 1; {script}"],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "DOES NOT CONFORM" in run.stdout
    assert run.returncode == 2
    assert run.stderr == f"geolora-ref: [Errno 27] File too large: '{folder / 'report.json'}'\n"


def test_ctrl_c_tells_what_there_is_and_where_it_hung(folder: Path) -> None:
    heeded = "signal.signal(signal.SIGINT, signal.default_int_handler)"  # a background job inherits that it is ignored
    program = f"import signal, sys; {heeded}; from geolora_ref.cli import main; sys.exit(main())"
    command = [
        sys.executable,
        "-c",
        program,
        "check",
        "backend:sleeping",
        "--tests",
        "group=truncation",
    ]
    with subprocess.Popen(
        [*command, "--json", "report.json"],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "asleep\n"
        process.send_signal(signal.SIGINT)
        printed, errors = process.communicate()
    assert process.returncode == 130
    assert errors == ""
    assert (
        "PROBLEM interrupted in case truncation-theta-0-unclipped, after 57 of 87 cases" in printed
    )
    assert "INTERRUPTED: 57 cases with group=truncation, worst ratio" in printed
    assert not json.loads((folder / "report.json").read_text("utf-8"))["passed"]


def test_ctrl_c_tells_what_was_found_of_a_rule(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["check-rule", "gradient", "backend:stopping", "--json", "report.json"]) == 130
    printed = capsys.readouterr().out
    assert "  PROBLEM interrupted in sequence one-12x9x3, after 7 of 141 sequences\n" in printed
    assert "INTERRUPTED: 7 sequences, 0 failed, worst ratio" in printed
    report = json.loads(Path("report.json").read_text())
    assert (report["passed"], len(report["rows"]), len(report["problems"])) == (False, 7, 1)


def test_a_crash_and_a_hang_are_rows(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The run continues with the next case, in a new process, and calls no such backend here."""
    selected = ("--tests", "id=truncation-theta-0-", "--json", "report.json")
    for backend, beginning, watched in (
        ("ending", "ended its process with exit status 3", ("--timeout", "1.5")),
        ("ending", "ended its process with exit status 3", ("--jobs", "1")),
        ("crashing", "ended its process by SIGSEGV", ("--timeout", "1.5")),
        ("sleeping", "gave no answer within", ("--timeout", "1.5")),
    ):
        assert main(["check", f"backend:{backend}", *watched, *selected]) == 1
        rows = json.loads(Path("report.json").read_text())["rows"]
        lost = [row["id"] for row in rows if row["error"].startswith(beginning)]
        assert lost == ["truncation-theta-0-unclipped"]
        assert len(rows) == 8
        assert "diagnosis" not in capsys.readouterr().out


def test_a_backend_that_always_crashes_is_given_up(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs, "MOST", 2)
    assert main(["check", "backend:gone", "--jobs", "2", *TRAPS]) == 1
    printed = capsys.readouterr().out
    assert "ended its process with exit status 0" in printed
    assert "PROBLEM stopped after" in printed


def test_a_crash_in_c_names_the_case(folder: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "geolora_ref.cli",
        "check",
        "backend:crashing",
        "--tests",
        "id=truncation-theta-0",
    ]
    run = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert run.returncode == -signal.SIGSEGV
    assert "in case truncation-theta-0-unclipped\n" in run.stderr


def test_several_processes_find_what_one_finds(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """In its order, with the diagnosis; a call that makes no sense is refused."""
    rows = []
    for count in ("1", "2"):
        assert (
            main(
                [
                    "check",
                    WRONG,
                    "--tests",
                    "group=truncation",
                    "--jobs",
                    count,
                    "--json",
                    "report.json",
                ]
            )
            == 1
        )
        report = json.loads(Path("report.json").read_text())
        rows.append(
            [
                {name: value for name, value in row.items() if name != "seconds"}
                for row in report["rows"]
            ]
        )
        assert report["defect"]["mutant"] == "swap-truncation-factors"
    assert rows[0] == rows[1]
    assert len(rows[0]) == 87
    for arguments, message in (
        (["backend:right", "--timeout", "0"], "timeout: expected seconds > 0, found 0.0"),
        (
            ["backend:right", "--timeout", "1", "--rule", "adam"],
            "check --rule NAME MODULE:FUNCTION is now check-rule NAME MODULE:FUNCTION",
        ),
        (["--rule=adam", "backend:right"], "is now check-rule NAME"),
        (["backend:right", "--momentum", "0.5"], "unrecognized arguments: --momentum 0.5"),
        (["backend:right", "--jobs", "0"], "jobs: expected a number >= 1, found 0"),
        (
            ["backend:right", "--jobs", "1", "--reproduce", "x"],
            "--jobs: expected none with --reproduce",
        ),
        (["backend:right", "--seed", "7"], "--seed: expected --fuzz with it"),
        (
            ["backend:right", "--json", "a", "--junit", "a"],
            "--junit: expected another file than that of --json, found a",
        ),
        (
            ["backend:right", "--stages", "a:b", "--reproduce", "x"],
            "--stages: expected none with --reproduce",
        ),
    ):
        with pytest.raises(SystemExit, match="2"):
            main(["check", *arguments])
        assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["adam", "backend:right", "--timeout", "1"], "unrecognized arguments: --timeout 1"),
        (["adam", "backend:right", "--repeat", "2"], "unrecognized arguments: --repeat 2"),
        (["adam", "backend:right", "--momentum", "0.5"], "unrecognized arguments: --momentum 0.5"),
        (
            ["normalised", "backend:right", "--smoothing", "1"],
            "unrecognized arguments: --smoothing 1",
        ),
        (["backend:right"], "invalid choice: 'backend:right' (choose from "),
        (
            ["adam", "backend:right", "--reproduce", "x", "--name", "y"],
            "--name: expected none with --reproduce",
        ),
        (
            ["adam", "backend:right", "--tests", "group=x"],
            "--tests: expected id=… for a rule, found group",
        ),
    ],
)
def test_a_rule_has_the_options_of_its_definition(
    arguments: list[str], message: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["check-rule", *arguments])
    assert message in capsys.readouterr().err


def test_the_rules_of_the_command_line_are_those_of_the_kit() -> None:
    assert list(cli.RULES) == list(definitions.RULES)


def test_ctrl_c_elsewhere_is_a_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stopped(options: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(command, "vectors", stopped)
    assert main(["vectors", "check"]) == 130
    assert capsys.readouterr().err == "geolora-ref: interrupted\n"


def run_pytest(folder: Path, *arguments: str) -> str:
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "-p",
        "no:xdist",
        *arguments,
    ]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False).stdout


def test_other_runs_of_pytest_do_not_load_the_kit(tmp_path: Path) -> None:
    """It would take each of them a second longer."""
    (tmp_path / "test_other.py").write_text(
        "import sys\n\ndef test_options():\n    assert 'geolora_ref.support.pytest_options' in sys.modules\n\n"
        "def test_kit():\n    assert 'geolora_ref.oracle' not in sys.modules\n"
    )
    assert "2 passed" in run_pytest(tmp_path)


def test_the_tests_of_the_option_are_all_cases_under_a_name_of_their_own(folder: Path) -> None:
    """Wherever the package lies; a name without a file, which JUnit has as the class."""
    (folder / "pytest.ini").touch()
    (folder / "test_suite.py").unlink()
    printed = run_pytest(
        folder,
        "--geolora-backend",
        WRONG,
        "-k",
        "shape-tall-dense and conformance",
        "--junit-xml",
        "junit.xml",
    )
    assert "FAILED geolora::test_conformance[shape-tall-dense]" in printed
    assert f"1 failed, {COUNT - 1} deselected" in printed
    [case] = ET.parse(folder / "junit.xml").getroot().iter("testcase")
    assert (case.attrib["classname"], case.attrib["name"]) == (
        "geolora",
        "test_conformance[shape-tall-dense]",
    )


def test_pytest_class(folder: Path) -> None:
    printed = run_pytest(folder, "test_suite.py", "-k", "shape-square")
    assert "FAILED test_suite.py::TestWrong::test_case[shape-square-dense]" in printed
    assert "FAILED test_suite.py::TestRight" not in printed

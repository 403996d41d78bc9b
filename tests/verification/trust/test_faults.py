"""Runs that are killed, full disks, folders in use, altered files: nothing is lost, nothing is
counted twice.
"""

from __future__ import annotations

import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from geolora_ref.oracle.vectors import export, judge_outputs
from geolora_ref.support.files import locked, read_json, seal
from tests.forks import in_child, status_of
from tests.verification.trust.planted import planted
from verification.__main__ import main
from verification.campaign.journal import Journal
from verification.campaign.runner import run
from verification.claim import Case, CaseResult, Claim, Control, Measurements, Plan
from verification.claims import CLAIMS
from verification.report.report import as_data
from verification.support.machine import ROOT, provenance
from verification.trust import faults
from verification.trust.faults import Bench, Fault, trial

PLAN = Plan("full")
CASES = 30
KILLS = 20

pytestmark = pytest.mark.usefixtures("module_unchecked", "stored_pages_once")


def cases(plan: Plan) -> Iterator[Case]:
    for k in range(CASES):
        yield Case(f"case {k}", {"k": k})


def slow_check(case: Case) -> CaseResult:
    """A ratio that the case alone determines; one is infinite, as broken ones are."""
    time.sleep(0.001)
    out = Measurements()
    out.ratio("ratio", random.Random(case["k"]).uniform(0.0, 0.99))
    out.series = {"numbers": [case["k"], float("inf")]}
    return out.result(case)


def fails(case: Case) -> CaseResult:
    return replace(slow_check(case), ratios={"ratio": [float("inf")]})


CLAIM = Claim(
    id="made-up",
    title="Made up",
    section="0",
    statement="x ≤ 1",
    hypotheses=(),
    sources=("GeoLoRA",),
    cases=cases,
    check=slow_check,
    controls=(Control("wrong", "x > 1", cases, fails, infinite=True),),
    floor=1,
    explanation="It takes long enough to be killed.",
)


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(CLAIMS, CLAIM.id, CLAIM)
    monkeypatch.setattr("verification.support.options.known", lambda: list(CLAIMS))
    monkeypatch.setattr(
        "verification.campaign.journal.fingerprint", lambda *_: "made-up"
    )  # the true one reads every source


def finish(folder: Path) -> dict[str, Any]:
    """Do the rest in this process; the claims part of the results."""
    claims: dict[str, Any] = as_data(
        run([CLAIM], PLAN, Journal(folder, PLAN, fresh=False), jobs=1), PLAN, 1.0
    )["claims"]
    return claims


def lines(folder: Path) -> list[bytes]:
    """The whole lines of the journal, one for each finished unit."""
    return [
        line
        for path in folder.glob("journal-*.jsonl")
        for line in path.read_bytes().split(b"\n")
        if line.endswith(b"}")
    ]


def units(folder: Path) -> list[str]:
    """The unit of every line of the journal."""
    return [json.loads(line)["unit"] for line in lines(folder)]


def test_kills_lose_nothing_and_count_nothing_twice(
    tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    """Killed at random moments, most of them by SIGKILL, until 20 kills have hit a run that was at work."""
    folder, clock, finished, hits = tmp_path / "killed", random.Random(20), 0, 0

    def work() -> None:
        with locked(folder):
            run([CLAIM], PLAN, Journal(folder, PLAN, fresh=False), jobs=1)

    while hits < KILLS:
        pid = in_child(work)
        time.sleep(clock.uniform(0.0, 0.02))
        os.kill(pid, clock.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGINT]))
        hits += status_of(pid) != 0
        there = units(folder)
        assert len(there) >= finished, "finished cases were lost"
        assert len(set(there)) == len(there), "a case was counted twice"
        finished = len(there)
        if finished == 2 * CASES:  # it was done before the kills were: once more from the start
            shutil.rmtree(folder)
            finished = 0
    resumed = finish(folder)
    assert resumed == finish(tmp_path / "undisturbed")
    assert sorted(units(folder)) == sorted(units(tmp_path / "undisturbed"))
    assert len(units(folder)) == 2 * CASES
    record_property("table", f"faults: {hits} kills, {2 * CASES} units, none lost, none twice")


@pytest.mark.usefixtures("interruptible")
def test_a_killed_command_resumes_with_its_finished_cases(tmp_path: Path) -> None:
    """The real command line in a process group of its own, killed twice in the middle."""
    killed, undisturbed = tmp_path / "killed", tmp_path / "undisturbed"
    command = [
        sys.executable,
        "-m",
        "verification",
        "--full",
        "--only",
        "local-error",
        "--jobs",
        "1",
        "--json",
        "--output",
    ]
    before: list[bytes] = []
    for sent in (signal.SIGKILL, signal.SIGINT):
        with subprocess.Popen(
            [*command, str(killed)], cwd=ROOT, start_new_session=True, stdout=subprocess.DEVNULL
        ) as process:
            while process.poll() is None and len(lines(killed)) < len(before) + 10:
                time.sleep(0.02)
            os.killpg(process.pid, sent)
            assert process.wait() != 0, "it was done before the kill"
        after = lines(killed)
        assert set(before) <= set(after), "finished cases were lost or done again"
        assert len(set(after)) == len(after), "a case was counted twice"
        before = after
    for folder in (killed, undisturbed):
        subprocess.run([*command, str(folder)], cwd=ROOT, check=True, capture_output=True)
    assert set(before) <= set(lines(killed))
    found, expected = (
        read_json(folder / "results.json")["claims"][0] for folder in (killed, undisturbed)
    )
    assert [found[key] for key in ("ratios", "controls")] == [
        expected[key] for key in ("ratios", "controls")
    ]
    assert sorted(units(killed)) == sorted(units(undisturbed))


CAUGHT = {
    "written in place": (Fault("kill in a write", 5000), "lost"),
    "not synced": (Fault("power failure", 12), "lost"),
    "not locked": (Fault("stop", 12), "lost"),
    "not sealed": (Fault("flip", 8 * 500, "state.json"), "damaged"),
    "pipes opened": (Fault("name", 0, "state.json", "a pipe"), "hang"),
    "errors raised": (Fault("full disk", 12), "traceback"),
}
"""For each precaution the fault that shows that it was left out, and the verdict."""
FORKED = pytest.mark.filterwarnings(
    "ignore:.*fork.*:RuntimeWarning", "ignore:.*fork.*:DeprecationWarning"
)


@FORKED
def test_a_precaution_left_out_is_caught_by_its_fault(tmp_path: Path) -> None:
    """And nothing is said of the same faults where none is left out."""
    whole = Bench(planted(""), tmp_path / "whole", patience=2.0)
    assert {name: trial(whole, fault) for name, (fault, _) in CAUGHT.items()} == dict.fromkeys(
        CAUGHT, ("fine", "")
    )
    for name, (fault, verdict) in CAUGHT.items():
        assert trial(Bench(planted(name), tmp_path / "broken", patience=2.0), fault)[0] == verdict


@FORKED
def test_faults_are_drawn_over_all_that_there_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = Bench(planted(""), tmp_path, patience=2.0)
    monkeypatch.setitem(faults.KINDS, "power failure", 1000)
    drawn = faults.draw(bench, "0")
    assert drawn == faults.draw(bench, "0") != faults.draw(bench, "1")
    failures = [fault.at for fault in drawn if fault.kind == "power failure"]
    assert sorted(failures) == list(range(1, bench.operations + 2))
    assert {fault.kind for fault in drawn} == set(faults.KINDS)


def test_the_command_writes_what_it_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    drawn = [Fault("flip", at) for at in range(1, 5)]
    stand_ins = {
        "preload": lambda: None,
        "programs": lambda: {"p": planted("")},
        "draw": lambda *_: drawn,
        "Bench": lambda *_: None,
    }
    stand_ins["trial"] = lambda bench, fault: (
        ("hang", "for ever") if fault.at == 9 else ("fine", "")
    )
    for name, stand_in in stand_ins.items():
        monkeypatch.setattr(faults, name, stand_in)
    assert faults.main(["--output", str(tmp_path)]) == 0
    written = read_json(tmp_path / "faults.json")
    assert written["verdicts"]["p"]["flip"] == {"fine": 4}
    assert written["sources"] == provenance()["sources"]
    drawn.append(Fault("flip", 9))
    assert faults.main(["--output", str(tmp_path)]) == 1
    assert (
        "program: p, kind: flip, at: 9, name: , plant: , word: hang, reason: for ever"
        in capsys.readouterr().out
    )


def test_a_line_cut_off_anywhere_costs_one_case(tmp_path: Path) -> None:
    undisturbed = finish(tmp_path)
    (path,) = tmp_path.glob("journal-*.jsonl")
    whole = path.read_bytes()
    last = whole.rindex(b"\n", 0, -1) + 1
    for end in range(last + 1, len(whole), 5):
        path.write_bytes(whole[:end])
        journal = Journal(tmp_path, PLAN, fresh=False)
        assert (len(journal.done), journal.damaged) == (2 * CASES - 1, [])
        assert path.read_bytes() == whole[:last]
    assert finish(tmp_path) == undisturbed


def test_every_altered_line_is_named_and_done_again(tmp_path: Path) -> None:
    undisturbed = finish(tmp_path)
    (path,) = tmp_path.glob("journal-*.jsonl")
    whole, clock = path.read_bytes(), random.Random(3)
    for _ in range(40):
        at = clock.randrange(len(whole) - 1)
        path.write_bytes(
            bytes([*whole[:at], whole[at] ^ (1 << clock.randrange(8)), *whole[at + 1 :]])
        )
        number = whole.count(b"\n", 0, at) + 1
        journal = Journal(tmp_path, PLAN, fresh=False)
        assert len(journal.done) in (
            2 * CASES - 1,
            2 * CASES - 2,
        )  # two where the newline between them was hit
        assert f"{path}, line {number}: expected" in journal.damaged[0]
    assert finish(tmp_path) == undisturbed


def test_an_altered_journal_is_reported_by_the_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["--full", "--only", CLAIM.id, "--jobs", "1", "--output", str(tmp_path)]
    assert main(command) == 0
    before = read_json(tmp_path / "results.json")["claims"]
    (path,) = tmp_path.glob("journal-*.jsonl")
    path.write_bytes(path.read_bytes().replace(b"case 7", b"case 8", 1))
    capsys.readouterr()
    assert main(command) == 0
    assert "its case is done again" in capsys.readouterr().out
    assert read_json(tmp_path / "results.json")["claims"] == before


def test_a_full_disk_stops_the_run_and_keeps_what_was_finished(tmp_path: Path) -> None:
    def work() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4000, 4000))
        with pytest.raises(OSError, match=f"File too large: '{tmp_path}/journal-made-up.jsonl'"):
            run([CLAIM], PLAN, Journal(tmp_path, PLAN, fresh=False), jobs=1)

    assert status_of(in_child(work)) == 0
    (path,) = tmp_path.glob("journal-*.jsonl")
    assert path.read_bytes().endswith(b"}\n")
    assert 5 <= len(Journal(tmp_path, PLAN, fresh=False).done) < CASES
    assert finish(tmp_path) == finish(tmp_path / "undisturbed")


@pytest.mark.parametrize(
    "entry", [{}, {"unit": "x"}, {"unit": "x", "result": {"ratio": 1}}, {"unit": [], "result": {}}]
)
def test_a_sealed_line_of_another_structure_is_done_again(
    entry: dict[str, Any], tmp_path: Path
) -> None:
    expected = finish(tmp_path)
    (path,) = tmp_path.glob("journal-*.jsonl")
    first, rest = path.read_bytes().split(b"\n", 1)
    path.write_bytes(json.dumps(seal(entry)).encode() + b"\n" + rest)
    (damage,) = Journal(tmp_path, PLAN, fresh=False).damaged
    assert damage.startswith(f"{path}, line 1: expected a unit and its result, found ")
    assert finish(tmp_path) == expected
    assert first in path.read_bytes()


@pytest.mark.parametrize("name", ["results.json", "report.html", "journal-made-up.jsonl"])
def test_a_pipe_in_the_place_of_a_file_is_refused_at_once(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A process that opens it waits for its other end."""
    os.mkfifo(tmp_path / name)
    assert main(["--full", "--only", CLAIM.id, "--jobs", "1", "--output", str(tmp_path)]) == 2
    assert (
        f"cannot go on: {tmp_path / name}: expected a regular file, found a pipe"
        in capsys.readouterr().err
    )


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="children are found in /proc")
def test_processes_that_work_end_with_the_one_that_was_killed(tmp_path: Path) -> None:
    """By SIGKILL, which leaves it no time to end them."""
    command = [
        sys.executable,
        "-m",
        "verification",
        "--full",
        "--only",
        "descent",
        "--jobs",
        "2",
        "--output",
        str(tmp_path),
    ]
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as run:
        workers: set[int] = set()
        while not (list(tmp_path.glob("journal-*")) and workers):
            assert run.poll() is None
            time.sleep(0.05)
            workers = set(
                map(int, Path(f"/proc/{run.pid}/task/{run.pid}/children").read_text().split())
            )
        run.kill()
    patience = time.monotonic() + 20.0
    while any(map(_at_work, workers)):
        assert time.monotonic() < patience, f"{workers} go on"
        time.sleep(0.05)


def _at_work(pid: int) -> bool:
    """Return whether there is such a process that has not ended, as one that was not waited for has."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.mark.parametrize("place", ["/proc/no-such-folder", "file/below"])
def test_an_unwritable_folder_is_status_2_and_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], place: str
) -> None:
    """No user can write below /proc or below a file, the superuser included."""
    monkeypatch.chdir(tmp_path)
    Path("file").touch()
    assert main(["--full", "--only", CLAIM.id, "--output", place]) == 2
    assert place in capsys.readouterr().err


def test_a_folder_that_another_run_uses_is_left_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with locked(tmp_path):
        assert main(["--full", "--only", CLAIM.id, "--output", str(tmp_path)]) == 2
    assert f"process {os.getpid()} has it" in capsys.readouterr().err
    assert not list(tmp_path.glob("journal-*"))


def test_two_runs_at_once_do_not_corrupt_each_other(tmp_path: Path) -> None:
    """At least one of two commands that start together on one folder finishes, and the journal is whole."""
    command = ["--full", "--only", CLAIM.id, "--jobs", "1", "--json", "--output", str(tmp_path)]

    def work() -> None:
        os._exit(main(command))

    statuses = [status_of(pid) for pid in [in_child(work), in_child(work)]]
    assert 0 in statuses
    assert set(statuses) <= {0, 2}
    assert sorted(units(tmp_path)) == sorted(set(units(tmp_path)))
    assert len(units(tmp_path)) == 2 * CASES


def test_an_altered_vector_is_named(tmp_path: Path) -> None:
    export(tmp_path)
    path = sorted((tmp_path / "vectors").glob("*.json"))[0]
    text = path.read_text("utf-8")
    at = text.index("0x1.") + 5
    path.write_text(text[:at] + ("1" if text[at] != "1" else "2") + text[at + 1 :], "utf-8")
    (tmp_path / "outputs").mkdir()
    with pytest.raises(ValueError, match=rf"{path.name}: expected contents with the digest"):
        judge_outputs(tmp_path, tmp_path / "outputs")

"""Campaigns beyond one process: the same results wherever the work is done, nothing lost, unfit and
dead workers are named.
"""

from __future__ import annotations

import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from joblib.externals.loky import reusable_executor

from tests.nightly import NIGHTLY
from verification.__main__ import main
from verification.campaign import backends, runner
from verification.campaign.backends import BackendError, in_processes, on_dask, quiet_end
from verification.campaign.journal import Journal, fingerprint
from verification.campaign.runner import run
from verification.claim import CaseResult, Plan
from verification.claims import CLAIMS
from verification.report.report import as_data
from verification.support.machine import ROOT

distributed = pytest.importorskip("distributed", reason="distributed is not installed")

CLAIM = "one-backward-pass"
PLAN = Plan()
CASES = (CLAIMS[CLAIM].cases, *(control.cases for control in CLAIMS[CLAIM].controls))
UNITS = sum(len(list(cases(PLAN))) for cases in CASES)

slow = pytest.mark.skipif(not NIGHTLY, reason="starting and ending clusters: nightly")
PRELOAD = """
import os, time
from verification.campaign import backends

calls = 0

def own_fingerprint():
    global calls
    if os.path.exists({hold!r}):
        calls += 1
        while calls > 10 and os.path.exists({hold!r}):
            time.sleep(0.01)
    return "the same"

backends.own_fingerprint = own_fingerprint
"""
"""The true fingerprint reads the sources, which another process may edit while the tests run.  Every case
needs it, so that a worker stops at its tenth as long as a file is there: a kill that comes late
still meets work."""
TRUE_FINGERPRINT = backends.own_fingerprint


@pytest.fixture(autouse=True)
def same_sources(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backends, "own_fingerprint", lambda: "the same")
    monkeypatch.setattr(
        "verification.campaign.journal.fingerprint", lambda plan, *_: f"the-same-{plan.effort}"
    )


@pytest.fixture(scope="module")
def hold(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """While this file is there, workers stop at their tenth case."""
    return tmp_path_factory.mktemp("hold") / "hold"


@pytest.fixture(scope="module")
def started_cluster(hold: Path) -> Iterator[Any]:
    """Two worker processes below nannies, which start another one for each that dies."""
    preload = PRELOAD.format(hold=str(hold))
    options: dict[str, Any] = {"dashboard_address": ":0", "silence_logs": 50, "preload": [preload]}
    with distributed.LocalCluster(n_workers=2, threads_per_worker=1, **options) as started:
        yield started


@pytest.fixture
def cluster(started_cluster: Any) -> Any:
    """With both workers there, whatever the test before did to them."""
    with distributed.Client(started_cluster, set_as_default=False) as client:
        client.wait_for_workers(2, timeout=120.0)
    return started_cluster


@pytest.fixture
def in_process() -> Iterator[Callable[..., Any]]:
    """Makes clusters whose workers are threads of this process."""
    made = []

    def cluster(**options: int) -> Any:
        made.append(
            distributed.LocalCluster(
                processes=False, dashboard_address=":0", silence_logs=50, **options
            )
        )
        return made[-1]

    yield cluster
    for started in made:
        started.close()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The outcome in one process."""
    return finish(tmp_path_factory.mktemp("undisturbed"))


def finish(folder: Path) -> Any:
    """Do the rest in this process; the claims part of the results."""
    return as_data(
        run([CLAIMS[CLAIM]], PLAN, Journal(folder, PLAN, fresh=False), jobs=1), PLAN, 1.0
    )["claims"]


def units(folder: Path) -> list[str]:
    (path,) = folder.glob("journal-*.jsonl")
    return [json.loads(line)["unit"] for line in path.read_bytes().splitlines()]


def command(folder: Path, *options: str) -> list[str]:
    return ["--only", CLAIM, "--output", str(folder), *options]


def dask(folder: Path, scheduler: str) -> list[str]:
    return command(folder, "--backend", "dask", "--scheduler", scheduler)


def after(monkeypatch: pytest.MonkeyPatch, count: int, act: Callable[[], None]) -> None:
    """Do this as soon as the journal has so many cases."""
    add = Journal.add

    def add_and_act(self: Journal, unit: str, result: CaseResult) -> None:
        add(self, unit, result)
        if len(self.done) == count:
            act()

    monkeypatch.setattr(Journal, "add", add_and_act)


# --- a cluster ------------------------------------------------------------------------------------


def test_a_killed_worker_changes_nothing(
    cluster: Any,
    hold: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    undisturbed: Any,
) -> None:
    left_behind: list[str] = []

    def kill_one_at_work() -> None:
        with distributed.Client(cluster, set_as_default=False) as client:
            tasks = client.processing()
            busy = max(tasks, key=lambda address: len(tasks[address]))
            left_behind.extend(tasks[busy])
            os.kill(client.run(os.getpid, workers=[busy])[busy], signal.SIGKILL)
        hold.unlink()

    hold.touch()
    after(monkeypatch, 5, kill_one_at_work)
    assert main(dask(tmp_path, cluster.scheduler_address)) == 0
    assert left_behind, "the kill must hit a worker with work for this to prove anything"
    assert json.loads((tmp_path / "results.json").read_text("utf-8"))["claims"] == undisturbed
    assert len(units(tmp_path)) == len(set(units(tmp_path))) == UNITS
    assert f"{UNITS}/{UNITS}" in capsys.readouterr().out  # the progress


@slow
def test_a_case_that_kills_every_worker_is_given_up(
    cluster: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster.scheduler, "allowed_failures", 0)
    with pytest.raises(BackendError, match="gave a case up: KilledWorker"):
        list(on_dask(os._exit, [1], cluster.scheduler_address))


def test_workers_of_other_sources_are_refused(
    cluster: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The client has the other ones here; both before the campaign and, for workers that join
    later, at the first case.
    """
    monkeypatch.setattr(backends, "own_fingerprint", lambda: "mine")
    expected = "expected the sources and libraries of the client (fingerprint mine), found the same"
    assert main(dask(tmp_path, cluster.scheduler_address)) == 2
    assert capsys.readouterr().err.count(expected) == 2, (
        "both are to be named, before either has a case"
    )
    monkeypatch.setattr(backends, "_refuse_unfit", lambda client: None)
    assert main(dask(tmp_path, cluster.scheduler_address)) == 2
    assert expected in capsys.readouterr().err
    assert not list(tmp_path.glob("journal-*"))


def test_processes_that_start_after_an_edit_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """They have the sources of now, this process those of before."""
    monkeypatch.setattr(backends, "own_fingerprint", lambda: "before")
    with pytest.raises(
        BackendError,
        match=r"^sources: expected those with which this run began, found changed ones",
    ):
        list(in_processes(abs, range(4), jobs=2))


@slow
def test_a_worker_of_an_altered_checkout_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Workers of a copy of the sources are accepted; with one comment more in one file they are not."""
    for package in ("geolora_ref", "verification"):
        shutil.copytree(
            ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__")
        )
    monkeypatch.setattr(backends, "PATIENCE", 60.0)  # a worker has to start
    monkeypatch.setattr("verification.campaign.journal.ROOT", tmp_path)
    expected = fingerprint(PLAN)
    monkeypatch.setattr(backends, "own_fingerprint", lambda: expected)
    with distributed.LocalCluster(n_workers=0, dashboard_address=":0", silence_logs=50) as cluster:
        with worker(tmp_path, cluster):
            assert sorted(on_dask(abs, range(100), cluster.scheduler_address)) == list(range(100))
        with (tmp_path / "verification" / "slopes.py").open("a") as file:
            file.write("# another version\n")
        with worker(tmp_path, cluster):
            message = rf"worker tcp://\S+: expected the sources .* \(fingerprint {expected}\), found {fingerprint(PLAN)}"
            with pytest.raises(BackendError, match=message):
                list(on_dask(abs, range(100), cluster.scheduler_address))
            monkeypatch.setattr(
                backends, "_refuse_unfit", lambda client: None
            )  # as if it had not been there yet
            with pytest.raises(BackendError, match=message):
                list(on_dask(abs, range(100), cluster.scheduler_address))


@contextmanager
def worker(folder: Path, cluster: Any) -> Iterator[None]:
    """A worker as the command line starts it in this folder."""
    start = [
        sys.executable,
        "-m",
        "distributed.cli.dask_worker",
        cluster.scheduler_address,
        "--nthreads",
        "1",
        "--no-nanny",
    ]
    process = subprocess.Popen([*start, "--no-dashboard"], cwd=folder, stderr=subprocess.DEVNULL)
    try:
        yield
    finally:
        process.terminate()
        process.wait()


def test_workers_with_more_threads_are_refused(in_process: Callable[..., Any]) -> None:
    address = in_process(n_workers=1, threads_per_worker=2).scheduler_address
    with pytest.raises(
        BackendError, match=r"expected one thread \(dask worker --nthreads 1\), found 2"
    ):
        list(on_dask(abs, [1], address))


@slow
def test_a_scheduler_that_ends_is_named(in_process: Callable[..., Any]) -> None:
    cluster = in_process(n_workers=1, threads_per_worker=1)
    results = on_dask(abs, range(1000), cluster.scheduler_address)
    assert next(results) >= 0
    cluster.close()
    with pytest.raises(BackendError, match="gave a case up"):
        list(results)


@slow
def test_a_cluster_that_loses_its_last_worker_is_named(
    in_process: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backends, "PATIENCE", 1.5)
    cluster = in_process(n_workers=1, threads_per_worker=1)
    results = on_dask(time.sleep, [0.0, *[0.05] * 200], cluster.scheduler_address)
    assert next(results) is None
    cluster.scale(0)
    with pytest.raises(BackendError, match="has had no worker for"):
        list(results)


# --- no cluster -----------------------------------------------------------------------------------


def test_a_cluster_without_workers_is_status_2(
    in_process: Callable[..., Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(backends, "PATIENCE", 1.0)
    address = in_process(n_workers=0).scheduler_address
    assert main(dask(tmp_path, address)) == 2
    assert f"expected a cluster with workers, {address} has none" in capsys.readouterr().err


@pytest.mark.parametrize("address", ["tcp://127.0.0.1:1", "nonsense", "foo://host:1"])
def test_an_address_that_does_not_answer_is_status_2(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    address: str,
) -> None:
    monkeypatch.setattr(backends, "PATIENCE", 0.5)
    assert main(dask(tmp_path, address)) == 2
    assert f"expected the address of a Dask scheduler, found {address!r}" in capsys.readouterr().err


def test_a_missing_package_is_status_2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    assert main(dask(tmp_path, "tcp://127.0.0.1:1")) == 2
    assert (
        "expected the package distributed, it is not installed (extra 'dask')"
        in capsys.readouterr().err
    )


# --- processes here -------------------------------------------------------------------------------


def test_a_killed_process_ends_the_run_which_can_be_resumed(
    tmp_path: Path,
    hold: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    undisturbed: Any,
) -> None:
    """A sentence and status 2; what had finished is kept, and the rest gives the results of an
    undisturbed run.

    Cases after the first third of the units wait until the test is over, so that a kill that comes
    late still meets work.
    """
    labelled, first = (
        runner._labelled,
        {case.id for case in itertools.islice(CLAIMS[CLAIM].cases(PLAN), UNITS // 3)},
    )

    def held(extensions: Any, unit: Any) -> Any:
        while (unit[1] or unit[2].id not in first) and hold.exists():
            time.sleep(0.01)
        return labelled(extensions, unit)

    hold.touch()
    with monkeypatch.context() as patch:
        patch.setattr(runner, "_labelled", held)
        patch.setattr(
            backends, "own_fingerprint", TRUE_FINGERPRINT
        )  # processes here do not have the other one
        after(
            patch,
            UNITS // 4,
            lambda: os.kill(next(iter(reusable_executor._executor._processes)), signal.SIGKILL),
        )
        assert main(command(tmp_path, "--jobs", "2")) == 2
    hold.unlink()
    printed, kept = capsys.readouterr(), len(units(tmp_path))
    assert UNITS // 4 <= kept < UNITS
    assert "cannot go on: a worker process died" in printed.err
    assert "without --full the next run starts over" in printed.err
    assert "Traceback" not in printed.out + printed.err
    assert finish(tmp_path) == undisturbed
    assert len(units(tmp_path)) == len(set(units(tmp_path))) == UNITS


def test_only_the_error_of_an_ending_pool_is_not_printed() -> None:
    """The thread of loky that looks for a task which is gone; any other thread, and any other error, is."""

    def failing(name: str, error: Exception) -> None:
        def fail() -> None:
            raise error

        thread = threading.Thread(target=fail, name=name)
        thread.start()
        thread.join()

    before, printed = threading.excepthook, []
    try:
        threading.excepthook = lambda failure: printed.append(
            (failure.thread and failure.thread.name, failure.exc_type)
        )
        with quiet_end():
            failing("ExecutorManagerThread", KeyError(42))
            failing("ExecutorManagerThread", ValueError("broken"))
            failing("another", KeyError(42))
        failing("ExecutorManagerThread", KeyError(42))
    finally:
        threading.excepthook = before
    assert printed == [
        ("ExecutorManagerThread", ValueError),
        ("another", KeyError),
        ("ExecutorManagerThread", KeyError),
    ]

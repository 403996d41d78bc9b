"""Long runs in short: the bases stay orthonormal with the cure, drift without it; saved or killed,
a run resumes bit for bit.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from geolora_ref.support.files import read_json, write_atomically, write_json
from tests.forks import in_child, status_of
from verification.trust import long_runs
from verification.trust.long_runs import long_run, main, verdict

pytestmark = pytest.mark.usefixtures("module_unchecked")
STEPS = 2000
OF_THE_MACHINE = {"seconds", "peak_kib", "grown_kib", "resumed"}
TIMED = "no growth of the time a step"  # a machine that others use is no clock


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    folder = tmp_path_factory.mktemp("undisturbed")
    main(["--float32", str(STEPS), "--float64", str(STEPS), "--output", str(folder)])
    assert not list(folder.glob("long_runs/*.json"))
    found = read_json(folder / "long_runs.json")
    runs: list[dict[str, Any]] = found["runs"]
    assert found["passed"] == all(run["passed"] for run in runs)
    return runs


def test_a_run_of_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as refused:
        main(["--float32", "0", "--float64", "0", "--output", str(tmp_path)])
    assert refused.value.code == 2
    assert not list(tmp_path.iterdir())


def numbers(data: Any) -> Any:
    """The numbers that do not depend on the machine."""
    if isinstance(data, dict):
        return {
            key: numbers(value)
            for key, value in data.items()
            if key not in OF_THE_MACHINE | {"checks", "passed"}
        }
    return [numbers(item) for item in data] if isinstance(data, list) else data


def test_short_form_of_the_long_runs(undisturbed: list[dict[str, Any]]) -> None:
    assert [run["dtype"] for run in undisturbed] == ["float32", "float64"]
    for run in undisturbed:
        assert sum(tenth["steps"] for tenth in run["tenths"]) == STEPS
        assert all(holds for check, holds in run["checks"].items() if check != TIMED), run["checks"]


def test_killed_in_either_half_it_goes_on_bit_for_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, undisturbed: list[dict[str, Any]]
) -> None:
    monkeypatch.setattr(long_runs, "CHUNK", 70)  # seals in the middle of tenths and of periods
    command = ["--float32", "0", "--float64", str(STEPS), "--output", str(tmp_path)]

    def killed_at(reached: int) -> Callable[[Path, dict[str, Any]], None]:
        def write(path: Path, data: dict[str, Any]) -> None:
            write_json(path, data)
            if data.get("done", 0) >= reached:
                os.kill(os.getpid(), signal.SIGKILL)

        return write

    for reached in (STEPS // 3, STEPS + STEPS // 5):
        with monkeypatch.context() as patch:
            patch.setattr(long_runs, "write_json", killed_at(reached))
            pid = in_child(lambda: os._exit(main(command)))
        assert status_of(pid) == -signal.SIGKILL
    main(command)
    (run,) = read_json(tmp_path / "long_runs.json")["runs"]
    assert run["resumed"] == 2
    assert numbers(run) == numbers(undisturbed[1])
    assert run["restored bit for bit"]


def test_an_odd_number_of_steps_has_a_second_half() -> None:
    steps_done: list[int] = []
    assert long_run(STEPS + 1, "float64", 100, steps_done.append)["restored bit for bit"]
    assert steps_done[-1] == STEPS + 1 + STEPS // 2 + 1


def test_what_was_kept_must_be_whole_and_of_the_same_task(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state = tmp_path / "float64.json"

    def stop(done: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        long_run(STEPS, "float64", 100, stop, state_file=state)
    assert read_json(state)["done"] == STEPS // 10
    write_atomically(
        tmp_path / "long_runs" / "float64.json",
        state.read_bytes().replace(b'"done": 200', b'"done": 300'),
    )
    assert main(["--float32", "0", "--float64", str(STEPS), "--output", str(tmp_path)]) == 2
    assert "float64.json: expected contents with the digest" in capsys.readouterr().err.replace(
        "\n", ""
    )
    assert (
        long_run(STEPS, "float64", 10, state_file=state)["resumed"] == 0
    )  # another cure: another task


def test_one_target_without_the_cure_drifts() -> None:
    """With it, it does not: the short form above."""
    drifting = long_run(6000, "float64", 0, period=10**9)
    assert not drifting["checks"]["the drift of the bases is bounded"]
    assert not drifting["checks"]["ranks grow and shrink"]


def test_every_check_can_fail() -> None:
    tenth = {"steps": 10, "defect": 1e-15, "ranks": [1, 6], "seconds": 1.0, "peak_kib": 1000}
    found: dict[str, Any] = {
        "eps": 2.2e-16,
        "restored bit for bit": True,
        "grown_kib": 0,
        "tenths": [dict(tenth)] * 10,
    }
    assert verdict(found)["passed"]
    failing = {
        "tenths": [
            *found["tenths"][:-1],
            tenth | {"seconds": 9.0, "ranks": [2, 6], "defect": 1e-12},
        ]
    }
    found |= failing | {"grown_kib": 10**6, "restored bit for bit": False}
    assert not any(verdict(found)["checks"].values())

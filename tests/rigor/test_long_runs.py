"""Long runs in short: the bases stay orthonormal with the cure, drift without it; what was saved goes on bit for bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from geolora_ref.files import read_json
from verification.rigor.long_runs import long_run, main, verdict

pytestmark = pytest.mark.usefixtures("module_unchecked")
TIMED = "no growth of the time a step"  # a machine that others use is no clock


def test_short_form_of_the_long_runs(tmp_path: Path) -> None:
    main(["--float32", "2000", "--float64", "2000", "--output", str(tmp_path)])
    runs = read_json(tmp_path / "long_runs.json")["runs"]
    assert [run["dtype"] for run in runs] == ["float32", "float64"]
    for run in runs:
        assert all(holds for check, holds in run["checks"].items() if check != TIMED), run["checks"]


def test_one_target_without_the_cure_drifts() -> None:
    drifting, cured = (long_run(4000, "float64", polish, period=10**9) for polish in (0, 100))
    assert not drifting["checks"]["the drift of the bases is bounded"]
    assert cured["checks"]["the drift of the bases is bounded"]
    assert not cured["checks"]["ranks grow and shrink"]


def test_every_check_can_fail() -> None:
    tenth = {"defect": 1e-15, "ranks": [1, 6], "seconds": 1.0, "peak_kib": 1000}
    found: dict[str, Any] = {"eps": 2.2e-16, "restored bit for bit": True, "tenths": [dict(tenth) for _ in range(10)]}
    assert verdict(found)["passed"]
    leaking = found | {
        "tenths": [*found["tenths"][:-1], tenth | {"peak_kib": 10**6, "seconds": 9.0, "ranks": [2, 6], "defect": 1e-12}]
    }
    assert not any(holds for check, holds in verdict(leaking | {"restored bit for bit": False})["checks"].items())

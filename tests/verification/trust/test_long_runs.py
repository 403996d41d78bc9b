"""Long runs in short: the bases stay orthonormal with the cure, and drift without it."""

from __future__ import annotations

from typing import Any

import pytest

from verification.trust.long_runs import long_run, main, verdict

pytestmark = pytest.mark.usefixtures("module_unchecked")


def test_short_form(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--steps", "2000"]) == 0
    assert capsys.readouterr().out.count("  yes  ") == 8


def test_drift_without_cure() -> None:
    checks = verdict(long_run(6001, "float64", polish=0, period=10**9))
    assert not checks["the drift of the bases is bounded"]
    assert not checks["ranks grow and shrink"]
    assert checks["restored bit for bit"]


def test_every_check_can_fail() -> None:
    tenth = {"defect": 1e-15, "ranks": [1, 6]}
    found: dict[str, Any] = {
        "eps": 2.2e-16, "grown_kib": 0, "restored": True, "tenths": [tenth] * 10
    }  # fmt: skip
    assert all(verdict(found).values())
    last = {"defect": 1e-12, "ranks": [2, 6]}
    found |= {"grown_kib": 10**6, "restored": False, "tenths": [tenth] * 9 + [last]}
    assert not any(verdict(found).values())

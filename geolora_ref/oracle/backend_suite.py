"""The test that ``--geolora-backend`` runs for every case; pytest collects it through the plugin only."""

from __future__ import annotations

from typing import Any

from geolora_ref.oracle.check import Harness, load_backend, run_case


def test_conformance(conformance_case: Any, pytestconfig: Any) -> None:
    """The backend's answer is the exact answer to a question within rounding."""
    option = pytestconfig.getoption
    given = {name: option(f"--geolora-{name}") for name in ("array", "dtype", "device")}
    row, _ = run_case(Harness.of(load_backend(option("--geolora-backend")), **given), conformance_case)
    assert row.outcome == "passed", row.text

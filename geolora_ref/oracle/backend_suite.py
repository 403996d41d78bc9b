"""The test that ``--geolora-backend`` runs for every case; pytest collects it through the plugin only."""

from __future__ import annotations

from typing import Any

from geolora_ref.oracle.check import Harness, load_backend, run_case
from geolora_ref.oracle.conversion import EPS, Conversion


def test_conformance(conformance_case: Any, pytestconfig: Any) -> None:
    """The backend's answer is the exact answer to a question within rounding."""
    option = pytestconfig.getoption
    dtype = option("--geolora-dtype")
    harness = Harness(
        load_backend(option("--geolora-backend")), Conversion(option("--geolora-array"), dtype, option("--geolora-device"))
    )
    row, _ = run_case(harness, conformance_case, eps=EPS[dtype])
    what = row.error or f"ratio {row.ratio:.3g} in {', '.join(row.criteria)}"
    assert row.outcome == "passed", f"{what} (step {row.step}): {row.reason}"

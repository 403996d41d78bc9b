"""The test that ``--geolora-backend`` runs for every case; pytest collects it through the plugin only."""

from __future__ import annotations

from typing import Any

import pytest

from geolora_ref.oracle.check import run_case
from geolora_ref.oracle.pytest_plugin import HARNESS


def test_conformance(conformance_case: Any, pytestconfig: pytest.Config) -> None:
    """The backend's answer is the exact answer to a question within rounding."""
    row, _ = run_case(pytestconfig.stash[HARNESS], conformance_case)
    if row.outcome != "passed":  # no assert: python -O would leave it out
        pytest.fail(row.text, pytrace=False)

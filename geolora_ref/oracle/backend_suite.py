"""The test that ``--geolora-backend`` runs for every case, collected through the plugin only."""

from __future__ import annotations

from typing import Any

import pytest

from geolora_ref.oracle.pytest_plugin import BACKEND, answer


def test_conformance(conformance_case: Any, pytestconfig: pytest.Config) -> None:
    """The backend's answer is exact for some question within rounding of the given one."""
    harness, known = pytestconfig.stash[BACKEND]
    answer(pytestconfig, harness, conformance_case, known)

"""A fixture for runs of the kit whose rows alone are looked at."""

from __future__ import annotations

import pytest

from geolora_ref.oracle.check import Tally


@pytest.fixture
def undiagnosed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kit without its diagnosis: to ask all mutants takes most of the time of a run that fails."""
    monkeypatch.setattr(Tally, "diagnosis", lambda self: None)

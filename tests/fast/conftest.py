"""A fixture that lets narrow layers, too, take the leading half of their spectra."""

from __future__ import annotations

import pytest

import geolora_ref.fast.update.step as step_module


@pytest.fixture
def narrow_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    """The leading half is for wide layers, which take longer to test."""
    monkeypatch.setattr(step_module, "LEAST_WIDTH", 1)

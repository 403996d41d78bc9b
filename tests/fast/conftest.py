"""The step with and without its compiled loops."""

from __future__ import annotations

import pytest

import geolora_ref.fast.update.bank as bank_module


@pytest.fixture
def without_loops(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where numba is not installed."""
    monkeypatch.setattr(bank_module, "_compiled_loops", lambda: None)


@pytest.fixture(params=["calls", "loops"])
def narrow_as_well(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The leading half of the spectra of narrow layers, by calls for all at once or by compiled loops."""
    if request.param == "calls":
        request.getfixturevalue("narrow_by_calls")
    elif bank_module._compiled_loops() is None:
        pytest.skip("numba is not installed")
    monkeypatch.setattr(bank_module, "LEAST_WIDTH", 1)


@pytest.fixture
def narrow_by_calls(without_loops: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same by calls alone."""
    monkeypatch.setattr(bank_module, "LEAST_WIDTH", 1)

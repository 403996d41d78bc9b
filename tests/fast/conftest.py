"""The marker of the tests that need a CUDA device."""

from __future__ import annotations

import pytest


def pytest_configure(config: pytest.Config) -> None:
    """``pytest -m gpu`` runs these alone."""
    config.addinivalue_line("markers", "gpu: needs a CUDA device; skipped with the reason where there is none")

"""The measured part of the documentation: it keeps out of a folder that a run is using."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from geolora_ref.support.files import locked


def test_a_folder_that_a_run_uses_is_left_alone(
    extension: Callable[[str], ModuleType], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    verified = extension("verified")
    monkeypatch.setattr(verified, "FOLDER", tmp_path)
    monkeypatch.setattr(verified, "CLAIMS", {})
    with locked(tmp_path), pytest.raises(BlockingIOError, match="has it"):
        verified.outcomes()
    assert verified.outcomes() == {}
    verified.outcomes.cache_clear()

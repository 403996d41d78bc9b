"""The documentation's own extensions can be imported; those that need Sphinx skip where it is missing."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

DOCS = Path(__file__).resolve().parents[2] / "docs"


@pytest.fixture(scope="session")
def extension() -> Callable[[str], ModuleType]:
    """``extension("notation")`` is docs/_ext/notation.py."""
    if str(DOCS / "_ext") not in sys.path:
        sys.path.append(str(DOCS / "_ext"))

    def load(name: str) -> ModuleType:
        pytest.importorskip("matplotlib", reason="matplotlib is not installed")
        if name != "algorithm_lines":
            pytest.importorskip("sphinx", reason="Sphinx is not installed (pip install '.[docs]')")
        return importlib.import_module(name)

    return load

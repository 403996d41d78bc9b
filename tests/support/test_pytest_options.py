"""The plugin that every pytest run in an environment with this package loads."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

FOREIGN = """
import sys

def test_of_somebody_else():
    loaded = [name for name in sys.modules if name.startswith("geolora_ref")]
    assert sorted(loaded) == [
        "geolora_ref", "geolora_ref.support", "geolora_ref.support.options", "geolora_ref.support.pytest_options"
    ]
    assert sys.modules["numpy"] is None
"""


def test_a_foreign_run_imports_nothing_and_works_where_numpy_is_missing(tmp_path: Path) -> None:
    (tmp_path / "test_foreign.py").write_text(FOREIGN, encoding="utf-8")
    run = "import sys; sys.modules['numpy'] = None; import pytest; sys.exit(pytest.main(['-q', '-p', 'no:cacheprovider']))"
    done = subprocess.run(
        [sys.executable, "-c", run], cwd=tmp_path, check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout
    assert "1 passed" in done.stdout


def test_public_names_are_listed_before_they_are_imported() -> None:
    """For completion and help; their modules are at hand as well."""
    code = "import geolora_ref as g; print(set(g.__all__) <= set(dir(g)), g.algorithm.__name__, g.LowRank.__name__)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", "geolora_ref.algorithm", "LowRank"]

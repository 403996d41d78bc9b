"""The set-up of the Makefile heals what an interruption has left, and says what it lacks."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
NO_INDEX = """
import sys
print("pip 23.0" if "--version" in sys.argv else "  --upgrade  Upgrade all" if "--help" in sys.argv else "no index")
"""
pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="there is no make here")


def set_up(folder: Path, module: str) -> tuple[str, str]:
    """Set up in a folder with an environment in which ``module`` is pip.  Returns the command lines of
    another interpreter, and the output.
    """
    for name in ("Makefile", "pyproject.toml"):
        shutil.copy(ROOT / name, folder)
    subprocess.run(
        [sys.executable, "-m", "venv", "--without-pip", str(folder / ".venv")], check=True
    )
    (packages,) = (folder / ".venv" / "lib").glob("python*/site-packages")
    (packages / "pip").mkdir()
    (packages / "pip" / "__init__.py").touch()
    (packages / "pip" / "__main__.py").write_text(module, encoding="utf-8")
    python = folder / "python"
    python.write_text('#!/bin/sh\necho "$*" >> commands\ncase "$1" in -c) exit 0;; esac\nexit 1\n')
    python.chmod(0o755)
    done = subprocess.run(
        ["make", f"PYTHON={python}", ".venv/.ready"],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode != 0
    return (folder / "commands").read_text(), done.stdout


def test_half_a_pip_is_replaced(tmp_path: Path) -> None:
    """It can be imported, and not be run."""
    commands, _ = set_up(tmp_path, "import no_such_part")
    assert "-m venv --clear .venv\n" in commands


def test_an_old_pip_that_cannot_be_replaced_is_reported(tmp_path: Path) -> None:
    commands, said = set_up(tmp_path, NO_INDEX)
    assert "venv" not in commands
    assert "pip >= 25.1 is needed, and no package index can be reached to fetch it from\n" in said

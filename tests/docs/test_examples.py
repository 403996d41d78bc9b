"""The example in C passes all test vectors, and a version with one wrong sign does not."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

pytest.importorskip("jsonschema", reason="jsonschema is not installed (extra oracle)")
pytest.importorskip("mpmath", reason="mpmath is not installed (extra oracle)")

from geolora_ref.oracle.vectors import export, judge_outputs

SOURCE = Path(__file__).resolve().parents[2] / "docs" / "howto" / "examples" / "step.c"
COMPILER = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang") or "cc"
S_STEP = "AT(S, r, i, j) - rate * AT(dS, r, i, j)"

pytestmark = [
    pytest.mark.usefixtures("module_unchecked"),
    pytest.mark.skipif(shutil.which(COMPILER) is None, reason="there is no C compiler"),
]


def outputs(source: str, folder: Path) -> Path:
    """Compile a program and give it every vector."""
    (folder / "step.c").write_text(source, encoding="utf-8")
    export(folder / "vectors")
    (folder / "outputs").mkdir()
    command = [COMPILER, "-O2", "-Wall", "-Wextra", "-Werror", "-o", "step", "step.c", "-lm"]
    subprocess.run(command, cwd=folder, check=True, timeout=60)
    for vector in (folder / "vectors" / "vectors").glob("*.json"):
        with (folder / "outputs" / vector.name).open("w") as file:
            subprocess.run([folder / "step", vector], stdout=file, check=True, timeout=20)
    return folder / "outputs"


def test_c(tmp_path: Path) -> None:
    judgement = judge_outputs(tmp_path / "vectors", outputs(SOURCE.read_text("utf-8"), tmp_path))
    assert len(judgement.rows) >= 80
    assert not judgement.failures


def test_c_wrong_sign(tmp_path: Path) -> None:
    source = SOURCE.read_text("utf-8")
    assert source.count(S_STEP) == 1
    wrong = source.replace(S_STEP, S_STEP.replace("- rate", "+ rate"))
    judgement = judge_outputs(tmp_path / "vectors", outputs(wrong, tmp_path))
    assert len(judgement.failures) > 20

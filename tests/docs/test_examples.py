"""The examples in other languages pass all test vectors, and versions with one wrong sign do not;
all but C every night.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

pytest.importorskip("jsonschema", reason="jsonschema is not installed (extra oracle)")
pytest.importorskip("mpmath", reason="mpmath is not installed (extra oracle)")

from geolora_ref.oracle.vectors import export, judge_outputs
from tests.nightly import NIGHTLY

EXAMPLES = Path(__file__).resolve().parents[2] / "docs" / "howto" / "examples"
COMPILER = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang") or "cc"
SIGNS = {
    "step.c": "AT(S, r, i, j) - rate * AT(dS, r, i, j)",
    "step.mjs": "add(s.slice(), [-rate, 0], dS[j])",
    "step.rs": "sum(s, real(-rate), g)",
}
"""Where S_new is formed."""

pytestmark = pytest.mark.usefixtures("module_unchecked")


def needs(program: str, *, nightly: bool) -> list[pytest.MarkDecorator]:
    return [
        pytest.mark.skipif(shutil.which(program) is None, reason=f"there is no {program}"),
        pytest.mark.skipif(nightly and not NIGHTLY, reason="judged in the nightly profile"),
    ]


LANGUAGES = [
    pytest.param("step.c", marks=needs(COMPILER, nightly=False)),
    pytest.param("step.mjs", marks=needs("node", nightly=True)),
    pytest.param("step.rs", marks=needs("rustc", nightly=True)),
]


def run(folder: Path, *command: str | Path) -> None:
    subprocess.run(command, cwd=folder, check=True, timeout=60)


def outputs(name: str, source: str, folder: Path) -> Path:
    """Compile a program and give it every vector."""
    (folder / name).write_text(source, encoding="utf-8")
    export(folder / "vectors")
    (folder / "outputs").mkdir()
    vectors = folder / "vectors" / "vectors"
    if name == "step.c":
        run(folder, COMPILER, "-O2", "-Wall", "-Wextra", "-Werror", "-o", "step", name, "-lm")
        for vector in vectors.glob("*.json"):
            with (folder / "outputs" / vector.name).open("w") as file:
                subprocess.run([folder / "step", vector], stdout=file, check=True, timeout=20)
        return folder / "outputs"
    program: Sequence[str] = ("node", name)
    if name == "step.rs":
        run(folder, "rustc", "-O", "--edition", "2021", "-D", "warnings", name)
        program = ("./step",)
    run(folder, *program, vectors, folder / "outputs")
    return folder / "outputs"


@pytest.mark.parametrize("name", LANGUAGES)
def test_the_example_passes_every_vector(name: str, tmp_path: Path) -> None:
    source = (EXAMPLES / name).read_text("utf-8")
    judgement = judge_outputs(tmp_path / "vectors", outputs(name, source, tmp_path))
    assert len(judgement.rows) >= 80
    assert not judgement.failures


@pytest.mark.parametrize("name", LANGUAGES)
def test_a_wrong_sign_fails(name: str, tmp_path: Path) -> None:
    source, right = (EXAMPLES / name).read_text("utf-8"), SIGNS[name]
    assert source.count(right) == 1
    wrong = right.replace("- rate", "+ rate").replace("-rate", "rate")
    judgement = judge_outputs(
        tmp_path / "vectors", outputs(name, source.replace(right, wrong), tmp_path)
    )
    assert len(judgement.failures) > 20

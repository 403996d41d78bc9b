"""Cases in addition to the catalogue: own sizes, drawn ones and the smallest of them, a quarter of all, and
scripts of failures.
"""

from __future__ import annotations

import importlib
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from geolora_ref.cli import main
from geolora_ref.oracle import check_step, summary
from geolora_ref.oracle.broken.mutants import MUTANTS, Mutant
from geolora_ref.oracle.broken.stages import Stages
from geolora_ref.oracle.cases.catalogue import catalogue
from geolora_ref.oracle.cases.own import shape
from geolora_ref.oracle.cases.quick import QUICK
from geolora_ref.oracle.check import Tally
from geolora_ref.oracle.reproduce import NO_RESULT, RUNNING, reproduction
from geolora_ref.oracle.trial.choice import Choice
from geolora_ref.oracle.trial.harness import Harness

pytestmark = pytest.mark.usefixtures("module_unchecked")

RIGHT = Stages().step
SEEN = [mutant for mutant in MUTANTS.values() if mutant.visible_in != "stages"]


def right(*arrays: Any, **parameters: Any) -> Any:
    return RIGHT(*arrays, **parameters)


def no_cap_above_40(U: Any, S: Any, V: Any, *gradients: Any, **parameters: Any) -> Any:
    """Wrong at a size that the catalogue has not."""
    if len(U) == 44:
        parameters["max_rank"] = None
    return RIGHT(U, S, V, *gradients, **parameters)


def no_cap_in_fours(U: Any, S: Any, V: Any, *gradients: Any, **parameters: Any) -> Any:
    if len(S) % 4 == 0:
        parameters["max_rank"] = None
    return RIGHT(U, S, V, *gradients, **parameters)


def test_own_size() -> None:
    report = check_step(no_cap_above_40, shapes=[(44, 36, 6)], select={"group": "own"})
    expected = {
        f"own-44x36x6-{limit}"
        for limit in ("max-below", "max-at", "max-above", "capped", "fixed", "still", "diagonal")
    }
    assert expected | {"own-44x36x6-sequence"} == {row.id for row in report.failures}
    assert check_step(RIGHT, shapes=[(44, 36, 6), (3, 3, 3)], select={"group": "own"})
    assert "with group=own and 44x36x6" in summary(report)
    assert report.as_data()["shapes"] == [[44, 36, 6]]


@pytest.mark.parametrize("text", ["", "8x8", "8x8x9", "0x8x1", "8x8x8x8", "axbxc", "-8x8x1"])
def test_bad_size(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError, match=r"^shape: expected MxNxR"):
        shape(text)
    with pytest.raises(SystemExit):
        main(["check", "a:b", f"--shape={text}"])
    assert "shape: expected MxNxR" in capsys.readouterr().err


def test_smallest_drawn_failure() -> None:
    report = check_step(no_cap_in_fours, fuzz=60, seed=3, select={"group": "fuzz"})
    assert report.failures
    smallest = report.failures[0].reason.partition("the smallest that fails: ")[2]
    assert smallest == "drawn: 4 x 4, r = 4, spectrum = flat, gradient = tangent, max_rank = 1"


def test_fail_fast() -> None:
    report = check_step(MUTANTS["k-step-sign"].step, fail_fast=True)
    assert [row.outcome for row in report.rows].count("failed") == 1
    assert report.rows[-1].outcome == "failed"
    assert report.diagnosis is not None
    assert not report.problems


def test_quick_cases_conform() -> None:
    assert {case.id for case in catalogue()} >= QUICK
    report = check_step(RIGHT, quick=True)
    assert report.passed
    assert len(report.rows) <= 0.3 * len(Choice().cases(Harness.of(RIGHT)))
    assert "cases with quick" in summary(report)


@pytest.mark.parametrize("mutant", SEEN, ids=lambda mutant: mutant.id)
def test_quick_cases_reject(mutant: Mutant) -> None:
    """In one of the dtypes."""
    options: dict[str, Any] = {"directions": mutant.visible_in == "catalogue"}

    def dies(dtype: str) -> bool:
        results = Tally(Harness.of(mutant.step, dtype=dtype, **options))
        return any(
            results.ask(case).outcome == "failed"
            for case in Choice(quick=True).cases(results.harness)
        )

    np.random.random()  # noqa: NPY002  the global generator is not where a mutant sets it
    with np.errstate(all="ignore"):
        assert any(map(dies, ("float64", "complex128", "float32")))


BACKENDS = """\
import numpy as np

from geolora_ref.oracle.broken.mutants import MUTANTS
from geolora_ref.oracle.broken.stages import Stages

right, sign, cap = Stages().step, MUTANTS["k-step-sign"].step, MUTANTS["max-rank-ignored"].step


def packed(U, S, V, dK, *others, **parameters):
    return right(U, S, V, dK if dK.flags.c_contiguous else -dK, *others, **parameters)


def storage_form(*arrays, **parameters):
    U1, S1, V1 = (X.astype("f2") for X in right(*(X.astype("f4") for X in arrays), **parameters))
    S1[0, 1] += 3e-3 * abs(S1).max()
    return U1, S1, V1


def stacks(*arrays, **parameters):
    return [sign(*one, **parameters) for one in zip(*arrays)]


def whole(U, S, V, gradients, **parameters):
    G = gradients(U @ S @ V.T)
    return sign(U, S, V, G @ V, G.T @ U, U.T @ G @ V, **parameters)


def elsewhere(U, S, V, gradients, **parameters):
    G = gradients(U @ V.T)
    return right(U, S, V, G @ V, G.T @ U, U.T @ G @ V, **parameters)


def one_of_a_stack(*arrays, **parameters):
    return [(sign if k else right)(*one, **parameters) for k, one in enumerate(zip(*arrays))]


def fails(*arrays, **parameters):
    print("one moment")
    raise np.linalg.LinAlgError("singular\\nor nearly so")


def leaves(*arrays, **parameters):
    raise SystemExit(0)


def hides(*arrays, **parameters):
    return tuple(np.ma.masked_array(X) for X in right(*arrays, **parameters))


rates = {}


def captured(U, *others, learning_rate, **parameters):
    _, rate = rates.setdefault(id(U), (U, learning_rate))
    return right(U, *others, learning_rate=rate, **parameters)
"""
SCRIPTS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "a limit": ("cap", "path-eights-max-below", {}),
    "strides": ("packed", "array-dK-padded-tall", {}),
    "the end of the range": ("sign", "magnitude-1e-170-dense", {}),
    "a sequence": (
        *("sign", "sequence-capped-diagonal-trained"),
        {"array": "torch", "dtype": "float32"},
    ),
    "a stack": ("stacks", "shape-tall-dense", {"batched": True}),
    "a whole step": ("whole", "shape-tall-dense", {"whole": True}),
    "a conjugate": ("sign", "array-complex-lazy-V", {"array": "torch", "dtype": "complex128"}),
    "an exception": ("fails", "shape-tall-dense", {}),
    "drawn": ("cap", "fuzz-3-16", {}),
    "the form of S1 in storage": ("storage_form", "shape-square-dense", {"dtype": "float16"}),
}


def imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    (tmp_path / "backends.py").write_text(BACKENDS, "utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "backends", raising=False)
    return importlib.import_module("backends")


@pytest.mark.parametrize("name", SCRIPTS)
def test_reproduction(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The script ends with status 1, and with 0 if the step is exchanged for a right one; one of
    them in a process of its own.
    """
    step, case, options = SCRIPTS[name]
    if options.get("array") == "torch":
        pytest.importorskip("torch", reason="torch is not installed")
    backends = imported(tmp_path, monkeypatch)
    text = reproduction(getattr(backends, step), case, name=f"backends:{step}", **options)
    assert "geolora_ref" not in text
    for wanted, status in ((text, 1), (text.replace(f"import {step} as", "import right as"), 0)):
        if status == 0 and step in ("stacks", "whole", "storage_form", "fails"):
            continue
        (tmp_path / "script.py").write_text(wanted, "utf-8")
        if name == "a limit":
            ended = subprocess.run(
                [sys.executable, "script.py"], cwd=tmp_path, capture_output=True, text=True
            )
            found, printed = ended.returncode, ended.stdout + ended.stderr
        else:
            with pytest.raises((SystemExit, np.linalg.LinAlgError)) as stopped:
                runpy.run_path(str(tmp_path / "script.py"), run_name="__main__")
            found, printed = int(getattr(stopped.value, "code", 1) or 0), capsys.readouterr().out
        assert found == status, printed
        assert ("WRONG" in printed) == bool(status)
        assert (NO_RESULT in printed) == (step == "fails")


def test_command_prints_the_script(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The output of the backend goes elsewhere; a script that is tried does not try itself again."""
    step = imported(tmp_path, monkeypatch).fails
    assert main(["check", "backends:fails", "--reproduce", "shape-tall-dense"]) == 0
    printed = capsys.readouterr()
    compile(printed.out, "script", "exec")
    assert "one moment" in printed.err
    monkeypatch.setenv(RUNNING, "1")
    with pytest.raises(
        ValueError, match=r"^reproduce: expected no call while a module is imported"
    ):
        reproduction(step, "shape-tall-dense")

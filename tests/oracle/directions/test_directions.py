"""The oracle for directions: our rules are right, and every variant fails under its own name."""

from __future__ import annotations

import importlib
import json
import re
import runpy
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from geolora_ref import optimizers
from geolora_ref.cli import main
from geolora_ref.optimizers import Bases, Moments, Optimizer
from geolora_ref.oracle.directions import RULES, check_rule
from geolora_ref.oracle.directions.definitions import Setting
from geolora_ref.oracle.directions.sequences import SIZES
from geolora_ref.oracle.directions.variants import variants

OURS: dict[str, Optimizer] = {
    "gradient": optimizers.Sgd(),
    "heavy-ball": optimizers.HeavyBall(0.9),
    "normalised": optimizers.Normalised(0.9),
    "spectral": optimizers.Spectral(0.9),
    "preconditioned": optimizers.Preconditioned(),
    "adam": optimizers.Adam(),
}
VARIANTS = {
    f"{rule}: {variant.name}": (rule, variant) for rule in RULES for variant in variants(rule)
}


@pytest.fixture(autouse=True)
def without_layers(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """A decomposition of 768 x 512 takes longer than all others: our own rules alone have it."""
    if "numpy-float64" not in request.node.name:
        module = "geolora_ref.oracle.directions.sequences"
        monkeypatch.setattr(f"{module}.SIZES", [size for size in SIZES if size[0] < 100])


def called(rule: Optimizer) -> Callable[..., Any]:
    """A rule of the package as the kit calls one: it keeps copies, as arguments are overwritten."""

    def step(*arrays: Any) -> Any:
        *arguments, memory = arrays
        U, V, K, L, S = (X.clone() if hasattr(X, "clone") else X.copy() for X in arguments)
        bases = Bases(U, V)
        moments = Moments() if memory is None else rule.transport(memory[0], memory[1], bases)
        D, moments = rule.direction(bases, optimizers.Triple(K, L, S), moments)
        return D, (bases, moments)

    return step


@pytest.mark.parametrize(
    ("array", "dtype"), [("numpy", "float64"), ("numpy", "complex128"), ("torch", "float32")]
)
@pytest.mark.parametrize("rule", RULES)
def test_our_rules(rule: str, array: str, dtype: str) -> None:
    report = check_rule(called(OURS[rule]), rule, array=array, dtype=dtype)
    assert report, report.summary()
    assert report.worst_ratio < 1.0
    assert len(report.rows) > 100


@pytest.mark.parametrize("name", VARIANTS)
def test_variant(name: str) -> None:
    """It fails and is named; complex data show a missing conjugate, too."""
    rule, variant = VARIANTS[name]
    report = check_rule(variant.rule(Setting()), rule, dtype="complex128")
    assert not report
    named = (f"{variant.name}:", f"{variant.name}, times")
    assert report.diagnosis.startswith(named), report.summary()


@pytest.mark.parametrize(
    ("name", "criterion"),
    [
        ("no core in K", "views of one matrix"),
        ("memory kept", "direction"),
        ("cut too high", "inner product"),
        ("overshoot", "spectral norm"),
    ],
)
def test_criterion(name: str, criterion: str) -> None:
    """Each of them alone rejects a variant."""
    report = check_rule(VARIANTS[f"spectral: {name}"][1].rule(Setting()), "spectral")
    assert {failed for row in report.rows for failed in row.failed} == {criterion}


FORGETS: dict[str, Callable[[Bases, Bases], bool]] = {
    "at wide layers": lambda old, new: len(new.U) < len(new.V),
    "at square layers": lambda old, new: len(new.U) == len(new.V) > 5,
    "at large ranks": lambda old, new: new.U.shape[1] >= 6,
    "when the rank doubles": lambda old, new: new.U.shape[1] >= old.U.shape[1] + 2,
    "when U stays": lambda old, new: old.U.shape == new.U.shape and bool(np.all(old.U == new.U)),
}


@pytest.mark.parametrize("case", FORGETS)
def test_lost_memory(case: str) -> None:
    def forgetful(U: Any, V: Any, K: Any, L: Any, S: Any, memory: Any) -> Any:
        lost = memory is not None and FORGETS[case](memory[0], Bases(U, V))
        return called(OURS["heavy-ball"])(U, V, K, L, S, None if lost else memory)

    report = check_rule(forgetful, "heavy-ball")
    assert 0 < len([row for row in report.rows if not row.passed]) < 40


class Floored(optimizers.Preconditioned):
    """Eigenvalues of R below 1e-6 of the largest are raised to that."""

    def _inverse_root(self, R: Any) -> Any:
        values, Q = np.linalg.eigh(R)
        root = np.sqrt(np.maximum(values, 1e-6 * np.max(values)) + self.eps**2)
        return (Q / root) @ Q.conj().T


def test_floor() -> None:
    """Far above rounding it is seen by graded gradients alone."""
    report = check_rule(called(Floored()), "preconditioned")
    failed = [row.id for row in report.rows if not row.passed]
    assert failed[-1] == "graded-12x9x4"
    assert len(failed) < 5


def raising(K: Any, L: Any, S: Any) -> Any:
    raise SystemExit


WRONG: dict[str, tuple[Callable[..., Any], str, str]] = {
    "length": (lambda K, L, S: ((2 * K, 2 * L, 2 * S), None), "times 2", ""),
    "uphill": (lambda K, L, S: ((-K, -L, -S), None), "no known defect", ""),
    "small": (lambda K, L, S: ((K, L, S * (1.0 + 1e-9)), None), "right up to an error below", ""),
    "changes": (lambda K, L, S: ((np.add(K, 1.0, out=K), L, S), None), "no known", "changed its"),
    "raises": (raising, "", "raised SystemExit"),
    "shape": (lambda K, L, S: ((K, L, S[:0]), None), "", "expected D_K, D_L and D_S of the"),
    "NaN": (lambda K, L, S: ((K * np.nan, L, S), None), "", "returned numbers that"),
    "objects": (lambda K, L, S: ((K.astype(object), L, S), None), "", "expected arrays"),
    "single": (lambda K, L, S: ((K.astype("f4"), L, S), None), "", "expected arrays of numpy"),
    "masked": (lambda K, L, S: ((np.ma.array(K), L, S), None), "", "expected arrays of numpy"),
    "no memory": (lambda K, L, S: (K, L, S), "", "expected ((D_K, D_L, D_S), memory)"),
    "two": (lambda K, L, S: ((K, L), None), "", "expected ((D_K, D_L, D_S), memory)"),
}


@pytest.mark.parametrize(("answer", "diagnosis", "error"), WRONG.values(), ids=WRONG)
def test_wrong_rule(answer: Callable[..., Any], diagnosis: str, error: str) -> None:
    report = check_rule(lambda U, V, K, L, S, memory: answer(K, L, S), "gradient", select="full")
    assert not report
    assert diagnosis in report.diagnosis
    assert bool(report.diagnosis) == bool(diagnosis)
    assert all(error in row.error for row in report.rows)
    assert json.loads(json.dumps(report.as_data(), allow_nan=False))["passed"] is False


@pytest.mark.parametrize(
    ("length", "definition", "said"),
    [
        (lambda X: 1.0, "spectral", "the rule gradient"),
        (lambda X: 0.5 / np.linalg.norm(X), "gradient", r".*: times 0\.0\d+ to \d+(\.\d+)?"),
        (lambda X: 1.0 if 1e-9 < np.linalg.norm(X) < 1e9 else 2.0, "gradient", ".*: times 2"),
    ],
    ids=["constant", "normed", "extreme alone"],
)
def test_length(length: Callable[[Any], float], definition: str, said: str) -> None:
    """The factor is that of ordinary sizes, unless the rule is wrong in extreme ones alone."""

    def rule(U: Any, V: Any, K: Any, L: Any, S: Any, memory: Any) -> Any:
        c = length(K) if np.any(K) else 1.0
        return (c * K, c * L, c * S), None

    diagnosis = check_rule(rule, definition).diagnosis
    assert re.fullmatch(said, diagnosis), diagnosis


RULE = """
import numpy as np

def momentum(keep=np.copy, turn=1.0):
    def rule(U, V, K, L, S, memory):
        M = [K, L, S]
        if memory is not None:
            (U0, V0), (mK, mL, mS) = memory
            A, B = U0.T @ U, V0.T @ V
            mK, mL = mK @ B + U0 @ (mL.T @ V - mS @ B), mL @ A + V0 @ (mK.T @ U - mS.T @ A)
            M = [0.9 * old + now for old, now in zip((mK, mL, U.T @ mK), M)]
        return [X * turn for X in M], ((keep(U), keep(V)), [X.copy() for X in M])
    return rule

right, retaining, turned = momentum(), momentum(keep=lambda X: X), momentum(turn=-1.0)
"""


@pytest.fixture
def momentum(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    (tmp_path / "momentum_rules.py").write_text(RULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "momentum_rules", raising=False)
    return importlib.import_module("momentum_rules")


@pytest.mark.parametrize(
    ("rule", "sequence"),
    [("turned", "full-9x7x2"), ("retaining", "near-12x9x3"), ("turned", "squares-2^660")],
)
def test_reproduced(
    rule: str, sequence: str, momentum: Any, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """By a script that ends with status 1, and with 0 for a right rule."""
    call = ["check-rule", "heavy-ball", f"momentum_rules:{rule}", "--reproduce"]
    assert main([*call, sequence]) == 0
    text = capsys.readouterr().out
    assert "geolora_ref" not in text
    for wanted, status in ((text, 1), (text.replace(f"import {rule} as", "import right as"), 0)):
        (tmp_path / "script.py").write_text(wanted, "utf-8")
        with pytest.raises(SystemExit) as stopped:
            runpy.run_path(str(tmp_path / "script.py"), run_name="__main__")
        assert stopped.value.code == status, capsys.readouterr().out
    right = ["check-rule", "heavy-ball", "momentum_rules:right", "--reproduce", sequence]
    for arguments in (right, [*call, "nowhere"]):
        with pytest.raises(SystemExit, match="2"):
            main(arguments)


def test_command(momentum: Any, capsys: pytest.CaptureFixture[str]) -> None:
    call = ["check-rule", "heavy-ball", "momentum_rules:turned"]
    assert main([*call, "--tests", "id=full", "--json", "found.json"]) == 1
    printed, found = capsys.readouterr().out, json.loads(Path("found.json").read_text())
    assert f"diagnosis: {found['diagnosis']}\n" in printed
    assert {row["id"][:5] for row in found["rows"]} == {"full-"}
    assert main([*call, "--fail-fast"]) == 1
    assert ": 1 sequence, 1 failed" in capsys.readouterr().out
    for arguments in (["--whole"], ["--smoothing", "1"], ["--tests", "group=x"], ["--momentum"]):
        with pytest.raises(SystemExit, match="2"):
            main([*call, *arguments])

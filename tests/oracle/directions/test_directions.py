"""The oracle for directions: the rules of this package are right, and every defect and relative
fails under its own name.
"""

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
from geolora_ref.oracle.directions.variants import Variant, variants

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
COMPLEX_ONLY = ("transport without conjugates", "no conjugate in L")


def as_asked(rule: Optimizer) -> Callable[..., Any]:
    """A rule of the package as the kit calls one: it remembers copies, since the kit overwrites arguments."""

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
def test_our_rules_are_right(rule: str, array: str, dtype: str) -> None:
    """A tenth of the warn level would do: an oracle that shares no line with the rules comes to the
    same directions.
    """
    report = check_rule(as_asked(OURS[rule]), rule, array=array, dtype=dtype)
    assert report, report.summary()
    assert report.worst_ratio < 1.0
    assert len(report.rows) > 60


FORGETS: dict[str, Callable[[Bases, Bases], bool]] = {
    "at wide layers": lambda old, new: len(new.U) < len(new.V),
    "at square layers": lambda old, new: len(new.U) == len(new.V) > 5,
    "at large ranks": lambda old, new: new.U.shape[1] >= 6,
    "when the rank doubles": lambda old, new: new.U.shape[1] >= old.U.shape[1] + 2,
    "when V stays": lambda old, new: (
        np.array_equal(old.V, new.V) and not np.array_equal(old.U, new.U)
    ),
    "when U stays": lambda old, new: (
        np.array_equal(old.U, new.U) and not np.array_equal(old.V, new.V)
    ),
}


@pytest.mark.parametrize("case", FORGETS)
def test_a_memory_that_is_lost_in_one_case_is_missed(case: str) -> None:
    rule = optimizers.HeavyBall(0.9)

    def forgetful(U: Any, V: Any, K: Any, L: Any, S: Any, memory: Any) -> Any:
        lost = memory is not None and FORGETS[case](memory[0], Bases(U, V))
        return as_asked(rule)(U, V, K, L, S, None if lost else memory)

    report = check_rule(forgetful, "heavy-ball")
    assert 0 < len([row for row in report.rows if not row.passed]) < 30


def test_a_memory_that_is_not_the_one_given_is_found_out() -> None:
    """One for all layers; a layer alone does not show it."""
    kept: list[Any] = []

    def of_all(U: Any, V: Any, K: Any, L: Any, S: Any, memory: Any) -> Any:
        D, new = as_asked(optimizers.HeavyBall(0.9))(U, V, K, L, S, memory and kept[-1])
        kept.append(new)
        return D, "mine"

    report = check_rule(of_all, "heavy-ball")
    assert [row.id for row in report.rows if not row.passed] == ["two-12x9x3"]


class Subtracted(optimizers.Preconditioned):
    """D_K = (M_K − U M_S)X_K + U S as the page has it: X_K magnifies the rounding of M_K − U M_S along U."""

    def direction(
        self, bases: Bases, gradients: optimizers.Triple, moments: Moments
    ) -> tuple[optimizers.Triple, Moments]:
        (U, V), (_, moments) = bases, super().direction(bases, gradients, moments)
        M, R = self._unbiased(moments)
        X_K, X_L = self._inverse_root(R.K), self._inverse_root(R.L)
        S = 0.5 * (M.S @ X_K + X_L @ M.S)
        D_K, D_L = (M.K - U @ M.S) @ X_K + U @ S, (M.L - V @ M.S.conj().T) @ X_L + V @ S.conj().T
        return optimizers.Triple(D_K, D_L, S), moments


class Floored(optimizers.Preconditioned):
    """Eigenvalues of R below 1e-6 of the largest are raised to that."""

    def _inverse_root(self, R: Any) -> Any:
        values, Q = np.linalg.eigh(R)
        root = np.sqrt(np.maximum(values, 1e-6 * np.max(values)) + self.eps**2)
        return (Q / root) @ Q.conj().T


@pytest.mark.parametrize("dtype", ["float64", "complex128"])
def test_rounding_that_the_direction_magnifies_is_no_contradiction(dtype: str) -> None:
    report = check_rule(as_asked(Subtracted()), "preconditioned", dtype=dtype)
    assert report, report.summary()


def test_a_floor_far_above_rounding_is_seen_by_graded_gradients_alone() -> None:
    report = check_rule(as_asked(Floored()), "preconditioned")
    assert [row.id for row in report.rows if not row.passed] == ["graded-12x9x4"]


@pytest.mark.parametrize("smoothing", [0.05, 0.5])
def test_our_smooth_rule_is_right(smoothing: float) -> None:
    report = check_rule(
        as_asked(optimizers.Spectral(0.9, smoothing)), "spectral", smoothing=smoothing
    )
    assert report, report.summary()
    assert not check_rule(
        as_asked(optimizers.Spectral(0.9, smoothing)), "spectral", smoothing=smoothing + 1e-6
    )
    forgotten = check_rule(as_asked(optimizers.Spectral(0.9)), "spectral", smoothing=smoothing)
    assert forgotten.diagnosis.startswith("the rule spectral with smoothing 0"), forgotten.summary()


@pytest.mark.parametrize("name", VARIANTS)
def test_every_variant_fails_and_is_named(name: str) -> None:
    """With complex data, which show a missing conjugate, too."""
    rule, variant = VARIANTS[name]
    report = check_rule(variant.rule(Setting()), rule, dtype="complex128")
    assert not report
    assert report.diagnosis.startswith((f"{variant.name}:", f"{variant.name}, times")), (
        report.summary()
    )


@pytest.mark.parametrize(
    "name", [name for name, (_, variant) in VARIANTS.items() if variant.name in COMPLEX_ONLY]
)
def test_a_missing_conjugate_is_no_defect_of_real_data(name: str) -> None:
    rule, variant = VARIANTS[name]
    assert check_rule(variant.rule(Setting()), rule)


@pytest.mark.parametrize(
    ("name", "criterion"),
    [
        ("no core in K", "views of one matrix"),
        ("memory kept", "direction"),
        ("cut too high", "inner product"),
        ("overshoot", "spectral norm"),
    ],
)
def test_each_criterion_alone_rejects_a_variant(name: str, criterion: str) -> None:
    report = check_rule(VARIANTS[f"spectral: {name}"][1].rule(Setting()), "spectral")
    assert {failed for row in report.rows for failed in row.failed} == {criterion}


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (lambda K, L, S: ((2.0 * K, 2.0 * L, 2.0 * S), None), "right up to its length: times 2"),
        (lambda K, L, S: ((-K, -L, -S), None), "no known defect"),
        (lambda K, L, S: ((K, L, S[:0]), None), ""),
        (lambda K, L, S: ((K * np.nan, L, S), None), ""),
        (lambda K, L, S: 1 / 0, ""),
        (lambda K, L, S: ((K.astype(object), L, S), None), ""),
        (lambda K, L, S: ((K.astype(np.float32), L, S), None), ""),
        (lambda K, L, S: ((np.ma.array(K), L, S), None), ""),
        (
            lambda K, L, S: ((K, L, S * (1.0 + 1e-9)), None),
            "right up to an error below 1e-08 of its size",
        ),
        (lambda K, L, S: ((np.add(K, 1.0, out=K), L, S), None), "no known defect"),
    ],
    ids=[
        "length",
        "uphill",
        "shape",
        "nan",
        "raises",
        "objects",
        "single",
        "masked",
        "small",
        "changes",
    ],
)
def test_whatever_a_rule_does_becomes_rows(answer: Callable[..., Any], expected: str) -> None:
    report = check_rule(lambda U, V, K, L, S, memory: answer(K, L, S), "gradient")
    assert not report
    assert report.diagnosis == expected
    assert json.loads(json.dumps(report.as_data()))["passed"] is False


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        (
            lambda U, V, K, L, S: ((K, L, S), None),
            r"raised TypeError: .*; expected a function rule\(U, V, grad_K, grad_L, ",
        ),
        (
            lambda U, V, K, L, S, memory: (K, L, S),
            r": expected .* of arrays, found a tuple of 3 arrays: the memory is missing$",
        ),
        (
            lambda U, V, K, L, S, memory: ((K, L), None),
            r": expected \(\(D_K, D_L, D_S\), memory\) of arrays, found tuple$",
        ),
        (
            lambda U, V, K, L, S, memory: K,
            r": expected \(\(D_K, D_L, D_S\), memory\) of arrays, found ndarray$",
        ),
        (
            lambda U, V, K, L, S, memory: K.unsqueeze(0),
            r"raised AttributeError: .* \(at .*; the arguments are NumPy arrays: ",
        ),
    ],
    ids=["one argument short", "no memory", "two", "one array", "tensors"],
)
def test_a_function_that_is_no_rule_is_refused_in_one_sentence(
    rule: Callable[..., Any], said: str
) -> None:
    """In a single sequence it is a row."""
    with pytest.raises(ValueError, match=rf"^rule: each of 36 calls ?{said}"):
        check_rule(rule, "gradient")
    assert check_rule(rule, "gradient", select="full-9x7x2").rows[0].error


def test_a_rule_that_fails_in_some_sequences_alone_has_rows() -> None:
    """Those of square matrices, of which the first sequence is one."""

    def rule(U: Any, V: Any, K: Any, L: Any, S: Any, memory: Any) -> Any:
        if memory is None and len(U) != 12:
            raise ValueError("m: expected 12")
        return (K, L, S), U.shape

    report = check_rule(rule, "gradient")
    assert {row.passed for row in report.rows} == {True, False}
    assert len(report.rows) > 100


@pytest.mark.parametrize(
    ("length", "definition", "said"),
    [
        (lambda X: 1.0, "spectral", "the rule gradient"),
        (
            lambda X: 0.5 / np.linalg.norm(X),
            "gradient",
            r"right up to its length: times 0\.0\d+ to \d+(\.\d+)?",
        ),
        (
            lambda X: 1.0 if 1e-9 < np.linalg.norm(X) < 1e9 else 2.0,
            "gradient",
            "right up to its length: times 2",
        ),
    ],
    ids=["constant", "normed", "extreme alone"],
)
def test_the_factor_of_a_length_is_that_of_ordinary_sizes(
    length: Callable[[Any], float], definition: str, said: str
) -> None:
    """Unless the rule is wrong in extreme sizes alone."""

    def rule(U: Any, V: Any, K: Any, L: Any, S: Any, memory: Any) -> Any:
        c = length(K) if np.any(K) else 1.0
        return (c * K, c * L, c * S), None

    diagnosis = check_rule(rule, definition).diagnosis
    assert re.fullmatch(said, diagnosis), diagnosis


def test_the_place_of_the_defect_is_named_for_a_rule_without_a_cut() -> None:
    """The polar factor of all of the core, rounding included."""

    def step(U: Any, V: Any, K: Any, L: Any, S: Any, memory: Any) -> Any:
        M = K @ V.T + U @ L.T - U @ S @ V.T
        P, _, Qh = np.linalg.svd(M)
        k = min(2 * U.shape[1], *M.shape)
        D = P[:, :k] @ Qh[:k]
        return (D @ V, D.T @ U, U.T @ D @ V), None

    report = check_rule(step, "spectral", momentum=0.0)
    assert report.diagnosis.startswith("wrong only where M is rank-deficient"), report.summary()


def test_refused() -> None:
    with pytest.raises(ValueError, match=r"^rule: expected one of gradient, .*, found 'muon'"):
        check_rule(print, "muon")
    with pytest.raises(ValueError, match=r"^dtype: .*'float16'"):
        check_rule(print, "gradient", dtype="float16")
    with pytest.raises(ValueError, match=r"^momentum: .* -1"):
        check_rule(print, "gradient", momentum=-1.0)


RELATIVE = """
import numpy as np

def apart(U, V, K, L, S, memory):
    return [np.linalg.svd(X, full_matrices=False)[0] @ np.linalg.svd(X, full_matrices=False)[2] for X in (K, L, S)], None
"""


def test_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The relative is named on the terminal and in JSON; options of a step are refused."""
    (tmp_path / "relative.py").write_text(RELATIVE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    assert (
        main(
            ["check-rule", "spectral", "relative:apart", "--momentum", "0", "--json", "found.json"]
        )
        == 1
    )
    printed = capsys.readouterr().out
    assert "diagnosis: polar of K, L and S apart" in printed
    assert json.loads((tmp_path / "found.json").read_text())["diagnosis"] in printed
    with pytest.raises(SystemExit, match="2"):
        main(["check-rule", "spectral", "relative:apart", "--whole"])
    assert "unrecognized arguments: --whole" in capsys.readouterr().err


MOMENTUM = """
import numpy as np

def momentum(damped, keep=np.copy, turn=1.0):
    def rule(U, V, K, L, S, memory):
        M = [K, L, S]
        if memory is not None:
            (U0, V0), (mK, mL, mS) = memory
            A, B = U0.T @ U, V0.T @ V
            mK, mL = mK @ B + U0 @ (mL.T @ V - mS @ B), mL @ A + V0 @ (mK.T @ U - mS.T @ A)
            M = [0.9 * old + now for old, now in zip((mK, mL, U.T @ mK), M)]
        M = [damped * X for X in M] if memory is None or damped < 1.0 else M
        return (M[0] * turn, M[1] * turn, M[2] * turn), ((keep(U), keep(V)), [X.copy() for X in M])
    return rule

right, retaining, turned = momentum(1.0), momentum(1.0, keep=lambda X: X), momentum(1.0, turn=-1.0)

def outside(U, V, K, L, S, memory):
    memory = memory or (right, None)
    D, of_right = memory[0](U, V, K, L, S, memory[1])
    return [0.9 * X for X in D], (right, of_right)

def alone(U, V, K, L, S, memory):
    return (0.9 * K, 0.9 * L, 0.9 * S), None
"""


@pytest.fixture
def momentum(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    (tmp_path / "momentum_rules.py").write_text(MOMENTUM)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "momentum_rules", raising=False)
    return importlib.import_module("momentum_rules")


def test_a_momentum_around_the_sum_is_distinguished_from_no_momentum(momentum: Any) -> None:
    """μ(M + g) is heavy ball up to its length, and its first answer is that of no memory, too."""
    assert check_rule(momentum.right, "heavy-ball")
    assert (
        check_rule(momentum.outside, "heavy-ball").diagnosis == "right up to its length: times 0.9"
    )
    assert check_rule(momentum.alone, "heavy-ball").diagnosis.startswith("no memory, times 0.9: ")


def test_arguments_that_are_kept_are_overwritten(momentum: Any) -> None:
    report = check_rule(momentum.retaining, "heavy-ball")
    failed = [row for row in report.rows if not row.passed]
    assert {row.step for row in failed} == {1}
    assert all("arguments of earlier calls are overwritten with NaN" in row.error for row in failed)


def test_sequences_are_selected_and_the_first_failure_ends_the_run(momentum: Any) -> None:
    assert {
        row.id[:4] for row in check_rule(momentum.turned, "heavy-ball", select="near").rows
    } == {"near"}
    assert (
        ": 1 sequence, 1 failed, "
        in check_rule(momentum.turned, "heavy-ball", fail_fast=True).summary()
    )
    with pytest.raises(
        ValueError,
        match=r"^select: expected the beginning of the id of a sequence, found 'nowhere'",
    ):
        check_rule(momentum.right, "heavy-ball", select="nowhere")


@pytest.mark.parametrize(
    ("rule", "sequence"),
    [("turned", "full-9x7x2"), ("retaining", "near-12x9x3"), ("turned", "squares-2^660")],
)
def test_a_failing_sequence_is_reproduced(
    rule: str, sequence: str, momentum: Any, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """By a script that ends with status 1, and with 0 for a right rule."""
    assert (
        main(["check-rule", "heavy-ball", f"momentum_rules:{rule}", "--reproduce", sequence]) == 0
    )
    text = capsys.readouterr().out
    assert "geolora_ref" not in text
    for wanted, status in ((text, 1), (text.replace(f"import {rule} as", "import right as"), 0)):
        (tmp_path / "script.py").write_text(wanted, "utf-8")
        with pytest.raises(SystemExit) as stopped:
            runpy.run_path(str(tmp_path / "script.py"), run_name="__main__")
        assert stopped.value.code == status, capsys.readouterr().out
    for name, message in (
        ("right", "expected a sequence that fails"),
        ("turned", "expected the id of a sequence"),
    ):
        unknown = sequence if name == "right" else "nowhere"
        with pytest.raises(SystemExit, match="2"):
            main(["check-rule", "heavy-ball", f"momentum_rules:{name}", "--reproduce", unknown])
        assert message in capsys.readouterr().err


def test_variants_are_many_and_each_has_its_sentence() -> None:
    found: list[Variant] = [variant for _, variant in VARIANTS.values()]
    assert len({variant.name for variant in found}) >= 15
    assert len({variant.says for variant in found}) == len({variant.name for variant in found})
    page = (Path(__file__).parents[3] / "docs" / "howto" / "backend.md").read_text(encoding="utf-8")
    assert f"compared with {len({variant.name for variant in found})} defects and relatives" in page

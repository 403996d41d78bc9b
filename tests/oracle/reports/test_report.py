"""Rows and reports on a few small cases: what a backend is given, what counts, and the table."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from geolora_ref.oracle import conformance_suite, summary
from geolora_ref.oracle.broken.mutants import MUTANTS
from geolora_ref.oracle.broken.stages import Stages
from geolora_ref.oracle.cases.case import ConformanceCase
from geolora_ref.oracle.cases.catalogue import catalogue
from geolora_ref.oracle.cases.step_case import CaseParameters, StepCase
from geolora_ref.oracle.check import check_step, run_case
from geolora_ref.oracle.judges.criteria import FAIL, WARN, judge
from geolora_ref.oracle.reports.report import Interrupted, Row
from geolora_ref.oracle.trial.conversion import EPS, Conversion
from geolora_ref.oracle.trial.harness import Harness
from geolora_ref.oracle.trial.load import load_backend
from tests.libraries import load

pytestmark = pytest.mark.usefixtures("module_unchecked")

REFERENCE = Stages()
PLAIN = ConformanceCase(
    "small-plain",
    "small",
    ("small", "plain"),
    "a plain one",
    CaseParameters(5, 4, 2, "algebraic", "dense", tau=0.05),
)
RUN = ConformanceCase(
    "run-of-three",
    "run",
    ("run",),
    "three steps",
    CaseParameters(6, 5, 2, "algebraic", tau=0.05, seed=1),
    steps=3,
)
TRAINED = replace(RUN, id="run-trained", flags=("run", "trained"), trained=True)
CASES = (PLAIN, RUN, TRAINED)


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three cases instead of hundreds, and three are enough for a whole run."""
    for module in ("trial.choice", "cases.known_failures"):
        monkeypatch.setattr(f"geolora_ref.oracle.{module}.catalogue", lambda: CASES)
    monkeypatch.setattr("geolora_ref.oracle.check.FLOOR", 3)


def right(*arrays: Any, **parameters: Any) -> Any:
    return REFERENCE.step(*arrays, **parameters)


def doubled(*arrays: Any, **parameters: Any) -> Any:
    U1, S1, V1 = right(*arrays, **parameters)
    return U1, 2.0 * S1, V1


def raising(*arrays: Any, **parameters: Any) -> Any:
    raise RuntimeError("out of luck")


# --- rows -----------------------------------------------------------------------------------------


def test_failing_step() -> None:
    """A sequence ends at its first failing step, whose inputs are returned."""
    calls: list[Any] = []

    def step(*arrays: Any, **parameters: Any) -> Any:
        calls.append([X.copy() for X in arrays])
        return (doubled if len(calls) == 2 else right)(*arrays, **parameters)

    row, inputs = run_case(Harness.of(step), RUN)
    assert (row.outcome, row.step, len(calls)) == ("failed", 1, 2)
    assert inputs is not None
    np.testing.assert_array_equal(inputs.U, calls[1][0])


@pytest.mark.parametrize("case", [RUN, TRAINED])
def test_sequence(case: ConformanceCase) -> None:
    """Each output is the next input; S is changed in between where the case says so."""
    seen: list[Any] = []
    start = StepCase.build(case.parameters)

    def step(*arrays: Any, **parameters: Any) -> Any:
        output = right(*arrays, **parameters)
        seen.append(tuple(tuple(X.copy() for X in each) for each in (arrays, output)))
        return output

    row, _ = run_case(Harness.of(step), case)
    assert (row.outcome, len(seen)) == ("passed", 3)
    for given, expected in zip(seen[0][0][:3], (start.U, start.S, start.V), strict=True):
        np.testing.assert_array_equal(given, expected)
    rng, order = np.random.default_rng(case.parameters.seed + 1), -1 if case.trained else 1
    for (_, (U1, S1, V1)), ((U, S, V, dK, dL, dS), _) in itertools.pairwise(seen):
        np.testing.assert_array_equal(U, U1[:, ::order])  # other bases of the same spaces
        np.testing.assert_array_equal(V, V1[:, ::order])
        changed = S1 + 0.1 * rng.standard_normal(S1.shape) if case.trained else S1
        np.testing.assert_array_equal(S, changed[::order, ::order])
        G = start.gradient(U @ S @ V.T)
        for found, exact in ((dK, G @ V), (dL, G.T @ U), (dS, U.T @ G @ V)):
            np.testing.assert_allclose(found, exact, atol=1e-13)


# --- calls ----------------------------------------------------------------------------------------


def _inputs(dtype: Any = np.float64) -> Any:
    return StepCase.build(PLAIN.parameters).inputs(dtype)


def test_arguments() -> None:
    seen: dict[str, Any] = {}

    def step(*arrays: Any, **parameters: Any) -> Any:
        seen.update(arrays=arrays, parameters=parameters)
        return right(*arrays, **parameters)

    x = _inputs()
    outcome = Harness.of(step).call(x, lambda W: W)
    assert (outcome.error, [given for given, _ in outcome.results]) == ("", [x])
    assert all(map(np.array_equal, seen["arrays"], x.arrays))
    limits = {"tau": 0.05, "theta": None, "min_rank": 1, "max_rank": None}
    assert seen["parameters"] == {"learning_rate": 0.1, **limits}
    for dtype in ("float32", "complex64"):
        row, _ = run_case(Harness.of(step, dtype=dtype), PLAIN)
        assert (row.outcome, {str(X.dtype) for X in seen["arrays"]}) == ("passed", {dtype})


@pytest.mark.parametrize(("n", "count"), [(3, 2), (4, 4), (5, 5), (6, 3), (7, 1)])
def test_stacks(n: int, count: int) -> None:
    """No two problems are alike; a list of results may have several ranks: a second call."""
    inputs = StepCase.build(CaseParameters(5, n, 2, "algebraic", "dense", tau=0.05)).inputs()
    calls: list[int] = []

    def by_list(*stacks: Any, **parameters: Any) -> Any:
        calls.append(len(stacks[0]))
        assert len({tuple(X[k].tobytes() for X in stacks) for k in range(count)}) == count
        return [right(*arrays, **parameters) for arrays in zip(*stacks, strict=True)]

    def by_stacks(*stacks: Any, **parameters: Any) -> Any:
        return tuple(np.stack(X) for X in zip(*by_list(*stacks, **parameters), strict=True))

    for step, lengths in ((by_list, [count, count]), (by_stacks, [count])):
        calls.clear()
        outcome = Harness.of(step, batched=True).call(inputs, lambda W: W)
        assert (outcome.error, calls, outcome.stacked) == ("", lengths, count)
        assert len(outcome.results) == sum(lengths)
        assert all(judge(given, factors).passed for given, factors in outcome.results)


@pytest.mark.parametrize("array", ["numpy", "torch"])
def test_whole_step(array: str) -> None:
    load(array)

    def step(U: Any, S: Any, V: Any, gradients: Callable[[Any], Any], **parameters: Any) -> Any:
        G = gradients(U @ S @ V.T)
        assert type(G) is type(U)
        return right(U, S, V, G @ V, G.T @ U, U.T @ G @ V, **parameters)

    gradient = StepCase.build(PLAIN.parameters).gradient
    outcome = Harness.of(step, array=array, whole=True).call(_inputs(), gradient)
    assert outcome.error == ""
    assert judge(_inputs(), outcome.factors).passed  # type: ignore[arg-type]


def test_broken_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """An error of a kernel shows where it is waited for, and may break the device."""

    def broken(*arguments: Any) -> Any:
        raise RuntimeError("illegal memory access")

    harness = Harness.of(right)
    with monkeypatch.context() as patched:
        patched.setattr(Conversion, "wait", broken)
        found = harness.call(_inputs(), lambda W: W).error
        assert found == "raised RuntimeError: illegal memory access"
    monkeypatch.setattr(Conversion, "laid_out", broken)
    expected = "no arrays could be made for it"
    assert harness.call(_inputs(), lambda W: W).error.startswith(expected)
    staged = replace(harness, stages=right).run_stages(_inputs())[2]
    assert staged.startswith(f"stages: {expected}")


@pytest.mark.parametrize(
    ("options", "precision"),
    [
        ({}, "float64"),
        ({"dtype": "float32"}, "float32"),
        ({"precision": "float32"}, "float32"),
        ({"dtype": "float32", "precision": "float64"}, "float64"),
        ({"dtype": "bfloat16", "array": "torch"}, "float32"),
    ],
)
def test_precision(options: dict[str, Any], precision: str) -> None:
    load(options.get("array", "numpy"))
    harness = Harness.of(right, **options)
    assert (harness.arithmetic, harness.eps) == (precision, EPS[precision])


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "precision": ({"precision": "float8"}, "precision: expected one of float64"),
    "stages": ({"stages": 3}, "stages: expected a function"),
    "whole stages": ({"whole": True, "stages": right}, "stages: expected none with whole"),
    "whole": ({"whole": True, "directions": True}, "directions: expected none with whole"),
    "threads": ({"threads": 0}, "threads: expected an integer >= 1"),
    "select": ({"select": {"colour": "red"}}, "select: expected keys among"),
    "nothing": ({"select": {"group": "none"}}, "select: no case for float64 matches"),
    "shapes": ({"shapes": [(3, 4, 5)]}, "shapes: expected"),
    "memory": ({"shapes": [(3_000_000, 2_000_000, 4)]}, "shapes: expected sizes that fit"),
    "repeat": ({"repeat": 0}, "repeat: expected an integer >= 1"),
}


@pytest.mark.usefixtures("few")
@pytest.mark.parametrize(("options", "message"), REFUSED.values(), ids=REFUSED)
def test_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}"):
        check_step(right, **options)
    with pytest.raises(TypeError, match=r"^arrray: expected options among dtype, array"):
        check_step(right, arrray="torch")  # type: ignore[call-arg]


# --- runs -----------------------------------------------------------------------------------------


@pytest.mark.usefixtures("few")
def test_right_run() -> None:
    progress: list[tuple[int, int]] = []
    report = check_step(right, progress=lambda done, total: progress.append((done, total)))
    assert [row.id for row in report.rows] == [case.id for case in CASES]
    assert (report.passed, bool(report), report.problems, report.diagnosis) == (
        True,
        True,
        [],
        None,
    )
    assert report.backend == f"{__name__}:right"
    assert progress == [(0, 3), (1, 3), (2, 3), (3, 3)]
    assert "conforms" in repr(report)


@pytest.mark.usefixtures("few")
@pytest.mark.parametrize(
    ("select", "ids"),
    [
        ({"group": "run"}, ["run-of-three", "run-trained"]),
        ({"flag": "trained"}, ["run-trained"]),
        ({"flag": "plain", "group": "small"}, ["small-plain"]),
        ({"id": "run-of"}, ["run-of-three"]),
    ],
)
def test_selection(select: Mapping[str, str], ids: list[str]) -> None:
    report = check_step(right, select=select)
    assert ([row.id for row in report.rows], report.problems) == (ids, [])


@pytest.mark.usefixtures("few")
def test_wrong_run() -> None:
    """It has a diagnosis, unless it is a whole step or has no result."""
    mutant = MUTANTS["s-step-sign"]
    assert mutant.stages is not None
    report = check_step(mutant.step, stages=mutant.stages.run)
    assert [row.outcome for row in report.failures] == 3 * ["failed"]
    assert report.diagnosis is not None
    assert report.diagnosis.first_line == "line 3 (S_new)"
    assert "line 3" in summary(report)
    assert check_step(raising).diagnosis is None
    whole = check_step(lambda U, S, V, gradients, **_: (U.copy(), 2.0 * S, V.copy()), whole=True)
    assert len(whole.failures) == 3
    assert whole.diagnosis is None
    assert len(check_step(doubled, fail_fast=True).rows) == 1


@pytest.mark.usefixtures("few")
@pytest.mark.parametrize(
    ("stopped_at", "doing", "rows"), [(2, "case run-of-three", 1), (4, "the diagnosis", 3)]
)
def test_interrupted(stopped_at: int, doing: str, rows: int) -> None:
    calls = itertools.count(1)

    def step(*arrays: Any, **parameters: Any) -> Any:
        if next(calls) == stopped_at:
            raise KeyboardInterrupt
        return doubled(*arrays, **parameters)

    with pytest.raises(Interrupted) as stopped:
        check_step(step)
    report = stopped.value.report
    assert report.problems == [f"interrupted in {doing}, after {rows} of 3 cases"]
    assert (len(report.rows), report.passed) == (rows, False)


@pytest.mark.usefixtures("few")
def test_repeat() -> None:
    """A case that is wrong now and then fails, with its counts."""
    calls = itertools.count()

    def now_and_then(*arrays: Any, **parameters: Any) -> Any:
        return (doubled if next(calls) % 5 == 3 else right)(*arrays, **parameters)

    select = {"id": PLAIN.id}
    assert check_step(now_and_then, select=select)
    [row] = check_step(now_and_then, select=select, repeat=10).rows
    assert (row.outcome, row.asked, row.failed) == ("failed", 10, 2)


@pytest.mark.usefixtures("few")
@pytest.mark.parametrize("precision", ["float64", "float32", "bfloat16"])
def test_resolution(precision: str) -> None:
    """An error of this share of s in the kept part is where failing begins."""
    report = check_step(right, precision=precision)
    assert report.resolution == FAIL * 4.0 * np.sqrt(11) * EPS[precision]
    inputs = StepCase.build(RUN.parameters).inputs()
    U1, S1, V1 = right(*inputs.arrays, **inputs.parameters)
    for factor in (0.9, 1.1):
        error = np.zeros_like(S1)
        error[0, 0] = factor * report.resolution
        ratios = judge(inputs, (U1, S1 + error, V1), eps=EPS[precision], scale=1.0).ratios
        assert (ratios["stationarity"] > FAIL) == (factor > 1.0)
    stored = check_step(right, dtype="float32", precision="float64").resolution
    bits = FAIL * 4.0 * np.sqrt(11) * 2.0**-52 + 2.0**-24 * (3.0 + 8.0 * np.sqrt(2))
    assert stored == pytest.approx(bits, rel=1e-12)


# --- reports --------------------------------------------------------------------------------------


def _row(name: str, outcome: str, ratio: float, **more: Any) -> Row:
    return Row(name, "group", ("group", "flag"), "because", ratio, outcome, **more)


ROWS = (
    _row("a", "passed", WARN),
    _row("b", "passed", WARN + 0.1),
    _row("c", "failed", 40.0, criteria=("output",), error="broken", step=2, ratios={"x": np.nan}),
    _row("d", "xfailed", 50.0),
    _row("e", "xpassed", 0.1),
)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("numpy", "expected package.module:function"),
        (":step", "expected package.module:function"),
        ("./good.py:step", "expected package.module:function"),
        ("no_such_module:step", "No module named 'no_such_module'"),
        ("numpy:nothing", "has no attribute 'nothing'"),
        ("numpy:pi", "expected a function, found float"),
    ],
)
def test_backend_by_name(name: str, message: str) -> None:
    assert load_backend("geolora_ref.oracle.broken.stages:Stages.step") is Stages.step
    with pytest.raises(ValueError, match=rf"^backend: .*{message}"):
        load_backend(name)


def test_suite() -> None:
    """A test for each case; pytest selects, not the class."""
    suite: Any = conformance_suite(right, precision="float32")
    ids = {*suite.test_case.pytestmark[0].kwargs["ids"]}
    assert {case.id for case in catalogue() if "double-range" in case.flags}.isdisjoint(ids)
    assert "shape-tall-dense" in ids
    with pytest.raises(ValueError, match="select: expected none"):
        conformance_suite(right, select={"group": "shape"})  # type: ignore[call-arg]

"""Every part of a report on a few small questions: rows, their words, what a backend is called for,
and what counts against it.
"""

from __future__ import annotations

import itertools
import json
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.random.mtrand import get_bit_generator, set_bit_generator

from geolora_ref.oracle import conformance_suite
from geolora_ref.oracle.broken.mutants import MUTANTS
from geolora_ref.oracle.broken.stages import Stages
from geolora_ref.oracle.cases.case import ConformanceCase
from geolora_ref.oracle.cases.catalogue import catalogue
from geolora_ref.oracle.cases.step_case import CaseParameters, StepCase
from geolora_ref.oracle.check import check_step, run_case
from geolora_ref.oracle.diagnosis.diagnosis import Diagnosis
from geolora_ref.oracle.judges.criteria import FAIL, WARN, judge
from geolora_ref.oracle.reports.report import Interrupted, Report, Row
from geolora_ref.oracle.reports.text import junit, summary
from geolora_ref.oracle.trial.conversion import EPS, Conversion
from geolora_ref.oracle.trial.harness import Harness
from geolora_ref.oracle.trial.load import load_backend
from tests.libraries import load
from tests.steps import Matrix

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
TRAINED = ConformanceCase(
    "run-trained", "run", ("run", "trained"), "trained", RUN.parameters, steps=3, trained=True
)
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


# --- rows and reports -----------------------------------------------------------------------------


def _row(name: str, outcome: str, ratio: float, **more: Any) -> Row:
    return Row(name, "group", ("group", "flag"), "because", ratio, outcome, **more)


def test_a_row_in_words() -> None:
    assert _row("a", "failed", 1234.5, criteria=("optimality", "stationarity"), step=3).text == (
        "ratio 1.23e+03 in optimality, stationarity (step 3): because"
    )
    assert (
        _row("a", "failed", np.inf, error="raised RuntimeError: no").text
        == "raised RuntimeError: no (step 0): because"
    )


def test_a_row_says_where_it_was_raised_and_which_ranks_would_be_right() -> None:
    row = _row("a", "failed", np.inf, error="raised ValueError: no", where="my_step.py:7")
    assert row.finding == "raised ValueError: no (at my_step.py:7)"
    for highest, words in ((3, "right: 3"), (4, "right: 3 to 4")):
        rank = {"found": 1, "lowest": 3, "highest": highest}
        row = _row("a", "failed", 50.0, criteria=("rank not too low",), rank=rank)
        assert row.finding == f"ratio 50 in rank not too low (rank 1; {words})"


def test_a_wrong_rank_stands_next_to_the_right_one() -> None:
    """On a tie two ranks are right; a right rank is not reported."""
    select = {"id": "threshold-tau-double-below-dense"}
    for name, rank in (
        ("off-by-one-low", {"found": 3, "lowest": 4, "highest": 4}),
        ("k-step-sign", None),
    ):
        rows = check_step(MUTANTS[name].step, select=select).rows
        assert [row.rank for row in rows] == [rank]
    tie = check_step(
        MUTANTS["relative-per-sigma"].step, select={"id": "trap-all-values-equal"}
    ).rows
    assert [row.rank for row in tie] in ([None], [{"found": 1, "lowest": 3, "highest": 4}])


def test_an_exception_is_reported_with_its_place(few: None) -> None:
    def step(*arrays: Any, **parameters: Any) -> Any:
        raise RuntimeError("out of luck")

    report = check_step(step)
    expected = f"{__file__}:{step.__code__.co_firstlineno + 1}"
    assert (
        {row.where for row in report.rows}
        == {row["where"] for row in report.as_data()["rows"]}
        == {expected}
    )
    assert f"raised RuntimeError: out of luck (at {expected})" in summary(report)


def test_a_defect_is_reported_as_data() -> None:
    report = check_step(MUTANTS["s-step-sign"].step, select={"group": "shape"})
    data = report.as_data()["defect"]
    assert (data["line"], data["mutant"], data["agreement"], data["repeated"]) == (
        3,
        "s-step-sign",
        1.0,
        True,
    )
    assert data["blocks"] == [
        "the S-block (S_new or its place in Ŝ: lines 3 and 5): -1 times the right update"
    ]
    assert json.loads(json.dumps(data)) == data
    unknown = Diagnosis([], [], "line 4 (U_tilde)").as_data()
    assert (unknown["line"], unknown["mutant"], unknown["first_line"]) == (
        4,
        None,
        "line 4 (U_tilde)",
    )


ROWS = (
    _row("a", "passed", 0.5),
    _row("b", "passed", WARN),
    _row("c", "passed", WARN + 0.1),
    _row("d", "failed", 40.0, criteria=("output",), error="broken", step=2, seconds=0.25),
    _row("e", "xfailed", 50.0),
    _row("f", "xpassed", 0.1),
)


def test_what_counts_against_a_backend() -> None:
    report = Report("package:step", "numpy", "float64", ROWS)
    assert [row.id for row in report.failures] == ["d", "f"]
    assert [row.id for row in report.warnings] == ["c"]
    assert [row.id for row in report.known_failures] == ["e"]
    assert report.worst_ratio == 40.0
    assert not report.passed
    assert Report("b", "numpy", "float64", [*ROWS[:3], ROWS[4]]).passed
    assert not Report("b", "numpy", "float64", ROWS[:3], ["a problem"]).passed
    assert Report("b", "numpy", "float64", []).worst_ratio == np.inf
    assert (report.seconds, report.diagnosis, report.problems) == (0.0, None, ())


def test_a_report_as_data() -> None:
    """Every field under its name; JSON has no infinity."""
    data = Report(
        "package:step",
        "torch",
        "float32",
        ROWS[3:5],
        ["a problem"],
        Diagnosis([], []),
        1.23456,
        "bfloat16",
        4.2,
    ).as_data()
    common: dict[str, Any] = {
        "group": "group",
        "flags": ("group", "flag"),
        "reason": "because",
        "asked": 1,
        "failed": 0,
        "where": "",
        "rank": None,
        "ratios": {},
    }
    assert data == {
        "format": 3,
        "backend": "package:step",
        "array": "torch",
        "dtype": "float32",
        "precision": "bfloat16",
        "resolution": 4.2,
        "select": {},
        "quick": False,
        "shapes": [],
        "fuzz": 0,
        "seed": 0,
        "fail_fast": False,
        "repeat": 1,
        "environment": {},
        "passed": False,
        "cases": 2,
        "worst_ratio": 40.0,
        "problems": ["a problem"],
        "shared": "",
        "diagnosis": "No known defect behaves like this backend.",
        "defect": Diagnosis([], []).as_data(),
        "seconds": 1.23,
        "rows": [
            common
            | {
                "id": "d",
                "ratio": 40.0,
                "outcome": "failed",
                "criteria": ("output",),
                "error": "broken",
                "step": 2,
                "seconds": 0.25,
            },
            common
            | {
                "id": "e",
                "ratio": 50.0,
                "outcome": "xfailed",
                "criteria": (),
                "error": "",
                "step": 0,
                "seconds": 0.0,
            },
        ],
    }
    broken = Report("b", "numpy", "float64", [_row("a", "failed", np.inf)]).as_data()
    assert (broken["worst_ratio"], broken["rows"][0]["ratio"], broken["diagnosis"]) == (
        "inf",
        "inf",
        "",
    )
    assert json.loads(json.dumps(broken, allow_nan=False))["cases"] == 1


def test_the_worst_ratio_of_every_criterion_is_reported() -> None:
    """Over all steps of a sequence; the worst of them is that of the case."""
    row, first = (run_case(Harness.of(right), replace(RUN, steps=steps))[0] for steps in (3, 1))
    assert max(row.ratios.values()) == row.ratio
    assert (
        set(row.ratios)
        == set(first.ratios)
        >= {"orthonormal U", "stationarity", "rank not too low", "S sorted"}
    )
    assert all(row.ratios[name] >= ratio for name, ratio in first.ratios.items())
    assert row.ratios != first.ratios
    wrong = run_case(Harness.of(doubled), PLAIN)[0]
    assert {name for name, ratio in wrong.ratios.items() if ratio > FAIL} == set(wrong.criteria)
    data = Report(
        "b",
        "numpy",
        "float64",
        [_row("a", "failed", np.inf, ratios={"x": np.nan, "y": np.inf, "z": 2.0})],
    ).as_data()
    assert data["rows"][0]["ratios"] == {"x": "nan", "y": "inf", "z": 2.0}
    assert json.dumps(data, allow_nan=False)


# --- what a backend is given, and what it promises ------------------------------------------------


def _inputs(dtype: Any = np.float64) -> Any:
    return StepCase.build(PLAIN.parameters).inputs(dtype)


def test_the_precision_is_what_is_claimed() -> None:
    load("torch")
    assert Harness.of(right).eps == 2.0**-52
    assert Harness.of(right).diagonal
    assert Harness.of(right, dtype="float32").eps == 2.0**-23
    assert Harness.of(right, precision="float32").eps == 2.0**-23
    assert Harness.of(right, dtype="float32", precision="float64").eps == 2.0**-52
    assert Harness.of(right, dtype="bfloat16", array="torch").eps == 2.0**-23
    with pytest.raises(
        ValueError, match=r"^precision: expected one of float64, .*, found 'float8'$"
    ):
        Harness.of(right, precision="float8")
    assert Harness.of(right, array="torch", dtype="float32", device="cpu").conversion == Conversion(
        "torch", "float32", "cpu"
    )


def test_a_backend_is_given_the_arrays_and_parameters_by_their_names() -> None:
    seen: dict[str, Any] = {}

    def step(*arrays: Any, **parameters: Any) -> Any:
        seen.update(arrays=arrays, parameters=parameters)
        return right(*arrays, **parameters)

    x = _inputs()
    outcome = Harness.of(step).call(x, lambda W: W)
    assert [np.array_equal(X, Y) for X, Y in zip(seen["arrays"], x.arrays, strict=True)] == 6 * [
        True
    ]
    assert seen["parameters"] == {
        "learning_rate": 0.1,
        "tau": 0.05,
        "theta": None,
        "min_rank": 1,
        "max_rank": None,
    }
    assert outcome.error == ""
    assert [given for given, _ in outcome.results] == [x]
    assert outcome.factors is not None
    assert [X.shape for X in outcome.factors] == [X.shape for X in right(*x.arrays, **x.parameters)]


@pytest.mark.parametrize(("n", "count"), [(3, 2), (4, 4), (5, 5), (6, 3), (7, 1)])
def test_a_batched_backend_is_given_stacks_and_may_return_a_list_or_stacks(
    n: int, count: int
) -> None:
    inputs = StepCase.build(CaseParameters(5, n, 2, "algebraic", "dense", tau=0.05)).inputs()

    def by_list(*stacks: Any, **parameters: Any) -> Any:
        calls.append(len(stacks[0]))
        assert all(X.ndim == 3 and len(X) == count for X in stacks)
        assert len({tuple(X[k].tobytes() for X in stacks) for k in range(count)}) == count
        return [right(*arrays, **parameters) for arrays in zip(*stacks, strict=True)]

    def by_stacks(*stacks: Any, **parameters: Any) -> Any:
        return tuple(np.stack(X) for X in zip(*by_list(*stacks, **parameters), strict=True))

    for step, lengths in (
        (by_list, [count, count]),
        (by_stacks, [count]),
    ):  # a list may have different ranks
        calls: list[int] = []
        outcome = Harness.of(step, batched=True).call(inputs, lambda W: W)
        assert outcome.error == ""
        assert (calls, outcome.stacked) == (lengths, count)
        assert len(outcome.results) == sum(lengths)
        assert all(judge(given, factors).passed for given, factors in outcome.results)


def test_a_whole_step_is_given_the_gradient_as_a_function_of_its_own_arrays() -> None:
    load("torch")
    case = StepCase.build(PLAIN.parameters)

    def step(U: Any, S: Any, V: Any, gradients: Callable[[Any], Any], **parameters: Any) -> Any:
        G = gradients(U @ S @ V.T)
        assert type(G) is type(U)
        return right(U, S, V, G @ V, G.T @ U, U.T @ G @ V, **parameters)

    for array in ("numpy", "torch"):
        outcome = Harness.of(step, array=array, whole=True).call(_inputs(), case.gradient)
        assert outcome.error == ""
        assert judge(_inputs(), outcome.factors).passed  # type: ignore[arg-type]


# --- what a backend does to its caller ------------------------------------------------------------


class Donated(np.ndarray):
    """An array that says its memory was taken."""

    def is_deleted(self) -> bool:
        return True


def _changing(index: int) -> Callable[..., Any]:
    def step(*arrays: Any, **parameters: Any) -> Any:
        output = right(*arrays, **parameters)
        arrays[index][0, 0] += 1.0
        return output

    return step


def _returning(index: int, name: str) -> Callable[..., Any]:
    """A view of the input of this name in place of one output, of the shape that happens to be there."""

    def step(*arrays: Any, **parameters: Any) -> Any:
        output = list(right(*arrays, **parameters))
        output[index] = arrays[("U", "S", "V", "dK", "dL", "dS").index(name)][:, :1]
        return tuple(output)

    return step


def _a_part_of_another_result(*arrays: Any, **parameters: Any) -> Any:
    U1, S1, V1 = right(*arrays, **parameters)
    return U1, U1[: len(S1)], V1


def _masked(*arrays: Any, **parameters: Any) -> Any:
    return tuple(np.ma.masked_array(X, mask=True) for X in right(*arrays, **parameters))


def _drawing(*arrays: Any, **parameters: Any) -> Any:
    np.random.standard_normal()  # noqa: NPY002
    return right(*arrays, **parameters)


def _drawing_a_block(*arrays: Any, **parameters: Any) -> Any:
    """312 numbers of two words each use up a block of 624: the position in the block is then what
    it was.
    """
    np.random.rand(312)  # noqa: NPY002
    return right(*arrays, **parameters)


def _with_other_bits(*arrays: Any, **parameters: Any) -> Any:
    set_bit_generator(np.random.PCG64(0))
    return right(*arrays, **parameters)


def _raising(*arrays: Any, **parameters: Any) -> Any:
    raise RuntimeError("out of luck")


RANDOM = "seeded or used NumPy's global random generator: the caller's randomness changes"
MANNERS: dict[str, tuple[Callable[..., Any], str]] = {
    **{
        f"changes {name}": (_changing(i), "changed its inputs in place")
        for i, name in enumerate(("U", "S", "V", "dK", "dL", "dS"))
    },
    **{
        f"returns {name} as {output}": (
            _returning(i, name),
            f"{output} is a view of the input {name}: a later change of one changes the other",
        )
        for i, (output, name) in enumerate((("U1", "U"), ("S1", "dS"), ("V1", "dL")))
    },
    "returns a part twice": (
        _a_part_of_another_result,
        "S1 shares memory with U1: a later change of one changes the other",
    ),
    "hides its entries": (_masked, "U1: expected an array of numpy, found numpy.ma.MaskedArray"),
    "draws": (_drawing, RANDOM),
    "draws a block": (_drawing_a_block, RANDOM),
    "draws from other bits": (_with_other_bits, RANDOM),
    "seeds": (MUTANTS["global-rng"].step, RANDOM),
    "raises": (_raising, "raised RuntimeError: out of luck"),
    "nothing": (
        lambda *arrays, **parameters: None,
        "expected (U1, S1, V1), found NoneType (TypeError: cannot unpack non-iterable NoneType object)",
    ),
    "a pair": (
        lambda *arrays, **parameters: [np.ones((5, 2)), 3.0],
        (
            "expected (U1, S1, V1), found list of 2: ndarray (5, 2), float "
            "(ValueError: not enough values to unpack (expected 3, got 2))"
        ),
    ),
    "five": (
        lambda *arrays, **parameters: (1, 2, 3, "four", 5.0),
        "expected (U1, S1, V1), found tuple of 5: int, int, int, str (ValueError: too many values to unpack (expected 3))",
    ),
}


@pytest.mark.parametrize(("step", "error"), MANNERS.values(), ids=MANNERS)
def test_bad_manners_in_words(step: Callable[..., Any], error: str) -> None:
    np.random.seed(0)  # noqa: NPY002  (the state that the backend would set)
    np.random.randn()  # noqa: NPY002  (a second normal number is kept)
    before: Any = np.random.get_state()  # noqa: NPY002
    outcome = Harness.of(step).call(_inputs(), lambda W: W)
    after: Any = np.random.get_state()  # noqa: NPY002
    assert outcome.error == error
    assert outcome.factors is None
    assert before[3], "nothing is kept that could be lost"
    assert np.array_equal(before[1], after[1])
    assert before[2:] == after[2:]


@pytest.fixture
def other_bits() -> Iterator[np.random.PCG64]:
    usual, bits = get_bit_generator(), np.random.PCG64(3)
    set_bit_generator(bits)
    yield bits
    set_bit_generator(usual)


@pytest.mark.parametrize("step", [right, _drawing, _with_other_bits])
def test_another_source_of_bits_belongs_to_the_caller_too(
    other_bits: np.random.PCG64, step: Callable[..., Any]
) -> None:
    np.random.randn()  # noqa: NPY002  (a second normal number is kept)
    before: Any = np.random.get_state(legacy=False)  # noqa: NPY002
    assert Harness.of(step).call(_inputs(), lambda W: W).error == ("" if step is right else RANDOM)
    assert get_bit_generator() is other_bits
    assert before["has_gauss"], "nothing is kept that could be lost"
    assert np.random.get_state(legacy=False) == before  # noqa: NPY002


def test_devices_that_nobody_uses_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """To read the generators of CUDA devices begins to use all of them."""
    load("torch")
    import torch

    def used(*arguments: Any) -> Any:
        raise AssertionError("a device was looked at")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: False)
    for name in ("get_rng_state_all", "set_rng_state_all", "manual_seed_all"):
        monkeypatch.setattr(torch.cuda, name, used)
    assert Harness.of(right).call(_inputs(), lambda W: W).error == ""
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    with pytest.raises(AssertionError, match="a device was looked at"):
        Harness.of(right).call(_inputs(), lambda W: W)


def test_what_a_device_finds_wrong_later_is_the_backends_and_so_is_a_broken_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Kernels run on while the host does: an error of theirs shows where they are waited for, and
    may break the device.
    """

    def broken(*arguments: Any) -> Any:
        raise RuntimeError("an illegal memory access was encountered")

    harness = Harness.of(right)
    with monkeypatch.context() as patched:
        patched.setattr(Conversion, "wait", broken)
        assert (
            harness.call(_inputs(), lambda W: W).error
            == "raised RuntimeError: an illegal memory access was encountered"
        )
    monkeypatch.setattr(Conversion, "laid_out", broken)
    expected = "no arrays could be made for it, as if an earlier call had broken the device: RuntimeError: an illegal memory access"
    assert harness.call(_inputs(), lambda W: W).error.startswith(expected)
    assert replace(harness, stages=right).run_stages(_inputs())[2].startswith(f"stages: {expected}")


def test_memory_that_was_taken_is_noticed_before_it_is_looked_at(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Conversion, "to", lambda self, X: X.copy().view(Donated))
    outcome = Harness.of(lambda *arrays, **p: right(*(np.asarray(X) for X in arrays), **p)).call(
        _inputs(), lambda W: W
    )
    assert outcome.factors is None
    assert (
        outcome.error
        == "took the memory of its inputs (donated arguments): the caller has them no longer"
    )


def test_a_vector_that_is_returned_is_left_to_the_criteria() -> None:
    def flat(*arrays: Any, **parameters: Any) -> Any:
        U1, S1, V1 = right(*arrays, **parameters)
        return U1, np.diag(S1), V1

    row, inputs = run_case(Harness.of(flat), PLAIN)
    assert row.error.startswith("S1: expected a square matrix")
    assert inputs is not None


# --- one case -------------------------------------------------------------------------------------


def test_a_row_says_what_the_case_is_and_how_it_went() -> None:
    row, inputs = run_case(Harness.of(right), PLAIN)
    assert (row.id, row.group, row.flags, row.reason) == (
        PLAIN.id,
        PLAIN.group,
        PLAIN.flags,
        PLAIN.reason,
    )
    assert (row.outcome, row.criteria, row.error, row.step) == ("passed", (), "", 0)
    assert inputs is not None
    assert row.ratio == judge(inputs, right(*inputs.arrays, **inputs.parameters)).worst_ratio < 1.0
    assert row.seconds > 0.0
    wrong, inputs = run_case(Harness.of(doubled), PLAIN)
    assert (wrong.id, wrong.group, wrong.flags, wrong.reason) == (
        PLAIN.id,
        PLAIN.group,
        PLAIN.flags,
        PLAIN.reason,
    )
    assert (wrong.outcome, wrong.error, wrong.step) == ("failed", "", 0)
    assert wrong.criteria[0] in ("stationarity", "optimality")
    assert wrong.ratio > FAIL
    assert inputs is not None
    assert 0.0 < wrong.seconds < 10.0


def test_a_row_of_a_backend_that_gives_nothing() -> None:
    row, inputs = run_case(Harness.of(_raising), PLAIN)
    assert (row.outcome, row.criteria, row.error, row.ratio) == (
        "failed",
        ("output",),
        "raised RuntimeError: out of luck",
        np.inf,
    )
    assert inputs is None


@pytest.mark.parametrize("case", [RUN, TRAINED])
def test_each_output_of_a_sequence_is_the_next_input(case: ConformanceCase) -> None:
    """S is changed in between where the case says so; the gradient is taken where the state is."""
    seen: list[Any] = []
    gradient = StepCase.build(case.parameters).gradient

    def step(*arrays: Any, **parameters: Any) -> Any:
        output = right(*arrays, **parameters)
        seen.append(
            tuple(tuple(X.copy() for X in each) for each in (arrays, output))
        )  # the kit overwrites its own at the end
        return output

    row, inputs = run_case(Harness.of(step), case)
    assert row.outcome == "passed"
    assert len(seen) == 3
    start = StepCase.build(case.parameters)
    for given, expected in zip(seen[0][0][:3], (start.U, start.S, start.V), strict=True):
        np.testing.assert_array_equal(given, expected)
    rng, backwards = np.random.default_rng(case.parameters.seed + 1), -1 if case.trained else 1
    for (_, (U1, S1, V1)), ((U, S, V, dK, dL, dS), _) in itertools.pairwise(seen):
        np.testing.assert_array_equal(U, U1[:, ::backwards])  # other bases of the same spaces
        np.testing.assert_array_equal(V, V1[:, ::backwards])
        changed = S1 + 0.1 * rng.standard_normal(S1.shape) if case.trained else S1
        np.testing.assert_array_equal(S, changed[::backwards, ::backwards])
        G = gradient(U @ S @ V.T)
        for found, exact in ((dK, G @ V), (dL, G.T @ U), (dS, U.T @ G @ V)):
            np.testing.assert_allclose(found, exact, atol=1e-13)
    assert inputs is not None
    np.testing.assert_array_equal(inputs.U, seen[-1][0][0])


def test_the_worst_step_of_a_sequence_counts_and_the_first_failing_one_is_named() -> None:
    def step(*arrays: Any, **parameters: Any) -> Any:
        calls.append([X.copy() for X in arrays])
        return (doubled if len(calls) == wrong_at else right)(*arrays, **parameters)

    ratios = []
    for wrong_at in (99, 2):
        calls: list[Any] = []
        row, inputs = run_case(Harness.of(step), RUN)
        ratios.append(row.ratio)
        assert (row.outcome, row.step, len(calls)) == (
            ("passed", 0, 3) if wrong_at == 99 else ("failed", 1, 2)
        )
    assert inputs is not None
    np.testing.assert_array_equal(inputs.U, calls[1][0])
    single = [
        run_case(Harness.of(right), ConformanceCase("a", "a", ("a",), "", RUN.parameters, steps=k))[
            0
        ].ratio
        for k in (1, 2, 3)
    ]
    assert single == sorted(single)
    assert ratios[0] == single[-1]


def test_a_case_runs_in_the_dtype_of_the_backend() -> None:
    """Complex if the case is or the dtype is; numbers that the dtype can hold."""
    seen: list[Any] = []

    def step(*arrays: Any, **parameters: Any) -> Any:
        seen.extend(arrays)
        return right(*arrays, **parameters)

    for dtype in ("float32", "complex64", "complex128"):
        seen.clear()
        row, inputs = run_case(Harness.of(step, dtype=dtype), PLAIN)
        assert row.outcome == "passed"
        assert {str(X.dtype) for X in seen} == {dtype}
        assert inputs is not None
        assert {str(X.dtype) for X in inputs.arrays} == {dtype}


# --- a whole run ----------------------------------------------------------------------------------


@pytest.mark.usefixtures("few")
def test_a_run_of_a_right_backend() -> None:
    progress: list[tuple[int, int]] = []
    report = check_step(right, progress=lambda done, total: progress.append((done, total)))
    assert [row.id for row in report.rows] == [case.id for case in CASES]
    assert (report.passed, report.problems, report.diagnosis) == (True, [], None)
    assert (report.backend, report.array, report.dtype) == (
        "tests.oracle.reports.test_report:right",
        "numpy",
        "float64",
    )
    assert progress == [(0, 3), (1, 3), (2, 3), (3, 3)]
    assert 0.0 < report.seconds < 60.0


@pytest.mark.usefixtures("few")
@pytest.mark.parametrize(
    ("options", "precision"),
    [
        ({}, "float64"),
        ({"precision": "float32"}, "float32"),
        ({"precision": "bfloat16"}, "bfloat16"),
    ],
)
def test_a_report_says_what_its_verdict_cannot_see(options: dict[str, Any], precision: str) -> None:
    """The resolution is that of the median case: an error of this share of s in the kept part is
    where failing begins.
    """
    report = check_step(right, **options)
    assert (report.precision, report.resolution) == (
        precision,
        FAIL * 4.0 * np.sqrt(11) * EPS[precision],
    )
    inputs = StepCase.build(RUN.parameters).inputs()
    U1, S1, V1 = right(*inputs.arrays, **inputs.parameters)
    for factor in (0.9, 1.1):
        error = np.zeros_like(S1)
        error[0, 0] = factor * report.resolution
        ratios = judge(inputs, (U1, S1 + error, V1), eps=EPS[precision], scale=1.0).ratios
        assert (ratios["stationarity"] > FAIL) == (factor > 1.0)
    said = f"resolution: errors below {report.resolution:.2g} s may pass, s = ‖W‖ + λ‖P(W)G‖₊ (30 units of {precision})"
    gross = "; as large as the step: only gross errors fail" if precision == "bfloat16" else ""
    assert summary(report).splitlines()[-1] == said + gross


@pytest.mark.usefixtures("few")
def test_a_report_says_what_storage_hides() -> None:
    u, r = 2.0**-24, RUN.parameters.r
    report = check_step(right, dtype="float32", precision="float64")
    assert report.resolution == pytest.approx(
        FAIL * 4.0 * np.sqrt(11) * EPS["float64"] + u * (3.0 + 8.0 * np.sqrt(r)), rel=1e-12
    )
    assert (
        summary(report)
        .splitlines()[-1]
        .endswith("(30 units of float64 and the rounding of float32 storage)")
    )


@pytest.mark.usefixtures("few")
def test_a_run_of_a_wrong_backend_is_diagnosed_unless_it_is_a_whole_step() -> None:
    report = check_step(MUTANTS["s-step-sign"].step, stages=MUTANTS["s-step-sign"].stages.run)  # type: ignore[union-attr]
    assert [row.outcome for row in report.failures] == 3 * ["failed"]
    assert report.diagnosis is not None
    assert report.diagnosis.matches[0][0].id == "s-step-sign"
    assert report.diagnosis.first_line == "line 3 (S_new)"
    assert check_step(MUTANTS["s-step-sign"].step).diagnosis.first_line == ""  # type: ignore[union-attr]
    nothing = check_step(_raising)
    assert nothing.diagnosis is None
    assert not nothing.passed

    def whole(U: Any, S: Any, V: Any, gradients: Any, **parameters: Any) -> Any:
        return U.copy(), 2.0 * S, V.copy()

    report = check_step(whole, whole=True)
    assert report.failures
    assert report.diagnosis is None


@pytest.mark.usefixtures("few")
def test_the_first_line_is_that_of_the_first_question_where_a_line_fails() -> None:
    """The stages of a right step have no wrong line, whatever the backend itself does."""
    report = check_step(doubled, stages=REFERENCE.run)
    assert report.diagnosis is not None
    assert report.diagnosis.first_line == ""

    def late(*arrays: Matrix, **parameters: Any) -> Mapping[str, Any]:
        calls.append(1)
        run = REFERENCE.run(*arrays, **parameters)
        return {**run, "L_new": 1.001 * run["L_new"]} if len(calls) == 2 else run

    calls: list[int] = []
    report = check_step(doubled, stages=late)
    assert report.diagnosis is not None
    assert report.diagnosis.first_line.startswith("line 3 (L_new)")
    assert (
        len(calls) == 3 * len(CASES) + 1
    )  # those that failed and those untruncated are compared, one is called again


@pytest.mark.usefixtures("few")
def test_a_dense_core_that_is_declared_is_no_wrong_line_of_a_wrong_backend() -> None:
    """Its stages end in the right W₁ with a dense core, its output is another."""

    def turned(*arrays: Matrix, **parameters: Any) -> Mapping[str, Any]:
        run = dict(REFERENCE.run(*arrays, **parameters))
        U1, S1, V1 = run["output"]
        Q, _ = np.linalg.qr(np.random.default_rng(0).standard_normal(S1.shape))
        return run | {"output": (U1 @ Q, Q.T @ S1, V1)}

    for diagonal, line in ((True, "line 6 (S "), (False, "")):
        report = check_step(doubled, stages=turned, diagonal=diagonal)
        assert report.diagnosis is not None
        assert report.diagnosis.first_line.startswith(line)
        assert bool(report.diagnosis.first_line) == bool(line)


@pytest.mark.usefixtures("few")
def test_line_6_is_named_where_its_result_cannot_be_judged() -> None:
    def stages(*arrays: Matrix, **parameters: Any) -> Mapping[str, Any]:
        run = REFERENCE.run(*arrays, **parameters)
        U1, S1, V1 = run["output"]
        return dict(run) | {"output": (U1, np.nan * S1, V1)}

    def broken(*arrays: Matrix, **parameters: Any) -> Any:
        return stages(*arrays, **parameters)["output"]

    report = check_step(broken, stages=stages)
    assert report.diagnosis is not None
    assert report.diagnosis.first_line == "line 6 (output)"


@pytest.mark.usefixtures("few")
def test_what_a_backend_raises_is_the_diagnosis() -> None:
    def half(*arrays: Matrix, **parameters: Any) -> Any:
        if not parameters["tau"] and parameters["max_rank"] is None:
            raise RuntimeError("no truncation here")
        U1, S1, V1 = right(*arrays, **parameters)
        return U1, 1.5 * S1, V1

    report = check_step(half)
    assert report.diagnosis is not None
    assert "cannot be judged: raised RuntimeError: no truncation here." in report.diagnosis.text


@pytest.mark.usefixtures("few")
def test_a_result_that_cannot_be_judged_is_the_diagnosis() -> None:
    def broken(*arrays: Any, **parameters: Any) -> Any:
        U1, S1, V1 = right(*arrays, **parameters)
        return np.nan * U1, S1, V1

    report = check_step(broken)
    assert report.diagnosis is not None
    assert report.diagnosis.text.endswith(
        f"The first of its results that cannot be judged: {report.rows[0].error}."
    )


@pytest.mark.usefixtures("few")
def test_the_rounding_of_the_stages_is_that_of_the_dtype() -> None:
    stages = MUTANTS["s-step-sign"].stages
    assert stages is not None
    for array in ("numpy", "torch"):
        load(array)
        report = check_step(doubled, array=array, dtype="float32", stages=REFERENCE.run)
        assert report.diagnosis is not None
        assert report.diagnosis.first_line == ""


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
def test_a_selection(select: Mapping[str, str], ids: list[str]) -> None:
    report = check_step(right, select=select)
    assert [row.id for row in report.rows] == ids
    assert report.problems == []


@pytest.mark.usefixtures("few")
@pytest.mark.parametrize(
    "select", [{"group": "nonsense"}, {"id": "of"}, {"group": "run", "flag": "plain"}]
)
def test_a_selection_of_nothing_is_refused(select: Mapping[str, str]) -> None:
    with pytest.raises(ValueError) as found:  # noqa: PT011  the message is compared literally
        check_step(right, select=select)
    assert (
        str(found.value)
        == f"select: no case for float64 matches {select}; the groups are small, run"
    )


@pytest.mark.usefixtures("few")
def test_a_report_is_true_if_the_backend_conforms_and_short_in_a_notebook() -> None:
    good, bad = check_step(right), check_step(MUTANTS["s-step-sign"].step, name="mine:wrong")
    assert good
    assert not bad
    assert repr(good).endswith(
        f"numpy float64: conforms, {len(good.rows)} of {len(good.rows)} cases pass or fail as listed, 0 problems)"
    )
    assert repr(bad).startswith("Report(mine:wrong, numpy float64: does not conform, ")
    assert summary(bad).startswith("mine:wrong  (numpy, float64)\n")


def test_the_refusal_of_an_unknown_option_lists_the_known_ones() -> None:
    with pytest.raises(
        TypeError,
        match=r"^arrray: expected options among dtype, array, device, precision, diagonal, whole, ",
    ):
        check_step(right, arrray="torch")  # type: ignore[call-arg]


@pytest.mark.usefixtures("few")
def test_an_unknown_key_of_a_selection_is_refused() -> None:
    with pytest.raises(
        ValueError, match=r"^select: expected keys among group, flag, id, found 'colour'$"
    ):
        check_step(right, select={"colour": "red"})


def test_few_cases_are_no_whole_run_but_may_be_a_selection(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("trial.choice", "cases.known_failures"):
        monkeypatch.setattr(f"geolora_ref.oracle.{module}.catalogue", lambda: CASES)
    for floor, problems in ((4, ["only 3 cases were run, a whole run has at least 4"]), (3, [])):
        monkeypatch.setattr("geolora_ref.oracle.check.FLOOR", floor)
        assert check_step(right).problems == problems
        assert check_step(right, select={"group": "run"}).problems == []


@pytest.mark.usefixtures("few")
def test_known_failures() -> None:
    report = check_step(doubled, xfail={"small-plain": "known", "run-trained": "known too"})
    assert [(row.id, row.outcome) for row in report.rows] == [
        ("small-plain", "xfailed"), ("run-of-three", "failed"), ("run-trained", "xfailed"),
    ]  # fmt: skip
    assert report.rows[0].error == "known"
    assert report.problems == []
    assert (
        check_step(_raising, xfail={"small-plain": "known"}).rows[0].error
        == "raised RuntimeError: out of luck"
    )
    report = check_step(right, xfail={"small-plain": "known", "misspelt": ""})
    assert report.problems == [
        "xfail: no case has the id 'misspelt'",
        "xfail: small-plain passes; take it off the list",
    ]
    assert report.failures[0].outcome == "xpassed"
    assert report.diagnosis is None
    elsewhere = check_step(right, xfail={"small-plain": "known"}, select={"group": "run"})
    assert (elsewhere.problems, elsewhere.passed) == ([], True)


@pytest.mark.usefixtures("few")
def test_a_function_object_is_named_by_its_class() -> None:
    class Backend:
        __module__ = "somewhere"

        def __call__(self, *arrays: Any, **parameters: Any) -> Any:
            return right(*arrays, **parameters)

    assert check_step(Backend()).backend == "somewhere:Backend"


@pytest.mark.usefixtures("few")
@pytest.mark.parametrize(
    ("stopped_at", "doing", "rows"), [(2, "case run-of-three", 1), (4, "the diagnosis", 3)]
)
def test_an_interrupted_run_tells_what_it_has(stopped_at: int, doing: str, rows: int) -> None:
    """In a case, or in the diagnosis after the last."""
    calls: list[Any] = []

    def step(*arrays: Any, **parameters: Any) -> Any:
        calls.append(arrays)
        if len(calls) == stopped_at:
            raise KeyboardInterrupt
        return doubled(*arrays, **parameters)

    with pytest.raises(Interrupted) as stopped:
        check_step(step)
    report = stopped.value.report
    assert isinstance(stopped.value, KeyboardInterrupt)
    assert [row.id for row in report.rows] == [case.id for case in CASES[:rows]]
    assert report.problems == [f"interrupted in {doing}, after {rows} of 3 cases"]
    assert report.diagnosis is None


@pytest.mark.usefixtures("few")
def test_a_case_that_is_wrong_now_and_then_is_reported_with_its_counts() -> None:
    """Called once it may be right; the worst answer is that of the row."""
    calls = itertools.count()

    def now_and_then(*arrays: Any, **parameters: Any) -> Any:
        return (doubled if next(calls) % 5 == 3 else right)(*arrays, **parameters)

    select = {"id": PLAIN.id}
    assert check_step(now_and_then, select=select)
    report = check_step(now_and_then, select=select, repeat=10)
    [row] = report.rows
    assert (row.outcome, row.asked, row.failed) == ("failed", 10, 2)
    assert row.finding.endswith("; in 2 of 10 times")
    assert ": 1 case with id=small-plain and each 10 times, " in summary(report)
    assert report.as_data()["repeat"] == 10
    with pytest.raises(ValueError, match=r"^repeat: expected an integer >= 1, found 0$"):
        check_step(right, repeat=0)


@pytest.mark.usefixtures("few")
def test_what_the_kit_has_no_memory_for_is_no_fault_of_the_backend(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Sizes are refused before any case runs; where memory ends later, so does the run, and
    says where it was.
    """
    with pytest.raises(
        ValueError,
        match=r"^shapes: expected sizes .* into memory, found 3000000x2000000x4: .* takes 7.2e\+05 GB",
    ):
        check_step(right, shapes=[(9, 7, 2), (3_000_000, 2_000_000, 4)])
    with monkeypatch.context() as patched:
        patched.setattr("geolora_ref.oracle.trial.choice.memory", lambda: 8 * 15 * 9 * 7)
        assert check_step(right, shapes=[(9, 7, 2)], select={"id": "own-9x7x2-none"})
        with pytest.raises(ValueError, match=r"^shapes: "):
            check_step(
                right, shapes=[(9, 7, 2)], select={"id": "own-9x7x2-none"}, dtype="complex128"
            )

    def large(parameters: CaseParameters) -> StepCase:
        raise MemoryError("Unable to allocate 72.0 TiB")

    monkeypatch.setattr("geolora_ref.oracle.check._drawn", large)
    with pytest.raises(
        MemoryError,
        match=r"^not enough memory for case small-plain: MemoryError: Unable to allocate 72\.0 TiB$",
    ):
        check_step(right)


# --- for a terminal -------------------------------------------------------------------------------


def test_the_words_for_a_terminal() -> None:
    """Known failures are counted, not passed, and the worst ratio is not theirs."""
    report = Report(
        "package:step", "numpy", "float64", ROWS, ["a problem"], seconds=1.0, resolution=1.2345e-13
    )
    lines = summary(report).splitlines()
    assert lines == [
        "package:step  (numpy, float64)",
        "  group           6 cases  1 failed, 1 known to fail",
        "  FAILED d, step 2: broken",
        "      because",
        "  PROBLEM a problem",
        "  1 case passes above the warn level, worst 10.1 in  of c",
        "DOES NOT CONFORM: 6 cases, 1 known to fail, worst ratio of the others 40 (fail above 30), 1.0 s",
        "resolution: errors below 1.2e-13 s may pass, s = ‖W‖ + λ‖P(W)G‖₊ (30 units of float64)",
    ]
    known = summary(Report("b", "numpy", "float64", ROWS[4:5])).splitlines()
    assert known[1:-1] == [
        "  group           1 case   1 known to fail",
        "conforms: 1 case, 1 known to fail, 0.0 s",
    ]
    passed = summary(Report("b", "numpy", "float64", ROWS[:2]), "INTERRUPTED").splitlines()
    assert passed[1:-1] == [
        "  group           2 cases  passed",
        "INTERRUPTED: 2 cases, worst ratio 10 (fail above 30), 0.0 s",
    ]


# --- backends by name -----------------------------------------------------------------------------


def test_a_backend_is_found_by_its_name() -> None:
    assert load_backend("tests.oracle.reports.test_report:right") is right
    assert load_backend("geolora_ref.oracle.broken.stages:Stages.step") is Stages.step


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("numpy", "backend: expected package.module:function, found 'numpy'"),
        (":step", "backend: expected package.module:function, found ':step'"),
        ("numpy:", "backend: expected package.module:function, found 'numpy:'"),
        (
            "no_such_module:step",
            "backend: no module 'no_such_module' (looking for 'no_such_module:step')",
        ),
        (
            "numpy.nothing:step",
            "backend: no module 'numpy.nothing' (looking for 'numpy.nothing:step')",
        ),
        ("numpy:linalg:norm", "backend: numpy has no 'linalg:norm'"),
        ("numpy:linalg.nothing", "backend: numpy has no 'linalg.nothing'"),
        ("numpy:pi", "backend: expected a function, found float at 'numpy:pi'"),
    ],
)
def test_a_backend_that_does_not_exist(name: str, message: str) -> None:
    with pytest.raises(ValueError) as found:  # noqa: PT011  the message is compared literally
        load_backend(name)
    assert str(found.value) == message


def test_a_backend_that_is_loaded_at_its_first_use_may_fail_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = 'def __getattr__(name):\n    raise ImportError("libcudart.so: cannot open")\n'
    (tmp_path / "loaded_late.py").write_text(source, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(
        ValueError,
        match=r"^backend: 'loaded_late:step' raised ImportError: libcudart.*loaded_late.py:2\)$",
    ):
        load_backend("loaded_late:step")


@pytest.mark.parametrize(
    ("step", "options"), [("numpy:dot", {}), (None, {}), (right, {"stages": 3})]
)
def test_what_cannot_be_called_is_no_verdict(step: Any, options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"^(step|stages): expected a function, found "):
        check_step(step, **options)


@pytest.mark.usefixtures("few")
def test_a_report_says_what_was_requested_and_what_is_wrong_wherever_it_is_read() -> None:
    """A selection is no whole run, and who reads JUnit wants the line as well."""
    report = check_step(doubled, select={"group": CASES[0].group}, diagonal=False)
    data = report.as_data()
    assert data["select"] == {"group": CASES[0].group}
    assert {name: data[name] for name in ("batched", "whole", "diagonal", "stages")} == {
        "batched": False,
        "whole": False,
        "diagonal": False,
        "stages": False,
    }
    assert f": 1 case with group={CASES[0].group}, " in summary(report)
    assert report.diagnosis is not None
    assert (
        ET.fromstring(junit(report)).findtext("system-out") == f"diagnosis: {report.diagnosis.text}"
    )
    assert ET.fromstring(junit(check_step(right))).find("system-out") is None


def test_a_suite_is_selected_from_by_pytest() -> None:
    with pytest.raises(
        ValueError,
        match=r"^select: expected none, all cases become tests; pytest selects them: -k GROUP$",
    ):
        conformance_suite(right, select={"group": "shape"})  # type: ignore[call-arg]


def test_a_step_is_measured_by_what_it_was_given() -> None:
    """A whole step forms G V itself; one that is given ∇_K and ∇_L has no rounding of a G outside
    of its bases.
    """
    single = (
        case for case in catalogue() if case.steps == 1 and case.parameters.learning_rate >= 0.1
    )
    case = next(case for case in single if case.parameters.gradient == "normal")
    inputs = StepCase.build(case.parameters).inputs()

    def off(*arrays: Any, **parameters: Any) -> Any:
        U1, S1, V1 = REFERENCE.step(*arrays, **parameters)
        return U1, S1 * (1.0 + 1e-9), V1

    [row] = (row for row in check_step(off, select={"id": case.id}).rows if row.id == case.id)
    assert row.ratio == pytest.approx(
        judge(inputs, off(*inputs.arrays, **inputs.parameters)).worst_ratio, rel=1e-6
    )

"""The conformance kit: what it says of right, wrong and ill-mannered backends."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from geolora_ref.oracle import check_step
from geolora_ref.oracle.catalogue import FLOOR, catalogue
from geolora_ref.oracle.check import Report, Row, applicable, load_backend
from geolora_ref.oracle.conversion import EPS, Conversion
from geolora_ref.oracle.diagnosis import Diagnosis
from geolora_ref.oracle.mutants import MUTANTS, Mutant
from geolora_ref.oracle.stages import Stages
from tests.oracle.drawn import VARIANTS

pytestmark = pytest.mark.usefixtures("module_unchecked")

REFERENCE = Stages()
CORES = {"group": "shape"}  # 60 cases, enough to see a plain defect
PAIRS = (
    ("k-step-sign", "lower-left-sign"),
    ("l-step-sign", "upper-right-sign"),
    ("v-not-augmented", "upper-right-missing"),
)
TWINS = {a: b for pair in PAIRS for a, b in (pair, pair[::-1])}
"""Mutants of different lines that give the same output, because only (I − UUᴴ)K_new and (I − VVᴴ)L_new enter Ŝ: the kit may
name either."""


def in_single(*arrays: Any, **parameters: Any) -> tuple[Any, ...]:
    """A torch backend that computes in float32 and returns the dtype it was given."""
    dtype = arrays[0].dtype
    return tuple(X.to(dtype) for X in REFERENCE.step(*(X.float() for X in arrays), **parameters))


def in_no_precision(U: Any, S: Any, V: Any, dK: Any, dL: Any, dS: Any, **parameters: Any) -> tuple[Any, ...]:
    """Zeros."""
    return 0.0 * U, 0.0 * S, 0.0 * V


# --- the catalogue ---------------------------------------------------------------------------------------------------


def test_catalogue_is_large_and_every_case_has_an_id_and_a_reason() -> None:
    cases = catalogue()
    assert len({case.id for case in cases}) == len(cases) >= 300
    assert all(case.reason and case.flags and case.id.startswith(case.group) for case in cases)
    for dtype in ("float64", "float32", "complex128"):
        assert sum(applicable(case, dtype) for case in cases) >= 300
    for dtype in ("float16", "bfloat16"):
        assert sum(applicable(case, dtype) for case in cases) >= FLOOR


@pytest.mark.parametrize(
    ("flag", "dtypes"),
    [
        ("complex", {"complex128", "complex64"}),
        ("double-range", {"float64", "complex128"}),
        ("wide-range", {"float64", "complex128", "float32", "complex64", "bfloat16"}),
    ],
)
def test_a_flag_says_which_dtypes_can_hold_a_case(flag: str, dtypes: set[str]) -> None:
    case = replace(catalogue()[0], flags=("shape", flag))
    assert {dtype for dtype in EPS if applicable(case, dtype)} == dtypes


def test_adding_a_case_changes_no_other() -> None:
    """Seeds come from the ids: these two were fixed when the catalogue was made."""
    seeds = {case.id: case.parameters.seed for case in catalogue()}
    assert seeds["shape-square-diagonal"] == int.from_bytes(b"shape-square-diagonal", "little") % (2**31 - 1)
    assert len(set(seeds.values())) == len(seeds)


# --- right backends ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("array", "dtype"),
    [("numpy", "float64"), ("numpy", "float32"), ("numpy", "complex128"), ("torch", "float64"), ("torch", "float32")],
)
def test_reference_conforms(array: str, dtype: str) -> None:
    if array == "torch":
        pytest.importorskip("torch", reason="torch is not installed")
    report = check_step(REFERENCE.step, array=array, dtype=dtype)
    assert report.passed, report.failures[:3]
    assert len(report.rows) >= 300


def test_the_seconds_of_the_rows_are_those_of_the_report() -> None:
    report = check_step(REFERENCE.step, select=CORES)
    assert 0.0 < sum(row.seconds for row in report.rows) < report.seconds
    assert Row("a case that was not timed", "shape", (), "", 0.0, "passed").seconds == 0.0


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_storage_in_half_precision_conforms(dtype: str) -> None:
    pytest.importorskip("torch", reason="torch is not installed")
    report = check_step(in_single, array="torch", dtype=dtype)
    assert report.passed, report.failures[:3]


@pytest.mark.parametrize("name", VARIANTS)
def test_legitimate_variant_conforms(name: str) -> None:
    """Another QR, another SVD, another basis, other signs: no false alarm."""
    variant = VARIANTS[name]
    for group in ("shape", "truncation", "sequence"):
        report = check_step(variant.step, diagonal=variant.diagonal, precision=variant.precision, select={"group": group})
        assert report.passed, report.failures[:3]


def test_declared_precision_is_what_counts() -> None:
    """Double arrays computed in single: wrong if double is claimed, right if single is."""

    def single(*arrays: Any, **parameters: Any) -> tuple[Any, ...]:
        return tuple(X.astype(np.float64) for X in REFERENCE.step(*(X.astype(np.float32) for X in arrays), **parameters))

    assert not check_step(single, select={"group": "shape"}).passed
    assert check_step(single, precision="float32", select={"group": "shape"}).passed


def test_batches_and_whole_steps() -> None:
    def batched(*stacks: Any, **parameters: Any) -> list[Any]:
        return [REFERENCE.step(*arrays, **parameters) for arrays in zip(*stacks, strict=True)]

    def whole(U: Any, S: Any, V: Any, gradients: Callable[[Any], Any], **parameters: Any) -> tuple[Any, ...]:
        G = gradients(U @ S @ V.T)
        return REFERENCE.step(U, S, V, G @ V, G.T @ U, U.T @ G @ V, **parameters)

    def gradient_at_the_wrong_point(
        U: Any, S: Any, V: Any, gradients: Callable[[Any], Any], **parameters: Any
    ) -> tuple[Any, ...]:
        return whole(U, S, V, lambda W: gradients(0.9 * W), **parameters)

    assert check_step(batched, batched=True, select=CORES).passed
    assert check_step(whole, whole=True, select=CORES).passed
    assert not check_step(gradient_at_the_wrong_point, whole=True, select=CORES).passed


# --- wrong backends ---------------------------------------------------------------------------------------------------


def report_of(mutant: Mutant) -> Report:
    """In double precision, and in complex double where real data cannot show the defect."""
    with np.errstate(all="ignore"):
        report = check_step(mutant.step)
        return report if not report.passed else check_step(mutant.step, dtype="complex128")


SEEN = [mutant for mutant in MUTANTS.values() if mutant.visible_in != "stages"]
LOOKED_AT = SEEN if os.environ.get("HYPOTHESIS_PROFILE") == "nightly" else SEEN[::8]
"""The whole kit takes seconds for each mutant here, so the nightly profile looks at all of them, the others at every eighth."""


@pytest.mark.parametrize("mutant", LOOKED_AT, ids=lambda m: m.id)
def test_mutant_is_rejected_and_named(mutant: Mutant, record_property: Callable[[str, object], None]) -> None:
    report = report_of(mutant)
    assert not report.passed
    if mutant.visible_in == "output":
        assert report.diagnosis is not None
        named, share = report.diagnosis.matches[0]
        assert named.id in (mutant.id, TWINS.get(mutant.id))
        assert share >= 0.9
        record_property("table", f"named first: {named.id} ({share:.0%}) for {mutant.id}")


@pytest.mark.parametrize("name", ["s-step-sign", "not-orthogonalised", "upper-right-missing", "vh-for-v"])
def test_own_stages_name_the_line(name: str) -> None:
    mutant = MUTANTS[name]
    assert mutant.stages is not None
    report = check_step(mutant.step, stages=mutant.stages.run, select=CORES)
    assert report.diagnosis is not None
    assert report.diagnosis.first_line.startswith(f"line {mutant.line}")


BLOCKS = {
    "s-step-sign": "the S-block",
    "k-step-sign": "the K-block",
    "l-step-sign": "the L-block",
    "missing-lower-block": "the lower",
}


@pytest.mark.parametrize("threshold", ["tau-0.3", "theta-0.25"])
@pytest.mark.parametrize("name", BLOCKS)
def test_the_deviating_block_is_named_and_no_other(name: str, threshold: str) -> None:
    """Failing questions are asked once more without any truncation, so that the blocks can be seen."""
    diagnosis = check_step(MUTANTS[name].step, select={"flag": threshold}).diagnosis
    assert diagnosis is not None
    assert [block[: len(BLOCKS[name])] for block in diagnosis.blocks] == [BLOCKS[name]]


def raising(*arrays: Any, **parameters: Any) -> Any:
    raise RuntimeError("out of luck")


def pair(*arrays: Any, **parameters: Any) -> Any:
    return REFERENCE.step(*arrays, **parameters)[:2]


def nan(*arrays: Any, **parameters: Any) -> Any:
    U1, S1, V1 = REFERENCE.step(*arrays, **parameters)
    return U1, S1 * np.nan, V1


def too_many_columns(U: Any, S: Any, V: Any, dK: Any, dL: Any, dS: Any, **parameters: Any) -> Any:
    m, n = len(U), len(V)
    U1, S1, V1 = np.eye(m), np.zeros((m, m)), np.eye(n)
    return U1, S1, V1


def flat(*arrays: Any, **parameters: Any) -> Any:
    U1, S1, V1 = REFERENCE.step(*arrays, **parameters)
    return U1, np.diag(S1), V1


@pytest.mark.parametrize(
    ("backend", "what"),
    [
        (raising, "raised RuntimeError: out of luck"),
        (pair, "expected (U1, S1, V1), found tuple of 2: ndarray ("),
        (nan, "entries are not finite"),
        (too_many_columns, "expected"),
        (flat, "S1: expected a square matrix, found shape"),
        (lambda *arrays, **parameters: None, "expected (U1, S1, V1), found NoneType"),
        (MUTANTS["inputs-overwritten"].step, "changed its inputs in place"),
        (lambda U, S, V, dK, dL, dS, **parameters: (U, S, V), "U1 is a view of the input U"),
        (MUTANTS["global-rng"].step, "global random generator"),
    ],
)
def test_ill_mannered_backend_gets_rows_and_the_run_goes_on(backend: Callable[..., Any], what: str) -> None:
    report = check_step(backend, select=CORES)
    assert len(report.rows) == sum(case.group == "shape" for case in catalogue())
    assert any(what in row.error for row in report.failures), report.failures[:3]


def test_global_randomness_is_left_as_it_was() -> None:
    before = np.random.get_state()[1].copy()  # type: ignore[index]  # noqa: NPY002
    check_step(MUTANTS["global-rng"].step, select={"id": "shape-square"})
    assert np.array_equal(before, np.random.get_state()[1])  # type: ignore[index]  # noqa: NPY002


# --- lists of known failures, selections, names -----------------------------------------------------------------------


def test_known_failures_are_strict() -> None:
    step = MUTANTS["min-rank-ignored"].step
    only = {"group": "truncation"}
    failing = {row.id: "known" for row in check_step(step, select=only).failures}
    assert failing
    assert check_step(step, select=only, xfail=failing).passed
    unneeded: Mapping[str, str] = {"truncation-tau-0-unclipped": "passes in truth"}
    report = check_step(step, select=only, xfail={**failing, **unneeded, "misspelt": ""})
    assert "take it off the list" in " ".join(report.problems)
    assert "no case has the id 'misspelt'" in " ".join(report.problems)


def test_nothing_checked_never_passes() -> None:
    report = check_step(REFERENCE.step, select={"group": "no-such-group"})
    assert not report.passed
    assert "no case matches" in report.problems[0]


def test_a_whole_run_has_many_cases(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("geolora_ref.oracle.check.catalogue", lambda: catalogue()[:3])
    report = check_step(REFERENCE.step)
    assert report.problems == [f"only 3 cases were run, a whole run has at least {FLOOR}"]
    assert not report.passed


def test_cases_are_selected_by_the_beginning_of_their_ids_and_the_report_names_the_backend() -> None:
    report = check_step(in_no_precision, select={"id": "shape-sq"})
    assert {row.id for row in report.rows} == {case.id for case in catalogue() if case.id.startswith("shape-sq")}
    assert report.backend == "tests.oracle.test_check:in_no_precision"


def test_a_device_is_for_the_library_that_has_some() -> None:
    assert Conversion("torch", device="cpu").device == "cpu"


def test_a_diagnosis_in_words() -> None:
    first, second = MUTANTS["lower-left-missing"], MUTANTS["lower-left-sign"]
    told = Diagnosis([(first, 1.0), (second, 0.5)], ["the K-block"], "line 5 (S_hat)").text
    assert told == (
        "The first line of Algorithm 1 that fails by the backend's own stages is line 5 (S_hat). "
        "This is what happens when line 5 has this defect: the K-block is left out "
        "(lower-left-missing; 100% of the compared steps agree). "
        "Also close: lower-left-sign 50%. "
        "Where nothing is truncated, the result deviates in the K-block."
    )
    assert Diagnosis([], []).text == "No known defect behaves like this backend."


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"array": "nympy"}, "array: expected one of numpy, torch, jax, cupy, found 'nympy'"),
        ({"dtype": "float8"}, "dtype: expected one of float64"),
        ({"dtype": "bfloat16"}, "numpy has no bfloat16"),
        ({"device": "cuda"}, "only torch takes one"),
        ({"precision": "float8"}, "precision: expected one of"),
        ({"select": {"colour": "red"}}, "select: expected keys among group, flag, id, found 'colour'"),
    ],
    ids=["array", "dtype", "dtype of the library", "device", "precision", "select"],
)
def test_wrong_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_step(REFERENCE.step, **options)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("numpy", "expected package.module:function"),
        ("no_such_module:step", "no module 'no_such_module'"),
        ("numpy:no_such_function", "numpy has no 'no_such_function'"),
        ("numpy:pi", "expected a function, found float"),
    ],
)
def test_backends_that_do_not_exist(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_backend(name)


def test_the_precisions_are_those_of_the_libraries() -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed")
    assert {name: torch.finfo(getattr(torch, name)).eps for name in EPS} == EPS

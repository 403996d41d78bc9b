"""The conformance kit: what it says of right, wrong and ill-mannered backends."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from geolora_ref.oracle import check_step
from geolora_ref.oracle.broken.mutants import MUTANTS, Mutant
from geolora_ref.oracle.broken.stages import Stages
from geolora_ref.oracle.cases.catalogue import FLOOR, catalogue
from geolora_ref.oracle.cases.step_case import StepCase
from geolora_ref.oracle.reports.report import Report
from geolora_ref.oracle.trial.choice import applicable, questions
from geolora_ref.oracle.trial.conversion import EPS
from geolora_ref.oracle.trial.harness import Harness
from tests.nightly import NIGHTLY
from tests.oracle.drawn import VARIANTS

pytestmark = pytest.mark.usefixtures("module_unchecked")

REFERENCE = Stages()
CORES = {"group": "shape"}  # 60 cases, enough to see a plain defect
ASKED_OF_VARIANTS = (
    ("float64", "truncation"),
    ("complex128", "trap"),
    *([("float64", group) for group in ("shape", "sequence", "trap")] if NIGHTLY else []),
)
"""Groups of the catalogue; drawn cases, of all shapes, are those of ``test_false_alarms``."""
PAIRS = (
    ("k-step-sign", "lower-left-sign"),
    ("l-step-sign", "upper-right-sign"),
    ("v-not-augmented", "upper-right-missing"),
    ("s-step-missing", "old-core"),
)
TWINS = {a: b for pair in PAIRS for a, b in (pair, pair[::-1])}
"""Mutants of different lines that give the same output, because only (I − UUᴴ)K_new and
(I − VVᴴ)L_new enter Ŝ, and S_new nothing else: the kit may name either."""


# --- the catalogue --------------------------------------------------------------------------------


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


# --- right backends -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("array", "dtype"), [("numpy", "complex128"), ("torch", "float32"), ("torch", "float64")]
)
def test_reference_conforms(array: str, dtype: str) -> None:
    """In the quick cases; in all of them by night.  By day the fast step answers all
    (``tests/fast/test_update.py``).
    """
    if array == "torch":
        pytest.importorskip("torch", reason="torch is not installed")
    report = check_step(
        REFERENCE.step, array=array, dtype=dtype, directions=True, quick=not NIGHTLY
    )
    assert report.passed, report.failures[:3]
    assert len(report.rows) >= (300 if NIGHTLY else 40)


def test_directions_go_to_the_backends_that_take_them() -> None:
    """Directions of an optimizer: dS is neither UᴴdK nor (VᴴdL)ᴴ, from which a step for gradients
    alone may form it.
    """
    without, with_them = (
        questions(Harness.of(REFERENCE.step, directions=directions)) for directions in (False, True)
    )
    more = [case.id for case in with_them if case not in without]
    named = (
        "dense",
        "from-zero",
        "capped",
        "full-rank",
        "rank-one",
        "wide",
        "theta",
        "min",
        "larger",
    )
    assert more == [f"directions-{name}" for name in named]
    for case in (case for case in with_them if case.group in ("shape", "gradient", "directions")):
        U, _, V, dK, dL, dS = StepCase.build(case.parameters).inputs().arrays
        apart = min(
            np.linalg.norm(X - dS) / (np.linalg.norm(dK) or 1.0) for X in (U.T @ dK, (V.T @ dL).T)
        )
        assert (apart > 0.01) == (case.id in more)
    step = MUTANTS["core-from-k"].step
    assert check_step(step, select={"group": "shape"}).passed
    report = check_step(step, select={"group": "directions"}, directions=True)
    assert len(report.failures) == len(report.rows) == len(more)
    assert report.diagnosis is not None
    assert report.diagnosis.as_data()["mutant"] == "core-from-k"
    with pytest.raises(ValueError, match=r"^directions: expected none with whole"):
        check_step(step, whole=True, directions=True)


@pytest.mark.parametrize("name", VARIANTS)
def test_legitimate_variant_conforms(name: str) -> None:
    """Another QR, another SVD, another basis, other signs: no false alarm."""
    variant = VARIANTS[name]
    for dtype, group in ASKED_OF_VARIANTS:
        promised: dict[str, Any] = {
            "dtype": dtype,
            "diagonal": variant.diagonal,
            "precision": variant.precision,
        }
        report = check_step(variant.step, select={"group": group}, **promised)
        assert report.passed, report.failures[:3]


def test_whole_steps() -> None:
    def whole(
        U: Any, S: Any, V: Any, gradients: Callable[[Any], Any], **parameters: Any
    ) -> tuple[Any, ...]:
        G = gradients(U @ S @ V.T)
        return REFERENCE.step(U, S, V, G @ V, G.T @ U, U.T @ G @ V, **parameters)

    def gradient_at_the_wrong_point(
        U: Any, S: Any, V: Any, gradients: Callable[[Any], Any], **parameters: Any
    ) -> tuple[Any, ...]:
        return whole(U, S, V, lambda W: gradients(0.9 * W), **parameters)

    assert check_step(whole, whole=True, select=CORES).passed
    assert not check_step(gradient_at_the_wrong_point, whole=True, select=CORES).passed


@pytest.mark.parametrize(
    "claimed", [{"dtype": "float32"}, {"dtype": "float64", "precision": "float32"}]
)
def test_a_whole_step_rounds_its_own_products(claimed: dict[str, str]) -> None:
    """Where P(W)G = 0 they are nothing but rounding, relative to G; products in half precision are
    not that.
    """

    def whole(working: Any) -> Callable[..., Any]:
        def step(
            U: Any, S: Any, V: Any, gradients: Callable[[Any], Any], **parameters: Any
        ) -> tuple[Any, ...]:
            U32, S32, V32 = (X.astype(np.float32) for X in (U, S, V))
            g, u, v = (
                X.astype(working) for X in (gradients((U32 @ S32 @ V32.T).astype(U.dtype)), U, V)
            )
            projected = (X.astype(np.float32) for X in (g @ v, g.T @ u, u.T @ g @ v))
            return tuple(
                X.astype(U.dtype) for X in REFERENCE.step(U32, S32, V32, *projected, **parameters)
            )

        return step

    select = {"group": "gradient", "flag": "normal"}
    report = check_step(whole(np.float32), whole=True, select=select, **claimed)  # type: ignore[arg-type]
    assert report.passed, report.failures[:3]
    assert not check_step(whole(np.float16), whole=True, select=select, **claimed).passed  # type: ignore[arg-type]


# --- wrong backends -------------------------------------------------------------------------------


def report_of(mutant: Mutant) -> Report:
    """In double precision, and in complex double where real data cannot show the defect."""
    with np.errstate(all="ignore"):
        report = check_step(
            mutant.step, directions=mutant.visible_in == "catalogue", quick=not NIGHTLY
        )
        return (
            report
            if not report.passed
            else check_step(mutant.step, dtype="complex128", quick=not NIGHTLY)
        )


SEEN = [mutant for mutant in MUTANTS.values() if mutant.visible_in != "stages"]
LOOKED_AT = SEEN if NIGHTLY else SEEN[::40]
"""By night all of them in all cases, else every fortieth in the quick ones."""


@pytest.mark.parametrize("mutant", LOOKED_AT, ids=lambda m: m.id)
def test_mutant_is_rejected_and_named(
    mutant: Mutant, record_property: Callable[[str, object], None]
) -> None:
    report = report_of(mutant)
    assert not report.passed
    if mutant.visible_in == "output":
        assert report.diagnosis is not None
        named, share = report.diagnosis.matches[0]
        assert named.id in (mutant.id, TWINS.get(mutant.id))
        assert share >= 0.9
        record_property("table", f"named first: {named.id} ({share:.0%}) for {mutant.id}")

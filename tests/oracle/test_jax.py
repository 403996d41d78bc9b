"""A step written in JAX by its own rules passes the kit, one with JAX's usual mistake is named, and
JAX is left as it was.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from geolora_ref.oracle import check_step
from geolora_ref.oracle.cases.catalogue import catalogue
from geolora_ref.oracle.check import run_case
from geolora_ref.oracle.trial.choice import questions
from geolora_ref.oracle.trial.harness import Harness
from tests.nightly import NIGHTLY

jax = pytest.importorskip("jax", reason="jax is not installed (pip install jax)")
from tests.oracle import jax_step  # noqa: E402  only where JAX is

pytestmark = pytest.mark.usefixtures("module_unchecked")

GROUPS = tuple(dict.fromkeys(case.group for case in catalogue() if case.layout == "rows"))


LEAST = (
    {"float64": 300, "float32": 100, "complex128": 15}
    if NIGHTLY
    else {"float64": 100, "float32": 10, "complex128": 15}
)
"""The least number of cases that it must answer, by dtype."""


@pytest.mark.parametrize(("dtype", "cases"), LEAST.items())
def test_the_port_conforms(dtype: str, cases: int) -> None:
    """Every shape is compiled again, which takes most of the time: all run by night."""
    real = [group for group in GROUPS if group != "complex"]
    few = {
        "float64": ["shape", "threshold", "limit", "trap"],
        "float32": ["trap"],
        "complex128": ["complex"],
    }
    groups = real if NIGHTLY and dtype != "complex128" else few[dtype]
    reports = [
        check_step(
            jax_step.step, array="jax", dtype=dtype, directions=True, select={"group": group}
        )
        for group in groups
    ]
    assert all(report.passed for report in reports), [report.failures[:3] for report in reports]
    assert sum(len(report.rows) for report in reports) >= cases


def test_subnormal_numbers_are_zero_in_compiled_code_and_are_left_out() -> None:
    """The cases would reject JAX otherwise, and no step."""
    harness = Harness.of(jax_step.step, array="jax")
    with harness.conversion.scope():
        assert jax.jit(lambda x: 0.5 * x)(harness.conversion.to(np.array(3e-308))) == 0.0
    assert not [case for case in questions(harness) if "subnormal" in case.flags]
    assert any("subnormal" in case.flags for case in questions(Harness.of(jax_step.step)))


def test_a_result_that_is_not_assigned_is_named() -> None:
    """``S_hat.at[…].set(…)`` changes nothing by itself."""
    report = check_step(jax_step.step_without_assignment, array="jax", select={"group": "gradient"})
    assert not report.passed
    assert report.diagnosis is not None
    named, share = report.diagnosis.matches[0]
    assert (named.id, named.line) == ("lower-left-missing", 5)
    assert share >= 0.9


def test_a_step_that_takes_the_memory_of_its_inputs_gets_rows() -> None:
    report = check_step(jax_step.donating_step, array="jax", select={"id": "shape-square"})
    assert len(report.failures) == len(report.rows) >= 5
    assert all("donated" in row.error for row in report.failures)


@pytest.mark.parametrize("enabled", [False, True])
def test_the_setting_of_the_caller_stays(enabled: bool) -> None:
    """64-bit arrays are JAX's global setting; the kit has them in its own scope, whatever the
    setting is.
    """
    seen: list[Any] = []

    def step(*arrays: Any, **parameters: Any) -> Any:
        seen.extend(X.dtype for X in arrays)
        return jax_step.step(*arrays, **parameters)

    before = jax.config.jax_enable_x64
    jax.config.update("jax_enable_x64", enabled)
    try:
        for dtype in ("float64", "float32"):
            assert check_step(step, array="jax", dtype=dtype, select={"id": "shape-one-row"}).passed
        assert jax.config.jax_enable_x64 == enabled
    finally:
        jax.config.update("jax_enable_x64", before)
    assert {np.dtype(dtype).name for dtype in seen} == {"float64", "float32"}


def test_half_precision_is_computed_in_single() -> None:
    """A JAX model in bfloat16 does so: storage in 16 bits, decompositions in 32."""

    def step(*arrays: Any, **parameters: Any) -> Any:
        factors = jax_step.step(*(X.astype("float32") for X in arrays), **parameters)
        return tuple(X.astype(arrays[0].dtype) for X in factors)

    harness = Harness.of(step, array="jax", dtype="bfloat16")
    for case in (case for case in catalogue() if case.id.startswith("shape-tall")):
        row, _ = run_case(harness, case)
        assert row.outcome == "passed", row

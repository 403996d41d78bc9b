"""The kit as a pytest class: ``class TestMine(conformance_suite(step)): ...``, one test a case."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from geolora_ref.oracle.catalogue import catalogue
from geolora_ref.oracle.check import Harness, applicable, run_case
from geolora_ref.oracle.conversion import EPS, Conversion

__all__ = ["conformance_suite"]


def conformance_suite(
    step: Callable[..., Any],
    *,
    dtype: str = "float64",
    array: str = "numpy",
    device: str | None = None,
    precision: str | None = None,
    diagonal: bool = True,
    whole: bool = False,
    batched: bool = False,
) -> type:
    """A test class with one test for every case; the options are those of :func:`geolora_ref.oracle.check_step`.

    Raises ``ValueError`` for unknown options, ``ModuleNotFoundError`` if pytest is not installed.
    """
    import pytest

    harness = Harness(step, Conversion(array, dtype, device), whole, batched)
    eps = max(EPS[precision or dtype], EPS[dtype])
    cases = [case for case in catalogue() if applicable(case, dtype)]

    class ConformanceSuite:
        """One test a case."""

        @pytest.mark.parametrize("case", cases, ids=[case.id for case in cases])
        def test_case(self, case: Any) -> None:
            """The backend's answer is the exact answer to a question within rounding."""
            row, _ = run_case(harness, case, eps=eps, diagonal=diagonal)
            what = row.error or f"ratio {row.ratio:.3g} in {', '.join(row.criteria)}"
            assert row.outcome == "passed", f"{what} (step {row.step}): {case.reason}"

    return ConformanceSuite

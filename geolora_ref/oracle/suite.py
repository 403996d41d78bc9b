"""The kit as a pytest class: ``class TestMine(conformance_suite(step)): ...``, one test a case."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from geolora_ref.oracle.catalogue import catalogue
from geolora_ref.oracle.check import Harness, applicable, run_case

__all__ = ["conformance_suite"]


def conformance_suite(step: Callable[..., Any], **options: Any) -> type:
    """A test class with one test for every case; the options are those of :meth:`geolora_ref.oracle.check.Harness.of`.

    Raises as it does, and ``ModuleNotFoundError`` if pytest is not installed.
    """
    import pytest

    harness = Harness.of(step, **options)
    cases = [case for case in catalogue() if applicable(case, harness.conversion.dtype)]

    class ConformanceSuite:
        """One test a case."""

        @pytest.mark.parametrize("case", cases, ids=[case.id for case in cases])
        def test_case(self, case: Any) -> None:
            """The backend's answer is the exact answer to a question within rounding."""
            row, _ = run_case(harness, case)
            assert row.outcome == "passed", row.text

    return ConformanceSuite

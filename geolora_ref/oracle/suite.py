"""The kit as a pytest class: ``class TestMine(conformance_suite(step)): ...``, one test a case."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from geolora_ref.oracle.check import questions, run_case
from geolora_ref.oracle.harness import Harness

__all__ = ["conformance_suite"]


def conformance_suite(step: Callable[..., Any], **options: Any) -> type:
    """A test class with one test for every case; the options are those of :meth:`geolora_ref.oracle.harness.Harness.of`.

    Raises as it does, and ``ModuleNotFoundError`` if pytest is not installed.
    """
    import pytest

    harness = Harness.of(step, **options)
    cases = questions(harness)

    class ConformanceSuite:
        """One test a case."""

        @pytest.mark.parametrize("case", cases, ids=[case.id for case in cases])
        def test_case(self, case: Any) -> None:
            """The backend's answer is the exact answer to a question within rounding."""
            row, _ = run_case(harness, case)
            if row.outcome != "passed":  # no assert: python -O would leave it out
                pytest.fail(row.text, pytrace=False)

    return ConformanceSuite

"""The kit as a pytest class: ``class TestMine(conformance_suite(step)): ...``, one test a case."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Unpack

from geolora_ref.arrays import Array
from geolora_ref.oracle.cases.known_failures import checked
from geolora_ref.oracle.trial.choice import questions
from geolora_ref.oracle.trial.harness import Harness, Options

__all__ = ["conformance_suite"]


def conformance_suite(
    step: Callable[..., Any],
    *,
    stages: Callable[..., Mapping[str, Array]] | None = None,
    xfail: Mapping[str, str] | None = None,
    **options: Unpack[Options],
) -> type:
    """A test class with one test for every case; the options are those of
    :meth:`geolora_ref.oracle.trial.harness.Harness.of`.

    Type checkers accept no call as a base class: for them, write
    ``TestMine = conformance_suite(step)``.

    xfail : {case id: reason}, cases known to fail; strict: if such a case passes, its test fails.

    Raises like ``Harness.of``, ``ValueError`` for an id that no case has and for ``select`` (pytest
    selects by ``-k``), and ``ModuleNotFoundError`` if pytest is not installed.
    """
    import pytest

    if "select" in options:
        raise ValueError("select: expected none, all cases become tests; pytest selects: -k GROUP")
    from geolora_ref.oracle.pytest_plugin import answer

    harness, known = Harness.of(step, stages=stages, **options), checked(xfail or {}, "xfail")
    cases = questions(harness)

    class ConformanceSuite:
        """The conformance kit: one test for each case."""

        @pytest.mark.parametrize("case", cases, ids=[case.id for case in cases])
        def test_case(self, case: Any, pytestconfig: pytest.Config) -> None:
            """The backend's answer is exact for some question within rounding of the given one."""
            answer(pytestconfig, harness, case, known)

    return ConformanceSuite

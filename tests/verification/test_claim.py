"""Measurements: what counts as a comparison, and what does not."""

from __future__ import annotations

import math
from typing import Any

import pytest

from verification.claim import (
    Case,
    CaseResult,
    Claim,
    Measurements,
    in_units,
)


def measured(value: float, bound: float, rounding: float = 0.0) -> CaseResult:
    out = Measurements()
    out.at_most("inequality", value, bound, rounding)
    return out.result(Case("case", {}))


def test_ratio_is_measured_over_bound() -> None:
    assert measured(1.0, 4.0).worst == pytest.approx(0.25)
    assert measured(5.0, 4.0).worst > 1.0


@pytest.mark.parametrize(
    ("measured", "ratio"), [(-2.0, 0.0), (-1.0, 0.0), (-0.01, math.inf), (0.5, math.inf)]
)
def test_a_negative_bound_is_one(measured: float, ratio: float) -> None:
    """One such bound is L(W₁) − L(W) ≤ −λ(1 − βλ/2)‖P∇L‖²."""
    out = Measurements()
    out.at_most("descent", measured, -1.0)
    assert CaseResult("", dict(out.ratios), out.undecided).worst == ratio


def test_comparison_at_rounding_level_is_not_counted() -> None:
    result = measured(1e-17, 1e-16, rounding=1e-16)
    assert result.undecided == 1
    assert not result.ratios


def test_violation_at_rounding_level_is_counted_all_the_same() -> None:
    assert measured(1e-3, 1e-16, rounding=1e-16).worst > 1.0


def test_zero_bound_allows_zero_only() -> None:
    assert measured(0.0, 0.0).worst == 0.0
    assert measured(1e-300, 0.0).worst == math.inf


@pytest.mark.parametrize(
    ("error", "unit", "ratio"),
    [(6.0, 2.0, 3.0), (0.0, 2.0, 0.0), (0.0, 0.0, 0.0), (1e-300, 0.0, math.inf)],
)
def test_where_the_unit_is_zero_only_zero_is_right(error: float, unit: float, ratio: float) -> None:
    assert in_units(error, unit) == ratio
    assert math.isnan(in_units(error, math.nan))


@pytest.mark.parametrize(
    ("value", "bound"),
    [(0.0, math.nan), (-1.0, math.nan), (1.0, math.inf), (-1.0, -math.inf), (math.nan, 1.0)],
)
def test_what_is_not_finite_bounds_nothing(value: float, bound: float) -> None:
    assert measured(value, bound).worst == math.inf
    assert measured(value, bound, rounding=1e-16).worst == math.inf


def test_ratios_are_judged_as_they_are() -> None:
    """Four digits would be a tolerance of 5e-5."""
    assert measured(1.0 + 1e-9, 1.0).worst > 1.0
    out = Measurements()
    out.ratio("ratio", 1.0 + 1e-9)
    assert out.result(Case("case", {})).worst > 1.0


@pytest.mark.parametrize(
    "ratios", [{}, {"inequality": [math.nan, 0.1]}], ids=["nothing compared", "not a number"]
)
def test_nothing_and_nan_never_pass(ratios: dict[str, list[float]]) -> None:
    assert CaseResult("case", ratios).worst == math.inf


GOOD: Any = Claim(
    "good", "t", "", "s", (), (), lambda plan: [], lambda case: measured(1.0, 1.0), (), 1, "e"
)
NONE: Any = None

"""How the report prints what was measured."""

from __future__ import annotations

import math

import pytest

from verification.report import number


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0.0, "0"),
        (0.001, "0.001"),
        (0.000999, "1.0e-03"),
        (-0.00123, "-0.00123"),
        (0.12345, "0.123"),
        (99_999.0, "1e+05"),
        (100_000.0, "1.0e+05"),
        (math.inf, "∞"),
        (math.nan, "nan"),
    ],
)
def test_numbers_have_three_digits_and_small_and_large_ones_a_power_of_ten(value: float, shown: str) -> None:
    assert number(value) == shown

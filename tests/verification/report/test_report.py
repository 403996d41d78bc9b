"""How the report prints numbers and words."""

from __future__ import annotations

import math

import pytest

from verification.report.report import mathematics, number


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
def test_numbers_have_three_digits_and_small_and_large_ones_a_power_of_ten(
    value: float, shown: str
) -> None:
    assert number(value) == shown


@pytest.mark.parametrize(
    ("text", "html"),
    [
        ("W_t, S_new", "W<sub>t</sub>, S<sub>new</sub>"),
        ("e_{k+1} and e^{μλ}", "e<sub>k+1</sub> and e<sup>μλ</sup>"),
        ("e^{σ_1 t}", "e<sup>σ<sub>1</sub> t</sup>"),
        ("τσ_min ≤ r_max", "τσ<sub>min</sub> ≤ r<sub>max</sub>"),
        ("min_{t<T} g_t, tail_{>r}", "min<sub>t&lt;T</sub> g<sub>t</sub>, tail<sub>&gt;r</sub>"),
        (
            "max_rank and min_rank, of solve_ivp",
            "<code>max_rank</code> and <code>min_rank</code>, of <code>solve_ivp</code>",
        ),
        ("CUSOLVER_STATUS_INTERNAL_ERROR", "<code>CUSOLVER_STATUS_INTERNAL_ERROR</code>"),
        ("<b>", "&lt;b&gt;"),
    ],
)
def test_subscripts_are_distinguished_from_names_of_the_code(text: str, html: str) -> None:
    assert str(mathematics(text)) == html

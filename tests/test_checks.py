"""Checks of single arguments, at the ends of their ranges: what is refused and what the message
says, what is returned.
"""

from __future__ import annotations

import math
import re
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from geolora_ref import checks

pytestmark = pytest.mark.usefixtures("unchecked")

HUGE = pytest.param(10**400, id="beyond the range")


@pytest.mark.parametrize("value", [5e-324, 0.5, 1.0, Fraction(1, 2), np.float32(0.5), 2**10])
def test_positive_numbers_become_floats(value: Any) -> None:
    found = checks.positive_number("x", value)
    assert type(found) is float
    assert found == value


@pytest.mark.parametrize("value", [0.0, -1.0, float("inf"), float("nan"), None, "1", 1j, HUGE])
def test_what_is_no_positive_number_is_refused(value: Any) -> None:
    with pytest.raises(ValueError) as refused:  # noqa: PT011  the whole message is compared
        checks.positive_number("x", value)
    assert str(refused.value) == f"x: expected a finite number > 0, found {value!r}"


@pytest.mark.parametrize(
    ("names", "listed"),
    [
        ("", ""),
        ("a", "a"),
        ("abcdefgh", "a, b, c, d, e, f, g, h"),
        ("abcdefghi", "a, b, c, d, e, f, g, h, …"),
    ],
)
def test_a_message_lists_the_first_few_names(names: str, listed: str) -> None:
    assert checks.first_few(tuple(names)) == listed


def test_weights_of_means_become_floats() -> None:
    assert checks.averaging((0, 1.0 - 2.0**-53), 0) == ((0.0, 1.0 - 2.0**-53), 0.0)
    assert checks.averaging([0.25, np.float32(0.5)], 1e-8) == ((0.25, 0.5), 1e-8)
    (first, second), eps = checks.averaging((0, np.float32(0.5)), np.float32(0.5))
    assert {type(first), type(second), type(eps)} == {float}


@pytest.mark.parametrize(
    "betas",
    [
        (0.9, 1.0),
        (1.0, 0.9),
        (-0.1, 0.9),
        (0.9, 1.5),
        (0.9,),
        (),
        (0.9,) * 3,
        (0.9, "x"),
        pytest.param((0.9, 10**400), id="beyond the range"),
        {0.1, 0.2},
        "ab",
        None,
        0.9,
    ],
)
def test_what_are_no_weights_is_refused(betas: Any) -> None:
    with pytest.raises(ValueError) as refused:  # noqa: PT011  the whole message is compared
        checks.averaging(betas, 1e-8)
    assert str(refused.value) == f"betas: expected two numbers >= 0 and < 1, found {betas!r}"


def test_a_wrong_eps_is_named() -> None:
    with pytest.raises(ValueError, match=r"^eps: expected a finite number >= 0, found -1\.0$"):
        checks.averaging((0.9, 0.999), -1.0)


def test_a_text_is_one_of_those_allowed() -> None:
    checks.one_of("x", "a", ("a", "b"))
    for value in ("c", "", None, ["a"]):
        with pytest.raises(ValueError, match=r"^x: expected 'a' or 'b', found "):
            checks.one_of("x", value, ("a", "b"))


@pytest.mark.parametrize("value", [3, np.int64(3), True, np.bool_(True), 3.0, "3", None])
def test_an_integer_is_no_truth_value(value: Any) -> None:
    whole = type(value) in (int, np.int64)
    assert checks.is_integer(value) == whole
    if whole:
        checks.integer("x", value, 3)
        checks.ranks(1, value)
        return
    with pytest.raises(ValueError, match=r"^x: expected an integer >= 1, found "):
        checks.integer("x", value, 1)
    if value is not None:
        with pytest.raises(ValueError, match=r"^max_rank: expected an integer or None, found "):
            checks.ranks(1, value)


def test_a_rank_is_at_most_the_smaller_side() -> None:
    checks.rank("rank", 3, (3, 7))
    with pytest.raises(ValueError, match=r"^rank: expected at most min\(m, n\) = 3, found 4$"):
        checks.rank("rank", 4, (3, 7))
    with pytest.raises(ValueError, match=r"^rank: expected an integer >= 1, found 0$"):
        checks.rank("rank", 0, (3, 7))


def test_one_value_stands_for_all_layers() -> None:
    assert checks.each("x", None, 3) == [None, None, None]
    assert checks.each("x", (1, 2), 2) == checks.each("x", np.array([1, 2]), 2) == [1, 2]
    assert checks.each("x", np.array(3), 2) == [3, 3]
    with pytest.raises(
        ValueError, match=r"^x: expected one number, or one for each of 2 layers, found 3$"
    ):
        checks.each("x", [1, 2, 3], 2)


def test_the_largest_number_is_within_the_range() -> None:
    """A matrix whose norm is the largest number of its dtype is finite; the next step beyond is not."""
    largest = np.finfo(np.float32).max
    checks.finite_results("line 3", X=np.array([[largest]]))
    with pytest.raises(
        FloatingPointError,
        match=r"^line 3: X overflowed the range of float32; nothing was changed$",
    ):
        checks.finite_results("line 3", X=np.array([[largest, largest]]))


def test_a_weight_of_a_mean_is_below_one() -> None:
    assert [checks.below_one("beta", value) for value in (0, 0.5, np.float64(0.25))] == [
        0.0,
        0.5,
        0.25,
    ]
    for value in (1.0, -0.1, math.nan, "a", None):
        with pytest.raises(
            ValueError, match=re.escape(f"beta: expected 0 <= beta < 1, found {value!r}")
        ):
            checks.below_one("beta", value)


def test_an_optimizer_is_something_that_can_be_called() -> None:
    P, G = np.ones((2, 1)), np.full((2, 1), 2.0)

    def in_place(P: Any, G: Any, learning_rate: float) -> Any:
        P -= learning_rate * G
        return P

    assert checks.on_copies(in_place)(P, G, 0.25).tolist() == [[0.5], [0.5]]
    assert P.tolist() == [[1.0], [1.0]]
    with pytest.raises(
        ValueError, match=r"^optimizer: expected a callable opt\(P, G, λ\), found 'adam'$"
    ):
        checks.on_copies("adam")  # type: ignore[arg-type]


def test_complex_matrices_are_refused_where_real_ones_are_wanted() -> None:
    checks.real_matrices(A=np.eye(2), B=np.eye(3))
    with pytest.raises(ValueError, match=r"^B: expected a real matrix, found complex128$"):
        checks.real_matrices(B=1j * np.eye(2))


@pytest.mark.parametrize(
    ("where", "raised", "expected"),
    [
        ("layer", ValueError("r: no"), "layer: r: no"),
        ("layer", FloatingPointError("no"), "layer: no"),
        ("layer", RuntimeError("no"), "no"),
        ("", ValueError("r: no"), "r: no"),
    ],
)
def test_an_error_begins_with_what_it_concerns(
    where: str, raised: Exception, expected: str
) -> None:
    """A kind that is not named, and where there is no name, is as it was."""
    with pytest.raises(type(raised)) as found, checks.naming(where, FloatingPointError):
        raise raised
    assert str(found.value) == expected
    assert (found.value is raised) == (str(raised) == expected)

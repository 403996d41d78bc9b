"""Observed orders: signed, with a window, a floor and a confidence; a plateau is no order."""

from __future__ import annotations

import math

import pytest

from verification.instruments.slopes import Slopes

H = tuple(0.1 / 2**k for k in range(6))
SQUARES = [h**2 for h in H]


@pytest.mark.parametrize(
    ("errors", "order"),
    [
        ([3.0 * h**2 for h in H], 2.0),
        ([h**-2 for h in H], -2.0),
        ([1.0, 1.0, *SQUARES[2:]], 2.0),  # the last three slopes are judged
    ],
    ids=["power", "sign", "not asymptotic yet"],
)
def test_order(errors: list[float], order: float) -> None:
    slopes = Slopes(H, errors, 1e-14)
    assert slopes.order == pytest.approx(order)
    assert slopes.off(2.0) == pytest.approx(2.0 - order, abs=1e-6)
    assert slopes.confidence <= 1e-6
    assert slopes.words() == f"{order:.2f} ± 0.00 (0.025 … 0.003125)"
    assert len(slopes.judged) == 3


def test_floor_is_left_out() -> None:
    errors = [h**4 for h in H]
    floor = 0.5 * errors[3] / 100.0
    slopes = Slopes(H, [error + floor for error in errors], floor)
    assert slopes.window == (0, 3)
    assert slopes.off(4.0) < 0.1


@pytest.mark.parametrize(
    "errors",
    [
        [h**2 + 1e-3 for h in H],
        [h**2 * (1.0 + 0.5 * (-1) ** k) for k, h in enumerate(H)],
        [1e-20] * 6,
        [0.0] * 6,
        [1.0, 0.25, 0.0625, math.inf, math.inf, math.inf],
        [*SQUARES[:3], 1e-17, *SQUARES[4:]],
    ],
    ids=["plateau", "wobble", "below the floor", "zero", "breakdown", "floor within the window"],
)
def test_no_order(errors: list[float]) -> None:
    assert not Slopes(H, errors, 1e-14).off(2.0) <= 1.0


@pytest.mark.parametrize("above", [2, 3])
def test_too_few_slopes(above: int) -> None:
    """One slope would be an order without a spread; three are enough."""
    slopes = Slopes(H, SQUARES, 0.999 * SQUARES[above - 1] / 100.0)
    assert slopes.window == (0, above - 1)
    assert slopes.off(2.0) == math.inf
    assert Slopes(H, SQUARES, 0.999 * SQUARES[3] / 100.0).off(2.0) < 0.1

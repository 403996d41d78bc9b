"""Observed orders: signed, with a window, a floor and a confidence; a plateau or a rise is never
taken for an order.
"""

from __future__ import annotations

import math

import pytest

from verification.instruments.slopes import Slopes

H = tuple(0.1 / 2**k for k in range(6))


def of(errors: list[float], floor: float = 1e-14) -> Slopes:
    return Slopes(H, errors, floor)


def test_a_pure_power_is_recognised() -> None:
    slopes = of([3.0 * h**2 for h in H])
    assert slopes.pairwise == pytest.approx([2.0] * 5)
    assert slopes.order == pytest.approx(2.0)
    assert slopes.confidence <= 1e-6
    assert slopes.off(2.0) <= 1e-6
    assert slopes.words() == "2.00 ± 0.00 (0.025 … 0.003125)"


def test_the_sign_is_kept() -> None:
    """Errors that grow like h⁻² have order −2, which is 4 off."""
    slopes = of([h**-2 for h in H])
    assert slopes.order == pytest.approx(-2.0)
    assert slopes.off(2.0) == pytest.approx(4.0)


def test_the_last_three_slopes_are_judged() -> None:
    """Earlier slopes are not asymptotic yet."""
    errors = [1.0, 1.0, *(h**2 for h in H[2:])]
    assert of(errors).order == pytest.approx(2.0)
    assert len(of(errors).judged) == 3


def test_levels_at_the_floor_are_left_out() -> None:
    errors = [h**4 for h in H]
    floor = 0.5 * errors[3] / 100.0
    slopes = Slopes(H, [error + floor for error in errors], floor)
    assert slopes.window == (0, 3)
    assert slopes.off(4.0) < 0.1


def test_a_plateau_is_no_order() -> None:
    assert of([h**2 + 1e-3 for h in H]).off(2.0) > 1.0


def test_wobbling_slopes_give_little_confidence() -> None:
    errors = [h**2 * (1.0 + 0.5 * (-1) ** k) for k, h in enumerate(H)]
    assert of(errors).confidence > 1.0
    assert of(errors).off(2.0) > 1.0


@pytest.mark.parametrize("errors", [[1e-20] * 6, [0.0] * 6], ids=["below the floor", "zero"])
def test_errors_below_the_floor_decide_nothing(errors: list[float]) -> None:
    slopes = of(errors)
    assert math.isnan(slopes.order)
    assert slopes.confidence == math.inf
    assert not slopes.off(2.0) <= 1.0


def test_fewer_than_three_slopes_decide_nothing() -> None:
    """One slope would be an order without a spread."""
    errors = [h**2 for h in H]
    for above in (2, 3):
        slopes = Slopes(H, errors, 0.999 * errors[above - 1] / 100.0)
        assert slopes.window == (0, above - 1)
        assert slopes.off(2.0) == math.inf
    assert Slopes(H, errors, 0.999 * errors[3] / 100.0).off(2.0) < 0.1


def test_a_level_at_the_floor_within_the_window_decides_nothing() -> None:
    errors = [h**2 for h in H]
    errors[3] = 1e-17
    assert of(errors).window == (4, 5)
    assert of(errors).off(2.0) == math.inf


def test_a_run_that_broke_down_has_no_order() -> None:
    assert not of([1.0, 0.5, 0.25, math.inf, math.inf, math.inf]).off(1.0) <= 1.0


@pytest.mark.parametrize(
    ("parameter", "errors", "message"),
    [
        (H[:4], (1.0,) * 4, "^levels: expected at least 5"),
        (H, (1.0,) * 5, "^levels: expected at least 5, one error each, found 6 and 5"),
        (H[::-1], (1.0,) * 6, "^parameter: expected falling values"),
    ],
)
def test_too_little_is_refused(
    parameter: tuple[float, ...], errors: tuple[float, ...], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        Slopes(parameter, errors, 0.0)

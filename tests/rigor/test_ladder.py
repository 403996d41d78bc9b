"""The precision ladder: errors fall like the unit round-off at every stage, and the two routes lose what is predicted."""

from __future__ import annotations

from pathlib import Path

import pytest

from geolora_ref.files import read_json
from verification.rigor.ladder import (
    BITS,
    EPS,
    SIZES,
    STAGES,
    as_predicted,
    augmentation_errors,
    ladder,
    main,
    route_errors,
)
from verification.slopes import slope

pytestmark = pytest.mark.usefixtures("module_unchecked")
ROUNDOFF = [2.0**-bits for bits in BITS.values()]


def test_the_command_measures_what_is_predicted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert main(["--output", str(tmp_path)]) == 0
    found = read_json(tmp_path / "ladder.json")
    assert set(STAGES) < set(found["slopes"]) == set(found["predicted"]) == set(found["as predicted"])
    assert found["passed"] is True
    assert (tmp_path / "ladder.svg").read_bytes().startswith(b"<?xml")
    for stage, errors in found["errors"].items():  # a few units, at every rung: correct digits are those of the format
        assert all(error <= 20.0 * u for error, u in zip(errors, ROUNDOFF, strict=True)), stage
    monkeypatch.setattr("verification.rigor.ladder.as_predicted", lambda slopes, predicted: {"S_new": True, "K_new": False})
    assert main(["--output", str(tmp_path)]) == 1


@pytest.mark.parametrize(("slope", "same"), [(0.91, True), (1.09, True), (0.89, False), (1.11, False), (float("nan"), False)])
def test_slopes_are_those_of_the_prediction_to_a_tenth(slope: float, same: bool) -> None:
    assert as_predicted({"S_new": 1.0, "K_new": slope}, {"S_new": 1.0, "K_new": 1.0}) == {"S_new": True, "K_new": same}


def test_one_line_in_half_precision_breaks_the_ladder() -> None:
    errors = ladder(seeds=1, coarse=11)
    assert all(slope(ROUNDOFF, errors[stage]) < 0.5 for stage in STAGES)


def test_the_routes_differ_by_the_condition_number_and_nothing_else() -> None:
    errors = route_errors([1e4, 1e8])
    assert errors["published"][1] / errors["published"][0] > 1e3
    assert max(errors["division-free"]) < 4.0 * EPS


def test_augmenting_with_the_old_columns_is_no_better_than_predicted() -> None:
    errors = augmentation_errors(SIZES)["augmented with K_new"]
    ratios = [error * size / EPS for error, size in zip(errors, SIZES, strict=True)]
    assert all(0.05 < ratio < 20.0 for ratio in ratios), ratios

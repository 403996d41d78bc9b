"""Rates by ranks: what the maps say of their cells, and the cell of a regression."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("transformers", reason="the extra finetune is not installed")
pytest.importorskip("peft", reason="the extra peft is not installed")

from verification.experiments.adaptivity import design, maps, regression
from verification.experiments.adaptivity.maps import RateMap


def text_row(
    family: str, rank: int, rate: float, test: float, diverged: str = ""
) -> dict[str, Any]:
    config = {"method": {"lr": rate}, "plan": {"metric": "accuracy"}}
    return {
        "family": family,
        "budget": rank,
        "config": config,
        "metrics": {"test": test},
        "diverged": diverged,
        "parameters": 7,
    }


def of_lora(rows: list[dict[str, Any]]) -> RateMap:
    return next(one for one in maps.of_text(rows, "text") if one.family == "lora")


def test_width_and_spread_are_ratios_of_rates() -> None:
    accuracies = {1: (0.5, 0.78, 0.80, 0.77), 8: (0.80, 0.70, 0.5, 0.5)}
    rates = (1.0, 2.0, 4.0, 8.0)
    cells = [
        (rank, *cell) for rank, row in accuracies.items() for cell in zip(rates, row, strict=True)
    ]
    one = of_lora([text_row("lora", *cell) for cell in cells])
    assert (one.ranks, one.rates) == ([1, 8], list(rates))
    assert (one.best(1), one.best(8), one.spread) == (4.0, 1.0, 4.0)
    assert (one.width(1), one.width(8)) == (4.0, 1.0)  # 0.95 of 0.80 is 0.76
    assert (one.diverged, one.everywhere) == (0, 0)
    assert of_lora([text_row("lora", *cell) for cell in cells[:4]]).everywhere == 3
    assert one.cells[1, 4.0].quality == one.cells[8, 1.0].quality == 1.0


def test_what_is_worse_than_a_constant_answer_or_not_finite_has_diverged() -> None:
    rows = [
        text_row("lora", 1, 1.0, 0.9),
        text_row("lora", 1, 2.0, 0.27),
        text_row("lora", 1, 3.0, 0.9, "a loss of NaN"),
    ]
    one = of_lora(rows)
    assert one.diverged == 2
    assert one.best(1) == 1.0
    cells = [
        {"family": "lora", "rank": 2, "rate": rate, "parameters": 7, "error": error}
        for rate, error in ((1.0, 0.1), (2.0, 1.1), (4.0, None))
    ]
    (other,) = maps.of_regression({"cells": cells, "methods": {"lora": {}}})
    assert other.diverged == 2
    assert other.best(2) == 1.0


@pytest.mark.parametrize("family", regression.MIDDLE)
def test_a_cell_of_the_regression_learns(family: str) -> None:
    found = regression.cell((family, 2, regression.MIDDLE[family]), steps=60)
    assert found["error"] < 1.0


def test_a_rate_out_of_all_bounds_has_no_error() -> None:
    assert regression.cell(("lora", 8, 1e200), steps=60)["error"] is None


def test_the_stored_maps_are_whole() -> None:
    for one in maps.stored():
        cells = len(one.ranks) * len(one.rates)
        assert len(one.cells) == cells, (one.problem, one.family)
        assert len(one.rates) == 8
        if one.problem == "regression":
            assert one.rates == design.rates_of(one.family, regression.MIDDLE)

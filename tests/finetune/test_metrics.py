"""The metrics against values by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

pytest.importorskip("transformers", reason="the extra finetune is not installed")

from geolora_ref.finetune.metrics import evaluate_metric
from geolora_ref.finetune.plan import Metric

TARGETS, PREDICTIONS = np.array([0, 0, 1, 1, 1]), np.array([0, 1, 1, 1, 0])
NUMBERS, GUESSES = np.array([1.0, 2.0, 4.0]), np.array([0.0, 1.0, 9.0])


@pytest.mark.parametrize(
    ("metric", "expected"),
    [
        ("accuracy", 3 / 5),
        ("matthews", (2 * 1 - 1 * 1) / math.sqrt(3 * 3 * 2 * 2)),
    ],
)
def test_classes(metric: Metric, expected: float) -> None:
    assert evaluate_metric(metric, TARGETS, PREDICTIONS) == pytest.approx(expected)


def test_numbers() -> None:
    x, y = NUMBERS - NUMBERS.mean(), GUESSES - GUESSES.mean()
    assert evaluate_metric("pearson", NUMBERS, GUESSES) == pytest.approx(
        x @ y / math.sqrt((x @ x) * (y @ y))
    )
    assert evaluate_metric("spearman", NUMBERS, GUESSES) == pytest.approx(1.0)


@pytest.mark.parametrize("metric", ["pearson", "spearman"])
def test_constant_predictions_have_no_correlation(metric: Metric) -> None:
    assert math.isnan(evaluate_metric(metric, NUMBERS, np.ones(3)))


@pytest.mark.parametrize("metric", ["accuracy", "pearson"])
def test_predictions_that_are_not_finite_have_no_metric(metric: Metric) -> None:
    assert math.isnan(evaluate_metric(metric, NUMBERS, np.array([1.0, math.nan, 2.0])))


def test_unknown_metric_is_refused() -> None:
    with pytest.raises(
        ValueError, match=r"^metric: expected 'accuracy' or .* or 'perplexity', found 'f1'$"
    ):
        evaluate_metric("f1", TARGETS, PREDICTIONS)  # type: ignore[arg-type]

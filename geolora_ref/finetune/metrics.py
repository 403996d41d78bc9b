"""Metrics of the usual text benchmarks, from scikit-learn and SciPy, and the perplexity."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import scipy.stats
import sklearn.metrics

from geolora_ref import checks
from geolora_ref.finetune.plan import Metric, default_kind

__all__ = ["METRICS", "evaluate_metric"]

Values = np.ndarray[Any, Any]


def _pearson(targets: Values, predictions: Values) -> float:
    return float(scipy.stats.pearsonr(targets, predictions).statistic)


def _spearman(targets: Values, predictions: Values) -> float:
    return float(scipy.stats.spearmanr(targets, predictions).statistic)


def _perplexity(counts: Values, nats: Values) -> float:
    with np.errstate(over="ignore"):
        return float(np.exp(nats.sum(dtype=np.float64) / counts.sum()))


METRICS: dict[Metric, Callable[[Values, Values], float]] = {
    "accuracy": lambda targets, predictions: float(
        sklearn.metrics.accuracy_score(targets, predictions)
    ),
    "matthews": lambda targets, predictions: float(
        sklearn.metrics.matthews_corrcoef(targets, predictions)
    ),
    "pearson": _pearson,
    "spearman": _spearman,
    "perplexity": _perplexity,
}
"""Functions of targets and predictions; for the perplexity, token counts and −Σ log p over the
tokens of each example.
"""


def evaluate_metric(metric: Metric, targets: Values, predictions: Values) -> float:
    """The metric; larger is better, except for the perplexity.  It is nan where it is undefined:
    for non-finite predictions, and for a correlation with a constant.

    Raises ``ValueError`` for an unknown metric.
    """
    checks.one_of("metric", metric, tuple(METRICS))
    constant = np.ptp(targets) == 0.0 or np.ptp(predictions) == 0.0
    if not np.all(np.isfinite(predictions)) or (default_kind(metric) == "number" and constant):
        return math.nan
    return METRICS[metric](targets, predictions)

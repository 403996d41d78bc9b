"""The length of a run, its learning rate schedule, and the values that options may have.  Nothing
here needs torch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

from geolora_ref import checks

__all__ = ["Kind", "Metric", "Plan", "Schedule", "TaskName", "default_kind"]

TaskName = Literal["classification", "causal-lm"]
Metric = Literal["accuracy", "matthews", "pearson", "spearman", "perplexity"]
Kind = Literal["class", "number", "sign"]
"""The kinds of labels."""
Schedule = Literal["constant", "linear"]


@dataclass(frozen=True)
class Plan:
    """Epochs, batch size and schedule of a run; a run is a function of plan, method, model and data.

    Raises ``ValueError`` that names a field out of range.
    """

    metric: Metric
    epochs: int = 1
    batch_size: int = 32
    schedule: Schedule = "constant"
    warmup: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        checks.one_of("metric", self.metric, get_args(Metric))
        checks.one_of("schedule", self.schedule, get_args(Schedule))
        for name in ("epochs", "batch_size"):
            checks.integer(name, getattr(self, name), 1)
        checks.below_one("warmup", self.warmup)
        if not checks.is_integer(self.seed) or not 0 <= self.seed < 2**63:
            raise ValueError(f"seed: expected an integer from 0 to 2**63 - 1, found {self.seed}")
        object.__setattr__(self, "seed", int(self.seed))

    def factor(self, step: int, steps: int) -> float:
        """The factor of the learning rates in step ``step`` (from 0) of ``steps``: a linear rise,
        then constant or down to 0.
        """
        rise = round(self.warmup * steps, 9)  # without rounding a third of thirty might exceed ten
        if step < rise:
            return (step + 1) / (math.floor(rise) + 1)
        return 1.0 if self.schedule == "constant" else (steps - step) / (steps - rise)

    def continues(self, before: Plan, done: int, per_epoch: int) -> bool:
        """Return whether a run with the plan ``before`` and one with this plan agree in their first
        ``done`` steps.  The plans differ in epochs or warm-up, which affect a step only by its
        factor, so the factors must agree.
        """
        steps, earlier = self.epochs * per_epoch, before.epochs * per_epoch
        return done <= steps and all(
            before.factor(k, earlier) == self.factor(k, steps) for k in range(done)
        )


def default_kind(metric: str) -> Kind:
    """Classes for accuracy and Matthews' correlation, numbers for the correlations of numbers."""
    return "number" if metric in ("pearson", "spearman") else "class"

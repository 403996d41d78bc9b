"""Labels as written and labels as numbers: classes, real numbers, or the sign of a real number."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import get_args

import numpy as np
import torch

from geolora_ref import checks
from geolora_ref.finetune.data import Row, shown
from geolora_ref.finetune.plan import Kind

__all__ = ["Kind", "Labels", "fit_labels", "with_sign"]


@dataclass(frozen=True)
class Labels:
    """The meaning of a model's outputs: one logit for each of ``classes``, or one number, in units
    of ``scale`` about ``mean``.

    For a batch of B examples the loss takes outputs (B, classes), or (B, 1) for numbers, and
    targets (B,); predictions are (B,).

    Attributes
    ----------
    kind : "class" (any words), "number" (regression) or "sign" (the classes "negative" and
        "positive" of a number).
    classes : the classes in the order of the logits; empty for numbers.
    mean, scale : mean and standard deviation of the training labels; 0 and 1 for classes.
    baseline : the least mean training loss of a model that ignores its input (entropy, or variance
        in units of scale²).
    """

    kind: Kind
    classes: tuple[str, ...]
    mean: float
    scale: float
    baseline: float

    @property
    def outputs(self) -> int:
        """How many outputs the head has."""
        return len(self.classes) or 1

    def encode(self, rows: Sequence[Row]) -> torch.Tensor:
        """Class indices (int64) or standardised numbers (float32), one per row; ``ValueError`` with
        the line of a bad label.
        """
        if self.kind == "number":
            return torch.tensor(
                [(_number(row) - self.mean) / self.scale for row in rows], dtype=torch.float32
            )
        index = {name: i for i, name in enumerate(self.classes)}
        names = [_name(row, self.kind) for row in rows]
        for row, name in zip(rows, names, strict=True):
            if name not in index:
                known = checks.first_few([shown(known) for known in self.classes])
                raise ValueError(
                    f"{row.place}: expected a label of the training data ({known}), found {shown(name)!r}{row.doubt}"
                )
        return torch.tensor([index[name] for name in names])

    def loss(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Mean cross entropy, or mean squared error."""
        if self.classes:
            return torch.nn.functional.cross_entropy(outputs, targets)
        return torch.nn.functional.mse_loss(outputs[:, 0], targets)

    def predictions(self, outputs: torch.Tensor) -> torch.Tensor:
        """Class indices or standardised numbers, as :meth:`encode` gives them."""
        return outputs.argmax(dim=1) if self.classes else outputs[:, 0]

    def decode(self, outputs: torch.Tensor) -> list[str] | list[float]:
        """The class of every row of outputs, or its number in the units of the training labels."""
        predictions = self.predictions(outputs)
        if self.classes:
            return [self.classes[i] for i in predictions.tolist()]
        return [self.mean + self.scale * value for value in predictions.tolist()]


def fit_labels(rows: Sequence[Row], kind: Kind) -> Labels:
    """The labels of the training rows.

    Raises ``ValueError`` without rows, for a label that is no finite number (kinds "number" and
    "sign"), if all labels agree, and for "classes" that are plainly measurements: more than 20
    different numbers, not all of them natural numbers.
    """
    checks.one_of("labels", kind, get_args(Kind))
    if not rows:
        raise ValueError("rows: expected at least one example, found none")
    where = rows[0].path
    if kind == "number":
        values = np.array([_number(row) for row in rows])
        if values.min() == values.max():  # std of equal numbers may round to more than 0
            raise ValueError(
                f"{where}: expected labels that differ, found {values[0]:g} in all {len(rows)} examples"
            )
        with np.errstate(over="ignore", invalid="ignore"):
            mean, scale = float(values.mean()), float(values.std())
        if not 0.0 < scale < math.inf:  # an infinite mean makes scale inf or NaN
            raise ValueError(
                f"{where}: expected numbers whose mean and spread double precision can hold, found {mean:g} and {scale:g}"
            )
        return Labels(kind, (), mean, scale, 1.0)
    counts = Counter(_name(row, kind) for row in rows)
    if len(counts) < 2:
        raise ValueError(
            f"{where}: expected at least two classes, found only {shown(next(iter(counts)))!r}"
        )
    if (
        kind == "class"
        and len(counts) > 20
        and all(map(_is_number, counts))
        and not all(name.isdecimal() for name in counts)
    ):
        some = checks.first_few([shown(name) for name in counts])
        raise ValueError(
            f"{where}: expected classes, found {len(counts)} different numbers ({some}); "
            "numbers need --metric pearson or spearman, or --labels sign"
        )
    frequencies = np.array(list(counts.values())) / len(rows)
    return Labels(
        kind, tuple(sorted(counts)), 0.0, 1.0, float(-(frequencies * np.log(frequencies)).sum())
    )


def with_sign(rows: Sequence[Row]) -> tuple[list[Row], int]:
    """The rows whose label is not zero, and the number of rows left out because zero has no sign."""
    kept = [row for row in rows if _number(row) != 0.0]
    return kept, len(rows) - len(kept)


def _name(row: Row, kind: Kind) -> str:
    return row.label if kind == "class" else "negative" if _number(row) < 0.0 else "positive"


def _number(row: Row) -> float:
    if not _is_number(row.label):
        raise ValueError(
            f"{row.place}: expected a finite number as label, found {shown(row.label)!r}{row.doubt}"
        )
    return float(row.label)


def _is_number(label: str) -> bool:
    try:
        return math.isfinite(float(label))
    except ValueError:
        return False

"""Helpers of the tests of the fast step: one layer, the reference for it, and the Gram route forced."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import geolora_ref.fast.update.step as step_module
from geolora_ref import LowRank, ProjectedGradients, geolora_step
from geolora_ref.fast import StepReport, fast_updates
from geolora_ref.fast.update.bank import LayerFactors

__all__ = ["CRITERION", "_all_trusted", "_reference", "updated"]

CRITERION = 28.0
"""c = 4√(m + n) of the oracle's criteria, in units of eps, for the largest of the shapes here."""


def updated(factors: Any, update: Any, **limits: Any) -> tuple[LayerFactors, StepReport]:
    """:func:`fast_updates` for one layer."""
    new, report = fast_updates([factors], [tuple(update)], **limits)
    return new[0], report


def _all_trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    """No layer goes through Householder's QR."""
    monkeypatch.setattr(
        step_module,
        "trusted",
        lambda squares, scale, rank, roots, eps: np.ones(len(rank), dtype=bool),
    )


def _reference(factors: Any, update: Any, **limits: Any) -> Any:
    """The reference step with K_new = K − ΔK and so on: an optimizer that subtracts what it is
    given as the gradient.
    """
    U, S, V = factors
    dK, dL, dS = update
    gradients = ProjectedGradients(dK=dK.contiguous(), dL=dL.contiguous(), dS=dS.contiguous())
    return geolora_step(LowRank(U, S, V), gradients, learning_rate=1.0, **limits)

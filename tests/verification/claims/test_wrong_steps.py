"""A wrong step must fail by its own defect: an error of the code is no measured failure, and no
random draw excuses a step.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import ModuleType
from typing import Any, get_args

import numpy as np
import pytest

from geolora_ref import LowRank
from geolora_ref.integrators import Integrator, Step
from geolora_ref.oracle.broken.mutants import MUTANTS, Visible
from geolora_ref.problems import Field
from verification.claim import Plan
from verification.claims import (
    exactness,
    integrator_robustness,
    oracles,
    robustness,
    work_precision,
)
from verification.instruments.steppers import broken_down

pytestmark = pytest.mark.usefixtures("module_unchecked")
PLAN = Plan()


def raising(Y: LowRank, G: Any, **parameters: Any) -> Any:
    """A stepper with a defect."""
    raise ValueError("a bug")


@dataclass(frozen=True)
class Raising(Integrator):
    """An integrator with the same defect."""

    def advance(self, field: Field, t: float, Y: LowRank, h: float) -> Step:
        """No step."""
        raise ValueError("a bug")


def test_an_error_is_not_the_breakdown_that_the_control_of_robustness_owes() -> None:
    with pytest.raises(ValueError, match="a bug"):
        robustness.check(next(robustness.control_cases(PLAN)), raising)


@pytest.mark.parametrize(
    "reason", ["Singular matrix", "U: expected finite entries, found 1 of 4 not finite"]
)
def test_a_breakdown_counts_only_where_it_is_expected(reason: str) -> None:
    assert broken_down(ValueError(reason), expected=True) == np.inf
    with pytest.raises(ValueError, match=reason):
        broken_down(ValueError(reason), expected=False)
    with pytest.raises(ValueError, match="a bug"):
        broken_down(ValueError("a bug"), expected=True)


@pytest.mark.parametrize("claim", [integrator_robustness, work_precision, exactness])
def test_nor_is_the_error_of_an_integrator(
    claim: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claim, "member", lambda *_: Raising())
    with pytest.raises(ArithmeticError, match=r"step 1, t = 0, .*a bug"):
        claim.check(next(claim.cases(PLAN)))


def test_the_controls_of_the_oracles_notice_one_that_rejects_everything(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    mended = [control for control in oracles.CLAIM.controls if control.id.endswith(", mended")]
    assert {MUTANTS[control.id.removesuffix(", mended")].visible_in for control in mended} == set(
        get_args(Visible)
    )
    monkeypatch.setattr(oracles, "_rejections", lambda *_: ["everything"])
    monkeypatch.setattr(oracles, "_rejections_by_the_kit", lambda _: ["everything"])
    assert [control.check(case).worst for control in mended for case in control.cases(PLAN)] == [
        0.0
    ] * 4

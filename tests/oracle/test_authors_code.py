"""The authors' public layers, where a checkout is at hand: what is right in them, and every known
defect as a strict failure.

``GEOLORA_AUTHORS_CODE=CHECKOUT pytest tests/oracle/test_authors_code.py`` runs it;
docs/conformance.md has the outcome.  Each defect has a neighbouring question on which the same
layer is right, so that nothing else is to blame.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest

from geolora_ref.oracle.broken.mutants import MUTANTS
from geolora_ref.oracle.cases.step_case import CaseParameters, StepCase
from geolora_ref.oracle.diagnosis.diagnosis import diagnose
from geolora_ref.oracle.judges.criteria import StepInputs, Verdict, judge

pytest.importorskip(
    "torch", reason="torch, which the authors' layers are written in, is not installed"
)
from tests.oracle.authors_code import VARIABLE, Factors, glue_step, vision_step

if VARIABLE not in os.environ:
    pytest.skip(
        f"{VARIABLE} does not name a checkout of the authors' code", allow_module_level=True
    )

pytestmark = pytest.mark.usefixtures("module_unchecked")


def _question(core: str = "diagonal", **changes: Any) -> StepInputs:
    """9 x 7 of rank 3, invertible; "symmetric": S dense but Sᵀ = S."""
    given = {"learning_rate": 0.3, "tau": 0.0, "seed": 4, **changes}
    case = StepCase.build(
        CaseParameters(9, 7, 3, "algebraic", "dense" if core == "symmetric" else core, **given)
    )
    return (replace(case, S=case.S @ case.S.T) if core == "symmetric" else case).inputs()


def _right_truncation() -> Callable[..., Factors]:
    return vision_step(own_truncation=False)


@dataclass(frozen=True)
class Defect:
    """A layer, the mutant that has the same defect, a question that shows it and a neighbouring one
    that does not.
    """

    layer: str
    mutant: str
    step: Callable[[], Callable[..., Factors]]
    shows: StepInputs
    control: StepInputs
    control_step: Callable[[], Callable[..., Factors]] | None = None

    @property
    def id(self) -> str:
        """For the test's name."""
        return f"{self.layer}-{self.mutant}"

    def verdict(self, *, control: bool) -> Verdict:
        """The verdict of the criteria on the layer."""
        step = (self.control_step if control and self.control_step else self.step)()
        inputs = self.control if control else self.shows
        try:
            return judge(inputs, step(*inputs.arrays, **inputs.parameters))
        except (RuntimeError, ValueError) as error:
            return Verdict(error=str(error))


DEFECTS = [
    Defect(
        "glue",
        "missing-transpose-inverse",
        lambda: glue_step("fresh"),
        _question("dense"),
        _question("symmetric"),
    ),
    Defect(
        "glue",
        "stale-inverse",
        glue_step,
        _question("symmetric"),
        _question("symmetric"),
        lambda: glue_step("fresh"),
    ),
    Defect(
        "glue", "zero-start-inverse", glue_step, _question("zero", tau=1e-6), _question(tau=1e-6)
    ),
    Defect(
        "glue", "cap-before-truncation", glue_step, _question(max_rank=3), _question(max_rank=6)
    ),
    Defect(
        "glue", "built-in-minimum", glue_step, _question(tau=1.0), _question(tau=1.0, min_rank=2)
    ),
    Defect(
        "vision",
        "swap-truncation-factors",
        vision_step,
        _question(),
        _question(),
        _right_truncation,
    ),
    Defect(
        "vision",
        "stale-inverse",
        _right_truncation,
        _question("symmetric"),
        _question("symmetric"),
        lambda: vision_step("fresh", own_truncation=False),
    ),
    Defect(
        "vision",
        "zero-start-inverse",
        _right_truncation,
        _question("zero", tau=1e-6),
        _question(tau=1e-6),
    ),
]


@pytest.mark.parametrize("defect", DEFECTS, ids=lambda defect: defect.id)
def test_the_layer_is_right_in_the_neighbouring_case(defect: Defect) -> None:
    verdict = defect.verdict(control=True)
    assert verdict.passed, verdict


@pytest.mark.parametrize(
    "defect",
    [
        pytest.param(
            defect,
            marks=pytest.mark.xfail(
                reason=f"published code: {MUTANTS[defect.mutant].defect}", strict=True
            ),
        )
        for defect in DEFECTS
    ],
    ids=lambda defect: defect.id,
)
def test_the_layer_is_right(defect: Defect) -> None:
    """Strict: should the authors' code be repaired, this fails until the defect is taken off the list."""
    verdict = defect.verdict(control=False)
    assert verdict.passed, verdict


@pytest.mark.parametrize("defect", DEFECTS, ids=lambda defect: defect.id)
def test_the_diagnosis_names_the_defect(defect: Defect) -> None:
    """First of all mutants.  From S = 0 the case is not run again with τ = 0: the layer's "<"
    keeps zero singular values there, which is right, and no mutant does so."""
    step, again = defect.step(), defect.mutant != "zero-start-inverse"
    diagnosis = diagnose(
        lambda x: step(*x.arrays, **x.parameters), [defect.shows], [], 2.0**-52, asked_again=again
    )
    named = {mutant.id: share for mutant, share in diagnosis.matches}
    assert named[defect.mutant] == max(named.values()) == 1.0


def test_the_fresh_inverse_of_the_vision_layer_is_transposed_rightly() -> None:
    """The GLUE layer lacks this transpose."""
    inputs = _question("dense")
    factors = vision_step("fresh", own_truncation=False)(*inputs.arrays, **inputs.parameters)
    assert judge(inputs, factors).passed

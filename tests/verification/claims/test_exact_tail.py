"""With ‖Ŵ − W₁‖ for ϑ the guarantees would excuse every truncation; with the tail of the exact Ŵ
they excuse no wrong one.
"""

from __future__ import annotations

from dataclasses import replace
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from geolora_ref import LowRank
from geolora_ref.algorithm import Truncation
from geolora_ref.integrators.sub_equations import Factors
from verification.claim import Case, Plan
from verification.claims import (
    CLAIMS,
    convergence,
    descent,
    energy_descent,
    rank_recovery,
    stochastic,
)
from verification.claims.error_bound import check, truncated_cases
from verification.instruments.steppers import Outcome, mutant, reference
from verification.instruments.trajectory import Iterate

pytestmark = pytest.mark.usefixtures("module_unchecked")
RECURSION = "one step of the error recursion"
WHATEVER_WAS_LOST = property(lambda it: float(np.linalg.norm(it.outcome.W_hat - it.W_next)))
BROKEN = (
    "unsorted-truncation",
    "elementwise-for-matmul",
    "vh-for-v",
    "squared-singular-values",
    "signs-lost",
)


@pytest.fixture
def case() -> Case:
    return next(case for case in truncated_cases(Plan()) if case["rate"] == 0.1)


@pytest.mark.parametrize("name", BROKEN)
def test_only_the_tail_of_the_exact_step_shows_a_wrong_truncation(
    case: Case, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    assert max(check(case, mutant(name)).ratios[RECURSION]) > 1.0
    monkeypatch.setattr(Iterate, "lost", WHATEVER_WAS_LOST)
    assert max(check(case, mutant(name)).ratios[RECURSION]) <= 1.0


def test_a_rank_that_is_too_low_is_named(case: Case) -> None:
    result = check(case, mutant("off-by-one-low"))
    assert result.worst == max(result.ratios["ϑ_k ≤ ϑ, unless max_rank clips"]) > 1.0
    assert max(result.ratios[RECURSION]) <= 1.0


@pytest.mark.parametrize("claim", ["descent", "convergence", "stochastic"])
def test_the_other_claims_need_the_exact_tail_too(
    monkeypatch: pytest.MonkeyPatch, claim: str
) -> None:
    control = next(
        control for control in CLAIMS[claim].controls if control.id == "unsorted-truncation"
    )
    cases = list(control.cases(Plan()))
    assert any(control.check(case).worst > CLAIMS[claim].limit for case in cases)
    monkeypatch.setattr(Iterate, "lost", WHATEVER_WAS_LOST)
    assert all(control.check(case).worst <= CLAIMS[claim].limit for case in cases)


def lying(Y: LowRank, G: np.ndarray, **parameters: Any) -> Outcome:
    """A wrong truncation that reports a far larger Ŵ, at which the gradient is large."""
    outcome = mutant("unsorted-truncation")(Y, G, **parameters)
    return replace(outcome, W_hat=1e3 * outcome.W_hat + 1e3)


@pytest.mark.parametrize("claim", [convergence, stochastic, rank_recovery])
def test_no_step_raises_its_bound_by_what_it_tells_of_its_own(claim: ModuleType) -> None:
    control = next(
        control for control in claim.CLAIM.controls if control.id == "unsorted-truncation"
    )
    for case in control.cases(Plan()):
        outcome = claim.check(case, lying)
        assert outcome.worst > claim.CLAIM.limit
        assert outcome.ratios == control.check(case).ratios


def test_two_layers_need_it_as_one_does(monkeypatch: pytest.MonkeyPatch) -> None:
    control = next(
        control
        for control in CLAIMS["descent"].controls
        if control.id == "two layers: unsorted-truncation"
    )
    cases, lost = list(control.cases(Plan())), []

    def step(Y: LowRank, G: np.ndarray, **parameters: Any) -> Outcome:
        outcome = mutant("unsorted-truncation")(Y, G, **parameters)
        lost.append(float(np.linalg.norm(outcome.W_hat - outcome.Y.full())))
        return outcome

    assert all(descent.check(case, step).worst > 1.0 for case in cases)
    lost.clear()
    tails = iter(lost)
    monkeypatch.setattr(descent, "tail", lambda W, rank: next(tails))
    assert all(descent.check(case, step).worst <= 1.0 for case in cases)


def test_the_truncation_of_an_integrator_needs_it_too(monkeypatch: pytest.MonkeyPatch) -> None:
    control = next(
        control
        for control in CLAIMS["energy-descent"].controls
        if control.id == "unsorted truncation"
    )
    cases = list(control.cases(Plan()))
    assert all(control.check(case).worst > 1.0 for case in cases)
    lost: list[float] = []

    def rule(hat: Factors, h: float) -> Truncation:
        cut = energy_descent.keeps_the_smallest(hat, h)
        lost.append(float(np.linalg.norm(hat.product().full() - cut.Y.full())))
        return cut

    monkeypatch.setattr(energy_descent, "tail", lambda W, rank: lost[-1])
    assert all(energy_descent.check(case, rule=rule).worst <= 1.0 for case in cases)


def test_no_step_is_judged_by_what_it_has_done_to_its_arguments() -> None:
    """A clipped gradient fails where it is clipped in place as well."""

    def clipped(Y: LowRank, G: np.ndarray, **parameters: Any) -> Outcome:
        G *= min(1.0, 0.01 / float(np.linalg.norm(G)))
        return reference(Y, G, **parameters)

    case = next(
        case
        for case in descent.cases(Plan())
        if case["problem"] == "quadratic" and case["start"] == "order one"
    )
    assert descent.check(case, clipped).worst > 1.0


def test_a_stepper_of_another_form_is_named(case: Case) -> None:
    with pytest.raises(
        TypeError,
        match=r"expected an Outcome\(W_hat, Y\) of verification.instruments.steppers, found LowRank",
    ):
        check(case, lambda Y, G, **parameters: reference(Y, G, **parameters).Y)  # type: ignore[arg-type]

"""The guarantees excuse every truncation with what it really discarded, ‖Ŵ − W₁‖, none with the tail of the exact Ŵ."""

from __future__ import annotations

import numpy as np
import pytest

from verification.claim import Case, Plan
from verification.claims import CLAIMS
from verification.claims.error_bound import check, truncated_cases
from verification.steppers import mutant
from verification.trajectory import Iterate

pytestmark = pytest.mark.usefixtures("module_unchecked")
RECURSION = "one step of the error recursion"
WHATEVER_WAS_LOST = property(lambda it: float(np.linalg.norm(it.outcome.W_hat - it.W_next)))
BROKEN = ("unsorted-truncation", "elementwise-for-matmul", "vh-for-v", "squared-singular-values", "signs-lost")


@pytest.fixture
def case() -> Case:
    return next(case for case in truncated_cases(Plan()) if case["rate"] == 0.1)


@pytest.mark.parametrize("name", BROKEN)
def test_only_the_tail_of_the_exact_step_shows_a_wrong_truncation(case: Case, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    assert max(check(case, mutant(name)).ratios[RECURSION]) > 1.0
    monkeypatch.setattr(Iterate, "lost", WHATEVER_WAS_LOST)
    assert max(check(case, mutant(name)).ratios[RECURSION]) <= 1.0


def test_a_rank_that_is_too_low_is_named(case: Case) -> None:
    result = check(case, mutant("off-by-one-low"))
    assert result.worst == max(result.ratios["ϑ_k ≤ ϑ, unless max_rank clips"]) > 1.0
    assert max(result.ratios[RECURSION]) <= 1.0


@pytest.mark.parametrize("claim", ["descent", "convergence", "stochastic"])
def test_the_other_claims_need_the_exact_tail_too(monkeypatch: pytest.MonkeyPatch, claim: str) -> None:
    control = next(control for control in CLAIMS[claim].controls if control.id == "unsorted-truncation")
    cases = list(control.cases(Plan()))
    assert any(control.check(case).worst > CLAIMS[claim].limit for case in cases)
    monkeypatch.setattr(Iterate, "lost", WHATEVER_WAS_LOST)
    assert all(control.check(case).worst <= CLAIMS[claim].limit for case in cases)

"""Every claim holds on its first case, every negative control fails, and no claim is without either."""

from __future__ import annotations

from itertools import islice

import pytest

from verification.claim import Claim, Plan
from verification.claims import CLAIMS

pytestmark = pytest.mark.usefixtures("module_unchecked")  # as the report runs them

PLAN = Plan("quick", seed=7)  # another seed than the report's


@pytest.mark.parametrize("claim", CLAIMS.values(), ids=CLAIMS.keys())
def test_claim_holds_on_its_first_case(claim: Claim) -> None:
    for case in islice(claim.cases(PLAN), 1):
        result = claim.check(case)
        assert result.worst <= claim.limit, f"{case.id}: {result.ratios}"
        assert not result.violated_hypotheses


@pytest.mark.parametrize(
    ("claim", "control"),
    [pytest.param(claim, control, id=f"{claim.id}: {control.id}") for claim in CLAIMS.values() for control in claim.controls],
)
def test_control_fails(claim: Claim, control: object) -> None:
    worst = max(control.check(case).worst for case in control.cases(PLAN))  # type: ignore[attr-defined]
    assert worst > claim.limit


@pytest.mark.parametrize("claim", CLAIMS.values(), ids=CLAIMS.keys())
def test_claim_is_complete(claim: Claim) -> None:
    assert claim.statement
    assert claim.sources
    assert claim.controls
    assert claim.floor >= 50
    ids = [case.id for case in claim.cases(PLAN)]
    assert len(set(ids)) == len(ids) > 0

"""Every claim holds on its first case, every negative control fails, and no claim is without either."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from itertools import islice

import matplotlib.figure
import pytest

from geolora_ref.problems import Schroedinger
from tests.nightly import NIGHTLY
from verification.claim import Case, CaseResult, Claim, Control, Plan
from verification.claims import (
    CLAIMS,
    HEADINGS,
    PAGES,
    conservation,
)
from verification.outcome import ControlOutcome
from verification.support.machine import ROOT

pytestmark = pytest.mark.usefixtures("module_unchecked")  # as the report runs them

PLAN = Plan("quick", seed=7)  # another seed than the report's
FULL = Plan("full", seed=0)
BIBLIOGRAPHY = set(
    re.findall(
        r"^@\w+\{(\w+),", (ROOT / "docs" / "references.bib").read_text("utf-8"), re.MULTILINE
    )
)
"""Cases of the full plan, by claim and id, that take too long for every run of the tests, and why;
by night all are done.
"""


@pytest.mark.parametrize("claim", CLAIMS.values(), ids=CLAIMS.keys())
def test_claim_holds_on_its_first_case(claim: Claim) -> None:
    for case in islice(claim.cases(PLAN), 1):
        result = claim.check(case)
        assert result.worst <= claim.limit, f"{case.id}: {result.ratios}"
        assert not result.violated_hypotheses


@pytest.mark.parametrize(
    ("claim", "control"),
    [
        pytest.param(claim, control, id=f"{claim.id}: {control.id}")
        for claim in CLAIMS.values()
        for control in claim.controls
    ],
)
def test_control_fails(claim: Claim, control: Control) -> None:
    """At the latest in the second of its cases; by night in all of them, as in every report."""
    results: list[CaseResult] = []
    outcome = ControlOutcome(control, results, claim.limit)
    for case in islice(control.cases(PLAN), None if NIGHTLY else 2):
        results.append(control.check(case))
        if outcome.failed and not NIGHTLY:
            break
    assert outcome.failed, outcome.shortfall


def ends(cases: Callable[[Plan], Iterable[Case]]) -> list[Case]:
    """The first and the last case of the full plan, but for what the quick one with this seed has
    as well.
    """
    known = [(case.id, case.parameters) for case in cases(Plan(seed=FULL.seed))]
    every = list(cases(FULL))
    return [
        case for case in (every[:1] + every[1:][-1:]) if (case.id, case.parameters) not in known
    ]


@pytest.mark.parametrize("claim", CLAIMS.values(), ids=CLAIMS.keys())
def test_claim_is_complete(claim: Claim) -> None:
    assert claim.statement
    assert claim.sources
    assert set(claim.sources) <= BIBLIOGRAPHY
    assert claim.section in HEADINGS
    assert claim.controls
    assert claim.floor > 0
    ids = [case.id for case in claim.cases(PLAN)]
    assert len(set(ids)) == len(ids) > 0


def test_the_section_of_a_claim_is_where_the_theory_shows_it() -> None:
    shown = dict.fromkeys(CLAIMS, "Integrators: what was measured")
    for page in PAGES:
        heading = ""
        for line in page.read_text("utf-8").splitlines():
            heading = line.lstrip("# ") if line.startswith("#") else heading
            if line.startswith(":::{measured} "):
                shown[line.removeprefix(":::{measured} ")] = heading
    assert {claim.id: claim.section for claim in CLAIMS.values()} == shown


def test_conservation_draws_what_promises_nothing_for_the_seed_of_the_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    drawn: list[int] = []

    def problem_of(
        seed: int, make: Callable[[int], Schroedinger] = conservation.problem_of
    ) -> Schroedinger:
        drawn.append(seed)
        return make(seed)

    monkeypatch.setattr(conservation, "problem_of", problem_of)
    shown = next(
        case
        for case in conservation.cases(PLAN)
        if case["truncation"] == "fixed rank" and case["h"] == 0.1
    )
    results = [conservation.check(shown)]
    drawn.clear()
    conservation.draw(matplotlib.figure.Figure().subplots(), results)
    assert set(drawn) == {PLAN.seed}

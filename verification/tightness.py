"""How sharp every inequality is: its median ratio in the quick plan, on record in ``tightness.json``.

A ratio below its limit does not show that a bound has become loose, or that a control now fails for another reason.  The record
does: whoever changes how something is measured sees by how much, and records it anew on purpose, by

    python -m verification.tightness
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from geolora_ref.files import read_json, write_json
from geolora_ref.oracle.criteria import FAIL
from verification.claim import Plan, Results

if TYPE_CHECKING:
    from verification.runner import ClaimOutcome

__all__ = ["changes", "main", "measured", "medians", "recorded"]

LEDGER = Path(__file__).with_name("tightness.json")
LEAST, MOST = 1e-3, 1e3
"""Medians beyond these, in units of the limit, count as these: below is noise, above is out of all bounds."""
BOUND, ROUNDING = 5.0, 10.0
"""By which factor a median may differ from the record; other seeds change those of bounds by up to 3.6."""
CONTROL = {BOUND: 10.0, ROUNDING: 100.0}
"""The same for controls: how wrong something is depends on the instance more than how sharp a bound is (up to 3 and 62)."""

Medians = Mapping[str, float]


def medians(results: Results, limit: float) -> Medians:
    """The median ratio of each inequality in units of the limit; what is no number is out of all bounds."""
    collected: dict[str, list[float]] = defaultdict(list)
    for result in results:
        for name, values in result.ratios.items():
            collected[name] += [value / limit if np.isfinite(value) else MOST for value in values]
    return {name: float(f"{np.clip(np.median(values), LEAST, MOST):.3g}") for name, values in sorted(collected.items()) if values}


def measured(outcome: ClaimOutcome) -> dict[str, Medians]:
    """The medians of the claim, under the empty name, and of each of its controls."""
    limit = outcome.claim.limit
    return {"": medians(outcome.results, limit)} | {c.control.id: medians(c.results, limit) for c in outcome.controls}


def recorded() -> Mapping[str, Mapping[str, Medians]]:
    """The record, by claim, control and inequality."""
    record: Mapping[str, Mapping[str, Medians]] = read_json(LEDGER)["claims"]
    return record


def changes(outcome: ClaimOutcome, record: Mapping[str, Medians]) -> list[str]:
    """Every inequality that is not as sharp, or as wrong in a control, as on record; one that is new or gone as well."""
    own = ROUNDING if outcome.claim.limit == FAIL else BOUND
    now = {(who, name): value for who, found in measured(outcome).items() for name, value in found.items()}
    then = {(who, name): value for who, found in record.items() for name, value in found.items()}
    return [
        f"{f'control {who}, ' if who else ''}{name}: median ratio {_shown(now.get(key))} of the limit, "
        f"on record {_shown(then.get(key))} (python -m verification.tightness records it anew)"
        for key in sorted(now.keys() | then.keys())
        for who, name in [key]
        for factor in [CONTROL[own] if who else own]
        if key not in now or key not in then or not 1.0 / factor <= now[key] / then[key] <= factor
    ]


def _shown(value: float | None) -> str:
    return "none" if value is None else f"{value:g}"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the quick plan, say what has changed, and record it."""
    from verification.claims import CLAIMS
    from verification.journal import Journal
    from verification.runner import run

    with tempfile.TemporaryDirectory() as folder:
        plan = Plan()
        outcomes = run(list(CLAIMS.values()), plan, Journal(Path(folder), plan, fresh=True), jobs=os.cpu_count() or 1)
    old: Mapping[str, Any] = recorded() if LEDGER.exists() else {}
    for outcome in outcomes:
        for change in changes(outcome, old.get(outcome.claim.id, {})):
            print(f"{outcome.claim.id}: {change}")  # noqa: T201
    write_json(LEDGER, {"format": 1, "claims": {outcome.claim.id: measured(outcome) for outcome in outcomes}})
    return 0


if __name__ == "__main__":
    sys.exit(main())

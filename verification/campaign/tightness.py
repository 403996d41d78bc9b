"""``python -m verification.campaign.tightness``: record how sharp the claims are, and say what has changed.

A claim is run twice, with other contents of fresh memory and another order of sets; what differs
between the runs is a defect of the claim, and nothing is recorded.  ``--only CLAIM`` leaves the
records of all other claims alone.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from unittest.mock import patch

from joblib.externals.loky import get_reusable_executor

from geolora_ref.support.files import write_json
from verification.campaign import record
from verification.campaign.journal import Journal
from verification.campaign.outcomes import ClaimOutcome
from verification.campaign.runner import run
from verification.claim import Claim, Plan
from verification.claims import CLAIMS

__all__ = ["main"]


SURROUNDINGS = (
    {"MALLOC_PERTURB_": "0", "PYTHONHASHSEED": "0"},
    {"MALLOC_PERTURB_": "170", "PYTHONHASHSEED": "1"},
)
"""Environments of the two runs: the contents of memory that the GNU C library hands out, and the
order of sets.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the quick plan twice, of all claims or of some, say what has changed, and record it.

    Status 1: a claim fails for another reason than its record, or two runs differ, and nothing is
    recorded; 2: the record cannot be read.
    """
    description = "Record how sharp the claims are, if two runs agree."
    parser = argparse.ArgumentParser(
        prog="python -m verification.campaign.tightness", description=description
    )
    parser.add_argument(
        "--only",
        action="append",
        metavar="CLAIM",
        choices=CLAIMS,
        help="this claim only (several times: these)",
    )
    chosen = parser.parse_args(argv).only or CLAIMS
    try:
        old = record.recorded()
    except (ValueError, OSError) as error:
        parser.error(str(error))
    claims = [claim for name, claim in CLAIMS.items() if name in chosen]
    runs = [outcomes_in(surroundings, claims) for surroundings in SURROUNDINGS]
    broken = [
        f"{of.claim.id}: {problem}"
        for of in chain(*runs)
        for problem in replace(of, changes=()).problems
    ]
    if broken:
        print("\n".join([*dict.fromkeys(broken), "nothing was recorded"]))
        return 1
    first, second = ({of.claim.id: record.measured(of) for of in outcomes} for outcomes in runs)
    unequal = [
        f"{name}: two runs differ: {entry}"
        for name in first
        for entry in record.unequal(first[name], second[name])
    ]
    if unequal:
        print("\n".join([*unequal, "nothing was recorded"]))
        return 1
    for outcome in runs[0]:
        for change in record.changes(
            outcome, old.get(outcome.claim.id, record.NOTHING), record.SEED
        ):
            print(f"{outcome.claim.id}: {change}")
    new = old | first
    write_json(
        record.LEDGER,
        {"format": 6, "claims": {name: new[name]._asdict() for name in CLAIMS if name in new}},
    )
    return 0


def outcomes_in(surroundings: Mapping[str, str], claims: Sequence[Claim]) -> list[ClaimOutcome]:
    """The outcomes of the quick plan in processes of their own, which begin with this environment."""
    plan = Plan(seed=record.SEED)
    jobs = max(os.cpu_count() or 1, 2)  # with one, the cases would run in this process
    try:
        with patch.dict(os.environ, surroundings), tempfile.TemporaryDirectory() as folder:
            return run(claims, plan, Journal(Path(folder), plan, fresh=True), jobs=jobs)
    finally:
        get_reusable_executor().shutdown(wait=True)


if __name__ == "__main__":
    sys.exit(main())

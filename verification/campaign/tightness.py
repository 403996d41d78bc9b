"""``python -m verification.campaign.tightness``: record anew how sharp the claims are, and say what has changed.

``--only CLAIM`` leaves the records of all other claims alone.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from geolora_ref.support.files import write_json
from verification.campaign import record
from verification.campaign.journal import Journal
from verification.campaign.runner import run
from verification.claim import Plan
from verification.claims import CLAIMS

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the quick plan, of all claims or of some, say what has changed, and record it.

    Status 1: a claim fails for another reason than its record, and nothing is recorded; 2: the
    record cannot be read.
    """
    parser = argparse.ArgumentParser(
        prog="python -m verification.campaign.tightness", description="Record anew how sharp the claims are."
    )
    parser.add_argument("--only", action="append", metavar="CLAIM", choices=CLAIMS, help="this claim only (several times: these)")
    chosen = parser.parse_args(argv).only or CLAIMS
    try:
        old = record.recorded()
    except (ValueError, OSError) as error:
        parser.error(str(error))
    with tempfile.TemporaryDirectory() as folder:
        plan = Plan(seed=record.SEED)
        journal = Journal(Path(folder), plan, fresh=True)
        outcomes = run([claim for name, claim in CLAIMS.items() if name in chosen], plan, journal, jobs=os.cpu_count() or 1)
    broken = [f"{outcome.claim.id}: {problem}" for outcome in outcomes for problem in replace(outcome, changes=()).problems]
    if broken:
        print("\n".join([*broken, "nothing was recorded"]))
        return 1
    for outcome in outcomes:
        for change in record.changes(outcome, old.get(outcome.claim.id, record.NOTHING), record.SEED):
            print(f"{outcome.claim.id}: {change}")
    new = old | {outcome.claim.id: record.measured(outcome) for outcome in outcomes}
    write_json(record.LEDGER, {"format": 6, "claims": {name: new[name]._asdict() for name in CLAIMS if name in new}})
    return 0


if __name__ == "__main__":
    sys.exit(main())

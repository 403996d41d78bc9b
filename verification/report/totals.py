"""``python -m verification.report.totals``: write the page "Rigor" from what is in build/rigor (or
stored), print every total.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from geolora_ref.support.options import nonempty_path
from verification.report.report import write_page
from verification.report.rigor import FOLDER, PAGE
from verification.support.shown import overview

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status 0: no result, measured here or stored, is a failure (items that were not run are
    named); 1: one is; 2: the page cannot be written.
    """
    parser = argparse.ArgumentParser(
        prog="python -m verification.report.totals", description='The page "Rigor" and its totals.'
    )
    parser.add_argument(
        "--results",
        type=nonempty_path,
        default=FOLDER,
        metavar="FOLDER",
        help=f"what was measured (default: {FOLDER})",
    )
    options = parser.parse_args(argv)
    items = overview(PAGE.items, options.results)
    for item, shown in items:
        verdict = "FAILED" if shown.passed is False else shown.verdict
        print(f"{item.title:<18} {verdict:<14} {shown.line}")
    try:
        page = write_page(PAGE, options.results, options.results)
    except OSError as error:
        parser.error(str(error))
    print(f"page: {page.resolve()}")
    return 1 if any(shown.passed is False for _, shown in items) else 0


if __name__ == "__main__":
    sys.exit(main())

"""What the verification measured, as Markdown for the pages.

``{measured} descent`` shows one claim, ``{measured-rest}`` those that no page places by hand,
``{verdicts}`` a table of all, ``{worst}`descent``` one number.  A claim that does not stand is a warning, so the
documentation cannot be built on it.
"""

from __future__ import annotations

import os
import re
import shutil
import time
from collections.abc import Iterable
from functools import cache
from pathlib import Path

from geolora_ref.support.files import locked
from sphinx.application import Sphinx
from sphinx.util import logging
from verification.claim import Figure, Plan
from verification.claims import CLAIMS
from verification.outcome import ClaimOutcome
from verification.report.report import (
    drawn,
    mathematics,
    number,
    picture,
    write_report,
)
from verification.runner import run
from verification.support.machine import provenance

DOCS = Path(__file__).resolve().parent.parent
FOLDER = DOCS.parent / "build" / "verification" / "quick"
FIGURES = DOCS / "_generated" / "figures"
PLAN = Plan("quick", 0)


@cache
def outcomes() -> dict[str, ClaimOutcome]:
    """Every claim with everything that was measured for it; writes the report as well.

    Raises ``BlockingIOError`` if another run is using the folder.
    """
    started = time.monotonic()
    with locked(FOLDER):
        origin = provenance()
        found = run(list(CLAIMS.values()), PLAN, jobs=os.cpu_count() or 1)
        seconds = time.monotonic() - started
        write_report([drawn(one) for one in found], PLAN, FOLDER, seconds, origin)
    for outcome in found:
        for problem in outcome.problems:
            logging.getLogger(__name__).warning("claim %s: %s", outcome.claim.id, problem)
    return {outcome.claim.id: outcome for outcome in found}


def text(words: object) -> str:
    """Plain text with symbols as inline HTML: subscripts as such, nothing that is Markdown."""
    return re.sub(r"[|*`$\[\]]", lambda found: f"&#{ord(found[0])};", str(mathematics(str(words))))


def table(head: Iterable[str], rows: Iterable[Iterable[str]], numeric: int = 0) -> str:
    """A table of cells that are Markdown already; the last ``numeric`` columns are numbers."""
    names = list(head)
    lines = ["---"] * (len(names) - numeric) + ["--:"] * numeric
    return "\n".join(f"| {' | '.join(row)} |" for row in (names, lines, *rows))


def folded(title: str, content: str) -> str:
    """Content that opens on a click."""
    return f":::{{dropdown}} {title}\n{content}\n:::"


def link(claim: str) -> str:
    """A link to the place that shows a claim."""
    return f"{{ref}}`{CLAIMS[claim].title} <claim-{claim}>`"


def worst(claim: str) -> str:
    """The worst ratio of a claim."""
    return number(outcomes()[claim].worst)


def measured(claim_id: str) -> str:
    """One claim: statement as checked, verdict, sources, figures, tables, what was compared."""
    return box(outcomes()[claim_id], explained=True)


def measured_rest() -> str:
    """A section for each claim that no page names in a ``{measured}`` directive."""
    pages = "".join(path.read_text("utf-8") for path in DOCS.glob("[rt]*/*.md"))
    placed = set(re.findall(r"^:{3,}\{measured\} (\S+)$", pages, re.MULTILINE))
    return "\n\n".join(
        f"## {claim.title}\n\n{text(claim.explanation)}\n\n{box(outcomes()[name], explained=False)}"
        for name, claim in CLAIMS.items()
        if name not in placed
    )


def verdicts() -> str:
    """All claims in one table."""
    head = ["claim", "verdict", "compared", "median", "worst", "limit", "controls that fail"]
    rows = (
        [
            link(name),
            one.verdict,
            str(one.count),
            number(one.median),
            number(one.worst),
            number(one.claim.limit),
            f"{sum(bool(c.failed) for c in one.controls)}/{len(one.controls)}",
        ]
        for name, one in outcomes().items()
    )
    return table(head, rows, numeric=5)


def box(one: ClaimOutcome, explained: bool) -> str:
    """The box of a claim."""
    claim = one.claim
    parts = [
        f"(claim-{claim.id})=",
        "::::{container} measured",
        f"**Measured**: {text(claim.title)} (`{claim.id}`)",
        summary(one),
        f"Statement as checked: {text(claim.statement)}.",
        f"Hypotheses: {text('; '.join(claim.hypotheses))}." if claim.hypotheses else "",
        f"In rounding units c·eps·s: s = {text(claim.scale)}." if claim.scale else "",
        text(claim.explanation) if explained else "",
        f"Literature: {{cite}}`{','.join(claim.sources)}`." if claim.sources else "",
        *(drawing(one, index, figure) for index, figure in enumerate(claim.figures)),
        *tables(one),
        folded("What was compared", inequalities(one)),
        folded("Negative controls", controls(one)),
        "::::",
    ]
    return "\n\n".join(filter(None, parts))


def summary(one: ClaimOutcome) -> str:
    """The verdict, the worst ratio, how much was compared, how many controls fail."""
    failing = sum(bool(control.failed) for control in one.controls)
    limit = f"limit {number(one.claim.limit)} {one.claim.unit}"
    return (
        f"{one.verdict}; worst ratio **{number(one.worst)}** "
        f"(median {number(one.median)}, {limit}); "
        f"{one.count} comparisons in {len(one.results)} cases; "
        f"{failing} of {len(one.controls)} negative controls fail, as they must."
    )


def drawing(one: ClaimOutcome, index: int, figure: Figure) -> str:
    """A figure, as an SVG file next to the pages."""
    path = FIGURES / f"{one.claim.id}-{index}.svg"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(picture(figure, one.results))
    shown = f":::{{figure}} /{path.relative_to(DOCS).as_posix()}\n:alt: {figure.title}"
    return f"{shown}\n\n**{text(figure.title)}.** {text(figure.caption)}\n:::"


def tables(one: ClaimOutcome) -> Iterable[str]:
    """The tables of a claim; those with more than twelve rows are folded."""
    for extra in one.claim.tables:
        head, *rows = [[text(cell) for cell in row] for row in extra.rows(one.results)]
        title, content = f"{text(extra.title)} ({len(rows)} rows)", table(head, rows)
        yield folded(title, content) if len(rows) > 12 else f"{title}\n\n{content}"


def inequalities(one: ClaimOutcome) -> str:
    """What was compared, how often, and the ratios."""
    rows = ([text(c.name), str(c.count), number(c.median), number(c.worst)] for c in one.compared)
    return table(["compared", "times", "median", "worst ratio"], rows, numeric=3)


def controls(one: ClaimOutcome) -> str:
    """The negative controls and their ratios."""
    rows = ([f"`{c.control.id}`", text(c.control.why), number(c.worst)] for c in one.controls)
    return table(["must fail", "why", "worst ratio"], rows, numeric=1)


def copy_report(app: Sphinx, error: Exception | None) -> None:
    """Copy the reports and their data next to the pages."""
    if error is None and app.builder.format == "html":
        shutil.copy(FOLDER / "report.html", Path(app.outdir) / "verification-report.html")
        for name in (
            "finetuning-report.html",
            "fast-path-report.html",
            "results.json",
        ):
            shutil.copy(FOLDER / name, Path(app.outdir) / name)
        (Path(app.outdir) / "sources.txt").write_text(fingerprint(PLAN), encoding="utf-8")


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the events."""
    app.connect("builder-inited", lambda app: outcomes())
    app.connect("build-finished", copy_report)
    return {"parallel_read_safe": True, "parallel_write_safe": True}

"""The report: a self-contained HTML file with every statement, ratio, control and figure,
and ``results.json``.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import jinja2
import matplotlib
import matplotlib.figure
from markupsafe import Markup, escape

from geolora_ref.support.files import strict, write_atomically, write_json
from verification.campaign.outcomes import ClaimOutcome
from verification.campaign.runner import in_a_line
from verification.claim import Figure, Plan, Results, Table
from verification.claims import CLAIMS, HEADINGS
from verification.report.fast_path import PAGE as FAST_PATH
from verification.report.glyphs import faces
from verification.support.machine import machine_facts, provenance
from verification.support.pictures import data_uri, svg
from verification.support.shown import Page, overview

__all__ = [
    "FILES",
    "PAGES",
    "Drawn",
    "as_data",
    "drawn",
    "mathematics",
    "number",
    "picture",
    "write_page",
    "write_pages_beside",
    "write_report",
]

FILES = ("results.json", "report.html")
"""The files of a report."""
PAGES = (FAST_PATH.file, "finetuning-report.html")
"""The further pages next to a report on all claims."""

CODE = re.compile(r"\b([a-z]{2,}(?:_[a-z]{2,})+|[A-Z]{3,}(?:_[A-Z0-9]+)+)\b")
"""A name of the code: words of two letters or more on both sides of each underscore, or capitals,
as of a library's errors.
"""
STYLE: Any = {
    "figure.figsize": (7.2, 4.2),
    "figure.constrained_layout.use": True,
    "font.size": 10,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.fontsize": 8,
    "legend.frameon": False,
    "lines.linewidth": 1.5,
}


class Drawn(NamedTuple):
    """A claim as the report shows it: the outcome (with the reasons where something could not be
    drawn), images and tables.
    """

    outcome: ClaimOutcome
    figures: Sequence[tuple[Figure, str]]
    tables: Sequence[tuple[Table, Sequence[Sequence[str]]]]


def drawn(
    outcomes: Sequence[ClaimOutcome],
    progress: Callable[[str, int, int], None] = lambda name, done, total: None,
) -> list[Drawn]:
    """All figures and tables; one that cannot be made is a reason why its claim does not stand.

    ``progress(claim id, done, total)`` is called claim after claim.
    """
    sections = []
    for done, outcome in enumerate(outcomes):
        progress(outcome.claim.id, done, len(outcomes))
        sections.append(_drawn(outcome))
    progress("report", len(outcomes), len(outcomes))
    return sections


def write_report(
    sections: Sequence[Drawn], plan: Plan, folder: Path, seconds: float, **counted: Any
) -> Path:
    """Write ``results.json`` and ``report.html``, each whole or not at all; returns the path of
    ``report.html``.

    A report on all claims links to the pages of :func:`write_pages_beside`.  ``counted`` : the
    keywords of :func:`as_data`.
    """
    data = as_data([section.outcome for section in sections], plan, seconds, **counted)
    report = _rendered("report.html.j2", sections=sections, data=data, plan=plan, headings=HEADINGS)
    write_json(folder / "results.json", data)
    write_atomically(folder / "report.html", report)
    return folder / "report.html"


def write_pages_beside(folder: Path) -> None:
    """Write the pages about what other commands measure, each whole or not at all: fast path and
    fine-tuning.

    They show the results of this machine, else the stored ones.  Fine-tuning takes hours: its page
    shows the stored ones.
    """
    write_page(FAST_PATH, Path("build"), folder)


def write_page(page: Page, results: Path, folder: Path) -> Path:
    """Write a page about the results in the folder ``results``; returns the path of the page."""
    items = overview(page.items, results)
    write_atomically(
        folder / page.file,
        _rendered("items.html.j2", page=page, items=items, machine=machine_facts()),
    )
    return folder / page.file


def _rendered(template: str, **content: Any) -> str:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.globals["faces"] = faces
    environment.filters |= {
        "number": number,
        "math": mathematics,
        "numeric": re.compile(r"[\d.,−+-]+( %)?").fullmatch,
    }
    return environment.get_template(template).render(**content)


def as_data(
    outcomes: Sequence[ClaimOutcome],
    plan: Plan,
    seconds: float,
    *,
    origin: Mapping[str, Any] | None = None,
    resumed: int = 0,
    foreign: Mapping[str, str] = MappingProxyType({}),
) -> dict[str, Any]:
    """Everything that was measured, as plain JSON data; numbers that JSON lacks are strings ("inf", "nan").

    ``origin`` : the provenance when the run began (default: now); ``resumed`` : the number of cases
    from an earlier run, whose time is not in ``seconds``; ``foreign`` : the digests of the sources
    of added claims, problems and integrators, by name.  The entry "all_claims" is the number of
    claims there are.
    """
    origin = origin or provenance()
    data = {
        "format": 1,
        "effort": plan.effort,
        "seed": plan.seed,
        "seconds": round(seconds, 1),
        "resumed": resumed,
        "all_claims": len(CLAIMS),
        "machine": origin["machine"],
        "sources": {**origin["sources"], **foreign},
        "claims": [
            {
                "id": outcome.claim.id,
                "title": outcome.claim.title,
                "section": outcome.claim.section,
                "statement": outcome.claim.statement,
                "hypotheses": list(outcome.claim.hypotheses),
                "limit": outcome.claim.limit,
                "unit": outcome.claim.unit,
                "scale": outcome.claim.scale,
                "holds": outcome.holds,
                "verdict": outcome.verdict,
                "problems": outcome.problems,
                "errors": {
                    f"{who} {result.case}".strip(): result.error
                    for who, results in [
                        ("", outcome.results),
                        *((c.control.id, c.results) for c in outcome.controls),
                    ]
                    for result in results
                    if result.error
                },
                "cases": len(outcome.results),
                "compared": outcome.count,
                "undecided": outcome.undecided,
                "worst": _rounded(outcome.worst),
                "median": _rounded(outcome.median),
                "ratios": {
                    r.case: {name: [*map(_rounded, of)] for name, of in r.ratios.items()}
                    for r in outcome.results
                },
                "controls": [
                    {
                        "id": c.control.id,
                        "why": c.control.why,
                        "worst": _rounded(c.worst),
                        "share": _rounded(c.share),
                        "fails": bool(c.failed),
                        "failed": sorted(c.failed),
                        "diverged": c.diverged,
                        "cases": len(c.results),
                    }
                    for c in outcome.controls
                ],
            }
            for outcome in outcomes
        ],
    }
    plain: dict[str, Any] = strict(data)
    return plain


def _rounded(ratio: float) -> float:
    """Four digits, for the page; verdicts use all digits."""
    return float(f"{ratio:.4g}")


def _drawn(outcome: ClaimOutcome) -> Drawn:
    """The figures and tables of one claim; none where a case broke, since the series of that case
    are missing.
    """
    figures, tables, broken = [], [], list(outcome.broken)
    if outcome.results and not any(result.error for result in outcome.results):
        for figure in outcome.claim.figures:
            try:
                figures.append((figure, data_uri(picture(figure, outcome.results))))
            except Exception as error:  # of a claim's own code, on what it has measured
                broken.append(f"figure {figure.title!r} cannot be drawn: {in_a_line(error)}")
        for table in outcome.claim.tables:
            try:
                tables.append((table, _rows(table, outcome.results)))
            except Exception as error:
                broken.append(f"table {table.title!r} cannot be made: {in_a_line(error)}")
    return Drawn(replace(outcome, broken=broken), figures, tables)


def _rows(table: Table, results: Results) -> list[list[str]]:
    """The rows of a table, the first of which is its head."""
    rows = [[str(cell) for cell in row] for row in table.rows(results)]
    if not rows:
        raise ValueError("expected a row at least, the names of the columns, found none")
    return rows


def picture(figure: Figure, results: Results) -> bytes:
    """A figure of a claim as SVG."""
    with matplotlib.rc_context(STYLE):
        drawing = matplotlib.figure.Figure()
        axes = drawing.add_subplot()
        figure.draw(axes, results)
        axes.tick_params(which="minor", labelsize=6)  # minor labels of logarithmic axes would touch
        return svg(drawing)


def number(value: float, digits: int = 3) -> str:
    """A number with so many significant digits; a very large or small one as a power of ten, with a
    digit less.
    """
    if not math.isfinite(value):
        return "∞" if value > 0 else str(value)
    return (
        f"{value:.{digits}g}"
        if value == 0 or 1e-3 <= abs(value) < 1e5
        else f"{value:.{digits - 2}e}"
    )


def mathematics(text: str) -> Markup:
    """Subscripts and superscripts as such: W_t, S_new, e_{k+1}, e^{μλ}; names of the code, such as
    max_rank, as code.
    """
    between = CODE.split(str(escape(text)))
    html = "".join(
        f"<code>{part}</code>" if i % 2 else _scripts(part) for i, part in enumerate(between)
    )
    return Markup(html)  # noqa: S704  (escaped above)


def _scripts(html: str) -> str:
    for mark, tag in (("_", "sub"), (r"\^", "sup")):
        html = re.sub(mark + r"(?:\{([^}]*)\}|([A-Za-z0-9Ͱ-Ͽ₀-₉]+))", rf"<{tag}>\1\2</{tag}>", html)
    return html

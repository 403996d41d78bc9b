"""The report: a self-contained HTML file with every statement, ratio, control and figure, and
``results.json``.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
import matplotlib
import matplotlib.figure
from markupsafe import Markup, escape

from geolora_ref.support.files import strict, write_atomically, write_json
from verification.claim import Figure, Plan, Results, Table
from verification.claims import CLAIMS, HEADINGS
from verification.outcome import ClaimOutcome
from verification.report.glyphs import faces
from verification.runner import in_a_line
from verification.support.pictures import data_uri, svg

__all__ = ["Drawn", "as_data", "drawn", "mathematics", "number", "picture", "write_report"]

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
    """A claim as the report shows it: the outcome, images, tables, and what could not be drawn.

    A picture that fails is a defect of the report, and says nothing about the claim.
    """

    outcome: ClaimOutcome
    figures: Sequence[tuple[Figure, str]]
    tables: Sequence[tuple[Table, Sequence[Sequence[str]]]]
    failures: Sequence[str]


def drawn(outcome: ClaimOutcome) -> Drawn:
    """The figures and tables of one claim; none where a case broke, since the series of that case
    are missing.
    """
    figures, tables, failures = [], [], list[str]()
    if outcome.results and not any(result.error for result in outcome.results):
        for figure in outcome.claim.figures:
            try:
                figures.append((figure, data_uri(picture(figure, outcome.results))))
            except Exception as error:  # of a claim's own code, on what it has measured
                failures.append(f"figure {figure.title!r} cannot be drawn: {in_a_line(error)}")
        for table in outcome.claim.tables:
            try:
                tables.append((table, _rows(table, outcome.results)))
            except Exception as error:
                failures.append(f"table {table.title!r} cannot be made: {in_a_line(error)}")
    return Drawn(outcome, figures, tables, failures)


def write_report(
    sections: Sequence[Drawn], plan: Plan, folder: Path, seconds: float, origin: Mapping[str, Any]
) -> Path:
    """Write ``results.json`` and ``report.html``, each whole or not at all; returns the path of
    ``report.html``.  ``origin`` : the provenance when the run began.
    """
    data = as_data([section.outcome for section in sections], plan, seconds, origin)
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.globals["faces"] = faces
    environment.filters |= {"number": number, "math": mathematics}
    template = environment.get_template("report.html.j2")
    report = template.render(sections=sections, data=data, plan=plan, headings=HEADINGS)
    write_json(folder / "results.json", data)
    write_atomically(folder / "report.html", report)
    return folder / "report.html"


def as_data(
    outcomes: Sequence[ClaimOutcome], plan: Plan, seconds: float, origin: Mapping[str, Any]
) -> dict[str, Any]:
    """Everything that was measured, as plain JSON data; numbers that JSON lacks are strings ("inf", "nan").

    The entry "all_claims" is the number of claims there are.
    """
    data = {
        "format": 2,
        "effort": plan.effort,
        "seed": plan.seed,
        "seconds": round(seconds, 1),
        "all_claims": len(CLAIMS),
        "machine": origin["machine"],
        "sources": origin["sources"],
        "claims": [_claim_data(outcome) for outcome in outcomes],
    }
    plain: dict[str, Any] = strict(data)
    return plain


def _claim_data(outcome: ClaimOutcome) -> dict[str, Any]:
    claim, controls = outcome.claim, outcome.controls
    whose = [("", outcome.results), *((c.control.id, c.results) for c in controls)]
    return {
        "id": claim.id,
        "title": claim.title,
        "section": claim.section,
        "statement": claim.statement,
        "hypotheses": list(claim.hypotheses),
        "limit": claim.limit,
        "unit": claim.unit,
        "scale": claim.scale,
        "holds": outcome.holds,
        "problems": outcome.problems,
        "errors": {
            f"{who} {result.case}".strip(): result.error
            for who, results in whose
            for result in results
            if result.error
        },
        "cases": len(outcome.results),
        "undecided": outcome.undecided,
        "compared": [
            one._asdict() | {"median": _rounded(one.median), "worst": _rounded(one.worst)}
            for one in outcome.compared
        ],
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
                "failed": sorted(c.failed),
                "diverged": c.diverged,
                "cases": len(c.results),
            }
            for c in controls
        ],
    }


def _rounded(ratio: float) -> float:
    """Four digits, for the page; verdicts use all digits."""
    return float(f"{ratio:.4g}")


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

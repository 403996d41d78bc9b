"""Show on the pages what the verification measured: numbers are read from results.json, figures are
drawn from the journal.

``{measured} descent`` shows one claim, ``{measured-rest}`` the claims that no page places by hand,
``{verdicts}`` a table of all, ``{worst}`descent``` the worst ratio of a claim in a sentence.
Sources that were verified before are not verified again; for others the quick verification runs
first.  A claim that does not stand is a warning, so the documentation cannot be built on it.
"""

from __future__ import annotations

import os
import re
import shutil
import time
from functools import cache
from html import escape
from pathlib import Path
from typing import Any

from docutils import nodes
from geolora_ref.support.files import locked, read_json
from sphinx.application import Sphinx
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective, SphinxRole
from verification.campaign.journal import Journal, fingerprint
from verification.campaign.outcomes import ClaimOutcome
from verification.campaign.runner import run, units
from verification.claim import Claim, Figure, Plan, Results
from verification.claims import CLAIMS
from verification.report.report import (
    drawn,
    mathematics,
    number,
    picture,
    write_pages_beside,
    write_report,
)
from verification.support.machine import provenance

from formulas import formulas

LOGGER = logging.getLogger(__name__)
DOCS = Path(__file__).resolve().parent.parent
FOLDER = DOCS.parent / "build" / "verification" / "quick"
FIGURES = DOCS / "_generated" / "figures"
PLAN = Plan("quick", 0)


@cache
def outcomes() -> dict[str, ClaimOutcome]:
    """Every claim with everything that was measured for it, from the journal of exactly these sources.

    Raises ``BlockingIOError`` if another run is using the folder.
    """
    with locked(FOLDER):
        found = _found()
    for outcome in found:
        for problem in outcome.problems:
            LOGGER.warning("claim %s does not stand: %s", outcome.claim.id, problem)
    return {outcome.claim.id: outcome for outcome in found}


def _found() -> list[ClaimOutcome]:
    """The outcomes; the report is written again unless it was made from them."""
    claims, journal = list(CLAIMS.values()), Journal(FOLDER, PLAN, fresh=False)
    whole, started = len(journal.done) == len(units(claims, PLAN)), time.monotonic()

    def progress(claim: str, done: int, total: int) -> None:
        if done == 0:
            LOGGER.info("verifying: %d measurements, those of other sources do not count", total)

    origin, resumed = provenance(), len(journal.done)
    found = run(claims, PLAN, journal, jobs=os.cpu_count() or 1, progress=progress)
    if not whole or not _made_from_these():
        write_pages_beside(FOLDER)
        write_report(
            drawn(found), PLAN, FOLDER, time.monotonic() - started, origin=origin, resumed=resumed
        )
    return found


def _made_from_these() -> bool:
    """Return whether the report is that of all claims, of this plan and of these sources."""
    try:
        data = read_json(FOLDER / "results.json")
    except (ValueError, OSError):
        return False
    ids = [claim["id"] for claim in data["claims"]]
    return (data["effort"], data["seed"], data["sources"], ids) == (
        PLAN.effort,
        PLAN.seed,
        provenance()["sources"],
        list(CLAIMS),
    )


@cache
def results() -> dict[str, dict[str, Any]]:
    """The claims of results.json by id."""
    outcomes()
    return {claim["id"]: claim for claim in read_json(FOLDER / "results.json")["claims"]}


def anchor(claim: str) -> str:
    """The label of a claim's place in the documentation."""
    return f"claim-{claim}"


def value(x: float | str) -> str:
    """A number of results.json, where "inf" is a string."""
    return str(number(float(x)))


def badge(holds: bool, good: str = "holds", bad: str = "does not stand") -> str:
    """A verdict in a colour."""
    return f'<span class="verdict {"good" if holds else "bad"}">{good if holds else bad}</span>'


def table(head: list[str], rows: list[list[str]], numeric: int = 0) -> str:
    """An HTML table of cells that are HTML already; the last ``numeric`` columns are numbers."""
    first = len(head) - numeric

    def row(cells: list[str], tag: str) -> str:
        marked = (
            f"<{tag}{' class=n' if i >= first else ''}>{cell}</{tag}>"
            for i, cell in enumerate(cells)
        )
        return f"<tr>{''.join(marked)}</tr>"

    body = "".join(row(cells, "td") for cells in rows)
    return f'<div class="scroll"><table class="measured">{row(head, "th")}{body}</table></div>'


def summary(claim: dict[str, Any]) -> str:
    """One line: the verdict, the worst ratio, how much was compared, how many controls fail."""
    failing = sum(control["fails"] for control in claim["controls"])
    return (
        f"{badge(claim['holds'])} worst ratio <b>{value(claim['worst'])}</b> (median {value(claim['median'])}, "
        f"limit {value(claim['limit'])} {claim['unit']}); {claim['compared']} comparisons in {claim['cases']} cases; "
        f"{failing} of {len(claim['controls'])} negative controls fail, as they must"
    )


def _inequalities(outcome: ClaimOutcome) -> str:
    natural = outcome.claim.by_nature
    rows = [
        [
            str(mathematics(one.name)),
            str(one.count),
            value(one.median),
            value(one.worst) + " (yes or no)" * (one.name in natural),
        ]
        for one in outcome.compared
    ]
    return table(["compared", "times", "median", "worst ratio"], rows, numeric=3)


def _checked(claim: dict[str, Any]) -> list[nodes.Node]:
    """The statement as checked, its hypotheses and its scale, each a paragraph with formulas."""
    texts = {"": claim["statement"], "Hypotheses: ": "; ".join(claim["hypotheses"])}
    texts["In rounding units c·eps·s: "] = f"s = {claim['scale']}" if claim["scale"] else ""
    return [
        nodes.paragraph(
            "",
            "",
            nodes.Text(name),
            *formulas(text),
            nodes.Text("." if name else ""),
            classes=["checked"],
        )
        for name, text in texts.items()
        if text
    ]


def _controls(claim: dict[str, Any]) -> str:
    rows = [
        [
            f"<code>{escape(c['id'])}</code>",
            str(mathematics(c["why"])),
            value(c["worst"]),
            badge(c["fails"], "fails, as it must", "passes"),
        ]
        for c in claim["controls"]
    ]
    return table(["must fail", "why", "worst ratio", ""], rows)


def _details(title: str, html: str) -> str:
    return f"<details class='measured'><summary>{title}</summary>{html}</details>"


def raw(html: str) -> nodes.raw:
    """HTML as it is."""
    return nodes.raw("", html, format="html")


def figure_node(claim: str, index: int, figure: Figure, found: Results) -> nodes.figure:
    """The figure as an SVG file next to the page."""
    path = FIGURES / f"{claim}-{index}.svg"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(picture(figure, found))
    image = nodes.image(
        uri=f"/{path.relative_to(DOCS).as_posix()}", alt=f"{figure.title}: {figure.caption}"
    )
    caption = nodes.caption(
        "", "", raw(f"<b>{escape(figure.title)}.</b> {mathematics(figure.caption)}")
    )
    return nodes.figure("", image, caption)


def sources(directive: SphinxDirective, claim: Claim) -> list[nodes.Node]:
    """Sources of a claim in the literature: statements, methods or problems, as citations."""
    return directive.parse_text_to_nodes(f"Literature: {{cite}}`{','.join(claim.sources)}`.")


def measured(claim_id: str, cited: list[nodes.Node], explanation: str) -> list[nodes.Node]:
    """One claim: statement as checked, verdict, how it is checked, sources, figures, tables, and
    what was compared with what.
    """
    claim, outcome = results()[claim_id], outcomes()[claim_id]
    box = nodes.container(classes=["measured"], ids=[anchor(claim_id)])
    box += raw(
        f'<p class="measured-head"><b>Measured</b>: {escape(claim["title"])} <code>{claim_id}</code></p><p>{summary(claim)}</p>'
    )
    box += _checked(claim)
    box += raw(f"<p>{mathematics(explanation)}</p>" if explanation else "")
    box += cited
    for index, figure in enumerate(outcome.claim.figures):
        box += figure_node(claim_id, index, figure, outcome.results)
    for extra in outcome.claim.tables:
        head, *rows = [
            [str(mathematics(cell)) for cell in row] for row in extra.rows(outcome.results)
        ]
        html = table(head, rows)
        title = f"{mathematics(extra.title)} ({len(rows)} rows)"
        box += raw(_details(title, html) if len(rows) > 12 else f"<p>{title}</p>{html}")
    box += raw(
        _details("What was compared", _inequalities(outcome))
        + _details("Negative controls", _controls(claim))
    )
    return [box]


class Measured(SphinxDirective):
    """``{measured} claim``: what was measured for one claim."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """The claim, or an error that lists those there are."""
        (name,) = self.arguments
        if name not in CLAIMS:
            raise self.error(f"measured: expected one of {', '.join(CLAIMS)}, found {name!r}")
        register(self.env, name, self.env.docname)
        return measured(name, sources(self, CLAIMS[name]), CLAIMS[name].explanation)


class MeasuredRest(SphinxDirective):
    """``{measured-rest}``: every claim that no page places by hand, each with its explanation."""

    def run(self) -> list[nodes.Node]:
        """One section of the page for each claim."""
        sections: list[nodes.Node] = []
        for claim in CLAIMS.values():
            if claim.id in placed_by_hand():
                continue
            register(self.env, claim.id, self.env.docname)
            section = nodes.section(ids=[f"section-{claim.id}"], names=[claim.title.lower()])
            section += nodes.title("", claim.title)
            section += raw(f"<p>{mathematics(claim.explanation)}</p>")
            section += measured(claim.id, sources(self, claim), "")
            sections.append(section)
        return sections


def placed_by_hand() -> set[str]:
    """The claims that pages name in a ``{measured}`` directive."""
    pages = (
        path.read_text(encoding="utf-8")
        for path in DOCS.rglob("*.md")
        if "_generated" not in path.parts
    )
    return {
        name
        for text in pages
        for name in re.findall(r"^:{3,}\{measured\} (\S+)$", text, re.MULTILINE)
    }


def depend(env: Any) -> None:
    """Rebuild the page that is being read when other numbers have been measured."""
    env.note_dependency(str(FOLDER / "results.json"))


def register(env: Any, claim: str, docname: str) -> None:
    """Remember which page shows a claim."""
    depend(env)
    if not hasattr(env, "geolora_claim_pages"):
        env.geolora_claim_pages = {}
    env.geolora_claim_pages.setdefault(docname, set()).add(claim)


class Verdicts(SphinxDirective):
    """``{verdicts}``: all claims in one table."""

    def run(self) -> list[nodes.Node]:
        """The table; the titles become links when all pages are known."""
        depend(self.env)
        rows = [
            [
                f"<!--claim {claim['id']}-->{escape(claim['title'])}<!--/claim-->",
                badge(claim["holds"]),
                str(claim["compared"]),
                value(claim["median"]),
                value(claim["worst"]),
                value(claim["limit"]),
                f"{sum(c['fails'] for c in claim['controls'])}/{len(claim['controls'])}",
            ]
            for claim in results().values()
        ]
        head = ["claim", "verdict", "compared", "median", "worst", "limit", "controls that fail"]
        return [ClaimLinks("", table(head, rows, numeric=5), format="html")]


class ClaimLinks(nodes.raw):
    """Raw HTML in which ``<!--claim id-->text<!--/claim-->`` is still to become a link."""


class Worst(SphinxRole):
    """``{worst}`claim```: the worst ratio of a claim."""

    def run(self) -> tuple[list[nodes.Node], list[nodes.system_message]]:
        """The number."""
        depend(self.env)
        return [nodes.strong("", value(results()[self.text]["worst"]))], []


def link_claims(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    """Turn the marks of :class:`ClaimLinks` into links."""
    pages = {
        claim: page
        for page, claims in getattr(app.env, "geolora_claim_pages", {}).items()
        for claim in claims
    }
    for node in list(doctree.findall(ClaimLinks)):
        html = node.astext()
        for claim in CLAIMS:
            if f"<!--claim {claim}-->" not in html:
                continue
            if claim not in pages:
                LOGGER.warning("no page shows the claim %s", claim, location=docname)
                continue
            target = app.builder.get_relative_uri(docname, pages[claim])
            html = html.replace(
                f"<!--claim {claim}-->", f'<a class="reference" href="{target}#{anchor(claim)}">'
            )
        node.replace_self(raw(html.replace("<!--/claim-->", "</a>")))


def purge(app: Sphinx, env: Any, docname: str) -> None:
    """Forget what a page showed before it is read again."""
    getattr(env, "geolora_claim_pages", {}).pop(docname, None)


def merge(app: Sphinx, env: Any, docnames: list[str], other: Any) -> None:
    """Join what parallel readers found."""
    for docname, claims in getattr(other, "geolora_claim_pages", {}).items():
        for claim in claims:
            register(env, claim, docname)


def copy_report(app: Sphinx, error: Exception | None) -> None:
    """Copy the report and its data next to the pages, and write a digest of the sources that all of
    it was made from.
    """
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
    """Register directives, role and events."""
    app.add_directive("measured", Measured)
    app.add_directive("measured-rest", MeasuredRest)
    app.add_directive("verdicts", Verdicts)
    app.add_role("worst", Worst())
    app.add_node(ClaimLinks)
    app.connect("builder-inited", lambda app: outcomes())
    app.connect("doctree-resolved", link_claims)
    app.connect("env-purge-doc", purge)
    app.connect("env-merge-info", merge)
    app.connect("build-finished", copy_report)
    return {"parallel_read_safe": True, "parallel_write_safe": True}

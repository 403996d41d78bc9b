"""Make one table of several reports: the conditions of each run, and the results at every trap."""

from __future__ import annotations

import html
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from geolora_ref.oracle.reports.report import FORMAT
from geolora_ref.oracle.trial.choice import Choice
from geolora_ref.support.files import read_regular

__all__ = ["Scoreboard", "read_report", "scoreboard"]

SELECTION = ("select", "quick", "shapes", "fuzz", "seed", "fail_fast", "repeat")
FIELDS: Mapping[str, type | tuple[type, ...]] = {
    **dict.fromkeys(("backend", "dtype", "precision"), str),
    **dict.fromkeys(
        ("batched", "whole", "diagonal", "directions", "quick", "fail_fast", "passed"), bool
    ),
    **dict.fromkeys(("threads", "fuzz", "seed", "repeat", "cases"), int),
    **dict.fromkeys(("problems", "rows", "shapes"), list),
    **dict.fromkeys(("environment", "select"), dict),
    "worst_ratio": (int, float, str),
    "defect": (dict, type(None)),
}
OUTCOMES = ("passed", "failed", "xfailed", "xpassed")
MARK = "†"
CONFORMS = "conforms"


def read_report(path: Path) -> dict[str, Any]:
    """A report of ``geolora-ref check --json``; ``ValueError`` that names the file for anything
    else, ``OSError`` like open.
    """
    try:
        data = json.loads(read_regular(path))
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"{path}: expected a report of geolora-ref check --json, found no JSON: {error}"
        ) from error
    found = data.get("format") if isinstance(data, dict) and "rows" in data else "none"
    if found != FORMAT:
        raise ValueError(
            f"{path}: expected a report of geolora-ref check --json of format {FORMAT}, found {found!r}"
        )
    wrong = next(_wrong(data), None)
    if wrong is not None:
        raise ValueError(
            f"{path}: {wrong}: expected what geolora-ref check --json writes, found {str(data.get(wrong))[:80]}"
        )
    return dict(data)


def _wrong(data: Mapping[str, Any]) -> Iterator[str]:
    """The fields whose values no report can have."""
    yield from (name for name, kind in FIELDS.items() if not isinstance(data.get(name), kind))
    if not all(isinstance(value, str) for value in data["environment"].values()):
        yield "environment"
    if not all(map(_is_row, data["rows"])) or not (data["rows"] or data["problems"]):
        yield "rows"
    if data["cases"] != len(data["rows"]):
        yield "cases"
    if data["passed"] != (_verdict(data) == CONFORMS):
        yield "passed"
    try:
        _words(data)
    except (ValueError, TypeError):
        yield "select"


def _is_row(row: Any) -> bool:
    return (
        isinstance(row, dict)
        and isinstance(row.get("group"), str)
        and row.get("outcome") in OUTCOMES
    )


@dataclass(frozen=True)
class Scoreboard:
    """A table: a heading for each report, rows by title, and notes below the table."""

    heads: Sequence[str]
    rows: Mapping[str, Sequence[str]]
    notes: Sequence[str]

    def markdown(self) -> str:
        """The table and the notes in Markdown."""
        lines = [
            ["", *self.heads],
            ["---"] * (1 + len(self.heads)),
            *([title, *cells] for title, cells in self.rows.items()),
        ]
        table = ["| " + " | ".join(map(_plain, line)) + " |" for line in lines]
        return "\n".join([*table, *(f"\n{_plain(note)}" for note in self.notes)])

    def html(self) -> str:
        """The table and the notes as a whole HTML page."""
        body = "".join(_row("th", title, cells) for title, cells in self.rows.items())
        notes = "".join(f"<p>{html.escape(note)}</p>\n" for note in self.notes)
        return PAGE.format(
            table=f"<table>\n{_row('th', '', self.heads, 'th')}{body}</table>\n{notes}"
        )


PAGE = """\
<!doctype html>
<html lang="en"><meta charset="utf-8"><title>GeoLoRA steps</title>
<style>body {{ font-family: sans-serif }} td, th {{ border: 1px solid #bbb; padding: .2em .5em; text-align: left }}
table {{ border-collapse: collapse }}</style>
<h1>GeoLoRA steps, and the traps that they met</h1>
{table}</html>
"""


def _plain(text: str) -> str:
    """A text that cannot break a Markdown table: one line, with HTML and bars escaped."""
    return html.escape(" ".join(text.split()), quote=False).replace("|", "\\|")


def _row(kind: str, title: str, cells: Sequence[str], other: str = "td") -> str:
    data = "".join(f"<{other}>{html.escape(cell)}</{other}>" for cell in cells)
    return f"<tr><{kind}>{html.escape(title)}</{kind}>{data}</tr>\n"


def scoreboard(reports: Sequence[Mapping[str, Any]]) -> Scoreboard:
    """Backends side by side, in the order given.

    Facts that all reports share are put into a note.  Reports of another kit or catalogue than the
    first one's are marked.
    """
    facts = {title: [fact(report) for report in reports] for title, fact in FACTS.items()}
    groups = dict.fromkeys(row["group"] for report in reports for row in report["rows"])
    traps = {group: [_cell(report, group) for report in reports] for group in groups}
    alike = {
        title: cells[0] for title, cells in facts.items() if len(reports) > 1 and len({*cells}) == 1
    }
    versions = [
        tuple(report["environment"].get(name) for name in ("kit", "catalogue"))
        for report in reports
    ]
    heads = [
        f"{report['backend']}{f' {MARK}' * (of != versions[0])}"
        for report, of in zip(reports, versions, strict=True)
    ]
    notes = (
        ["Of all: " + "; ".join(f"{title} {fact}" for title, fact in alike.items() if fact) + "."]
        if any(alike.values())
        else []
    )
    if len({*versions}) > 1:
        notes.append(
            f"{MARK} Not comparable with the first one: another version of the kit, or of its catalogue."
        )
    rows = {
        title: cells
        for title, cells in (facts | traps).items()
        if title not in alike and any(cells)
    }
    return Scoreboard(heads, rows, notes)


def _of(name: str) -> Callable[[Mapping[str, Any]], str]:
    return lambda report: report["environment"].get(name, "")


def _verdict(report: Mapping[str, Any]) -> str:
    outcomes = Counter(row["outcome"] for row in report["rows"])
    failed = outcomes["failed"] + outcomes["xpassed"]
    if not (failed or report["problems"]):
        return CONFORMS
    return "; ".join(
        [f"{failed} of {len(report['rows'])} fail"] * bool(failed)
        + [str(one) for one in report["problems"]]
    )


def _defect(report: Mapping[str, Any]) -> str:
    """The line and the mutant that the diagnosis names."""
    defect = report["defect"] or {}
    line = f"line {defect['line']}" if defect.get("line") else ""
    return ": ".join(filter(None, (line, str(defect.get("mutant") or ""))))


def _words(report: Mapping[str, Any]) -> str:
    """The selection of cases in words; ``ValueError`` or ``TypeError`` for an impossible selection."""
    return Choice(**{name: report[name] for name in SELECTION}).words


def _promised(report: Mapping[str, Any]) -> str:
    promises = [name for name in ("batched", "whole", "directions") if report[name]] + [
        "dense core"
    ] * (not report["diagonal"])
    return ", ".join(promises + [f"{report['threads']} threads"] * (report["threads"] > 1))


def _precision(report: Mapping[str, Any]) -> str:
    dtype, precision = report["dtype"], report["precision"]
    return dtype if dtype == precision else f"{dtype}, computed in {precision}"


def _ratio(report: Mapping[str, Any]) -> str:
    ratio = report["worst_ratio"]
    return ratio if isinstance(ratio, str) else f"{ratio:.3g}"


FACTS: Mapping[str, Callable[[Mapping[str, Any]], str]] = {
    "verdict": _verdict,
    "defect": _defect,
    "worst ratio": _ratio,
    "dtype": _precision,
    "promised": _promised,
    "asked": _words,
    **{
        title: _of(title)
        for title in ("library", "blas", "device", "processor", "kit", "catalogue")
    },
}


def _cell(report: Mapping[str, Any], group: str) -> str:
    """The number of cases of a group, and how many of them fail."""
    outcomes = Counter(row["outcome"] for row in report["rows"] if row["group"] == group)
    failed, known, count = (
        outcomes["failed"] + outcomes["xpassed"],
        outcomes["xfailed"],
        outcomes.total(),
    )
    if failed:
        return f"{failed} of {count} fail"
    return f"{count}, {known} known to fail" if known else str(count or "–")

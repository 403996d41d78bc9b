"""Make one table of several reports: the conditions of each run, and the results by group."""

from __future__ import annotations

import html
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from geolora_ref.oracle.reports.report import FORMAT
from geolora_ref.oracle.trial.choice import Choice
from geolora_ref.support.files import read_regular

__all__ = ["read_report", "scoreboard"]

SELECTION = ("select", "quick", "shapes", "fuzz", "seed", "fail_fast", "repeat")
PROMISES = ("batched", "whole", "directions", "diagonal", "threads")
FIELDS = {"backend", "dtype", "precision", "problems", "rows", "worst_ratio", "defect"}
NEEDED = FIELDS | {"environment", *SELECTION, *PROMISES}
ENVIRONMENT = ("library", "blas", "device", "processor", "kit", "catalogue")
MARK = "†"

Data = Mapping[str, Any]


def read_report(path: Path) -> dict[str, Any]:
    """A report of ``geolora-ref check --json``; ``ValueError`` that names the file for anything
    else, ``OSError`` like open.
    """
    wanted = f"{path}: expected a report of geolora-ref check --json of format {FORMAT}"
    try:
        data: dict[str, Any] = dict(json.loads(read_regular(path)))
    except (ValueError, TypeError, RecursionError) as error:
        raise ValueError(f"{wanted}, found {error}") from error
    if data.get("format") != FORMAT:
        raise ValueError(f"{wanted}, found format {data.get('format')}")
    if missing := NEEDED - data.keys():
        raise ValueError(f"{wanted}, found none of the fields {', '.join(sorted(missing))}")
    return data


def scoreboard(reports: Sequence[Data]) -> str:
    """Backends next to each other, in the order given, in Markdown.

    Facts that all reports share are put into a note.  Reports of another kit or catalogue than the
    first one's are marked.
    """
    facts = [_facts(report) for report in reports]
    titles = [title for title in facts[0] if any(fact[title] for fact in facts)]
    alike = {title for title in titles if len({fact[title] for fact in facts}) == 1}
    alike = alike if len(reports) > 1 else set()
    versions = [(fact["kit"], fact["catalogue"]) for fact in facts]
    heads = [
        f"{report['backend']}{f' {MARK}' * (version != versions[0])}"
        for report, version in zip(reports, versions, strict=True)
    ]
    lines = [["", *heads], ["---"] * (1 + len(heads))]
    lines += [[title, *(fact[title] for fact in facts)] for title in titles if title not in alike]
    for group in dict.fromkeys(row["group"] for report in reports for row in report["rows"]):
        lines.append([group, *(_cell(report, group) for report in reports)])
    text = ["| " + " | ".join(map(_plain, line)) + " |" for line in lines]
    if alike:
        common = "; ".join(f"{title} {facts[0][title]}" for title in titles if title in alike)
        text.append(f"\nOf all: {_plain(common)}.")
    if len({*versions}) > 1:
        note = "Not comparable with the first one: another version of the kit, or of its catalogue."
        text.append(f"\n{MARK} {note}")
    return "\n".join(text)


def _plain(text: str) -> str:
    """A text that cannot break a Markdown table: one line, with HTML and bars escaped."""
    return html.escape(" ".join(text.split()), quote=False).replace("|", "\\|")


def _facts(report: Data) -> dict[str, str]:
    """The result of a run and its conditions, by title."""
    ratio, dtype, precision = (report[name] for name in ("worst_ratio", "dtype", "precision"))
    defect = report["defect"] or {}
    line = f"line {defect['line']}" if defect.get("line") else ""
    promised = [name for name in ("batched", "whole", "directions") if report[name]]
    promised += ["dense core"] * (not report["diagonal"])
    promised += [f"{report['threads']} threads"] * (report["threads"] > 1)
    return {
        "verdict": _verdict(report),
        "defect": ": ".join(filter(None, (line, defect.get("mutant") or ""))),
        "worst ratio": ratio if isinstance(ratio, str) else f"{ratio:.3g}",
        "dtype": dtype if dtype == precision else f"{dtype}, computed in {precision}",
        "promised": ", ".join(promised),
        "asked": Choice(**{name: report[name] for name in SELECTION}).words,
        **{title: report["environment"].get(title, "") for title in ENVIRONMENT},
    }


def _verdict(report: Data) -> str:
    failed = sum(row["outcome"] in ("failed", "xpassed") for row in report["rows"])
    found = [f"{failed} of {len(report['rows'])} fail"] * bool(failed) + report["problems"]
    return "; ".join(found) or "conforms"


def _cell(report: Data, group: str) -> str:
    """The number of cases of a group, and how many of them fail."""
    outcomes = Counter(row["outcome"] for row in report["rows"] if row["group"] == group)
    failed, known = outcomes["failed"] + outcomes["xpassed"], outcomes["xfailed"]
    if failed:
        return f"{failed} of {outcomes.total()} fail"
    return f"{outcomes.total()}, {known} known to fail" if known else str(outcomes.total() or "–")

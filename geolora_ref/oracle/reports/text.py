"""Write a report as text for a terminal, and as JUnit XML."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections.abc import Sequence

from geolora_ref.oracle.judges.criteria import FAIL
from geolora_ref.oracle.reports.report import Report, Row

__all__ = ["junit", "summary"]

NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""Characters that XML 1.0 cannot hold, even as character references."""


def summary(report: Report, verdict: str = "") -> str:
    """The report for a terminal: failures by group, the first of each with its reason, the
    diagnosis, and the verdict.

    ``verdict`` : the word before the totals, by default whether the backend conforms.
    """
    groups: dict[str, list[str]] = {}
    for row in report.rows:
        groups.setdefault(row.group, []).append(row.outcome)
    lines = [f"{report.backend}  ({report.array}, {report.dtype})"]
    lines += [
        f"  {group:<12} {len(outcomes):4d} {_cases(len(outcomes)):<6} {_counted(outcomes)}"
        for group, outcomes in groups.items()
    ]
    failed = _failed(report)
    for row in failed[:10]:
        where = f", step {row.step}" if row.step else ""
        lines.append(f"  FAILED {row.id}{where}: {row.finding}\n      {row.reason}")
    if len(failed) > 10:
        lines.append(f"  … and {len(failed) - 10} more (--json FILE has them all)")
    lines += [f"  PROBLEM {problem}" for problem in report.problems]
    if report.warnings:
        worst = max(report.warnings, key=lambda row: row.ratio)
        criterion = max(worst.ratios, key=lambda name: worst.ratios[name], default="")
        numbers = f"worst {worst.ratio:.3g} in {criterion} of {worst.id}"
        passing = "case passes" if len(report.warnings) == 1 else "cases pass"
        lines.append(f"  {len(report.warnings)} {passing} above the warn level, {numbers}")
    if report.shared:
        lines.append(f"  {report.shared}")
    if report.diagnosis:
        lines.append(f"diagnosis: {report.diagnosis.text}")
    verdict = verdict or ("conforms" if report.passed else "DOES NOT CONFORM")
    return "\n".join(
        [*lines, f"{verdict}: {_totals(report)}, {report.seconds:.1f} s", _resolution(report)]
    )


def _counted(outcomes: Sequence[str]) -> str:
    """The outcomes of a group in words."""
    counts = {"failed": outcomes.count("failed"), "known to fail": outcomes.count("xfailed")}
    return ", ".join(f"{count} {what}" for what, count in counts.items() if count) or "passed"


def _cases(count: int) -> str:
    """The noun after a count of cases."""
    return "case" if count == 1 else "cases"


def _totals(report: Report) -> str:
    """The numbers of the verdict; known failures do not count in the worst ratio."""
    known = len(report.known_failures)
    totals = [
        f"{len(report.rows)} {_cases(len(report.rows))}"
        + (f" with {report.choice.words}" if report.choice.words else "")
    ]
    totals += [f"{known} known to fail"] if known else []
    if len(report.rows) > known:
        totals.append(
            f"worst ratio{' of the others' if known else ''} {report.worst_ratio:.3g} (fail above {FAIL:g})"
        )
    return ", ".join(totals)


def _resolution(report: Report) -> str:
    """The line on the size of errors that the verdict cannot see."""
    gross = "; as large as the step: only gross errors fail" if report.resolution >= 1.0 else ""
    units = f"{FAIL:g} units of {report.precision}"
    units += f" and the rounding of {report.dtype} storage" if report.stored else ""
    return f"resolution: errors below {report.resolution:.2g} s may pass, s = ‖W‖ + λ‖P(W)G‖₊ ({units}){gross}"


def _failed(report: Report) -> list[Row]:
    """The rows that fail unexpectedly; unexpected passes are among the problems instead."""
    return [row for row in report.rows if row.outcome == "failed"]


def junit(report: Report) -> str:
    """JUnit XML with one test case per row and one per problem (a listed failure that passes is a problem).

    The diagnosis is in ``system-out``.
    """
    tests, failures = (len(rows) + len(report.problems) for rows in (report.rows, _failed(report)))
    suite = ET.Element("testsuite", name=report.backend, tests=str(tests), failures=str(failures))
    for row in report.rows:
        case = ET.SubElement(
            suite, "testcase", classname=row.group, name=row.id, time=f"{row.seconds:.4f}"
        )
        if row.outcome == "failed":
            ET.SubElement(case, "failure", message=row.finding).text = row.reason
        elif row.outcome == "xfailed":
            ET.SubElement(case, "skipped", message=row.error)
    for number, problem in enumerate(report.problems, 1):
        case = ET.SubElement(suite, "testcase", classname="problem", name=f"problem-{number}")
        ET.SubElement(case, "failure", message=problem)
    if report.diagnosis:
        ET.SubElement(suite, "system-out").text = f"diagnosis: {report.diagnosis.text}"
    text = ET.tostring(suite, encoding="unicode", xml_declaration=True)
    return NOT_XML.sub(lambda found: found[0].encode("unicode_escape").decode(), text)

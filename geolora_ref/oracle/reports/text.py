"""Write a report as text for a terminal."""

from __future__ import annotations

from collections import Counter

from geolora_ref.oracle.judges.criteria import FAIL
from geolora_ref.oracle.reports.report import Report

__all__ = ["summary"]

LISTED = 10
"""The number of failures that are listed; the JSON report has all."""


def summary(report: Report, verdict: str = "") -> str:
    """The report for a terminal: totals by group, the first failures, the diagnosis, the verdict.

    ``verdict`` : the word before the totals, by default whether the backend conforms.
    """
    groups: dict[str, Counter[str]] = {}
    for row in report.rows:
        groups.setdefault(row.group, Counter())[row.outcome] += 1
    lines = [f"{report.backend}  ({report.array}, {report.dtype})"]
    for group, outcomes in groups.items():
        counts = {"failed": outcomes["failed"], "known to fail": outcomes["xfailed"]}
        found = ", ".join(f"{count} {what}" for what, count in counts.items() if count)
        lines.append(f"  {group:<12} {_cases(outcomes.total()):>10}  {found or 'passed'}")
    failed = [row for row in report.rows if row.outcome == "failed"]
    for row in failed[:LISTED]:
        where = f", step {row.step}" if row.step else ""
        lines.append(f"  FAILED {row.id}{where}: {row.finding}\n      {row.reason}")
    if len(failed) > LISTED:
        lines.append(f"  … and {len(failed) - LISTED} more (--json FILE has them all)")
    lines += [f"  PROBLEM {problem}" for problem in report.problems]
    if report.warnings:
        worst = max(report.warnings, key=lambda row: row.ratio)
        count = _cases(len(report.warnings))
        lines.append(f"  above the warn level: {count}, worst {worst.ratio:.3g} in {worst.id}")
    lines += [f"  {report.shared}"] if report.shared else []
    lines += [f"diagnosis: {report.diagnosis.text}"] if report.diagnosis else []
    verdict = verdict or ("conforms" if report.passed else "DOES NOT CONFORM")
    totals = f"{verdict}: {_totals(report)}, {report.seconds:.1f} s"
    return "\n".join([*lines, totals, _resolution(report)])


def _cases(count: int) -> str:
    return f"{count} case" if count == 1 else f"{count} cases"


def _totals(report: Report) -> str:
    """The numbers of the verdict; known failures do not count in the worst ratio."""
    known = len(report.known_failures)
    words = report.choice.words
    totals = [_cases(len(report.rows)) + (f" with {words}" if words else "")]
    totals += [f"{known} known to fail"] if known else []
    if len(report.rows) > known:
        worst = f"worst ratio{' of the others' if known else ''} {report.worst_ratio:.3g}"
        totals.append(f"{worst} (fail above {FAIL:g})")
    return ", ".join(totals)


def _resolution(report: Report) -> str:
    """The line on the size of errors that the verdict cannot see."""
    units = f"{FAIL:g} units of {report.precision}"
    units += f" and the rounding of {report.dtype} storage" if report.stored else ""
    gross = "; as large as the step: only gross errors fail" if report.resolution >= 1.0 else ""
    size = f"errors below {report.resolution:.2g} s may pass, s = ‖W‖ + λ‖P(W)G‖₊"
    return f"resolution: {size} ({units}){gross}"

"""What guards each line of Algorithm 1: checks, claims and mutants.

A claim guards a line if one of its negative controls breaks that line.
"""

from __future__ import annotations

import re

from geolora_ref.oracle.broken.mutants import MUTANTS
from geolora_ref.oracle.broken.stages import Stages
from geolora_ref.oracle.cases.step_case import TRAPS, StepCase
from geolora_ref.oracle.judges.criteria import judge_stages
from verification.outcome import ControlOutcome
from verification.report.report import number
from verification.trust.kill_matrix import page

from verified import folded, link, outcomes, table, text

BEFORE = {1: ("problems", "wrong gradient"), 2: ("one-backward-pass", "missing-transpose")}
"""The controls (claim, control) for the lines before the step, which no mutant can get wrong."""


def guards(number_of_line: str) -> str:
    """The guards of a line, as Markdown."""
    line, rows = int(number_of_line), []
    for name, one in outcomes().items():
        broken = [c for c in one.controls if breaks(name, c, line)]
        if broken:
            ratios = ", ".join(f"`{c.control.id}` {number(c.worst)}" for c in broken)
            rows.append([link(name), f"{number(one.worst)} of {number(one.claim.limit)}", ratios])
    mutants = [mutant for mutant in MUTANTS.values() if mutant.line == line]
    items = (
        f"- `{m.id}` {text(m.defect)}{' (found in public code)' * m.published}" for m in mutants
    )
    title = f"{len(mutants)} mutants break this line; all are rejected"
    checks = ", ".join(checks_of(line))
    parts = [
        f"**Stage checks** of the oracle: {checks}." if checks else "",
        table(["claim that fails if this line is wrong", "worst ratio", "with it broken"], rows),
        folded(title, "\n".join(items)) if mutants else "",
    ]
    return "\n\n".join(filter(None, parts))


def breaks(claim: str, control: ControlOutcome, line: int) -> bool:
    """Whether a control breaks this line."""
    name = control.control.id
    mutants = [part for part in name.split(": ") if part in MUTANTS]
    return BEFORE.get(line) == (claim, name) or any(MUTANTS[m].line == line for m in mutants[:1])


def checks_of(line: int) -> list[str]:
    """The stage criteria that name this line, as the oracle itself lists them."""
    inputs = StepCase.build(TRAPS["complex and dense"]).inputs()
    stages = dict(Stages().run(*inputs.arrays, **inputs.parameters))
    verdict = judge_stages(inputs, stages, stages.pop("output")).get(f"line {line}")
    return list(verdict.ratios) if verdict else []


def kill_matrix() -> str:
    """Which criterion rejects which mutant, one level below the page that shows it."""
    found = re.sub(r"^Printed by .*\n", "", page(), flags=re.MULTILINE)
    return re.sub("^#", "##", found, flags=re.MULTILINE)

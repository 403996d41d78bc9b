"""The matrix of which criterion rejects which mutant: ``python -m verification.trust.kill_matrix``
prints docs/kill_matrix.md.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np

from geolora_ref.oracle.broken.mutants import MUTANTS
from geolora_ref.oracle.broken.stages import ArrayFactors
from geolora_ref.oracle.cases.step_case import draw_cases
from geolora_ref.oracle.judges.criteria import FAIL, StepInputs, Verdict, judge, resolution
from geolora_ref.oracle.judges.storage import Storage
from geolora_ref.oracle.trial.conversion import EPS

__all__ = [
    "ALONE",
    "CASES",
    "CLAIMS",
    "CRITERIA",
    "SEED",
    "STAYS",
    "WITH_OTHERS",
    "matrix",
    "page",
    "passing",
    "verdicts",
]

CRITERIA = (
    "output",
    "orthonormal U",
    "orthonormal V",
    "stationarity",
    "dominance",
    "optimality",
    "rank clipping",
    "rank not too low",
    "rank not too high",
    "S diagonal",
    "S nonnegative",
    "S sorted",
)
"""All criteria on the result of a step; "output" means that there is nothing to judge."""

STAYS = {
    "dominance": (
        "Without it a stationary point that is no best approximation would pass where a large tail "
        "hides it.  Alone it rejects only where nearly equal singular values are exchanged next to "
        "such a tail (`test_dominance_is_needed`)."
    ),
    "optimality": (
        "It follows from stationarity and dominance up to a factor that grows with the rank.  It "
        "is the usual test, so its ratio lets a backend be compared with others."
    ),
}
"""The reasons for the criteria that no mutant needs."""

CASES, SEED = 150, 3
ALONE, WITH_OTHERS = "●", "○"
CLEAR = 2.0
"""A rejection is shown if it is clear by this factor, so that the page does not depend on the
rounding of a machine.
"""


@cache
def _inputs() -> tuple[StepInputs, ...]:
    return tuple(case.inputs() for case in draw_cases(CASES, SEED))


@cache
def _outputs(mutant: str) -> tuple[ArrayFactors, ...]:
    step = MUTANTS[mutant].step
    return tuple(step(*(X.copy() for X in x.arrays), **x.parameters) for x in _inputs())


@cache
def verdicts(mutant: str) -> tuple[Verdict, ...]:
    """The verdict on one mutant in every drawn case."""
    return tuple(judge(x, output) for x, output in zip(_inputs(), _outputs(mutant), strict=True))


@cache
def passing(precision: str, storage: str = "") -> tuple[str, ...]:
    """The mutants visible in the output that pass every drawn case if only this precision and
    storage are claimed.
    """
    claimed: dict[str, Any] = {
        "eps": EPS[precision],
        "storage": Storage.of(storage) if storage else None,
    }
    visible = (name for name, mutant in MUTANTS.items() if mutant.visible_in == "output")
    return tuple(name for name in visible if _passes(name, claimed))


def _passes(mutant: str, claimed: Mapping[str, Any]) -> bool:
    return all(
        judge(x, output, **claimed).passed
        for x, output in zip(_inputs(), _outputs(mutant), strict=True)
    )


@cache
def matrix() -> Mapping[str, Mapping[str, str]]:
    """Marks by mutant and criterion: ``ALONE`` if in some case nothing else rejects,
    ``WITH_OTHERS`` if others always do.
    """
    return {name: {criterion: _mark(name, criterion) for criterion in CRITERIA} for name in MUTANTS}


def _mark(mutant: str, criterion: str) -> str:
    if MUTANTS[mutant].visible_in == "kit":
        return ""
    found = ""
    for verdict in verdicts(mutant):
        ratios = {"output": np.inf} if verdict.error else verdict.ratios
        if ratios.get(criterion, 0.0) > CLEAR * FAIL:
            if all(ratio < FAIL / CLEAR for name, ratio in ratios.items() if name != criterion):
                return ALONE
            found = WITH_OTHERS
    return found


def _unmarked() -> list[str]:
    lines = ["| mutant | line | published | seen by |", "|---|---|---|---|"]
    hidden = {name: mutant for name, mutant in MUTANTS.items() if mutant.visible_in != "output"}
    for name, mutant in hidden.items():
        seen = (
            f"cases {', '.join(mutant.only_in)}" if mutant.only_in else f"the {mutant.visible_in}"
        )
        lines.append(f"| {name} | {mutant.line} | {_published(name)} | {seen} |")
    return lines


def _published(mutant: str) -> str:
    return "yes" if MUTANTS[mutant].published else ""


def page() -> str:
    """The page in Markdown."""
    marks = matrix()
    purposes = [
        "## Criteria that no mutant needs",
        "",
        *(f"- **{name}**: {reason}" for name, reason in STAYS.items()),
    ]
    precisions = ["## What a claim of less precision lets pass", "", PRECISIONS, *_precisions()]
    unmarked = ["## What no drawn case sees", "", UNMARKED, *_unmarked()]
    return "\n".join([HEAD, *_table(marks), "", *purposes, "", *unmarked, "", *precisions, ""])


HEAD = f"""\
# Kill matrix

Printed by `python -m verification.trust.kill_matrix`; a test compares it with this file.

{len(MUTANTS)} broken backends (*mutants*, described on {{doc}}`read/line_by_line`) meet
{len(CRITERIA)} criteria on {CASES} drawn cases in double precision.  {ALONE}: in some case nothing
else rejects the mutant.  {WITH_OTHERS}: it rejects, always together with others.  Every rejection
that is shown is clear by a factor of {CLEAR:g}.  *Published* mutants were found in public code.
"""

UNMARKED = """\
*The stages* see a wrong line below a right output, *the kit* sees wrong manners despite right
numbers.  Of *cases*, those of the catalogue whose ids begin so reject, some of them in single
precision alone, and drawn combinations of options (`covering-…`, `remainder-…`).
"""
PRECISIONS = f"""\
Which mutants pass all {CASES} cases if a backend claims less precision, or storage in fewer bits
than its arithmetic.  *May pass* is the share of s below which an error may pass in the median case.
"""
CLAIMS = {
    "float64": ("float64", ""),
    "float32": ("float32", ""),
    "float32, stored in float16": ("float32", "float16"),
    "float32, stored in bfloat16": ("float32", "bfloat16"),
    "float16": ("float16", ""),
    "bfloat16": ("bfloat16", ""),
}
"""The claims by name: the arithmetic, and the storage if it has fewer bits."""


def _table(marks: Mapping[str, Mapping[str, str]]) -> list[str]:
    lines = [
        "| " + " | ".join(("mutant", "line", "published", *CRITERIA)) + " |",
        "|---|---|---|" + ":-:|" * len(CRITERIA),
    ]
    for name, found in marks.items():
        if any(found.values()):
            lines.append(
                "| "
                + " | ".join([name, str(MUTANTS[name].line), _published(name), *found.values()])
                + " |"
            )
    needed = [sum(found[criterion] == ALONE for found in marks.values()) for criterion in CRITERIA]
    return [*lines, f"| {ALONE} in all |  |  | " + " | ".join(map(str, needed)) + " |"]


def _precisions() -> list[str]:
    lines = ["| claimed | may pass | pass | which |", "|---|---|---|---|"]
    for claim, (precision, storage) in CLAIMS.items():
        names, kept = passing(precision, storage), Storage.of(storage) if storage else None
        seen = statistics.median(
            [resolution(len(x.U), len(x.V), len(x.S), EPS[precision], kept) for x in _inputs()]
        )
        lines.append(f"| {claim} | {seen:.1e} s | {len(names)} | {', '.join(names)} |")
    return lines


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the page."""
    argparse.ArgumentParser(
        prog="python -m verification.trust.kill_matrix", description=main.__doc__
    ).parse_args(arguments)
    sys.stdout.write(page())


if __name__ == "__main__":
    main()

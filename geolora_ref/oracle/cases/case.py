"""A conformance case: one question to a backend, or a sequence of them, by a stable id."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from geolora_ref.oracle.cases.step_case import CaseParameters

__all__ = ["ConformanceCase", "question"]


@dataclass(frozen=True)
class ConformanceCase:
    """One question, or a sequence of them.

    ``flags`` name the traps; ``complex`` needs a complex dtype, ``wide-range`` the exponents of
    float32, ``double-range`` those of float64, ``stack`` a backend that takes stacks.
    ``steps`` > 1 is a sequence: the output of each step is the next input. ``trained`` changes S at
    random in between, as an optimizer does, in the arrays that the backend was given or, if
    ``returned``, in the array that it has returned.  ``last`` : names and values of the parameters
    that differ in the last step, as a schedule changes them.  ``layout`` : the memory layout of the
    arguments.  ``problems`` : the number of problems in a stack, by default chosen by the sizes.
    """

    id: str
    group: str
    flags: tuple[str, ...]
    reason: str
    parameters: CaseParameters
    steps: int = 1
    trained: bool = False
    returned: bool = False
    last: tuple[tuple[str, Any], ...] = ()
    layout: str = "rows"
    problems: int = 0


def question(
    group: str,
    name: str,
    flags: tuple[str, ...],
    reason: str,
    parameters: CaseParameters,
    **more: Any,
) -> ConformanceCase:
    """A case with the id "group-name", where hyphens replace blanks and underscores."""
    return ConformanceCase(
        f"{group}-{name}".replace(" ", "-").replace("_", "-"),
        group,
        (group, *flags),
        reason,
        parameters,
        **more,
    )

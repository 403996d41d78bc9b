"""What the cases that fail have in common, and no other case has: a branch of its own takes such questions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from geolora_ref.oracle.catalogue import ConformanceCase

__all__ = ["PROPERTIES", "shared"]

PROPERTIES: Mapping[str, Callable[[ConformanceCase], bool]] = {
    "S = 0": lambda case: case.parameters.core == "zero",
    "rank 1": lambda case: case.parameters.r == 1,
    "m < n": lambda case: case.parameters.m < case.parameters.n,
    "m > n": lambda case: case.parameters.m > case.parameters.n,
    "m = n": lambda case: case.parameters.m == case.parameters.n,
    "2r > min(m, n)": lambda case: 2 * case.parameters.r > min(case.parameters.m, case.parameters.n),
    "no gradient": lambda case: case.parameters.gradient == "zero",
    "λ = 0": lambda case: case.parameters.learning_rate == 0.0,
    "an absolute threshold": lambda case: case.parameters.theta is not None,
    "min_rank > 1": lambda case: case.parameters.min_rank > 1,
    "a max_rank": lambda case: case.parameters.max_rank is not None,
    "several steps": lambda case: case.steps > 1,
    "complex numbers": lambda case: case.parameters.complex,
    "arguments in another layout": lambda case: case.layout != "rows",
}
"""In words: what a question may have that others have not."""
LEAST, SHARE = 3, 1.0 / 3.0
"""So many failures with a property that no more than this share of the cases has are no coincidence."""


def shared(failed: Sequence[ConformanceCase], asked: Sequence[ConformanceCase]) -> str:
    """The rarest property that all failing cases have, and few of those that were asked; an empty string if there is none."""
    having = {name: [case for case in asked if has(case)] for name, has in PROPERTIES.items()}
    common = {
        name: cases for name, cases in having.items() if len(cases) <= SHARE * len(asked) and all(map(PROPERTIES[name], failed))
    }
    if len(failed) < LEAST or not common:
        return ""
    name = min(common, key=lambda property_: len(common[property_]))
    return f"all {len(failed)} failures have {name}, as {len(common[name])} of the {len(asked)} cases; no other case fails"

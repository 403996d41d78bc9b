"""Find a property that all failing cases share and few others have: code probably has a separate
branch for it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from geolora_ref.oracle.cases.case import ConformanceCase

__all__ = ["PROPERTIES", "shared"]


def _sizes(case: ConformanceCase) -> tuple[int, int, int]:
    return case.parameters.m, case.parameters.n, case.parameters.r


def _multiples(k: int) -> Callable[[ConformanceCase], bool]:
    return lambda case: all(size % k == 0 for size in _sizes(case))


PROPERTIES: Mapping[str, Callable[[ConformanceCase], bool]] = {
    "S = 0": lambda case: case.parameters.core == "zero",
    "rank 1": lambda case: case.parameters.r == 1,
    "m < n": lambda case: case.parameters.m < case.parameters.n,
    "m > n": lambda case: case.parameters.m > case.parameters.n,
    "m = n": lambda case: case.parameters.m == case.parameters.n,
    "2r > min(m, n)": lambda case: (
        2 * case.parameters.r > min(case.parameters.m, case.parameters.n)
    ),
    "r = 8": lambda case: case.parameters.r == 8,
    "r = 32 or r = 64": lambda case: case.parameters.r in (32, 64),
    "r = m = n": lambda case: case.parameters.r == case.parameters.m == case.parameters.n,
    **{f"sizes that are multiples of {k}": _multiples(k) for k in (4, 8, 16, 32)},
    "sizes one past a multiple of 32": lambda case: any(
        size > 32 and size % 32 == 1 for size in _sizes(case)
    ),
    "more than 100 rows": lambda case: case.parameters.m > 100,
    "more than 2048 rows or columns": lambda case: max(_sizes(case)) > 2048,
    "no gradient": lambda case: case.parameters.gradient == "zero",
    "λ = 0": lambda case: case.parameters.learning_rate == 0.0,
    "an absolute threshold": lambda case: case.parameters.theta is not None,
    "min_rank > 1": lambda case: case.parameters.min_rank > 1,
    "a max_rank": lambda case: case.parameters.max_rank is not None,
    "several steps": lambda case: case.steps > 1,
    "complex numbers": lambda case: case.parameters.complex,
    "arguments in another layout": lambda case: case.layout != "rows",
}
"""Properties of a question, in words and as predicates, for which code may have a separate branch."""
LEAST, SHARE = 3, 1.0 / 3.0
"""From ``LEAST`` failures on, a common property that at most ``SHARE`` of the cases have is no
coincidence.
"""


def shared(failed: Sequence[ConformanceCase], judged: Sequence[ConformanceCase]) -> str:
    """The rarest property that all failing cases and few of those that were ``judged`` have, in
    a sentence; empty if there is none.
    """
    having = {name: [case for case in judged if has(case)] for name, has in PROPERTIES.items()}
    common = {
        name: cases
        for name, cases in having.items()
        if len(cases) <= SHARE * len(judged) and all(map(PROPERTIES[name], failed))
    }
    if len(failed) < LEAST or not common:
        return ""
    name = min(common, key=lambda property_: len(common[property_]))
    return f"all {len(failed)} failures have {name}, as {len(common[name])} of the {len(judged)} cases; no other case fails"

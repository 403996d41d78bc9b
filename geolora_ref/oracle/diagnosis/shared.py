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


def _of_sizes(holds: Callable[[int, int, int], bool]) -> Callable[[ConformanceCase], bool]:
    return lambda case: holds(*_sizes(case))


PROPERTIES: Mapping[str, Callable[[ConformanceCase], bool]] = {
    "S = 0": lambda case: case.parameters.core == "zero",
    "rank 1": lambda case: case.parameters.r == 1,
    "m < n": _of_sizes(lambda m, n, r: m < n),
    "m > n": _of_sizes(lambda m, n, r: m > n),
    "m = n": _of_sizes(lambda m, n, r: m == n),
    "2r > min(m, n)": _of_sizes(lambda m, n, r: 2 * r > min(m, n)),
    "r = 8": lambda case: case.parameters.r == 8,
    "r = 32 or r = 64": lambda case: case.parameters.r in (32, 64),
    "r = m = n": _of_sizes(lambda m, n, r: r == m == n),
    **{f"sizes that are multiples of {k}": _multiples(k) for k in (4, 8, 16)},
    "sizes one past a multiple of 32": lambda case: any(
        size > 32 and size % 32 == 1 for size in _sizes(case)
    ),
    "more than 100 rows": lambda case: case.parameters.m > 100,
    "more than 1024 rows or columns": lambda case: max(_sizes(case)) > 1024,
    "no gradient": lambda case: case.parameters.gradient == "zero",
    "λ = 0": lambda case: case.parameters.learning_rate == 0.0,
    "an absolute threshold": lambda case: case.parameters.theta is not None,
    "min_rank > 1": lambda case: case.parameters.min_rank > 1,
    "a max_rank": lambda case: case.parameters.max_rank is not None,
    "several steps": lambda case: case.steps > 1,
    "complex numbers": lambda case: case.parameters.complex,
    "arguments in another layout": lambda case: case.layout != "rows",
}
"""Properties of a case, in words, for which code may have a separate branch."""
LEAST, SHARE = 3, 1.0 / 3.0
"""A property of so many failures, and of at most this share of cases, is no coincidence."""


def shared(failed: Sequence[ConformanceCase], judged: Sequence[ConformanceCase]) -> str:
    """The rarest property that all failing cases and few of those that were ``judged`` have, in
    a sentence; empty if there is none.
    """
    having = {name: sum(map(has, judged)) for name, has in PROPERTIES.items()}
    rare = [name for name, count in having.items() if count <= SHARE * len(judged)]
    common = [name for name in rare if all(map(PROPERTIES[name], failed))]
    if len(failed) < LEAST or not common:
        return ""
    name = min(common, key=having.__getitem__)
    cases = f"{having[name]} of the {len(judged)} cases"
    return f"all {len(failed)} failures have {name}, as {cases}; no other case fails"

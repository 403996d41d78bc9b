"""Cases in addition to the catalogue: sizes that the caller names, cases drawn from a seed, and the
smallest case that fails.

No property testing library is used: an id must fix the meaning of a question, and a library may
change how it draws cases.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, fields, replace
from typing import Any

import numpy as np

from geolora_ref.oracle.cases.case import ConformanceCase, question
from geolora_ref.oracle.cases.paths import at_size
from geolora_ref.oracle.cases.step_case import CaseParameters, draw_parameters

__all__ = ["Size", "drawn", "drawn_cases", "in_words", "of_size", "shape", "smallest"]

Size = tuple[int, int, int]
LAYOUTS = ("columns", "padded", "flat", "mixed", "swapped")
HARD = ("nearly in the range", "rank one", "graded")
SIZES = (4, 5, 8, 12, 16, 17, 24, 31, 32, 33, 48, 64, 65, 96, 127, 128, 129)
RANKS = (1, 2, 4, 7, 8, 9, 16, 17, 32, 33)
MOST = 150
"""The most cases that are run in the search for the smallest failing one."""


def shape(text: str) -> Size:
    """The sizes m, n, r of "MxNxR"; ``ValueError`` for anything else, and for r above min(m, n)."""
    found = re.fullmatch(r"(\d+)[x×](\d+)[x×](\d+)", text.strip())
    m, n, r = map(int, found.groups()) if found else (0, 0, 0)
    if not 1 <= r <= min(m, n):
        raise ValueError(
            f"shape: expected MxNxR, 1 <= R <= min(M, N), as in 4096x1024x64, found {text!r}"
        )
    return m, n, r


def of_size(size: Size) -> Iterator[ConformanceCase]:
    """Every limit, state, layout and hard gradient at this size: group "own"."""
    m, n, r = size
    name, why = "x".join(map(str, size)), "a size of your own"
    yield from at_size("own", name, m, n, r, why)
    plain = CaseParameters(m, n, r, "algebraic", "dense", "tangent", tau=0.05, bases="thin")
    for layout in LAYOUTS:
        yield question(
            "own",
            f"{name}-{layout}",
            (name, layout),
            f"{why}: strides have to be read",
            plain,
            layout=layout,
        )
    for gradient in HARD:
        parameters = replace(plain, gradient=gradient, learning_rate=1.0, tau=0.0)
        yield question(
            "own",
            f"{name}-{gradient}",
            (name, gradient),
            f"{why}: a hard gradient, {gradient}",
            parameters,
        )


def drawn(seed: int, number: int, *, complex_data: bool, layouts: Sequence[str]) -> ConformanceCase:
    """The case with this number that a seed draws: group "fuzz".

    The case depends on the seed, the number, whether the dtype is complex and the possible layouts,
    not on earlier draws.
    """
    rng = np.random.default_rng([seed, number])
    parameters = draw_parameters(rng, complex_data=complex_data and bool(rng.random() < 0.5))
    if rng.random() < 0.5:  # sizes that kernels have paths for
        m, n = (int(k) for k in rng.choice(SIZES, 2))
        r = min(int(rng.choice(RANKS)), m, n)
        columns = min(2 * r, m, n)
        limits = [1, r, int(rng.integers(1, columns + 1)), min(columns + 1, m, n)]
        least, most = int(rng.choice(limits)), int(rng.choice(limits))
        cap = None if rng.random() < 0.5 else max(least, most)
        parameters = replace(parameters, m=m, n=n, r=r, min_rank=least, max_rank=cap, bases="thin")
    layout = str(rng.choice(layouts)) if rng.random() < 0.3 else "rows"
    more: dict[str, Any] = {"layout": layout, "steps": 1}
    if layout == "rows" and rng.random() < 0.2:
        more = {"steps": int(rng.integers(2, 6)), "trained": bool(rng.random() < 0.5)}
    flags = (
        "drawn",
        *(["complex"] if parameters.complex else []),
        *(["wide-range"] if _wide(parameters) else []),
    )
    return question(
        "fuzz", f"{seed}-{number}", flags, in_words(parameters, more), parameters, **more
    )


def drawn_cases(
    seed: int, count: int, *, complex_data: bool, layouts: Sequence[str]
) -> list[ConformanceCase]:
    """The first ``count`` cases of a seed."""
    return [drawn(seed, k, complex_data=complex_data, layouts=layouts) for k in range(count)]


def _wide(p: CaseParameters) -> bool:
    """Return whether float16 may not hold the numbers."""
    return not 1e-3 < p.magnitude < 1e2 or p.gradient in ("huge", "tiny") or p.learning_rate > 10.0


def smallest(case: ConformanceCase, fails: Callable[[ConformanceCase], bool]) -> ConformanceCase:
    """A simpler case that fails too, down to one whose further simplifications all pass (within
    ``MOST`` questions).
    """
    tried = 0
    shrunk = True
    while shrunk and tried < MOST:
        shrunk = False
        for smaller in _simpler(case):
            tried += 1
            if fails(smaller):
                case, shrunk = smaller, True
                break
            if tried >= MOST:
                break
    return replace(
        case,
        reason=in_words(
            case.parameters, {"layout": case.layout, "steps": case.steps, "trained": case.trained}
        ),
    )


def _simpler(case: ConformanceCase) -> Iterator[ConformanceCase]:
    """The case with one simplification each, the largest ones first: fewer steps, a plain layout,
    defaults, smaller sizes.
    """
    p = case.parameters
    if case.steps > 1:
        yield replace(case, steps=1, trained=False)
        yield replace(case, steps=case.steps - 1)
    if case.layout != "rows":
        yield replace(case, layout="rows")
    plain = CaseParameters(p.m, p.n, p.r, "flat", "diagonal", "tangent")
    names = (
        "complex",
        "max_rank",
        "min_rank",
        "magnitude",
        "gradient",
        "spectrum",
        "core",
        "learning_rate",
        "bases",
    )
    changes: list[dict[str, Any]] = [
        {name: getattr(plain, name)} for name in names if getattr(p, name) != getattr(plain, name)
    ]
    changes += [{"tau": 0.0, "theta": None}] if (p.tau, p.theta) != (0.0, None) else []
    for size in (1, p.r // 2, p.r - 1):
        changes += [{"r": size}] if 1 <= size < p.r else []
    for name in ("m", "n"):
        now = getattr(p, name)
        changes += [{name: size} for size in sorted({p.r, now // 2, now - 1}) if p.r <= size < now]
    for change in changes:
        yield replace(case, parameters=replace(p, **change))


def in_words(p: CaseParameters, more: dict[str, Any]) -> str:
    """The text of a drawn case: its sizes, and every parameter that is not the default."""
    plain = {field.name: field.default for field in fields(CaseParameters)} | {
        "layout": "rows",
        "steps": 1,
        "trained": False,
    }
    stated = {
        name: value
        for name, value in (asdict(p) | more).items()
        if name not in ("m", "n", "r", "seed", "bases")
    }
    other = ", ".join(f"{name} = {value}" for name, value in stated.items() if value != plain[name])
    return f"drawn: {p.m} x {p.n}, r = {p.r}" + (f", {other}" if other else "")

"""``python -m verification --compare A B``: how the ratios of two runs of one machine differ.

For whoever changes a claim or the library: a bound that became loose shows here.  Figures of
different processors differ in their rounding errors; nothing is judged.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

__all__ = ["differences", "print_differences", "results_in"]

FACTOR = 1.05
"""Ratios that differ by less are not listed."""

Facts = Mapping[tuple[str, str], float]


def results_in(place: Path) -> Facts:
    """The numbers of a ``results.json``, given by its path or its folder, by claim and name.

    Raises ``ValueError`` or ``OSError`` that names the file.
    """
    path = place / "results.json" if place.is_dir() else place
    try:
        return dict(_facts(json.loads(path.read_text("utf-8"))["claims"]))
    except (KeyError, TypeError, ValueError) as error:
        wanted = "expected results of python -m verification"
        raise ValueError(f"{path}: {wanted}, found another form ({error})") from error


def _facts(claims: list[dict[str, Any]]) -> Iterator[tuple[tuple[str, str], float]]:
    for claim in claims:
        yield (claim["id"], "holds"), float(claim["holds"])
        yield (claim["id"], "cases"), float(claim["cases"])
        for one in claim["compared"]:
            for what in ("count", "median", "worst"):
                yield (claim["id"], f"{one['name']}: {what}"), float(one[what])
        for control in claim["controls"]:
            yield (claim["id"], f"control {control['id']}: share"), float(control["share"])


def differences(A: Facts, B: Facts) -> list[tuple[str, str, str, str]]:
    """Claim, name, and both numbers, for all that differ by more than a factor of ``FACTOR``."""
    return [
        (*name, *(f"{facts[name]:.4g}" if name in facts else "none" for facts in (A, B)))  # type: ignore[misc]
        for name in dict.fromkeys([*A, *B])
        if name not in A or name not in B or _differ(A[name], B[name])
    ]


def _differ(a: float, b: float) -> bool:
    return a != b and not 1.0 / FACTOR <= (a / b if b else 0.0) <= FACTOR


def print_differences(A: Path, B: Path, console: Console) -> None:
    """Print what differs from A to B.  Raises as :func:`results_in`."""
    table = Table(box=box.SIMPLE_HEAD, show_edge=False)
    for head in ("claim", "what", "A", "B"):
        table.add_column(head, justify="right" if head in "AB" else "left", overflow="fold")
    found = differences(results_in(A), results_in(B))
    for row in found:
        table.add_row(*map(escape, row))
    console.print(table if found else f"no ratio differs by more than a factor of {FACTOR}")

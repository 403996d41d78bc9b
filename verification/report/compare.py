"""``python -m verification --compare A B``: where two stored results come from, and what has
changed from A to B.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from geolora_ref.support.files import read_json
from verification.report.report import number

__all__ = ["Change", "changes", "read_results", "tell_changes"]

Results = Mapping[str, Any]
GONE = "not checked"


class Change(NamedTuple):
    """One fact of a claim that differs between two results; ``worse`` : the claim stood, and now
    fails or was not checked.
    """

    claim: str
    what: str
    before: str
    after: str
    worse: bool = False


def read_results(place: Path) -> dict[str, Any]:
    """Read a ``results.json``, given by its path or its folder.  Raises ``ValueError`` or
    ``OSError`` that names the file.
    """
    path = place / "results.json" if place.is_dir() else place
    data = read_json(path)
    try:
        data["claims"] = {claim["id"]: claim for claim in data["claims"]}
        for claim in data["claims"].values():
            _facts(claim)
        _origin(data)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        wanted = "results of python -m verification"
        raise ValueError(
            f"{path}: expected {wanted}, found another form ({type(error).__name__}: {error})"
        ) from error
    return data


def changes(old: Results, new: Results) -> list[Change]:
    """All differences, claim by claim: of verdicts, numbers of cases and comparisons, ratios (to
    four digits) and controls.
    """
    found = []
    for name in dict.fromkeys([*old["claims"], *new["claims"]]):
        before, after = (_facts(data["claims"].get(name)) for data in (old, new))
        stood = before["verdict"].startswith("holds") and not after["verdict"].startswith("holds")
        for what in dict.fromkeys([*before, *after]):
            then, now = before.get(what, "none"), after.get(what, "none")
            if then != now and (
                what == "verdict" or GONE not in (before["verdict"], after["verdict"])
            ):
                found.append(Change(name, what, then, now, worse=what == "verdict" and stood))
    return found


def _facts(claim: Results | None) -> dict[str, str]:
    """The facts of a claim that are compared, by name, as text."""
    if claim is None:
        return {"verdict": GONE}
    facts = {
        "verdict": str(claim.get("verdict") or ("holds" if claim["holds"] else "does not stand"))
    }
    named = {
        "cases": "cases",
        "comparisons": "compared",
        "comparisons that decide nothing": "undecided",
    }
    facts |= {name: str(claim[entry]) for name, entry in named.items()}
    facts |= {f"{which} ratio": number(float(claim[which]), 4) for which in ("worst", "median")}
    facts |= {f"of case {case}": number(_largest(of), 4) for case, of in claim["ratios"].items()}
    return facts | {
        f"control {c['id']}": "fails" if c["fails"] else "passes" for c in claim["controls"]
    }


def _largest(ratios: Mapping[str, list[Any]]) -> float:
    """Infinite where a ratio is NaN, as in the verdict."""
    found = [float(value) for values in ratios.values() for value in values]
    return math.inf if any(map(math.isnan, found)) else max(found, default=0.0)


def _origin(data: Results) -> str:
    machine, code = (
        data["machine"],
        ", ".join(f"{name} {digest}" for name, digest in data["sources"].items()),
    )
    commit = f", commit {machine['commit']}" if "commit" in machine else ""
    return f"{machine['date']}, {data['effort']}, seed {data['seed']}, {len(data['claims'])} claims, {code}{commit}"


def tell_changes(A: Path, B: Path, console: Console, most: int = 5) -> int:
    """Print what has changed from A to B; of each claim at most ``most`` cases, then the number of
    the others.

    Returns 1 if a claim that stood in A does not stand in B or was not checked there, else 0.  Raises as
    :func:`read_results`.
    """
    old, new = read_results(A), read_results(B)
    for name, place, data in (("A", A, old), ("B", B, new)):
        console.print(f"{name}: {escape(str(place))}: {escape(_origin(data))}", soft_wrap=True)
    for fact in dict.fromkeys([*old["machine"], *new["machine"]]):
        if (
            fact not in ("date", "commit")
            and (pair := [data["machine"].get(fact, "none") for data in (old, new)])[0] != pair[1]
        ):
            console.print(f"{fact}: {escape(pair[0])} → {escape(pair[1])}", soft_wrap=True)
    found = changes(old, new)
    table = Table(box=box.SIMPLE_HEAD, show_edge=False)
    for head in ("claim", "what", "A", "B"):
        table.add_column(head, justify="right" if head in "AB" else "left", overflow="fold")
    counted: dict[str, int] = {}
    for change in found:
        if change.what.startswith("of case "):
            counted[change.claim] = counted.get(change.claim, 0) + 1
            if counted[change.claim] > most:
                continue
        table.add_row(*map(escape, change[:4]), style="red" if change.worse else "")
    if found:
        console.print(table)
    for name, count in counted.items():
        if count > most:
            console.print(f"{name}: {count - most} cases more have another ratio", soft_wrap=True)
    worse = list(dict.fromkeys(change.claim for change in found if change.worse))
    console.print(
        f"[red]{len(worse)} claims stood and do not any more: {', '.join(map(escape, worse))}[/]"
        if worse
        else f"[green]every claim that stood stands[/] ({len({change.claim for change in found})} claims have changes)",
        soft_wrap=True,
    )
    return 1 if worse else 0

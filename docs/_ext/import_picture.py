"""``{import-picture}``: who imports whom, drawn from the import statements of the sources.

An arrow means "imports"; one that follows from others is left out (A imports C where A imports B
and B imports C).  Every arrow points down: a cycle between the parts is an error.
"""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from graphlib import TopologicalSorter
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

from docutils import nodes
from matplotlib import rc_context
from matplotlib.figure import Figure
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

DOCS = Path(__file__).resolve().parent.parent
ROOT = DOCS.parent
PICTURE = DOCS / "_generated" / "figures" / "imports.svg"
PACKAGES = ("geolora_ref", "verification")
NO_PARTS = ("geolora_ref.__init__", "geolora_ref.__main__")
"""Modules without a box, which stand for others: the re-exported names of the core, and the command line."""
SWEEPS = 12
COLOURS = {"geolora_ref": "#dbe9f6", "verification": "#e6f3e2"}


def part_of(module: str) -> str:
    """The box that a module belongs to: a module of the core, a package inside of geolora_ref, or
    the verification.
    """
    pieces = module.split(".")
    return pieces[0] if pieces[0] == "verification" else ".".join(pieces[:2])


@cache
def exists(module: str) -> bool:
    """Return whether this is a module or package of the checkout."""
    path = ROOT.joinpath(*module.split("."))
    return path.is_dir() or path.with_suffix(".py").is_file()


def imported(path: Path) -> Iterator[str]:
    """The modules of the checkout that a file imports, wherever it does so."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and node.module:
            inside = [f"{node.module}.{alias.name}" for alias in node.names]
            names = [name if exists(name) else node.module for name in inside]
        yield from (name for name in names if name.split(".")[0] in PACKAGES and exists(name))


def imports() -> dict[str, set[str]]:
    """For each part the other parts that it imports.  What ``geolora_ref`` itself re-exports counts
    as its modules.
    """
    found: dict[str, set[str]] = defaultdict(set)
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
            if module in NO_PARTS:
                continue
            part, names = part_of(module), set(imported(path))
            found[part] |= {part_of(name) for name in names - {"geolora_ref"}} - {part}
            if "geolora_ref" in names:
                found[part] |= {"geolora_ref.algorithm"} - {part}
    return dict(found)


def reduced(graph: Mapping[str, set[str]]) -> dict[str, set[str]]:
    """The graph without the arrows that follow from others.  Raises ``graphlib.CycleError`` if
    imports go round.
    """
    below: dict[str, set[str]] = {}
    for part in TopologicalSorter(graph).static_order():
        direct = graph.get(part, set())
        below[part] = direct.union(*(below[other] for other in direct))
    return {
        part: {
            d
            for d in graph.get(part, set())
            if not any(d in below[other] for other in graph[part] - {d})
        }
        for part in below
    }


def heights(graph: Mapping[str, set[str]]) -> dict[str, int]:
    """The floor of each part: one above the highest part that it imports."""
    found: dict[str, int] = {}
    for part in TopologicalSorter(graph).static_order():
        found[part] = 1 + max((found[other] for other in graph.get(part, ())), default=-1)
    return found


def chains(graph: Mapping[str, set[str]]) -> dict[tuple[str, str], list[str]]:
    """For each arrow the points that it passes: its two boxes, and on every floor in between a free
    place of its own.
    """
    floor = heights(graph)
    return {
        (part, other): [
            part,
            *(f"{part}>{other}>{f}" for f in range(floor[part] - 1, floor[other], -1)),
            other,
        ]
        for part, others in graph.items()
        for other in others
    }


def places(graph: Mapping[str, set[str]]) -> dict[str, tuple[float, float]]:
    """The place of each box and of each point of an arrow: on its floor, near the boxes and points
    that it is joined to.
    """
    floor = dict(heights(graph))
    joined: dict[str, set[str]] = defaultdict(set)
    for (part, _), chain in chains(graph).items():
        for depth, (upper, lower) in enumerate(pairwise(chain)):
            floor.setdefault(lower, floor[part] - depth - 1)
            joined[upper].add(lower)
            joined[lower].add(upper)
    rows: dict[int, list[str]] = defaultdict(list)
    for name in sorted(floor):
        rows[floor[name]].append(name)
    x = {name: position for row in rows.values() for name, position in _spread(row).items()}
    for sweep in range(
        SWEEPS
    ):  # a row in the order of what it is joined to below, then above, in turn
        up = sweep % 2 == 0
        for f in sorted(rows, reverse=not up):
            neighbours = {
                name: [x[o] for o in joined[name] if floor[o] == (f - 1 if up else f + 1)]
                for name in rows[f]
            }
            middle = {
                name: sum(found) / len(found) if found else x[name]
                for name, found in neighbours.items()
            }
            x |= _spread(sorted(rows[f], key=middle.__getitem__))
    return {name: (x[name], float(floor[name])) for name in floor}


def _spread(row: Sequence[str]) -> dict[str, float]:
    """A row from 0 to 1; a box is wider than the place of an arrow that passes."""
    widths = [0.45 if ">" in name else 1.0 for name in row]
    ends = list(accumulate(widths))
    return {
        name: (end - width / 2) / ends[-1]
        for name, end, width in zip(row, ends, widths, strict=True)
    }


def _box(axes: Any, part: str, x: float, y: float) -> Any:
    """The box of a part, without the name of the package."""
    style = {
        "boxstyle": "round,pad=0.45",
        "facecolor": COLOURS[part.split(".")[0]],
        "edgecolor": "#8b949e",
    }
    text = axes.text(
        x,
        y,
        part.removeprefix("geolora_ref."),
        ha="center",
        va="center",
        fontsize=10,
        bbox=style,
        zorder=2,
    )
    return text.get_bbox_patch()


def draw(path: Path) -> None:
    """The picture as SVG."""
    graph = reduced(imports())
    where = places(graph)
    top = max(y for _, y in where.values())
    figure = Figure(
        figsize=(8.6, 0.82 * (top + 1)), dpi=72
    )  # the unit of SVG, so that arrows end at the rims
    axes = figure.add_subplot()
    axes.set(xlim=(-0.02, 1.02), ylim=(-0.5, top + 0.5))
    axes.axis("off")
    figure.subplots_adjust(0.0, 0.0, 1.0, 1.0)
    boxes = {part: _box(axes, part, *where[part]) for part in graph}
    figure.draw_without_rendering()  # the size of a box is known now
    line: dict[str, Any] = {"color": "#57606a", "lw": 0.9}
    for (_, other), chain in chains(graph).items():
        axes.plot(*zip(*(where[name] for name in chain[:-1]), strict=True), **line, zorder=1)
        start = {"patchA": boxes[chain[-2]]} if chain[-2] in boxes else {}
        ends = {"patchB": boxes[other], "shrinkA": 0, "shrinkB": 1, **start}
        axes.annotate(
            "",
            xy=where[other],
            xytext=where[chain[-2]],
            arrowprops={"arrowstyle": "-|>", **line, **ends},
            zorder=1,
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    with rc_context({"svg.hashsalt": "geolora_ref"}):
        figure.savefig(path, metadata={"Date": None})


class ImportPicture(SphinxDirective):
    """The picture with a caption."""

    def run(self) -> list[nodes.Node]:
        """Draw the figure whenever the page is read."""
        draw(PICTURE)
        text = "Who imports whom, drawn from the sources. An arrow means “imports”; arrows that follow from others are left out."
        figure = nodes.figure(
            "",
            nodes.image(uri=f"/{PICTURE.relative_to(DOCS).as_posix()}", alt=text),
            nodes.caption("", text),
        )
        self.env.note_reread()
        return [figure]


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the directive."""
    app.add_directive("import-picture", ImportPicture)
    return {"parallel_read_safe": True, "parallel_write_safe": True}

"""``{import-picture}``: who imports whom, drawn from the imports that there are.

An arrow means "imports"; one that follows from others is left out (A imports C where A imports B and B imports C).  Every arrow
points down: a cycle between the parts is an error.
"""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator, Mapping
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import matplotlib.pyplot as plt
from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

DOCS = Path(__file__).resolve().parent.parent
ROOT = DOCS.parent
PICTURE = DOCS / "_generated" / "figures" / "imports.svg"
PACKAGES = ("geolora_ref", "verification")
PER_ROW = 6
COLOURS = {"geolora_ref": "#dbe9f6", "verification": "#e6f3e2"}


def part_of(module: str) -> str:
    """The box that a module belongs to: a module of the core, a package inside of geolora_ref, or the verification."""
    pieces = module.split(".")
    return pieces[0] if pieces[0] == "verification" else ".".join(pieces[:2])


@cache
def exists(module: str) -> bool:
    """Whether this is a module or package of the checkout."""
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
    """For each part the other parts that it imports.  What ``geolora_ref`` itself re-exports counts as its modules."""
    found: dict[str, set[str]] = defaultdict(set)
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
            if module == "geolora_ref.__init__":
                continue
            part, names = part_of(module), set(imported(path))
            found[part] |= {part_of(name) for name in names - {"geolora_ref"}} - {part}
            if "geolora_ref" in names:
                found[part] |= {"geolora_ref.algorithm"} - {part}
    return dict(found)


def reduced(graph: Mapping[str, set[str]]) -> dict[str, set[str]]:
    """Without the arrows that follow from others.  Raises ``graphlib.CycleError`` if imports go round."""
    below: dict[str, set[str]] = {}
    for part in TopologicalSorter(graph).static_order():
        direct = graph.get(part, set())
        below[part] = direct.union(*(below[other] for other in direct))
    return {
        part: {d for d in graph.get(part, set()) if not any(d in below[other] for other in graph[part] - {d})} for part in below
    }


def heights(graph: Mapping[str, set[str]]) -> dict[str, int]:
    """The floor of each part: one above the highest that it imports."""
    found: dict[str, int] = {}
    for part in TopologicalSorter(graph).static_order():
        found[part] = 1 + max((found[other] for other in graph.get(part, ())), default=-1)
    return found


def places(graph: Mapping[str, set[str]]) -> dict[str, tuple[float, float]]:
    """Where each box stands: its floor, and beside the ones that it imports."""
    floor = heights(graph)
    rows: dict[int, list[str]] = defaultdict(list)
    for part, height in floor.items():
        rows[height].append(part)
    where: dict[str, tuple[float, float]] = {}
    for height in sorted(rows):

        def middle(part: str) -> float:
            below = [where[other][0] for other in graph.get(part, ()) if other in where]
            return sum(below) / len(below) if below else 0.0

        row = sorted(rows[height], key=lambda part: (middle(part), part))
        for i, part in enumerate(row):
            where[part] = ((i + 0.5) / len(row), float(height))
    return where


def draw(path: Path) -> None:
    """The picture as SVG."""
    graph = reduced(imports())
    where = places(graph)
    top = max(y for _, y in where.values())
    figure, axes = plt.subplots(figsize=(8.6, 0.82 * (top + 1)))
    for part, others in graph.items():
        for other in others:
            (x0, y0), (x1, y1) = where[part], where[other]
            bend = 0.0 if abs(y0 - y1) < 1.5 else (0.12 if x0 <= x1 else -0.12)
            style = {
                "arrowstyle": "-|>",
                "color": "#57606a",
                "lw": 0.9,
                "connectionstyle": f"arc3,rad={bend}",
                "shrinkA": 11,
                "shrinkB": 11,
            }
            axes.annotate("", xy=(x1, y1), xytext=(x0, y0), arrowprops=style, zorder=1)
    for part, (x, y) in where.items():
        name = part.removeprefix("geolora_ref.")
        box = {"boxstyle": "round,pad=0.45", "facecolor": COLOURS[part.split(".")[0]], "edgecolor": "#8b949e"}
        axes.text(x, y, name, ha="center", va="center", fontsize=10, bbox=box, zorder=2)
    axes.set(xlim=(-0.02, 1.02), ylim=(-0.5, top + 0.5))
    axes.axis("off")
    path.parent.mkdir(parents=True, exist_ok=True)
    with plt.rc_context({"svg.hashsalt": "geolora_ref"}):
        figure.savefig(path, metadata={"Date": None}, bbox_inches="tight")
    plt.close(figure)


class ImportPicture(SphinxDirective):
    """The picture with a caption."""

    def run(self) -> list[nodes.Node]:
        """Drawn anew whenever the page is read."""
        draw(PICTURE)
        text = "Who imports whom, drawn from the sources. An arrow means “imports”; arrows that follow from others are left out."
        figure = nodes.figure("", nodes.image(uri=f"/{PICTURE.relative_to(DOCS).as_posix()}", alt=text), nodes.caption("", text))
        self.env.note_reread()
        return [figure]


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the directive."""
    app.add_directive("import-picture", ImportPicture)
    return {"parallel_read_safe": True, "parallel_write_safe": True}

"""The examples on the pages run, and every public name is documented."""

from __future__ import annotations

import ast
import doctest
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
PAGES = sorted(
    path for path in DOCS.rglob("*.md") if not {"_generated", "gallery"} & set(path.parts)
)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    "page",
    [page for page in PAGES if ">>>" in page.read_text("utf-8")],
    ids=lambda page: page.relative_to(DOCS).as_posix(),
)
def test_examples(page: Path) -> None:
    result = doctest.testfile(str(page), module_relative=False, encoding="utf-8")
    assert result.attempted > 0
    assert result.failed == 0


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(DOCS).as_posix())
def test_boxes_closed(page: Path) -> None:
    """An open box swallows what follows it, headings and labels too, and Sphinx is silent."""
    open_boxes: list[str] = []
    for line in page.read_text("utf-8").splitlines():
        colons = re.match(r":{3,}", line)
        if colons and line == colons[0]:
            assert open_boxes.pop() == line
        elif colons:
            open_boxes.append(colons[0])
    assert not open_boxes


def test_docstrings() -> None:
    """Every class and function in an ``__all__`` of the library has a docstring."""
    public, without = 0, []
    for path in (ROOT / "geolora_ref").rglob("*.py"):
        body = ast.parse(path.read_text("utf-8")).body
        names: set[str] = set()
        for node in body:
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
                names = set(ast.literal_eval(node.value))
        for node in body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name in names:
                public += 1
                if not ast.get_docstring(node):
                    without.append(f"{path.name}: {node.name}")
    assert public > 100
    assert not without

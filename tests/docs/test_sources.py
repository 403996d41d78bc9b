"""Names on the pages exist in the code; the examples on them run."""

from __future__ import annotations

import doctest
import importlib
import inspect
import re
from collections.abc import Callable
from graphlib import CycleError
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from verification.claims import CLAIMS
from verification.experiments import evidence

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGES = sorted(
    path for path in DOCS.rglob("*.md") if not {"_generated", "gallery"} & set(path.parts)
)
Extension = Callable[[str], ModuleType]


def text_of(path: Path) -> str:
    """A page."""
    return path.read_text(encoding="utf-8")


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    "page", [p for p in PAGES if ">>>" in text_of(p)], ids=lambda p: p.relative_to(DOCS).as_posix()
)
def test_the_examples_on_a_page_run(page: Path) -> None:
    result = doctest.testfile(str(page), module_relative=False, encoding="utf-8")
    assert result.attempted > 0
    assert result.failed == 0


def long_lines(text: str) -> list[str]:
    """Lines of code that are wider than the column of a page."""
    blocks = re.findall(r"^(```+)(?!\{)[^\n]*\n(.*?)^\1$", text, re.MULTILINE | re.DOTALL)
    return [line for _, block in blocks for line in block.splitlines() if len(line) > 88]


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.relative_to(DOCS).as_posix())
def test_code_fits_its_column(page: Path) -> None:
    assert long_lines(text_of(page)) == []


def test_code_that_is_too_wide_is_found() -> None:
    wide = 89 * "x"
    assert long_lines(f"{wide}\n\n```console\n{wide}\n{wide[1:]}\n```\n") == [wide]


def test_there_are_pages_with_examples() -> None:
    assert len([page for page in PAGES if ">>>" in text_of(page)]) >= 2


RENDERED = sorted(
    {
        name
        for page in PAGES
        for name in re.findall(r"^:{3,}\{rendered\} (\S+)$", text_of(page), re.MULTILINE)
    }
)


@pytest.mark.parametrize("target", RENDERED)
def test_a_page_renders_whole_tables_and_pictures(target: str, extension: Extension) -> None:
    lines = [line for line in extension("rendered").rendered(target).splitlines() if line]
    if target.endswith("chart"):
        (line,) = lines
        assert re.fullmatch(
            r'<img alt="\w[^"]+" src="data:image/svg\+xml;base64,[\w+/]{1000,}=*">', line
        )
        return
    assert len(lines) >= 5
    assert all(line.startswith("| ") and line.endswith(" |") for line in lines)


def test_the_readme_has_the_choice_as_measured() -> None:
    assert evidence.choice().strip() in text_of(DOCS.parent / "README.md")


def test_every_claim_that_a_page_names_exists() -> None:
    text = "\n".join(map(text_of, PAGES))
    named = set(re.findall(r"^:{3,}\{measured\} (\S+)$", text, re.MULTILINE)) | set(
        re.findall(r"\{worst\}`([^`]+)`", text)
    )
    assert named <= set(CLAIMS)
    assert len(named) >= 15


def test_the_claims_that_are_said_to_take_a_stepper_do() -> None:
    """Row by row of the table in howto/claims.md: the first lists those that take a stepper, the
    others those that do not.
    """
    first, *others = re.findall(
        r"^\| (`.*?) \|", text_of(DOCS / "howto" / "claims.md"), re.MULTILINE
    )
    steppers = {
        name
        for name, claim in CLAIMS.items()
        if "step: 'Stepper'" in str(inspect.signature(claim.check))
    }
    assert set(re.findall("`([a-z-]+)`", first)) == steppers
    assert set(re.findall("`([a-z-]+)`", " ".join(others))) <= set(CLAIMS) - steppers


def test_no_claim_is_placed_twice() -> None:
    placed = [
        name
        for page in PAGES
        for name in re.findall(r"^:{3,}\{measured\} (\S+)$", text_of(page), re.MULTILINE)
    ]
    assert len(placed) == len(set(placed))


def test_the_rest_of_the_claims_has_a_page() -> None:
    there = [
        page.name
        for page in PAGES
        if re.search(r"^:{3,}\{measured-rest\}$", text_of(page), re.MULTILINE)
    ]
    assert there == ["integrator_claims.md"]


def test_every_box_is_closed_on_a_line_of_its_own() -> None:
    """An open box takes what follows into it, headings and labels too, and Sphinx says nothing."""
    for page in DOCS.rglob("*.md"):
        open_boxes: list[str] = []
        for line in text_of(page).splitlines():
            assert not re.search(r"\S.*\s:{3,}$", line), f"{page.name}: {line}"
            colons = re.match(r":{3,}", line)
            if colons and line == colons[0]:
                assert colons[0] == open_boxes.pop(), f"{page.name}: {line}"
            elif colons:
                open_boxes.append(colons[0])
        assert not open_boxes, page.name


def test_every_statement_has_a_proof() -> None:
    for page in (DOCS / "theory").glob("*.md"):
        text = text_of(page)
        assert text.count("{admonition} Statement") == text.count("{admonition} Proof"), page.name


def test_the_names_in_the_notation_table_exist(extension: Extension) -> None:
    for symbol in extension("notation").SYMBOLS:
        module, _, name = symbol.code.partition(":")
        name, _, argument = name.partition("(")
        found: Any = importlib.import_module(module)
        owner, *rest = name.split(".")
        found = getattr(found, owner)
        for attribute in rest:
            annotated = {
                key for cls in found.__mro__ for key in getattr(cls, "__annotations__", {})
            }
            assert hasattr(found, attribute) or attribute in annotated, symbol.code
            found = getattr(found, attribute, None)
        if argument:
            assert argument.rstrip(")") in inspect.signature(found).parameters, symbol.code


def test_the_keys_of_docstrings_and_claims_are_in_the_bibliography(extension: Extension) -> None:
    keys = extension("docstrings").keys()
    cited = {key for claim in CLAIMS.values() for key in claim.sources}
    cited |= {
        key
        for page in PAGES
        for group in re.findall(r"\{cite\}`([^`]+)`", text_of(page))
        for key in group.split(",")
    }
    assert cited <= keys
    assert len(keys) >= 16


def test_imports_go_one_way(extension: Extension) -> None:
    picture = extension("import_picture")
    graph = picture.imports()
    height = picture.heights(graph)
    assert len(graph) > 12
    assert all(height[part] > height[other] for part, others in graph.items() for other in others)
    assert graph["verification"] > {"geolora_ref.oracle"}


def listed_parts() -> dict[str, list[str]]:
    """The files and folders of each package in the list of the architecture page, in its order."""
    block = re.search(r"```\n(geolora_ref/.*?)```", text_of(DOCS / "architecture.md"), re.DOTALL)
    assert block
    found: dict[str, list[str]] = {}
    package = ""
    for line in block[1].splitlines():
        names = re.split(r"\s{2,}", line.strip())[0]
        if not line.startswith(" "):
            package = names.rstrip("/")
            found[package] = []
        elif not line.startswith("   "):
            found[package] += names.split(", ")
    return found


@pytest.mark.parametrize("package", ["geolora_ref", "verification"])
def test_the_architecture_page_lists_every_part(package: str) -> None:
    entries = (path for path in (DOCS.parent / package).iterdir() if not path.name.startswith("_"))
    there = {
        f"{path.name}/" if path.is_dir() else path.name
        for path in entries
        if path.is_dir() or path.suffix == ".py"
    }
    assert sorted(listed_parts()[package]) == sorted(there)


def test_parts_import_only_parts_above_them_in_the_list(extension: Extension) -> None:
    graph = extension("import_picture").imports()
    order = [
        f"geolora_ref.{name.removesuffix('.py').rstrip('/')}"
        for name in listed_parts()["geolora_ref"]
    ] + ["verification"]

    def upward(order: list[str]) -> list[tuple[str, str]]:
        """Imports of a part that stands below."""
        return [
            (part, other)
            for part in order
            for other in graph.get(part, ())
            if order.index(other) > order.index(part)
        ]

    assert set(graph) == set(order)
    assert upward(order) == []
    assert ("geolora_ref.algorithm", "geolora_ref.lowrank") in upward(order[::-1])


def test_a_cycle_of_imports_is_found(extension: Extension) -> None:
    with pytest.raises(CycleError):
        extension("import_picture").reduced({"a": {"b"}, "b": {"a"}})


def test_arrows_that_follow_from_others_are_left_out(extension: Extension) -> None:
    graph = {"a": {"b", "c"}, "b": {"c"}, "c": set()}
    assert extension("import_picture").reduced(graph) == {"a": {"b"}, "b": {"c"}, "c": set()}


DOCSTRING = """First | Ω | and |Ω| for x_ [CKL24] and [XX].

Parameters
----------
a, b : one,
    two.

Raises
------
ValueError
    always.

``c`` : three
and four.
"""


def test_docstrings_become_definitions(extension: Extension) -> None:
    lines = extension("docstrings").definitions(DOCSTRING.splitlines())
    assert lines[0] == r"First | Ω | and \|Ω\| for x\_ :cite:`CKL24` and [XX]."
    assert "``a, b``" in lines
    assert lines[lines.index("``a, b``") + 1 :][:2] == ["    one,", "    two."]
    assert "    always." in lines[lines.index("``ValueError``") :]
    assert lines[lines.index("``c``") + 1 :][:2] == ["    three", "    and four."]
    assert [line for line in lines if line.startswith(".. rubric::")] == [
        ".. rubric:: Parameters",
        ".. rubric:: Raises",
    ]

"""Every public name is documented: what it is, with shapes where it takes or gives arrays, errors
where it raises, a source.

Counted over the sources, so that it does not matter whether the reference has been built.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest

from verification.campaign.journal import fingerprint
from verification.claim import Plan

ROOT = Path(__file__).resolve().parents[2]
BUILT = ROOT / "build" / "docs"
Extension = Callable[[str], ModuleType]
Definition = ast.FunctionDef | ast.ClassDef
BARE_ARRAYS = re.compile(r"\b(Array|Tensor|Matrix|NDArray\[Any\])\b")
SHAPED = re.compile(
    r'\w+\[(Array|Any|Tensor|np\.ndarray), "[^"]*"\]|Inexact\[Array, \.\.\.\]|Callable\[.*\]'
)
"""Annotations that need no further word: a shape, any shape, or a function whose arguments its own
text tells.
"""
SHAPE_WORDS = re.compile(
    r"\([\w…]{1,8}(, ?[\w·]{0,8})+\)|\b([mnrkBab](₁|_1|1)? ?[x×] ?[mnrkab1-9]"
    r"|[Mm]atri(x|ces)|dense|singular value|shapes?|arrays?|tensors?|factors|entries|scalar|vectors?)"
)
ERROR_WORDS = re.compile(r"[Rr]aise|Error\b")


@dataclass(frozen=True)
class Name:
    """A public name: its module, its definition, and the texts of its module and of the classes
    that it derives from.
    """

    module: str
    name: str
    node: Definition
    module_text: str
    bases: str = ""

    @property
    def text(self) -> str:
        """The docstring, with those of public methods."""
        parts = [ast.get_docstring(self.node) or ""]
        parts += [ast.get_docstring(method) or "" for method in self.methods()]
        return "\n".join(parts)

    def methods(self) -> Iterator[ast.FunctionDef]:
        """The public methods of a class."""
        if isinstance(self.node, ast.ClassDef):
            for child in self.node.body:
                if isinstance(child, ast.FunctionDef) and not child.name.startswith("_"):
                    yield child

    def functions(self) -> list[ast.FunctionDef]:
        """The function itself, or the public methods."""
        return [self.node] if isinstance(self.node, ast.FunctionDef) else list(self.methods())

    def unshaped(self) -> list[str]:
        """The functions that take or give arrays whose shapes neither annotation nor docstring states."""
        found = []
        for function in self.functions():
            arguments = [*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs]
            annotations = [a.annotation for a in arguments if a.annotation] + (
                [function.returns] if function.returns else []
            )
            bare = [
                text
                for a in annotations
                if BARE_ARRAYS.search(SHAPED.sub("", text := ast.unparse(a).replace("'", '"')))
            ]
            wording = f"{ast.get_docstring(function) or ''} {ast.get_docstring(self.node) or ''} {self.module_text} {self.bases}"
            if bare and not SHAPE_WORDS.search(wording):
                found.append(function.name)
        return found

    def silent_errors(self) -> list[str]:
        """The functions that raise, without a word about it."""
        found = []
        for function in self.functions():
            raises = [
                n for n in ast.walk(function) if isinstance(n, ast.Raise) and n.exc is not None
            ]
            wording = f"{ast.get_docstring(function) or ''} {ast.get_docstring(self.node) or ''}"
            kinds = {
                ast.unparse(n.exc.func if isinstance(n.exc, ast.Call) else n.exc)
                for n in raises
                if n.exc is not None
            }
            if kinds - {"NotImplementedError"} and not ERROR_WORDS.search(wording):
                found.append(function.name)
        return found


def public(extension: Extension) -> list[Name]:
    """Every class and function in an ``__all__`` of the package."""
    api = extension("api_pages")
    found = []
    for part in api.PARTS:
        if part.package == "verification":
            continue
        for module in api.modules(part.package):
            tree = api.source(module)
            names = set(api.public_names(module))
            found += [
                Name(module, node.name, node, ast.get_docstring(tree) or "")
                for node in tree.body
                if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name in names
            ]
    classes = {name.name: name for name in found if isinstance(name.node, ast.ClassDef)}
    return [replace(name, bases=" ".join(_ancestors(name, classes))) for name in found]


def _ancestors(name: Name, classes: dict[str, Name]) -> Iterator[str]:
    """The docstrings of the classes of the package that this one derives from: a method keeps what
    they say of it.
    """
    for base in name.node.bases if isinstance(name.node, ast.ClassDef) else []:
        parent = classes.get(ast.unparse(base))
        if parent is not None:
            yield ast.get_docstring(parent.node) or ""
            yield from _ancestors(parent, classes)


def listed(names: list[Name], fault: Callable[[Name], list[str]]) -> list[str]:
    """Names with a fault, as module.name: functions."""
    return [
        f"{name.module}.{name.name}: {', '.join(found)}" for name in names if (found := fault(name))
    ]


@pytest.mark.parametrize("package", ["geolora_ref", "verification"])
def test_the_public_names_of_every_module_can_be_read(package: str) -> None:
    """A list with a star in it stops the build of the reference, which reads sources alone."""
    found = 0
    for path in sorted((ROOT / package).rglob("*.py")):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.Assign) and any(
                isinstance(t, ast.Name) and t.id == "__all__" for t in node.targets
            ):
                assert all(isinstance(name, str) for name in ast.literal_eval(node.value)), path
                found += 1
    assert found > 50


def test_every_public_name_has_a_docstring(extension: Extension) -> None:
    names = public(extension)
    assert len(names) > 150
    assert [
        f"{name.module}.{name.name}" for name in names if not ast.get_docstring(name.node)
    ] == []


def test_shapes_are_reported(
    extension: Extension, record_property: Callable[[str, object], None]
) -> None:
    names = public(extension)
    found = listed(names, Name.unshaped)
    record_property("table", f"public names: {len(names)}, of them without shapes: {len(found)}")
    assert found == []


def test_errors_are_reported(
    extension: Extension, record_property: Callable[[str, object], None]
) -> None:
    found = listed(public(extension), Name.silent_errors)
    record_property("table", f"public names that raise without saying so: {len(found)}")
    assert found == []


def test_the_methods_of_the_literature_name_their_source(extension: Extension) -> None:
    """The algorithm, the state, each integrator: a key of the bibliography in the docstring or the
    module's.
    """
    keys = extension("docstrings").keys()
    modules = ("geolora_ref.algorithm", "geolora_ref.lowrank", "geolora_ref.integrators.")
    methods = [n for n in public(extension) if n.module.startswith(modules) and _is_method(n)]
    without = [
        f"{n.module}.{n.name}"
        for n in methods
        if not set(re.findall(r"\[(\w+)\]", n.text + n.module_text)) & keys
    ]
    assert len(methods) >= 12
    assert without == []


def _is_method(name: Name) -> bool:
    bases = (
        {ast.unparse(base) for base in name.node.bases}
        if isinstance(name.node, ast.ClassDef)
        else set()
    )
    return name.module in ("geolora_ref.algorithm", "geolora_ref.lowrank") or "Integrator" in bases


def _stale() -> str:
    """Why the built reference cannot be compared with the sources, or an empty string."""
    digest = BUILT / "sources.txt"
    if not digest.exists():
        return "the documentation is not built (make docs)"
    same = digest.read_text("utf-8") == fingerprint(Plan("quick", 0))
    return "" if same else "the built documentation is of other sources (make docs)"


@pytest.mark.skipif(bool(_stale()), reason=_stale())
def test_every_public_name_is_in_the_built_reference(extension: Extension) -> None:
    pages = "".join(
        path.read_text("utf-8") for path in (BUILT / "_generated" / "api").glob("*.html")
    )
    there = set(re.findall(r'id="(geolora_ref[\w.]+)"', pages))
    assert [
        f"{n.module}.{n.name}" for n in public(extension) if f"{n.module}.{n.name}" not in there
    ] == []


def test_pages_of_the_reference_begin_with_exactly_what_a_package_offers(
    extension: Extension,
) -> None:
    """Each public name once, in full, on the page of its package; none of them again among the
    internals.
    """
    api = extension("api_pages")
    for part in api.PARTS:
        everything = getattr(import_module(part.package), "__all__", [])
        if api.reexported(part.package):
            shown = re.findall(r"^\.\. auto\w+:: [\w.]+\.(\w+)$", api.page(part), re.MULTILINE)
            assert sorted(shown) == sorted(everything)
            assert shown[: len(part.first)] == list(part.first)
            inside = re.findall(r":: ([\w.]+)\n   :members: (.*)", api.internals(part))
            found = {f"{module}.{name}" for module, names in inside for name in names.split(", ")}
            assert not found & {f"{module}.{name}" for name, module in api.offered(part)}
            assert found


SILENT = '''
__all__ = ["f"]
def f(X: Array) -> Array:
    """Do it."""
    raise ValueError("no")
'''


def test_a_silent_function_is_found() -> None:
    node = ast.parse(SILENT).body[1]
    assert isinstance(node, ast.FunctionDef)
    name = Name("m", "f", node, "")
    assert name.unshaped() == ["f"]
    assert name.silent_errors() == ["f"]

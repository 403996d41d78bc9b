"""Who may import whom: the oracles share nothing with what they judge, and the core imports nothing
from the layers above it.

What counts is what a module names.  Importing it also runs the ``__init__`` of its packages, which
name everything.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

import geolora_ref

PACKAGE = "geolora_ref"
ROOT = Path(geolora_ref.__file__).parent
CORE = ("arrays", "checks", "lowrank", "gradients", "algorithm", "budget", "optimizers", "training")
"""The lower floors of the house, each may import those before it only."""
ROOMS = {
    "geolora_ref.oracle": (
        *(
            "judges",
            "broken",
            "cases",
            "trial",
            "diagnosis",
            "reports",
            "misuse",
            "directions",
            "vectors",
        ),
        *(
            "check",
            "jobs",
            "reproduce",
            "reproduce_rule",
            "pytest_plugin",
            "backend_suite",
            "suite",
            "command",
        ),
    ),
    "verification": (
        *("support", "claim", "outcome", "instruments", "claims", "runner", "certificates"),
        *("formal", "network_defects", "parity", "peft_suite", "experiments", "report"),
        *("compare", "command", "__main__", "trust", "surroundings"),
    ),
}
"""The files and folders of a package from the ground up, each may import those before it only."""
UPSTAIRS = ("problems", "oracle", "integrators", "fast", "nn", "finetune", "cli")


def _source(module: str, root: Path) -> Path | None:
    """The file of a module of the package, or None if there is none of that name."""
    inside = root.joinpath(*module.split(".")[1:])
    candidates = (inside.with_suffix(".py"), inside / "__init__.pyi", inside / "__init__.py")
    return next((path for path in candidates if path.is_file()), None)


def _absolute(node: ast.ImportFrom, module: str, path: Path) -> str:
    """The module that a ``from … import`` names, relative imports resolved."""
    if not node.level:
        return node.module or ""
    depth = node.level - (path.stem == "__init__")
    parents = module.split(".")[: len(module.split(".")) - depth]
    return ".".join([*parents, *([node.module] if node.module else [])])


def imports(module: str, root: Path = ROOT) -> Iterator[str]:
    """The modules of its package that this one imports, anywhere in its text, ``TYPE_CHECKING``
    blocks included.
    """
    path, package = _source(module, root), module.partition(".")[0]
    assert path is not None, f"no module {module}"
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.split(".")[0] == package)
        elif isinstance(node, ast.ImportFrom):
            origin = _absolute(node, module, path)
            if origin.split(".")[0] == package:
                names = [f"{origin}.{alias.name}" for alias in node.names]
                yield from (name if _source(name, root) else origin for name in names)


def reached(module: str, root: Path = ROOT) -> set[str]:
    """Everything in the package that a module imports, directly or through others."""
    found: set[str] = set()
    pending = [module]
    while pending:
        new = set(imports(pending.pop(), root)) - found
        found |= new
        pending.extend(new)
    return found


def _modules(root: Path = ROOT) -> list[str]:
    files = [path.relative_to(root).with_suffix("") for path in sorted(root.rglob("*.py"))]
    return [".".join((root.name, *file.parts)).removesuffix(".__init__") for file in files]


def upward(package: str, rooms: Sequence[str], root: Path) -> list[tuple[str, str]]:
    """The imports between the rooms of a package that do not lead down, as pairs of modules."""

    def floor(module: str) -> int:
        return rooms.index(module.removeprefix(f"{package}.").partition(".")[0])

    inside = [module for module in _modules(root) if module.startswith(f"{package}.")]
    pairs = [
        (module, name)
        for module in inside
        for name in imports(module, root)
        if name.startswith(f"{package}.")
    ]
    return [(module, name) for module, name in pairs if floor(name) > floor(module)]


ALGORITHM, DENSE, CRITERIA, CASES = (
    f"{PACKAGE}.{name}"
    for name in (
        "algorithm",
        "oracle.judges.dense",
        "oracle.judges.criteria",
        "oracle.cases.step_case",
    )
)


@pytest.mark.parametrize("oracle", [DENSE, CRITERIA, CASES])
def test_no_oracle_reaches_the_algorithm(oracle: str) -> None:
    assert ALGORITHM not in reached(oracle)


@pytest.mark.parametrize("oracle", [DENSE, CRITERIA, CASES])
def test_the_algorithm_reaches_no_oracle(oracle: str) -> None:
    assert oracle not in reached(ALGORITHM)


def test_the_two_oracles_share_no_code_of_the_package() -> None:
    assert DENSE not in reached(CRITERIA)
    assert CRITERIA not in reached(DENSE)
    assert not reached(DENSE) & reached(CRITERIA)


@pytest.mark.parametrize("module", ["definitions", "sequences", "variants"])
def test_the_oracle_for_directions_does_not_reach_the_rules(module: str) -> None:
    found = reached(f"{PACKAGE}.oracle.directions.{module}")
    assert not found & {f"{PACKAGE}.{name}" for name in CORE}


@pytest.mark.parametrize("floor", range(len(CORE)), ids=CORE)
def test_the_core_imports_downwards_only(floor: int) -> None:
    below = {f"{PACKAGE}.{name}" for name in CORE[:floor]}
    assert reached(f"{PACKAGE}.{CORE[floor]}") <= below


@pytest.mark.parametrize("name", CORE)
def test_the_core_does_not_reach_what_is_built_on_it(name: str) -> None:
    assert not [found for found in reached(f"{PACKAGE}.{name}") if found.split(".")[1] in UPSTAIRS]


@pytest.mark.parametrize(
    ("floor", "above"),
    [
        ("integrators", {"oracle", "fast", "nn", "finetune", "cli"}),
        ("fast", {"integrators", "oracle", "nn", "finetune", "cli"}),
        ("nn", {"integrators", "oracle", "finetune", "cli"}),
        ("finetune", {"integrators", "oracle", "cli"}),
    ],
)
def test_a_package_does_not_reach_those_above_it(floor: str, above: set[str]) -> None:
    modules = [name for name in _modules() if name.startswith(f"{PACKAGE}.{floor}")]
    found = {name.split(".")[1] for module in modules for name in reached(module)}
    assert modules
    assert not found & above


@pytest.mark.parametrize(
    ("package", "root"),
    [("geolora_ref.oracle", ROOT), ("verification", ROOT.parent / "verification")],
)
def test_no_import_runs_up_between_the_rooms_of_a_package(package: str, root: Path) -> None:
    rooms = ROOMS[package]
    assert upward(package, rooms, root) == []
    assert (
        len(upward(package, rooms[::-1], root)) > 30
    )  # the control: from the roof down, nearly all of them do


def test_the_problems_do_not_reach_the_algorithm_or_the_oracle() -> None:
    """They are questions; the caller chooses what answers and what judges."""
    problems = [name for name in _modules() if name.startswith(f"{PACKAGE}.problems")]
    found = {name for problem in problems for name in reached(problem)}
    assert len(problems) > 5
    assert not [name for name in found if name == ALGORITHM or name.split(".")[1] == "oracle"]


@pytest.mark.parametrize("module", [ALGORITHM, DENSE, CRITERIA, CASES])
def test_no_import_is_hidden_from_the_syntax_tree(module: str) -> None:
    path = _source(module, ROOT)
    assert path is not None
    text = path.read_text(encoding="utf-8")
    assert "importlib" not in text
    assert "__import__" not in text


FORBIDDEN = {
    "plain": "import geolora_ref.algorithm",
    "from the package": "from geolora_ref import algorithm",
    "a name of the module": "from geolora_ref.algorithm import geolora_step",
    "relative": "from ... import algorithm",
    "relative name": "from ...algorithm import geolora_step",
    "inside a function": "def f():\n    from geolora_ref.algorithm import geolora_step",
    "for types only": "if TYPE_CHECKING:\n    from geolora_ref.algorithm import geolora_step",
    "through another module": "from geolora_ref.oracle import between",
}


@pytest.mark.parametrize("line", FORBIDDEN.values(), ids=FORBIDDEN)
def test_a_forbidden_import_is_found(tmp_path: Path, line: str) -> None:
    """The negative control: a package whose dense oracle imports the algorithm in one of many ways."""
    files = {
        "__init__.py": "",
        "algorithm.py": "",
        "oracle/__init__.py": "",
        "oracle/judges/dense.py": line,
    }
    files["oracle/between.py"] = "from geolora_ref.algorithm import geolora_step"
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    assert ALGORITHM in reached(DENSE, tmp_path)
    assert ALGORITHM not in reached(f"{PACKAGE}.oracle", tmp_path)

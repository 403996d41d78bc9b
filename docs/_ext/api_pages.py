"""The API reference: for each part of the package a page of what it offers, and one of the modules
it comes from.
"""

from __future__ import annotations

import ast
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from sphinx.application import Sphinx

DOCS = Path(__file__).resolve().parent.parent
ROOT = DOCS.parent
PAGES = DOCS / "_generated" / "api"


@dataclass(frozen=True)
class Part:
    """A page: the package that it shows, its title, and what it is; ``first`` : the names that a
    user meets first.
    """

    package: str
    title: str
    about: str
    first: tuple[str, ...] = ()


PARTS = (
    Part(
        "geolora_ref",
        "The core",
        "The step itself, on every library that follows the array API standard.",
        ("geolora_step", "LowRank"),
    ),
    Part(
        "geolora_ref.oracle",
        "The oracle",
        "What judges an implementation: two independent oracles, criteria, cases, mutants.",
        ("check_step", "Report"),
    ),
    Part(
        "geolora_ref.oracle.vectors",
        "Test vectors",
        "One step as JSON, for implementations in any language.",
    ),
    Part(
        "geolora_ref.problems",
        "Problems",
        "Test problems with exact solutions and closed-form constants.",
    ),
    Part(
        "geolora_ref.integrators",
        "Integrators",
        "The integrator family of dynamical low-rank approximation.",
    ),
    Part(
        "geolora_ref.nn",
        "Adapters for torch",
        "Adapters, the optimizer that trains them, export.",
        ("adapt", "GeoLoRA"),
    ),
    Part(
        "geolora_ref.fast",
        "The fast path",
        "The same step for many layers at once, on an accelerator.",
        ("adapted_linear", "LayerBank"),
    ),
    Part(
        "geolora_ref.support",
        "Support",
        "What the other parts share: files, streams, options, other processes' interfaces.",
    ),
    Part("geolora_ref.finetune", "The fine-tuning job", "A whole job around a pretrained model."),
    Part("verification", "The verification", "Claims, runner, report; from a checkout only."),
)


ROOMS = ("geolora_ref.oracle", "geolora_ref.fast", "geolora_ref.nn", "verification")
"""The packages whose page also lists the modules of their folders, unless a folder has a page of its own."""


def modules(package: str) -> Iterator[str]:
    """The modules of a package, by name, and for :data:`ROOMS` those of the folders in it."""
    folder = ROOT.joinpath(*package.split("."))
    for path in sorted(folder.glob("*.py")):
        if path.stem not in ("__init__", "__main__"):
            yield f"{package}.{path.stem}"
    if package in ROOMS:
        for path in sorted(folder.glob("*/__init__.py")):
            if (room := f"{package}.{path.parent.name}") not in {part.package for part in PARTS}:
                yield from modules(room)


def source(module: str) -> ast.Module:
    """The syntax tree of a module."""
    return ast.parse(
        ROOT.joinpath(*module.split(".")).with_suffix(".py").read_text(encoding="utf-8")
    )


def public_names(module: str) -> list[str]:
    """``__all__`` of a module, empty where it has none."""
    for node in source(module).body:
        if isinstance(node, ast.Assign) and any(
            isinstance(t, ast.Name) and t.id == "__all__" for t in node.targets
        ):
            return [str(name) for name in ast.literal_eval(node.value)]
    return []


def reexported(package: str) -> list[tuple[str, str]]:
    """The names that the ``__init__`` of a package offers: (name, module that defines it)."""
    init = ROOT.joinpath(*package.split("."), "__init__.py")
    tree = ast.parse(init.read_text(encoding="utf-8"))
    return [
        (alias.asname or alias.name, node.module or "")
        for node in ast.walk(tree)  # those of the core stand under TYPE_CHECKING
        if isinstance(node, ast.ImportFrom)
        and (node.module or "").startswith("geolora_ref")
        and not (node.module or "").startswith("geolora_ref.support")  # helpers of the file itself
        for alias in node.names
    ]


def offered(part: Part) -> list[tuple[str, str]]:
    """The public names of a package, exactly its ``__all__``, and the module that defines each:
    ``first`` first.
    """
    order = {name: number for number, name in enumerate(part.first)}
    found = [
        (name, module) for name, module in reexported(part.package) if name in public_names(module)
    ]
    return sorted(found, key=lambda one: (order.get(one[0], len(order)), one[0].lower()))


def directive(name: str, module: str) -> list[str]:
    """The directive that documents a name: a class with its methods, a function, or a constant."""
    kinds = {
        node.name: type(node)
        for node in source(module).body
        if isinstance(node, ast.FunctionDef | ast.ClassDef)
    }
    kind = {ast.ClassDef: "autoclass", ast.FunctionDef: "autofunction"}.get(
        kinds.get(name, ast.Assign), "autodata"
    )
    options = ["   :members:", "   :show-inheritance:"] if kind == "autoclass" else []
    return ["```{eval-rst}", f".. {kind}:: {module}.{name}", *options, "```", ""]


def page(part: Part) -> str:
    """The page of the names that a package offers, as MyST."""
    lines = [f"# {part.title}: `{part.package}`", "", part.about, ""]
    if offered(part):
        names = ", ".join(f"{{py:obj}}`{name} <{module}.{name}>`" for name, module in offered(part))
        lines += [
            f"`from {part.package} import …`: {names}. The modules they come from: {{doc}}`{part.package}.internals`.",
            "",
        ]
    for name, module in offered(part):
        lines += [f"## {name}", "", *directive(name, module)]
    return "\n".join(lines if offered(part) else [*lines, *module_sections(part)])


def internals(part: Part) -> str:
    """The page of the modules of a package, without the names that the package offers."""
    return "\n".join(
        [
            f"# Inside `{part.package}`",
            "",
            f"The public names are on {{doc}}`{part.package}`.",
            "",
            *module_sections(part),
        ]
    )


def module_sections(part: Part) -> list[str]:
    """One section for each module, without the names that the package offers."""
    elsewhere = {(name, module) for name, module in offered(part)}
    lines = []
    for module in modules(part.package):
        names = [name for name in public_names(module) if (name, module) not in elsewhere]
        members = (
            [f":members: {', '.join(names)}", ":show-inheritance:"] if names else [":no-members:"]
        )
        shown = [f".. automodule:: {module}", *(f"   {option}" for option in members)]
        lines += [
            f"## {module.removeprefix(part.package + '.')}",
            "",
            "```{eval-rst}",
            *shown,
            "```",
            "",
        ]
    return lines


def index(parts: list[Part]) -> str:
    """The table of contents of the reference."""
    text = """\
        # API reference

        Shapes stand in the signatures: `Inexact[Array, "m r"]` is a real or complex floating array of shape $m\\times r$ of any
        array API library, `Float` a real one. Errors are listed with what raises them; keys in brackets lead to the
        {doc}`/bibliography`.
        """
    tables = {
        "What is offered": [part.package for part in parts if offered(part)],
        "Inside": [
            f"{part.package}.internals" if offered(part) else part.package for part in parts
        ],
    }
    trees = (
        f"```{{toctree}}\n:maxdepth: 1\n:caption: {title}\n\n" + "\n".join(names) + "\n```"
        for title, names in tables.items()
    )
    return textwrap.dedent(text) + "\n" + "\n\n".join(trees) + "\n"


def write(app: Sphinx) -> None:
    """Write the pages; an unchanged page keeps its date, so that Sphinx does not read it again."""
    PAGES.mkdir(parents=True, exist_ok=True)
    parts = [part for part in PARTS if ROOT.joinpath(*part.package.split(".")).is_dir()]
    texts = {"index": index(parts), **{part.package: page(part) for part in parts}}
    texts |= {f"{part.package}.internals": internals(part) for part in parts if offered(part)}
    for old in PAGES.glob("*.md"):
        if old.stem not in texts:
            old.unlink()
    for name, text in texts.items():
        path = PAGES / f"{name}.md"
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the event."""
    app.connect("builder-inited", write)
    return {"parallel_read_safe": True, "parallel_write_safe": True}

"""One page of the API reference for each part of the package, made from the modules that there are."""

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
    """A page: the package whose modules it shows, its title, and what it is."""

    package: str
    title: str
    about: str


PARTS = (
    Part("geolora_ref", "The core", "The step itself, on every library that follows the array API standard."),
    Part("geolora_ref.oracle", "The oracle", "What judges an implementation: two independent oracles, criteria, cases, mutants."),
    Part("geolora_ref.oracle.vectors", "Test vectors", "One step as JSON, for implementations in any language."),
    Part("geolora_ref.problems", "Problems", "Test problems with exact solutions and closed-form constants."),
    Part("geolora_ref.integrators", "Integrators", "The integrator family of dynamical low-rank approximation."),
    Part("geolora_ref.nn", "Adapters for torch", "Adapters, the optimizer that trains them, export."),
    Part("geolora_ref.fast", "The fast path", "The same step for many layers at once, on an accelerator."),
    Part("geolora_ref.support", "Support", "What the other parts share: files, streams, options, other processes' interfaces."),
    Part("geolora_ref.finetune", "The fine-tuning job", "A whole job around a pretrained model."),
    Part("verification", "The verification", "Claims, runner, report; from a checkout only."),
)


def modules(package: str) -> Iterator[str]:
    """The modules of a package, by name, and of the packages in ``geolora_ref.fast`` and ``geolora_ref.nn`` that have no page."""
    folder = ROOT.joinpath(*package.split("."))
    for path in sorted(folder.glob("*.py")):
        if path.stem not in ("__init__", "__main__"):
            yield f"{package}.{path.stem}"
    if package in ("geolora_ref.fast", "geolora_ref.nn"):
        for path in sorted(folder.glob("*/__init__.py")):
            yield from modules(f"{package}.{path.parent.name}")


def source(module: str) -> ast.Module:
    """The syntax tree of a module."""
    return ast.parse(ROOT.joinpath(*module.split(".")).with_suffix(".py").read_text(encoding="utf-8"))


def public_names(module: str) -> list[str]:
    """``__all__`` of a module, empty where it has none."""
    for node in source(module).body:
        if isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == "__all__" for t in node.targets):
            return [str(name) for name in ast.literal_eval(node.value)]
    return []


def reexported(package: str) -> list[tuple[str, str]]:
    """What the ``__init__`` of a package offers: (name, module that defines it)."""
    init = ROOT.joinpath(*package.split("."), "__init__.py")
    tree = ast.parse(init.read_text(encoding="utf-8"))
    return [
        (alias.asname or alias.name, node.module or "")
        for node in ast.walk(tree)  # those of the core stand under TYPE_CHECKING
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("geolora_ref")
        for alias in node.names
    ]


def page(part: Part) -> str:
    """The page as MyST."""
    lines = [f"# {part.title}: `{part.package}`", "", part.about, ""]
    offered = [(name, module) for name, module in reexported(part.package) if name in set(public_names(module))]
    if offered:
        lines += [f"`from {part.package} import …` offers:", ""]
        lines += [f"- {{py:obj}}`{name} <{module}.{name}>`" for name, module in sorted(offered)]
        lines += [""]
    for module in modules(part.package):
        names = public_names(module)
        members = [":members:", ":show-inheritance:"] if names else [":no-members:"]
        directive = [f".. automodule:: {module}", *(f"   {option}" for option in members)]
        lines += [f"## {module.removeprefix(part.package + '.')}", "", "```{eval-rst}", *directive, "```", ""]
    return "\n".join(lines)


def index() -> str:
    """The table of contents of the reference."""
    entries = "\n".join(part.package for part in PARTS if ROOT.joinpath(*part.package.split(".")).is_dir())
    text = """\
        # API reference

        Shapes stand in the signatures: `Inexact[Array, "m r"]` is a real or complex floating array of shape $m\\times r$ of any
        array API library, `Float` a real one. Errors are listed with what raises them; keys in brackets lead to the
        {doc}`/bibliography`.

        ```{toctree}
        :maxdepth: 1

        """
    return textwrap.dedent(text) + entries + "\n```\n"


def write(app: Sphinx) -> None:
    """Write the pages; a page that is as it was keeps its date, so that it is not read again."""
    PAGES.mkdir(parents=True, exist_ok=True)
    parts = [part for part in PARTS if ROOT.joinpath(*part.package.split(".")).is_dir()]
    texts = {"index": index(), **{part.package: page(part) for part in parts}}
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

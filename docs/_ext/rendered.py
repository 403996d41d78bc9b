"""Markdown that a function of the checkout returns, as a part of a page.

``{rendered} module:function argument`` is a directive, ``{value}`module:function argument``` a role
for one number or sentence.  Both also stand under the names of :data:`NAMES`.  The directive works
in the tutorials too, whose pages are reStructuredText.
"""

from __future__ import annotations

from importlib import import_module
from typing import ClassVar

from docutils import nodes
from docutils.core import publish_doctree
from myst_parser.docutils_ import Parser
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective, SphinxRole

NAMES = {
    "measured": "verified:measured",
    "measured-rest": "verified:measured_rest",
    "verdicts": "verified:verdicts",
    "machine-checked": "machine_checked:proofs",
    "machine-checked-table": "machine_checked:table",
}
"""The directives with names of their own, and the functions that they call."""


def rendered(target: str, *arguments: str) -> str:
    """The text that ``module:function`` returns."""
    module, _, function = target.partition(":")
    return str(getattr(import_module(module), function)(*arguments))


class Rendered(SphinxDirective):
    """The text, read as a part of the page."""

    optional_arguments = 2

    def run(self) -> list[nodes.Node]:
        """The nodes; the page is read again at every build, since a function may read any file."""
        self.env.note_reread()
        named = [NAMES[self.name]] if self.name in NAMES else []
        text = rendered(*named, *self.arguments)
        if str(self.env.doc2path(self.env.docname)).endswith(".md"):
            return self.parse_text_to_nodes(text, allow_section_headings=True)
        return list(publish_doctree(text, parser=Parser()).children)


class Value(SphinxRole):
    """The text, as a part of a sentence."""

    target: ClassVar[tuple[str, ...]] = ()

    def run(self) -> tuple[list[nodes.Node], list[nodes.system_message]]:
        """One node."""
        self.env.note_reread()
        return [nodes.inline("", rendered(*self.target, *self.text.split()))], []


class Worst(Value):
    """``{worst}`descent```: the worst ratio of a claim."""

    target = ("verified:worst",)


def setup(app: Sphinx) -> dict[str, bool]:
    """Register directives and roles."""
    for name in ("rendered", *NAMES):
        app.add_directive(name, Rendered)
    app.add_role("value", Value())
    app.add_role("worst", Worst())
    return {"parallel_read_safe": True, "parallel_write_safe": True}

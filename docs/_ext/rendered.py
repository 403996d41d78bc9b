"""``{rendered} module:function``: Markdown that a function of the checkout returns, such as a table
of stored measurements.

The directive also works in the tutorials, whose pages are reStructuredText.
"""

from __future__ import annotations

from importlib import import_module

from docutils import nodes
from docutils.core import publish_doctree
from myst_parser.docutils_ import Parser
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective


def rendered(target: str) -> str:
    """The text of ``module:function``."""
    module, _, function = target.partition(":")
    return str(getattr(import_module(module), function)())


class Rendered(SphinxDirective):
    """The text, read as a part of the page."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """The nodes of the text; the page is read again at every build, since a function may read any file."""
        self.env.note_reread()
        text = rendered(self.arguments[0])
        if str(self.env.doc2path(self.env.docname)).endswith(".md"):
            return self.parse_text_to_nodes(text)
        return list(publish_doctree(text, parser=Parser()).children)


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the directive."""
    app.add_directive("rendered", Rendered)
    return {"parallel_read_safe": True, "parallel_write_safe": True}

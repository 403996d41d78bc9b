"""``{rendered} module:function``: Markdown that a function of the checkout returns, such as a table of stored measurements."""

from __future__ import annotations

from importlib import import_module

from docutils import nodes
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
        return self.parse_text_to_nodes(rendered(self.arguments[0]))


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the directive."""
    app.add_directive("rendered", Rendered)
    return {"parallel_read_safe": True, "parallel_write_safe": True}

"""``{pages}``: a table of contents of those of its pages that exist, so that a part of the project may be left out."""

from __future__ import annotations

from docutils import nodes
from docutils.statemachine import StringList
from sphinx.application import Sphinx
from sphinx.directives.other import TocTree


class Pages(TocTree):
    """A toctree without the entries that have no page."""

    def run(self) -> list[nodes.Node]:
        """The toctree of the pages that exist."""
        there = [(line, *self.content.info(i)) for i, line in enumerate(self.content) if line.strip() in self.env.found_docs]
        self.content = StringList([line for line, *_ in there], items=[(str(source), int(at or 0)) for _, source, at in there])
        return super().run()


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the directive."""
    app.add_directive("pages", Pages)
    return {"parallel_read_safe": True, "parallel_write_safe": True}

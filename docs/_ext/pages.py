"""``{pages}``: a table of contents that skips pages that do not exist, so that a part of the
project may be left out.

A line ``*`` stands for every other page of the folder that the page with this directive does not name.
"""

from __future__ import annotations

from docutils import nodes
from docutils.statemachine import StringList
from sphinx.application import Sphinx
from sphinx.directives.other import TocTree


class Pages(TocTree):
    """A toctree without the entries that have no page."""

    def run(self) -> list[nodes.Node]:
        """The toctree of the pages that exist."""
        source = self.env.doc2path(self.env.docname).read_text(encoding="utf-8")
        named = set(source.split())
        rest = sorted(
            page for page in self.env.found_docs - named - {self.env.docname} if "/" not in page
        )
        wanted = [
            page
            for line in self.content
            for page in (rest if line.strip() == "*" else [line.strip()])
        ]
        there = [page for page in wanted if page in self.env.found_docs]
        self.content = StringList(
            there, items=[(str(self.env.doc2path(self.env.docname)), self.lineno)] * len(there)
        )
        return super().run()


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the directive."""
    app.add_directive("pages", Pages)
    return {"parallel_read_safe": True, "parallel_write_safe": True}

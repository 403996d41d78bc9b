"""A stylesheet with the glyphs of formulas, made while the pages are built: see
verification/report/glyphs.py.
"""

from __future__ import annotations

from pathlib import Path

from sphinx.application import Sphinx
from verification.report.glyphs import faces

STATIC = Path(__file__).resolve().parent.parent / "_generated" / "static"


def setup(app: Sphinx) -> dict[str, bool]:
    """Write the stylesheet, and have every page use it."""
    STATIC.mkdir(parents=True, exist_ok=True)
    (STATIC / "glyphs.css").write_text(faces() + "\n", encoding="utf-8")
    app.config.html_static_path.append(str(STATIC))
    app.add_css_file("glyphs.css")
    return {"parallel_read_safe": True, "parallel_write_safe": True}

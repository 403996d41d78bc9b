"""Docstrings and citations in the form that Sphinx reads.

Keys such as [CKL24] become citations, and citations have the key as their label.  Options that a
docstring lists as "``name`` : text" get a paragraph each.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from pybtex.plugin import register_plugin
from pybtex.style.formatting.alpha import Style as AlphaStyle
from pybtex.style.labels import BaseLabelStyle
from sphinx.application import Sphinx

BIBLIOGRAPHY = Path(__file__).resolve().parent.parent / "references.bib"
KEYS = frozenset(re.findall(r"^@\w+\{([^,]+),", BIBLIOGRAPHY.read_text("utf-8"), re.MULTILINE))


def process(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Rewrite the lines of a docstring in place, at autodoc's event."""
    whole = "\n".join(lines)
    whole = re.sub(r"\[(\w+)\]", lambda f: f":cite:`{f[1]}`" if f[1] in KEYS else f[0], whole)
    whole = re.sub(r"\n(?=``\w[^`\n]*``(?:, ``[^`\n]*``)* : )", "\n\n", whole)
    whole = re.sub(r"(?<![|\w])\|(?=\S)([^|`\n]*)(?<=\S)\|", r"\\|\1\\|", whole)  # no substitution
    whole = re.sub(r"(?<=[^\s`_:])_(?![\w{`(])", r"\\_", whole)  # no reference
    lines[:] = whole.split("\n")


class KeyLabels(BaseLabelStyle):
    """The label of an entry is its key."""

    def format_labels(self, sorted_entries: Iterable[Any]) -> Iterator[str]:
        """The keys, in order."""
        return (entry.key for entry in sorted_entries)


class KeyStyle(AlphaStyle):
    """The alphabetic style with keys as labels."""

    default_label_style = KeyLabels


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the event, and the style under the name that conf.py uses."""
    register_plugin("pybtex.style.formatting", "keys", KeyStyle)
    app.connect("autodoc-process-docstring", process)
    return {"parallel_read_safe": True, "parallel_write_safe": True}

"""Docstrings and citations in the form that Sphinx reads.

Keys such as [CKL24] become citations, and citations have the key as their label.  An entry
"name : a sentence." of a section becomes numpydoc's entry without a type, prose after a section its
notes, and an option outside of sections, "``name`` : text", a paragraph.
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


ENTRY = re.compile(r"^(\w[^:\n`]*) : (?=.*(?:[.,;:]$|\n(?!    +[A-Z]|$)))", re.MULTILINE)
"""The name of an entry whose text is a sentence, not a type with a sentence below it."""


def blocks(found: list[str]) -> Iterator[str]:
    """The paragraphs of a docstring, with the sections of numpydoc."""
    section = False
    for block in found:
        if re.match(r".+\n---+\n", block):
            section = True
            yield ENTRY.sub(r"\1\n    ", block)
        else:
            prose = section and not block.startswith(" ")
            section = section and not prose
            yield "Notes\n-----\n" * prose + block


def process(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Rewrite the lines of a docstring in place, at autodoc's event."""
    whole = "\n\n".join(blocks("\n".join(lines).split("\n\n")))
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
    app.connect("autodoc-process-docstring", process, priority=400)  # before napoleon
    return {"parallel_read_safe": True, "parallel_write_safe": True}

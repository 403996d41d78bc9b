"""Prepare the docstrings of the code for autodoc: sections become lists of definitions, keys like
[CKL24] citations.
"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx

BIBLIOGRAPHY = Path(__file__).resolve().parent.parent / "references.bib"
UNDERLINE = re.compile(r"-{3,}")
ENTRY = re.compile(r"(?P<names>\S(?:.*?\S)?) : (?P<text>.*)")
NAMED = re.compile(r"``[^`]+``(, ``[^`]+``)*")
EXCEPTION = re.compile(r"[A-Z]\w+(Error|Exception)")
BARS = re.compile(r"\|(?=\S)([^|`]*)(?<=\S)\|")
TARGET = re.compile(r"(?<=[^\s`_])_(?![\w{`(])")
KEY = re.compile(r"\[([A-Za-z]+\d{0,2})\]")


@cache
def keys() -> frozenset[str]:
    """The keys of the bibliography."""
    return frozenset(
        re.findall(r"^@\w+\{([^,]+),", BIBLIOGRAPHY.read_text(encoding="utf-8"), re.MULTILINE)
    )


def citations(line: str) -> str:
    """[CKL24] as a citation, where the bibliography has that key."""
    return KEY.sub(lambda found: f":cite:`{found[1]}`" if found[1] in keys() else found[0], line)


def inline(line: str) -> str:
    """The line with citations, and with backslashes before bars and final underscores, which Sphinx
    would take for markup.
    """
    return TARGET.sub(r"\\_", BARS.sub(r"\\|\1\\|", citations(line)))


def definitions(lines: list[str]) -> list[str]:
    """The text with underlined heads as rubrics, and "name : text" under a head, "``name`` : text"
    anywhere, as definitions.

    A definition extends to the next blank line, or in a section to the next line that is not
    indented; a section ends at the first line that is neither an entry nor indented.
    """
    out: list[str] = []
    in_section = in_entry = False
    for line, following in zip(lines, [*lines[1:], ""], strict=False):
        entry, indented = ENTRY.fullmatch(line), line.startswith(" ")
        if UNDERLINE.fullmatch(line):
            continue
        if UNDERLINE.fullmatch(following) and line.strip():
            out += ["", f".. rubric:: {line}", ""]
            in_section, in_entry = True, False
        elif entry and NAMED.fullmatch(entry["names"]):
            out += ["", entry["names"], f"    {inline(entry['text'])}"]
            in_section, in_entry = False, True
        elif in_section and not indented and (entry or EXCEPTION.fullmatch(line)):
            names, text = (entry["names"], entry["text"]) if entry else (line, "")
            out += ["", f"``{names}``", f"    {inline(text)}".rstrip()]
            in_entry = True
        elif not line.strip():
            out.append("")
            in_entry = in_entry and in_section
        elif in_entry and (indented or not in_section):
            out.append(f"    {inline(line.strip())}")
        else:
            if in_section or in_entry:
                out.append("")
            in_section = in_entry = False
            out.append(inline(line))
    return out


def process(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Rewrite the lines of a docstring in place, at autodoc's event."""
    lines[:] = definitions(lines)


def signature(
    app: Sphinx, what: str, name: str, obj: Any, options: Any, text: str | None, returns: str | None
) -> Any:
    """The signature with Array inside of Callable[…] too, where autodoc leaves the alias as a
    forward reference.
    """
    alias = re.compile(r"TypeAliasForwardRef\('(\w+)'\)")
    return tuple(alias.sub(r"\1", part) if part else part for part in (text, returns))


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the event."""
    app.connect("autodoc-process-docstring", process)
    app.connect("autodoc-process-signature", signature)
    return {"parallel_read_safe": True, "parallel_write_safe": True}

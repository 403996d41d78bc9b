"""What is machine-checked of the theory: theorems and boxes, as verification/formal lists them.

``{machine-checked} one-pass`` stands in a box of the theory.  It names the theorems that prove the
box, with their text, or says that the proof is on paper.  It also gives the box its number and name
as a title, and the anchor ``theorem-one-pass``.
"""

from __future__ import annotations

import re
from html import escape

from docutils import nodes
from sphinx.application import Sphinx
from verification.formal.theorems import BOXES, Box, statement

NUMBERS = {name: number for number, name in enumerate(BOXES, 1)}
"""The number of each box, in the order of the pages."""


def proofs(name: str) -> str:
    """The last line of a box, as HTML without blank lines."""
    box = BOXES[name]
    if not box.theorems:
        return f"<p class='checked' data-box='{name}'>Proved on paper.</p>"
    names = ", ".join(f"<code>{theorem.replace('.', '.v, ', 1)}</code>" for theorem in box.theorems)
    text = "\n\n".join(
        f"(* {theorem.split('.')[0]}.v *)\n{statement(theorem)}" for theorem in box.theorems
    )
    code = escape(text).replace("\n", "&#10;")  # a blank line would end the HTML in Markdown
    rest = f" On paper: {escape(box.on_paper)}." if box.on_paper else ""
    return (
        f"<p class='checked' data-box='{name}'>Machine-checked: {names}.{rest}</p>\n"
        "<details class='measured'><summary>What the machine has checked</summary>"
        f"<pre>{code}</pre></details>"
    )


def table() -> str:
    """Every box with what proves it and what checks it, as Markdown."""
    head = (
        "| statement | machine | certificate | claim | broken on purpose |\n|---|---|---|---|---|"
    )
    rows = (
        f"| {NUMBERS[name]}. {box.title} | {_files(box)} | {'yes' if box.certificate else '–'} "
        f"| {f'`{box.claim}`' if box.claim else '–'} | {escape(box.broken)} |"
        for name, box in BOXES.items()
    )
    return "\n".join([head, *rows])


def _files(box: Box) -> str:
    files = sorted({theorem.split(".")[0] for theorem in box.theorems})
    part = " in part" if box.on_paper else ""
    return ", ".join(f"`{file}.v`" for file in files) + part if files else "–"


def name_boxes(app: Sphinx, document: nodes.document) -> None:
    """Title each box "Theorem 8 (its name)", with a link to itself."""
    for checked in list(document.findall(nodes.raw)):
        if found := re.match("<p class='checked' data-box='(.*?)'>", checked.astext()):
            box, name = checked.parent, found[1]
            box["ids"].append(f"theorem-{name}")
            link = (
                f'<a class="headerlink" href="#theorem-{name}" title="Link to this theorem">¶</a>'
            )
            words = nodes.Text(f"Theorem {NUMBERS[name]} ({BOXES[name].title})")
            box[0].replace_self(nodes.title("", "", words, nodes.raw("", link, format="html")))


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the event."""
    app.connect("doctree-read", name_boxes)
    return {"parallel_read_safe": True, "parallel_write_safe": True}

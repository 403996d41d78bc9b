"""Show on the pages what is machine-checked: theorems, their boxes and their text are read from
verification/formal.

``{machine-checked} one-pass`` stands in a box of the theory and says which theorems prove it, with
their text, or that the proof is on paper.  The box gets its name and number as a title, and the
anchor ``theorem-one-pass``, to be cited by; ``{machine-checked-table}`` is the table of all boxes.
"""

from __future__ import annotations

from html import escape

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective
from verification.formal.theorems import BOXES, SOURCES, Box, statement

__all__ = ["NUMBERS", "line", "table"]

NUMBERS = {name: number for number, name in enumerate(BOXES, 1)}
"""The number of each box, in the order of the pages."""


def line(box: Box) -> str:
    """The last line of a box, as HTML."""
    if not box.theorems:
        return "<p class='checked'>Proved on paper.</p>"
    names = ", ".join(f"<code>{theorem.replace('.', '.v, ', 1)}</code>" for theorem in box.theorems)
    text = "\n\n".join(
        f"(* {theorem.split('.')[0]}.v *)\n{statement(theorem)}" for theorem in box.theorems
    )
    rest = f" On paper: {escape(box.on_paper)}." if box.on_paper else ""
    return (
        f"<p class='checked'>Machine-checked: {names}.{rest}</p>"
        f"<details class='measured'><summary>What the machine has checked</summary><pre>{escape(text)}</pre></details>"
    )


def _cell(box: Box) -> str:
    files = sorted({theorem.split(".")[0] for theorem in box.theorems})
    return (
        (
            "<br>".join(f"<code>{file}.v</code>" for file in files)
            + (" in part" if box.on_paper else "")
        )
        if files
        else "–"
    )


def table() -> str:
    """Every box: what proves it and what checks it, as HTML."""
    columns = ("statement", "paper proof", "machine", "certificate", "claim", "broken on purpose")
    head = f"<tr>{''.join(f'<th>{column}</th>' for column in columns)}</tr>"
    rows = "".join(
        f"<tr><td>{NUMBERS[name]}. {escape(box.title)}</td><td>yes</td><td>{_cell(box)}</td>"
        f"<td>{'yes' if box.certificate else '–'}</td><td>{f'<code>{box.claim}</code>' if box.claim else '–'}</td>"
        f"<td>{escape(box.broken)}</td></tr>"
        for name, box in BOXES.items()
    )
    return f'<div class="scroll"><table class="measured">{head}{rows}</table></div>'


class MachineChecked(SphinxDirective):
    """``{machine-checked} box``: the theorems that prove a box, with the part that stays on paper."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """The line, or an error that lists the boxes there are."""
        (name,) = self.arguments
        if name not in BOXES:
            raise self.error(f"machine-checked: expected one of {', '.join(BOXES)}, found {name!r}")
        for theorem in BOXES[name].theorems:
            self.env.note_dependency(str(SOURCES[theorem.split(".")[0]]))
        return [nodes.raw("", line(BOXES[name]), format="html", box=name)]


def name_boxes(app: Sphinx, document: nodes.document) -> None:
    """Each box is called "Theorem 8 (its name)", with a link to itself."""
    for checked in document.findall(lambda node: isinstance(node, nodes.raw) and "box" in node):
        box, name = checked.parent, checked["box"]
        anchor = f"theorem-{name}"
        box["ids"].append(anchor)
        link = f'<a class="headerlink" href="#{anchor}" title="Link to this theorem">¶</a>'
        words = nodes.Text(f"Theorem {NUMBERS[name]} ({BOXES[name].title})")
        box[0].replace_self(nodes.title("", "", words, nodes.raw("", link, format="html")))


class MachineCheckedTable(SphinxDirective):
    """``{machine-checked-table}``: every box."""

    def run(self) -> list[nodes.Node]:
        """The table."""
        return [nodes.raw("", table(), format="html")]


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the directives."""
    app.add_directive("machine-checked", MachineChecked)
    app.add_directive("machine-checked-table", MachineCheckedTable)
    app.connect("doctree-read", name_boxes)
    return {"parallel_read_safe": True, "parallel_write_safe": True}

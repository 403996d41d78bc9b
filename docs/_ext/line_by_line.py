"""``{algorithm-lines}``: Algorithm 1 and 2 line by line, formula left and code right, with the
checks that guard each line.
"""

from __future__ import annotations

from html import escape

from docutils import nodes
from geolora_ref.oracle.broken.mutants import Mutant
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective
from verification.report.report import mathematics

from algorithm_lines import LINES, Line, checks_of, claims_of, mutants_of
from verified import ClaimLinks, results, table, value

TEMPLATE = """\
::::::{{grid}} 1 1 2 2
:class-container: algorithm-line
:gutter: 2

:::::{{grid-item}}
:columns: 12 12 5 5

<p class="line-head" id="line-{id}"><span class="line-number">{id}</span> {title}</p>

$$
{formula}
$$

{published}

{proved}

**Shapes** {shapes}

**Cost** {cost}
:::::

:::::{{grid-item}}
:columns: 12 12 7 7

```{{literalinclude}} /../{file}
:language: python
:caption: {file}
{options}
```
:::::
::::::
"""


def as_published(line: Line) -> str:
    """The published formula where it differs, with what is done in its place; else an empty string."""
    return (
        f"*As published:*\n\n$$\n{line.published}\n$$\n\n{line.instead}" if line.published else ""
    )


def code_options(line: Line) -> str:
    """The options of literalinclude that select the code of a line."""
    anchor = line.anchor
    if anchor.pyobject:
        return f":pyobject: {anchor.pyobject}"
    return f':start-at: "{anchor.start}"\n:end-at: "{anchor.end}"\n:dedent:'


def kill(mutant: Mutant) -> str:
    """A mutant as an item of a list, in HTML."""
    published = (
        ' <span class="verdict warn">found in public code</span>' if mutant.published else ""
    )
    return f"<li><code>{mutant.id}</code> {mathematics(mutant.defect)}{published}</li>"


def guards(line: Line) -> str:
    """Checks, claims and mutants of a line as HTML, or where to find them for a helper."""
    if line.caller:
        return f'<p class="guards">Guarded with <a href="#line-{line.caller}">line {line.caller}</a>.</p>'
    rows = []
    for claim, controls in claims_of(line):
        measured = results()[claim.id]
        worst = {control["id"]: control["worst"] for control in measured["controls"]}
        broken = ", ".join(f"<code>{escape(c.id)}</code> {value(worst[c.id])}" for c in controls)
        rows.append(
            [
                f"<!--claim {claim.id}-->{escape(claim.title)}<!--/claim-->",
                f"{value(measured['worst'])} of {value(measured['limit'])}",
                broken,
            ]
        )
    html = table(
        ["claim that fails if this line is wrong", "worst ratio", "with the line broken"], rows
    )
    checks = ", ".join(escape(name) for name in checks_of(line))
    if checks:
        html = f"<p class='guards'><b>Stage checks</b> of the oracle: {checks}.</p>{html}"
    mutants = mutants_of(line)
    if mutants:
        items = "".join(kill(mutant) for mutant in mutants)
        summary = f"<summary>{len(mutants)} mutants break this line; all are rejected</summary>"
        html += f"<details class='measured'>{summary}<ul>{items}</ul></details>"
    return html


class AlgorithmLines(SphinxDirective):
    """All lines, in order."""

    def run(self) -> list[nodes.Node]:
        """One grid a line, and its guards under it."""
        found: list[nodes.Node] = []
        for line in LINES:
            shapes = ", ".join(f"${shape.strip()}$" for shape in line.shapes.split(";"))
            fields = {"id": line.id, "title": line.title, "formula": line.formula, "shapes": shapes}
            fields |= {"published": as_published(line), "proved": line.proved, "cost": line.cost}
            text = TEMPLATE.format(**fields, file=line.anchor.file, options=code_options(line))
            found += self.parse_text_to_nodes(text, allow_section_headings=False)
            found.append(
                ClaimLinks("", f'<div class="line-guards">{guards(line)}</div>', format="html")
            )
        return found


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the directive."""
    app.add_directive("algorithm-lines", AlgorithmLines)
    return {"parallel_read_safe": True, "parallel_write_safe": True}

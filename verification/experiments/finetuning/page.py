"""What is shown of the runs: the page, and the tables of the documentation.  Both are made of a summary, plain data."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2

from geolora_ref.support.files import write_atomically, write_json
from verification.experiments.finetuning.figures import draw_initial_ranks, draw_robustness, image
from verification.shown import Rows, markdown_table

__all__ = ["MEASURED", "page", "tables", "write_page"]

MEASURED = Path(__file__).parent / "measured" / "summary.json"
"""The sealed summary of the stored campaign; its runs lie beside it, and ``--output`` of that folder goes on with it."""


def write_page(summary: Mapping[str, Any], folder: Path) -> Path:
    """Write ``summary.json``, sealed, and ``page.html``; returns the path of the page."""
    write_json(folder / "summary.json", dict(summary))
    write_atomically(folder / "page.html", page(summary))
    return folder / "page.html"


def page(summary: Mapping[str, Any]) -> str:
    """The page, self-contained."""
    figures = {"robustness": image(draw_robustness, summary), "initial_ranks": image(draw_initial_ranks, summary)}
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        trim_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters |= {"number": _number, "spread": _spread, "count": _count}
    content = {"summary": summary, "about": summary["about"], "figures": figures}
    return environment.get_template("page.html.j2").render(**content, rates=_rates(summary), edges=_edges(summary))


def tables(summary: Mapping[str, Any]) -> str:
    """The three tables of the documentation, in Markdown."""
    comparison: Rows = [["method", "lr", "test, mean ± std", "dev, mean ± std", "adapter parameters at the end", "seeds"]]
    for row, rate in zip(summary["comparison"], _rates(summary), strict=True):
        parameters = _count(row["parameters"]["mean"])
        comparison.append([row["family"], rate, _spread(row["test"]), _spread(row["dev"]), parameters, _seeds(row)])
    ranks: Rows = [["method", "initial rank", "test, mean ± std", "adapter parameters at the end", "seeds"]]
    for row in summary["initial_ranks"]:
        ranks.append([row["family"], row["budget"], _spread(row["test"]), _count(row["parameters"]["mean"]), _seeds(row)])
    return "\n\n".join((markdown_table(comparison), _edges(summary), markdown_table(ranks), _map(summary)))


def _seeds(row: Mapping[str, Any]) -> str:
    """How many seeds there are; where some failed, how many did, and how many the mean on the test sentences is of."""
    failed = f", {row['failed']} failed, mean of {row['test']['count']}" if row["failed"] else ""
    return f"{row['seeds']}{failed}"


def _rates(summary: Mapping[str, Any]) -> list[str]:
    """The learning rates of the comparison, those at the edge of what was tried marked as such."""
    marks = {family: f", {edge} tried" for family, edge in summary["edges"].items()}
    return [f"{row['rate']:g}{marks.get(row['family'], '')}" for row in summary["comparison"]]


def _edges(summary: Mapping[str, Any]) -> str:
    """Which best learning rates lie at the edge of what was tried, and which methods were tried at one only."""
    rows, marks = summary["comparison"], summary["edges"]
    edges = [f"{row['family']} ({row['rate']:g}, {marks[row['family']]})" for row in rows if row["family"] in marks]
    fixed = [row["family"] for row in rows if row["family"] not in summary["best_rates"]]
    sentences = (("At the edge of what was tried, so that a better learning rate may lie beyond", edges), ("Not swept", fixed))
    return " ".join(f"{what}: {', '.join(names)}." for what, names in sentences if names)


def _map(summary: Mapping[str, Any]) -> str:
    """Development metric by method and rank (rows) and learning rate (columns), with the range that keeps 95 % of the best."""
    rates = list(dict.fromkeys(f"{rate:g}" for rate in sorted(point["rate"] for point in summary["robustness"])))
    cells: dict[str, dict[str, str]] = {}
    for point in summary["robustness"]:
        value = "diverged" if point["dev"] is None else f"{point['dev']:.3f}" + ("" if point["usable"] else ", nothing learned")
        cells.setdefault(f"{point['family']}, rank {point['budget']}", {})[f"{point['rate']:g}"] = value
    ranges = {name: "–" if span is None else f"{span['ratio']:.2g} x" for name, span in summary["ranges"].items()}
    rows = ([name, *(row.get(rate, "") for rate in rates), ranges[name]] for name, row in cells.items())
    return markdown_table([["dev, one seed, lr", *rates, "width of the range"], *rows])


def _number(value: float | None) -> str:
    """Three significant digits."""
    return "–" if value is None else f"{value:.3g}"


def _spread(value: Mapping[str, Any]) -> str:
    """Mean ± standard deviation."""
    if value["mean"] is None:
        return "–"
    return f"{value['mean']:.4f}" + ("" if value["std"] is None else f" ± {value['std']:.4f}")


def _count(value: float | None) -> str:
    """Thousands set apart."""
    return "–" if value is None else f"{round(value):,}".replace(",", "\u202f")

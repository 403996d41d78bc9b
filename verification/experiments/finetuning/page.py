"""The page and ``summary.json``, made of the stored runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jinja2

from geolora_ref.files import write_atomically
from verification.experiments.finetuning.design import MAIN_BUDGET, Effort
from verification.experiments.finetuning.figures import draw_initial_ranks, draw_robustness, image
from verification.experiments.finetuning.runs import Store
from verification.experiments.finetuning.summary import summarise

__all__ = ["write_page"]


def write_page(store: Store, effort: Effort, folder: Path, model: str) -> Path:
    """Write ``summary.json`` and ``page.html``, of whatever is stored so far; returns the path of the page."""
    summary, corpus = summarise(store, effort), store.corpus
    about: dict[str, Any] = {
        "model": model,
        "plan": corpus.plan,
        "sentences": effort.sentences,
        "threads": corpus.identity["threads"],
        "main_budget": MAIN_BUDGET,
        "machine": store.facts,
        **{name: len(examples) for name, examples in corpus.examples.items()},
    }
    write_atomically(folder / "summary.json", json.dumps(summary, ensure_ascii=False, indent=1, allow_nan=False))
    figures = {"robustness": image(draw_robustness, summary), "initial_ranks": image(draw_initial_ranks, summary)}
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        trim_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters |= {"number": _number, "spread": _spread, "count": _count}
    html = environment.get_template("page.html.j2").render(summary=summary, about=about, figures=figures)
    write_atomically(folder / "page.html", html)
    return folder / "page.html"


def _number(value: float | None) -> str:
    """Three significant digits."""
    return "–" if value is None else f"{value:.3g}"


def _spread(value: dict[str, Any]) -> str:
    """Mean ± standard deviation."""
    if value["mean"] is None:
        return "–"
    return f"{value['mean']:.4f}" + ("" if value["std"] is None else f" ± {value['std']:.4f}")


def _count(value: float | None) -> str:
    """Thousands set apart."""
    return "–" if value is None else f"{round(value):,}".replace(",", "\u202f")

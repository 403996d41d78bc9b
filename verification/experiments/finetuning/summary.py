"""From stored runs to figures: best learning rates, means and spreads, ranges of learning rates, ratios of parameters."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from verification.experiments.finetuning.design import ADAPTIVE, MAIN_BUDGET, Effort, Run, comparison, initial_ranks, robustness
from verification.experiments.finetuning.runs import Store

__all__ = ["Point", "at_the_edge", "best_rates", "described", "points", "spread_of", "summarise", "wide_range"]

Point = dict[str, Any]
"""A stored run with what the tables need on top: family, budget, rate, seed, dev, test (None if it diverged)."""


def points(store: Store, runs: Sequence[Run]) -> list[Point]:
    """The stored ones among the runs."""
    found = []
    for run in runs:
        stored = store.get(run)
        if stored is not None:
            metrics = stored["metrics"]
            found.append(
                {
                    "family": run.family,
                    "budget": run.budget,
                    "rate": getattr(run.method, "lr", None),
                    "seed": run.seed,
                    "dev": metrics.get("dev"),
                    "test": metrics.get("test"),
                    "usable": bool(stored["learned"]) and metrics.get("dev") is not None,
                    "parameters": stored["parameters"],
                    "ranks": stored["ranks"],
                    "commit": stored["machine"].get("commit"),
                }
            )
    return found


def best_rates(swept: Sequence[Point]) -> dict[str, float]:
    """The learning rate with the best development metric at the main budget, by family; the smaller one of equals."""
    best: dict[str, Point] = {}
    for point in sorted(swept, key=lambda point: point["rate"]):
        known = best.get(point["family"])
        if point["budget"] == MAIN_BUDGET and point["dev"] is not None and (known is None or point["dev"] > known["dev"]):
            best[point["family"]] = point
    return {family: float(point["rate"]) for family, point in best.items()}


def at_the_edge(swept: Sequence[Point], best: Mapping[str, float]) -> dict[str, str]:
    """The families whose best learning rate is the smallest, largest or only one tried: a better one may lie beyond."""
    found = {}
    for family, rate in best.items():
        tried = [point["rate"] for point in swept if point["family"] == family and point["budget"] == MAIN_BUDGET]
        edge = {(True, False): "smallest", (False, True): "largest", (True, True): "only"}
        if rate in (min(tried), max(tried)):
            found[family] = edge[rate == min(tried), rate == max(tried)]
    return found


def wide_range(swept: Sequence[Point], share: float = 0.95) -> dict[str, Any] | None:
    """The longest run of neighbouring learning rates whose development metric is at least ``share`` of the best one's."""
    ordered = sorted(swept, key=lambda point: point["rate"])
    values = [point["dev"] if point["usable"] else None for point in ordered]
    top = max((value for value in values if value is not None), default=None)
    if top is None:
        return None
    good = [value is not None and value >= share * top for value in values]
    longest = max(
        ((i, j) for i in range(len(good)) for j in range(i, len(good)) if all(good[i : j + 1])),
        key=lambda ends: ordered[ends[1]]["rate"] / ordered[ends[0]]["rate"],
    )
    low, high = (ordered[i]["rate"] for i in longest)
    return {"low": low, "high": high, "ratio": high / low, "best": top}


def _statistics(values: Sequence[float | None]) -> dict[str, Any]:
    """Mean and standard deviation (n − 1) of what is there."""
    there = [value for value in values if value is not None]
    return {
        "mean": statistics.fmean(there) if there else None,
        "std": statistics.stdev(there) if len(there) > 1 else None,
        "count": len(there),
    }


def _grouped(found: Sequence[Point]) -> dict[tuple[str, int], list[Point]]:
    groups: dict[tuple[str, int], list[Point]] = defaultdict(list)
    for point in found:
        groups[point["family"], point["budget"]].append(point)
    return groups


def _rows(found: Sequence[Point]) -> list[dict[str, Any]]:
    """One row a family and budget, over the seeds."""
    return [
        {
            "family": family,
            "budget": budget,
            "rate": group[0]["rate"],
            "seeds": len(group),
            "failed": sum(not point["usable"] for point in group),
            "dev": _statistics([point["dev"] for point in group]),
            "test": _statistics([point["test"] for point in group]),
            "parameters": _statistics([point["parameters"] for point in group]),
        }
        for (family, budget), group in _grouped(found).items()
    ]


def spread_of(rows: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    """Largest over smallest mean of the parameters, and the difference of the best and the worst mean on the test sentences.

    Of the rows with the most seeds that at least two have: a single run and a mean are no pair.  None if there are no two.
    """
    seeds = [row["seeds"] for row in rows]
    most = max((count for count in seeds if seeds.count(count) > 1), default=None)
    if most is None:
        return None
    rows = [row for row in rows if row["seeds"] == most]
    counts = [row["parameters"]["mean"] for row in rows]
    tests = [row["test"]["mean"] for row in rows if row["test"]["mean"] is not None]
    return {
        "parameters": max(counts) / min(counts),
        "test": max(tests) - min(tests) if tests else None,
        "ranks": [row["budget"] for row in rows],
        "seeds": most,
    }


def summarise(store: Store, effort: Effort) -> dict[str, Any]:
    """Everything that the page shows, of the runs that are stored so far."""
    swept = points(store, robustness(effort))
    best = best_rates(swept)
    complete = {"geolora", "lora"} <= set(best)
    a = _rows(points(store, comparison(effort, best))) if complete else []
    b = _rows(points(store, initial_ranks(effort, best))) if complete else []
    free = {name: [row for row in b if row["family"] == f"{name}, free"] for name in ADAPTIVE}
    asked = [
        *robustness(effort),
        *(comparison(effort, best) if complete else ()),
        *(initial_ranks(effort, best) if complete else ()),
    ]
    everything = points(store, list({store.path(run): run for run in asked}.values()))
    return {
        "metric": store.corpus.plan.metric,
        "best_rates": best,
        "edges": at_the_edge(swept, best),
        "comparison": a,
        "initial_ranks": b,
        "initial_ranks_spread": {name: spread for name, rows in free.items() if (spread := spread_of(rows)) is not None},
        "robustness": swept,
        "ranges": {f"{family}, rank {budget}": wide_range(group) for (family, budget), group in _grouped(swept).items()},
        "commits": sorted({str(point["commit"]) for point in everything}),
        "runs": len(everything),
    }


def described(store: Store, effort: Effort, model: str) -> dict[str, Any]:
    """The summary of whatever is stored so far, and ``about``: what was trained on what, and where."""
    corpus = store.corpus
    about = {
        "model": model,
        "plan": asdict(corpus.plan),
        "sentences": effort.sentences,
        "threads": corpus.identity["threads"],
        "main_budget": MAIN_BUDGET,
        "machine": store.facts,
        **{name: len(examples) for name, examples in corpus.examples.items()},
    }
    return {"about": about, **summarise(store, effort)}

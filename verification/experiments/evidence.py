"""The tables and charts of docs/results.md, from the stored figures alone.

``python -m verification.experiments tables`` prints the tables.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache, partial

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from verification.experiments.interval import Interval, equivalent, paired, student, verdict
from verification.experiments.rows import Row, best_rate, figures, markdown, pick
from verification.support.pictures import image, svg

__all__ = [
    "TABLES",
    "adaptive_outcome",
    "batches",
    "characters",
    "choice",
    "comparisons",
    "cost",
    "difference_chart",
    "forgetting",
    "map_chart",
    "maps",
    "methods",
    "scratch",
    "scratch_outcome",
    "short_runs",
    "speed",
    "tuned",
    "untuned",
]

Runs = Mapping[int, Row]
"""Runs by their seeds."""
Choice = Callable[[Sequence[Row]], Runs]
"""Picks the runs of a method among those of a task."""

# ---------------------------------------------------------------- fine-tuning on several tasks

TEXTS = ("sst2", "trec", "sst5", "subj", "stsb")
RANK, RATE = 4, 0.0063
RECHOSEN = ("lora", "geolora, budget, rms")
"""The methods whose rate all seeds choose among the two that are best with the first seed."""
SHORT = 0.5
"""Points within which the default counts as equivalent to LoRA."""


def points(row: Row) -> float:
    """Return an accuracy in percent, 0 if the run diverged, or a perplexity as it is."""
    value = 0.0 if row["test"] is None else float(row["test"])
    return value if row["task"] == "shakespeare" else 100.0 * value


def lower(rows: Sequence[Row]) -> bool:
    """Return whether smaller figures are better on the task of these rows."""
    return bool(rows and rows[0]["task"] == "shakespeare")


def at_rate(rows: Sequence[Row], method: str, rank: int = RANK, rate: float = RATE) -> Runs:
    """Return the runs of a method at a rank and rate, of whatever stage but the outer rates."""
    stages = (None, "second", "default")
    found = pick(rows, method=method, rank=rank, rate=rate, stage=stages)
    return {row["seed"]: row for row in found}


def at_best(rows: Sequence[Row], method: str, rank: int = RANK) -> Runs:
    """Return the runs at the rate that the first seed chose at rank 4."""
    swept = pick(rows, method=method, rank=RANK, seed=0, stage=None)
    return at_rate(rows, method, rank, best_rate(swept, lower=lower(rows))) if swept else {}


def at_kept(rows: Sequence[Row], method: str = "lora", rank: int = RANK) -> Runs:
    """Return the runs at the rate that all seeds prefer of the two best ones of the first seed."""
    swept = pick(rows, method=method, rank=RANK, seed=0, stage=None)
    if method not in RECHOSEN or not swept or lower(rows):
        return at_best(rows, method, rank)
    first = best_rate(swept)
    second = best_rate([row for row in swept if row["rate"] != first])
    means = {
        rate: statistics.fmean(row["dev"] for row in at_rate(rows, method, RANK, rate).values())
        for rate in (first, second)
    }
    return at_rate(rows, method, rank, max(means, key=means.__getitem__))


METHODS: Mapping[str, Choice] = {
    "GeoLoRA, every default": partial(at_rate, method="geolora"),
    "GeoLoRA, τ = 0.35": partial(at_rate, method="geolora, tolerance, rms"),
    "GeoLoRA, budget": partial(at_rate, method="geolora, budget, rms"),
    "LoRA, rank 4": at_kept,
    "LoRA, rank 8": partial(at_kept, rank=8),
    "DoRA": partial(at_best, method="dora"),
    "rsLoRA": partial(at_best, method="rslora"),
    "AdaLoRA": partial(at_best, method="adalora"),
    "published GeoLoRA": partial(at_best, method="published geolora"),
    "full fine-tuning": partial(at_best, method="full"),
}
"""GeoLoRA at one rate for all tasks, the other methods at a rate that was tuned for each task."""
DEFAULT, LORA = "GeoLoRA, every default", "LoRA, rank 4"


@cache
def campaign() -> Mapping[str, list[Row]]:
    """Return the stored runs by task."""
    rows = figures("finetuning")
    return {task: pick(rows, task=task) for task in dict.fromkeys(row["task"] for row in rows)}


def less(one: Choice, other: Choice, tasks: Sequence[str] = TEXTS) -> list[float]:
    """Return the differences over tasks, each a mean over seeds; of one task those of its seeds."""
    found = []
    for task in tasks:
        sides = [
            {s: points(row) for s, row in side(campaign()[task]).items()} for side in (one, other)
        ]
        found.append(paired(*sides))
    return found[0] if len(tasks) == 1 else [statistics.fmean(values) for values in found]


def thousands(method: Choice) -> str:
    """Return the mean number of parameters on the tasks of texts."""
    counts = [row["parameters"] for task in TEXTS for row in method(campaign()[task]).values()]
    return f"{statistics.fmean(counts) / 1e3:,.0f}"


def choice() -> str:
    """Return the choice between three methods with what was measured."""

    def against(name: str, other: str, level: float, words: str) -> str:
        mean, low, high = student(less(METHODS[name], METHODS[other]), level)
        text = f"{mean:+.2f}{words} ({100.0 * level:.0f} %: {low:.2f} to {high:.2f})"
        return text.replace("-", "\N{MINUS SIGN}")

    double, equal = "LoRA, rank 8", "GeoLoRA, budget"
    counts = {name: thousands(METHODS[name]) for name in (DEFAULT, LORA, double, "DoRA")}
    small = against(DEFAULT, LORA, 0.9, " points against LoRA of rank 4")
    large = against(DEFAULT, double, 0.9, " against rank 8")
    same = against(equal, LORA, 0.95, " with as many parameters as rank 4")
    gain = against("DoRA", LORA, 0.95, " points against LoRA of rank 4")
    other, sentiment = (f"{statistics.fmean(forgotten()[name]):+.2f}" for name in ("stsb", "sst2"))
    times = [row["to_lora"] for row in pick(figures("speed"), method="geolora")]
    bound = "each step needs a proved bound, a rank is to be cut with a known error, or one rate"
    tools = "every tool must know the adapter, or it has to be merged into quantised weights"
    more = "a small gain is worth an eighth more parameters than LoRA"
    ours = (
        f"{counts[DEFAULT]} thousand parameters with every default; {small}, {large}; {same}; "
        f"at equal training loss a decoder forgets more ({other} and {sentiment} nats on other "
        f"texts); {min(times):.2f} to {max(times):.2f} of the time of LoRA's step on a CPU"
    )
    lora = f"{counts[LORA]} thousand parameters at rank 4, {counts[double]} at rank 8"
    rows = [
        ["choose", "if", "measured on five text tasks"],
        ["**GeoLoRA**", f"{bound} is to serve many tasks", ours],
        ["**LoRA**", tools, lora],
        ["**DoRA**", more, f"{counts['DoRA']} thousand parameters; {gain}"],
    ]
    return markdown(rows)


def methods() -> str:
    """Return parameters, means and differences from LoRA of rank 4 for each method."""
    head = ["method", "thousand parameters", "texts, %", "less LoRA, points", "pictures, %"]
    rows = [[*head, "decoder, perplexity"]]
    for name, method in METHODS.items():
        means = {
            task: statistics.fmean(map(points, found)) if found else None
            for task, stored in campaign().items()
            for found in [list(method(stored).values())]
        }
        against = "" if name == LORA else student(less(method, METHODS[LORA])).text(2)
        texts = statistics.fmean(means[task] or 0.0 for task in TEXTS)
        others = [
            "–" if (x := means[task]) is None else f"{x:.1f}" for task in ("cifar10", "shakespeare")
        ]
        rows.append([name, thousands(method), f"{texts:.1f}", against, *others])
    return markdown(rows)


def _comparisons() -> Iterator[tuple[str, Choice, Choice]]:
    def at(method: str, rate: float = RATE) -> Choice:
        return partial(at_rate, method=method, rate=rate)

    def best(method: str) -> Choice:
        return partial(at_best, method=method)

    tolerance, budget = "geolora, tolerance", "geolora, budget"
    for method in (budget, "geolora, uniform", tolerance, f"{budget}, rms", f"{tolerance}, rms"):
        yield f"{method}, tuned, less lora", best(method), at_kept
    for method in ("preconditioned lora", "simultaneous", "head only"):
        yield f"{method} less lora", best(method), at_kept
    for method, rate in (
        *((f"{tolerance}, rms", rate) for rate in (0.0063, 0.011, 0.02)),
        *((tolerance, rate) for rate in (0.0063, 0.02)),
        *((method, 0.0063) for method in ("geolora, uniform", budget, f"{budget}, rms")),
    ):
        yield f"{method}, at {rate:g}, less lora", at(method, rate), at_kept
    for method in (tolerance, budget):
        yield f"{method}, α by shape, tuned, less α = 1", best(f"{method}, rms"), best(method)
        yield f"{method}, α by shape, at 0.0063, less α = 1", at(f"{method}, rms"), at(method)
    yield f"{budget} less uniform, tuned", best(budget), best("geolora, uniform")
    yield f"{budget} less uniform, at 0.0063", at(budget), at("geolora, uniform")
    for rival in ("published geolora", "adalora"):
        yield f"geolora, uniform, less {rival}", best("geolora, uniform"), best(rival)
    for rival in ("published geolora", "adalora", "rslora", "dora"):
        yield f"{tolerance}, rms, at 0.0063, less {rival}", at(f"{tolerance}, rms"), best(rival)
    for method, rank in ((budget, 2), (f"{budget}, rms", 2), ("lora", 2)):
        base = partial(at_kept, rank=8)
        name = f"{method}, rank {rank}, less lora, rank 8 (a quarter)"
        yield name, partial(at_kept, method=method, rank=rank), base
    for rank in (1, 2, 4, 8, 16):
        one = partial(at_kept, method=f"{budget}, rms", rank=rank)
        yield f"{budget}, rms, less lora, rank {rank}", one, partial(at_kept, rank=rank)
    for rank in (1, 32):
        yield (
            f"{tolerance}, from rank {rank} less from rank 8",
            partial(_begun, rank=rank),
            best(tolerance),
        )


def _begun(rows: Sequence[Row], rank: int) -> Runs:
    """Return the tolerance from another initial rank, at the rate that it was tuned to."""
    swept = pick(rows, method="geolora, tolerance", rank=RANK, seed=0, stage=None)
    return (
        at_rate(rows, f"geolora, tolerance, from rank {rank}", rank, best_rate(swept))
        if swept
        else {}
    )


def comparisons() -> str:
    """Return every other comparison: on texts over the tasks, on other models over the seeds."""
    rows = [["comparison", "texts, points", "pictures, points", "decoder, perplexity"]]
    for name, one, other in _comparisons():
        cells = []
        for tasks in (TEXTS, ("cifar10",), ("shakespeare",)):
            have = all(one(campaign()[task]) and other(campaign()[task]) for task in tasks)
            cells.append(student(less(one, other, tasks)).text() if have else "–")
        rows.append([name, *cells])
    return markdown(rows)


def difference_chart() -> str:
    """Return the chart of each method less LoRA of rank 4, with 95 % intervals."""
    found = {
        f"{name} ({thousands(method)} k)": student(less(method, METHODS[LORA]))
        for name, method in METHODS.items()
        if name != LORA
    }
    figure = Figure(figsize=(8.0, 3.6), layout="constrained")
    intervals(figure.add_subplot(), found, SHORT)
    figure.axes[0].set_xlabel("points above LoRA of rank 4, mean of five text tasks")
    return image(svg(figure), "Each method's difference from LoRA with its interval")


def intervals(axes: Axes, found: Mapping[str, Interval], margin: float) -> None:
    """Draw intervals by name, the first one on top, over a band of ±margin."""
    for place, one in enumerate(list(found.values())[::-1]):
        axes.plot([one.low, one.high], [place, place], color="C0", linewidth=2.0)
        axes.plot(one.mean, place, "o", color="C0")
    axes.set_yticks(range(len(found)), list(found)[::-1])
    axes.axvline(0.0, color="k", linewidth=1.0)
    axes.axvspan(-margin, margin, color="0.92", zorder=0)


# ------------------------------------------------------------- wrong labels and few sentences

SETTINGS = {
    "trec-wrong-40": "TREC, 500 sentences, 40 % wrong",
    "trec-wrong-20": "TREC, 500 sentences, 20 % wrong",
    "trec-200": "TREC, 200 sentences, right labels",
    "sst2-wrong-40": "SST-2, 500 sentences, 40 % wrong",
    "sst2-wrong-20": "SST-2, 500 sentences, 20 % wrong",
    "sst2-200": "SST-2, 200 sentences, right labels",
}
COMPARED = {
    "LoRA, rank 8": ("lora", 8),
    "LoRA, rank 32": ("lora", 32),
    "GeoLoRA": ("geolora", 8),
    "GeoLoRA, noise": ("geolora, noise", 8),
}
CLEAN = {"geolora": 0.0063, "geolora, noise": 0.0063, "lora": 0.0032}
"""The rates that clean labels chose."""


def _accuracies(setting: str, name: str, tuning: bool) -> dict[int, float]:
    """Return test accuracies in percent by seed, at the rate of clean labels or of the setting."""
    method, rank = COMPARED[name]
    rows = pick(figures("adaptivity"), task=setting, method=method, rank=rank)
    rate = best_rate(pick(rows, seed=0)) if tuning else CLEAN[method]
    return {row["seed"]: points(row) for row in pick(rows, rate=rate)}


def _adaptive(tuning: bool) -> str:
    rivals = ("LoRA, rank 8", "LoRA, rank 32")
    rows = [["setting", *COMPARED, *(f"GeoLoRA, less {rival}" for rival in rivals)]]
    for setting, title in SETTINGS.items():
        found = {name: _accuracies(setting, name, tuning) for name in COMPARED}
        means = [f"{statistics.fmean(values.values()):.1f}" for values in found.values()]
        gaps = [student(paired(found["GeoLoRA"], found[rival])).text() for rival in rivals]
        rows.append([title, *means, *gaps])
    return markdown(rows)


def untuned() -> str:
    """Return the accuracies at the rates that clean labels chose."""
    return _adaptive(tuning=False)


def tuned() -> str:
    """Return the accuracies at the rates that each setting chooses."""
    return _adaptive(tuning=True)


def adaptive_outcome() -> str:
    """Return in how many settings each method is better than LoRA, worse, or equivalent."""
    rows = [["rates", "method", "against", "better in", "worse in", "equivalent in", "settings"]]
    for rates, tuning in (("of clean labels", False), ("of the setting", True)):
        for name in ("GeoLoRA", "GeoLoRA, noise"):
            for rival in ("LoRA, rank 8", "LoRA, rank 32"):
                gaps = [
                    paired(_accuracies(s, name, tuning), _accuracies(s, rival, tuning))
                    for s in SETTINGS
                ]
                words = [verdict(gap, "worse", "better") for gap in gaps]
                same = sum(equivalent(gap, 1.0) for gap in gaps)
                counts = (words.count("better"), words.count("worse"), same, len(gaps))
                rows.append([rates, name, rival, *map(str, counts)])
    return markdown(rows)


# ------------------------------------------------------------------------------ rates by ranks

MAPPED = {
    "geolora": "GeoLoRA",
    "geolora, noise": "GeoLoRA, noise",
    "lora": "LoRA",
    "rslora": "rsLoRA",
    "adalora": "AdaLoRA",
}
CONSTANT = 138 / 500
"""The share of TREC's test sentences that have the most frequent label [Li and Roth 2002]."""
Map = Mapping[tuple[int, float], float | None]
"""By rank and rate the quality as a share of the best of all; None where the run diverged."""


@cache
def _maps() -> Mapping[tuple[str, str], Map]:
    """Return the maps by problem and method."""
    text = pick(figures("adaptivity"), task="trec-500")
    regression = figures("regression")
    best = max(row["test"] for row in text), min(row["error"] for row in regression)
    found: dict[tuple[str, str], dict[tuple[int, float], float | None]] = {}
    for row in text:
        quality = None if row["test"] < CONSTANT else row["test"] / best[0]
        place = found.setdefault(("TREC, 500 sentences", row["method"]), {})
        place[row["rank"], row["rate"]] = quality
    for row in regression:
        wrong = row["error"] is None or row["error"] > 1.0
        place = found.setdefault(("regression", row["method"]), {})
        place[row["rank"], row["rate"]] = None if wrong else best[1] / row["error"]
    return found


def _of_rank(one: Map, rank: int) -> dict[float, float]:
    return {rate: x for (r, rate), x in sorted(one.items()) if r == rank and x is not None}


def maps() -> str:
    """Return of each map the diverged runs, good rates, and how far the best rate moves."""
    head = ["problem", "method", "diverged", "good at every rank", "spread", "widths", "worst rank"]
    rows = [head]
    for (problem, method), one in sorted(_maps().items(), key=lambda item: item[0][0] != head[0]):
        ranks = sorted({rank for rank, _ in one})
        lines = [_of_rank(one, rank) for rank in ranks]
        good = [{r for r, x in line.items() if x >= 0.95 * max(line.values())} for line in lines]
        best = [max(line, key=line.__getitem__) for line in lines]
        widths = sorted({f"{max(rates) / min(rates):.1f}" for rates in good}, key=float)
        rows.append(
            [
                problem,
                MAPPED[method],
                f"{sum(x is None for x in one.values())} of {len(one)}",
                f"{len(set.intersection(*good))} of {len({rate for _, rate in one})}",
                f"{max(best) / min(best):.1f}",
                " to ".join(dict.fromkeys((widths[0], widths[-1]))),
                f"{100.0 * min(max(line.values()) for line in lines):.0f} %",
            ]
        )
    return markdown(rows)


def map_chart() -> str:
    """Return the heat maps: rates to the right, ranks upwards, a cross where a run diverged."""
    problems = list(dict.fromkeys(problem for problem, _ in _maps()))
    figure = Figure(figsize=(9.0, 2.0 * len(problems)), layout="constrained")
    for line, problem in zip(figure.subplots(len(problems), len(MAPPED)), problems, strict=True):
        for axes, (method, title) in zip(line, MAPPED.items(), strict=True):
            one = _maps().get((problem, method))
            if one is None:
                axes.set_axis_off()
                continue
            ranks = sorted({rank for rank, _ in one})
            rates = sorted({rate for _, rate in one})
            shades = [[one.get((rank, rate)) for rate in rates] for rank in ranks]
            values = [[math.nan if x is None else x for x in shade] for shade in shades]
            axes.imshow(values, vmin=0.0, vmax=1.0, aspect="auto", origin="lower")
            for y, rank in enumerate(ranks):
                best = max(_of_rank(one, rank), key=_of_rank(one, rank).__getitem__)
                axes.plot(rates.index(best), y, "o", color="w", markeredgecolor="k")
            for (rank, rate), x in one.items():
                if x is None:
                    axes.plot(rates.index(rate), ranks.index(rank), "x", color="C3")
            axes.set_yticks(range(len(ranks)), list(map(str, ranks)))
            axes.set_xticks((0, len(rates) - 1), [f"{rates[end]:.2g}" for end in (0, -1)])
            axes.set_title(title, fontsize="medium")
        line[0].set_ylabel(f"{problem}\nrank")
    figure.supxlabel("learning rate")
    return image(svg(figure), "Heat maps of the quality over learning rates and ranks")


# ------------------------------------------------------------------ large batches, forgetting

LEARNING = {"lora": "LoRA", "geolora": "GeoLoRA", "full": "full fine-tuning"}


def batches() -> str:
    """Return accuracies and rates by batch, the losses of large batches, and the differences."""
    sizes = (16, 128, 1024)
    found: dict[tuple[str, int], dict[int, float]] = {}
    cells: dict[str, list[str]] = {method: [] for method in LEARNING}
    for name, size in ((name, size) for name in LEARNING for size in sizes):
        rows = pick(figures("adaptivity"), task=f"trec-batch-{size}", method=name)
        rate = best_rate(pick(rows, seed=0))
        runs = found[name, size] = {row["seed"]: points(row) for row in pick(rows, rate=rate)}
        cells[name].append(f"{statistics.fmean(runs.values()):.1f} ({rate:g})")
    loss = {
        (method, size): dict(enumerate(paired(found[method, size], found[method, 16])))
        for method in LEARNING
        for size in sizes[1:]
    }
    head = ["method", *(f"batch {size:,}" for size in sizes)]
    table = [[*head, *(f"16 to {size:,}" for size in sizes[1:])]]
    for method, title in LEARNING.items():
        losses = (student(list(loss[method, size].values())).text() for size in sizes[1:])
        table.append([title, *cells[method], *losses])
    for one, other in (("geolora", "lora"), ("lora", "full"), ("geolora", "full")):
        gaps = [student(paired(found[one, size], found[other, size])).text() for size in sizes]
        gaps += [student(paired(loss[one, size], loss[other, size])).text() for size in sizes[1:]]
        table.append([f"{LEARNING[one]}, less {LEARNING[other]}", *gaps])
    return markdown(table)


OTHERS = ("sst2", "stsb")
"""The texts on which short runs are measured besides their own."""


def forgets(row: Row) -> float:
    """Return the nats per token by which the losses on two other texts have risen."""
    return statistics.fmean(row[f"other_{one}"] - row[f"other_{one}_before"] for one in OTHERS)


def short_runs() -> str:
    """Return perplexity, forgetting and parameters of short runs, and GeoLoRA less the best LoRA."""
    table = [["text", "method", "perplexity", "forgotten, nats", "parameters"]]
    for text in ("hamlet", "shakespeare"):
        rows = pick(figures("short"), task=text)
        found: dict[tuple[str, float, float], list[Row]] = {}
        for row in rows:
            found.setdefault((row["method"], row["rate"], row["momentum"] or 0.9), []).append(row)
        dev = {key: statistics.fmean(row["dev"] for row in runs) for key, runs in found.items()}
        for (method, rate, momentum), runs in found.items():
            perplexities = [math.exp(row["test"]) for row in runs]
            size = statistics.fmean(row["parameters"] for row in runs) / 1000.0
            table.append(
                [
                    text.capitalize(),
                    f"{LEARNING[method]}, rate {rate:g}, momentum {momentum:g}",
                    _spread(perplexities, 1),
                    _spread([forgets(row) for row in runs], 2),
                    f"{size:.0f} k",
                ]
            )
        best = {
            one: {
                row["seed"]: row
                for row in found[min((k for k in dev if k[0] == one), key=dev.__getitem__)]
            }
            for one in ("geolora", "lora")
        }
        table.append(
            [text.capitalize(), "GeoLoRA less LoRA, at the best of each", *_gaps(best), ""]
        )
    return markdown(table)


def _spread(values: Sequence[float], digits: int) -> str:
    low, high = f"{min(values):.{digits}f}", f"{max(values):.{digits}f}"
    return f"{statistics.fmean(values):.{digits}f} ({low} to {high})"


def _gaps(best: Mapping[str, Runs]) -> tuple[str, str]:
    """Return the differences of the perplexities and of what was forgotten, with intervals."""
    measures: tuple[Callable[[Row], float], ...] = (lambda row: math.exp(row["test"]), forgets)
    values = [
        [{seed: measure(row) for seed, row in best[one].items()} for one in ("geolora", "lora")]
        for measure in measures
    ]
    perplexity, lost = (student(paired(one, other)) for one, other in values)
    return perplexity.text(1), lost.text(2)


FORGET = {"training": 3, "stsb": 3, "sst2": 3, "distance": 2}
"""The figures of a record, and their digits; distances are shown in percent."""


def _at_loss(records: Sequence[Row], loss: float) -> dict[str, float]:
    """Return the record where the training loss first crosses ``loss``, linear between records."""
    after = next(place for place, record in enumerate(records) if record["training"] <= loss)
    last, one = records[max(after - 1, 0)], records[after]
    share = (last["training"] - loss) / (last["training"] - one["training"]) if after else 0.0
    return {name: last[name] + share * (one[name] - last[name]) for name in FORGET}


@cache
def decoders() -> Mapping[str, list[list[Row]]]:
    """Return the records of each run of the decoder, by method."""
    rows = figures("forgetting")
    return {
        method: [pick(rows, method=method, seed=seed) for seed in range(3)]
        for method in ("lora", "geolora")
    }


@cache
def at_equal_loss() -> Mapping[str, list[dict[str, float]]]:
    """Return the records at the least training loss that every run reaches, by method."""
    runs = decoders()
    loss = max(min(r["training"] for r in run) for found in runs.values() for run in found)
    return {method: [_at_loss(run, loss) for run in found] for method, found in runs.items()}


def forgotten() -> dict[str, list[float]]:
    """Return GeoLoRA less LoRA at equal training loss: a difference for each seed, by figure."""
    ours, lora = at_equal_loss()["geolora"], at_equal_loss()["lora"]
    return {name: [a[name] - b[name] for a, b in zip(ours, lora, strict=True)] for name in FORGET}


def forgetting() -> str:
    """Return losses on other text and distances, at equal training loss and after the last step."""
    runs, equal, gaps = decoders(), at_equal_loss(), forgotten()
    first, names = figures("forgetting")[0], {"lora": "LoRA, rank 4", "geolora": "GeoLoRA"}
    table = [["", "training loss", "STS-B", "increase", "SST-2", "increase", "distance, %"]]

    def line(title: str, records: Sequence[Mapping[str, float]]) -> list[str]:
        mean = {name: statistics.fmean(record[name] for record in records) for name in FORGET}
        cells = [f"{mean['training']:.3f}"]
        for name in ("stsb", "sst2"):
            cells += [f"{mean[name]:.3f}", f"{mean[name] - first[name]:+.3f}"]
        return [title, *cells, f"{100.0 * mean['distance']:.2f}"]

    table.append(line("before tuning", [first]))
    table += [line(f"{names[m]}, at equal training loss", equal[m]) for m in names]
    table += [line(f"{names[m]}, after the last step", [run[-1] for run in runs[m]]) for m in names]
    cells = [student(gaps[name]).text(3) for name in ("stsb", "sst2")]
    nearer = student(gaps["distance"]).text(2, 100.0)
    table.append(
        ["GeoLoRA less LoRA, at equal training loss", "", "", cells[0], "", cells[1], nearer]
    )
    words = [verdict(gaps[name], "forgets less", "forgets more") for name in ("stsb", "sst2")]
    word = verdict(gaps["distance"], "is nearer", "is farther")
    table.append(["GeoLoRA", "", "", words[0], "", words[1], word])
    return markdown(table)


# -------------------------------------------------------------------------------- from scratch

SCRATCH = {
    "dense": "dense, AdamW",
    "factorised": "factorised, AdamW",
    "truncated SVD": "truncated SVD of dense",
    "published geolora": "published GeoLoRA",
    "geolora": "GeoLoRA, every default",
    "geolora, noise": "GeoLoRA, edge and noise",
    "geolora, penalty": "GeoLoRA, penalty on the core",
    "geolora, penalty, larger rate": "GeoLoRA, penalty, larger rate",
}
EPSILONS = {"digits": 0.1, "cifar10": 0.01}
"""The size of the attack by task."""


def _scratch(task: str, method: str, rank: int) -> list[Row]:
    """Return the runs at the best value: tuned at each rank on digits, at 9 on CIFAR-10."""
    rows = pick(figures("from_scratch"), task=task)
    source = "dense" if method in ("dense", "truncated SVD") else method
    at = 0 if source == "dense" else rank if task == "digits" else 9
    seeds = (0, 1, 2) if task == "digits" else (0,)
    swept = pick(rows, method=source, rank=at, seed=seeds)
    if not swept:
        return []
    value = best_rate(swept, column="value")
    return pick(rows, method=method, rank=0 if method == "dense" else rank, value=value)


def _mean(rows: Sequence[Row], column: str = "test") -> float:
    return 100.0 * statistics.fmean(row[column] for row in rows)


def scratch() -> str:
    """Return accuracies and shares of the parameters by rank, and under attack at rank 9."""
    table = [["task", "method", "rank 3", "rank 9", "rank 27", "attacked, rank 9", "rate or β"]]
    for task in EPSILONS:
        whole = _scratch(task, "dense", 9)[0]["parameters"]
        for method, title in SCRATCH.items():
            cells = []
            for rank in (3, 9, 27):
                found = _scratch(task, method, rank)
                share = (
                    statistics.fmean(row["parameters"] for row in found) / whole if found else 0.0
                )
                cells.append(f"{_mean(found):.1f} ({100.0 * share:.1f} %)" if found else "–")
            main = _scratch(task, method, 9)
            if method == "dense":
                cells = ["", "", f"{_mean(main):.1f} (100 %)"]
            value = "" if method == "truncated SVD" else f"{main[0]['value']:g}"
            table.append([task, title, *cells, f"{_mean(main, 'attacked'):.1f}", value])
    return markdown(table)


def scratch_outcome() -> str:
    """Return the figures of the design: points above dense, what is wanted, whether it is so."""
    table = [
        ["task", "figure", "points above dense, and their range over the seeds", "wanted means"]
    ]
    table[0].append("outcome")
    for task, epsilon in EPSILONS.items():

        def above(method: str, column: str, task: str = task) -> tuple[float, str]:
            pairs = zip(_scratch(task, method, 9), _scratch(task, "dense", 9), strict=True)
            gaps = [100.0 * (one[column] - dense[column]) for one, dense in pairs]
            return statistics.fmean(gaps), Interval(
                statistics.fmean(gaps), min(gaps), max(gaps)
            ).text()

        (ours, text), (other, factorised) = above("geolora", "test"), above("factorised", "test")
        found = f"GeoLoRA {text}, factorised {factorised}"
        word = {True: "reached", False: "not reached"}
        reached = word[ours >= -1.0 > other]
        table.append([task, "accuracy, rank 9", found, "≥ −1, < −1", reached])
        for attempt, method in (
            ("first", "geolora, penalty"),
            ("second", "geolora, penalty, larger rate"),
        ):
            (one, text), (without, plain) = above(method, "attacked"), above("geolora", "attacked")
            title = f"ordering, ε = {epsilon:g}, {attempt} attempt"
            found = f"with penalty {text}, without {plain}"
            table.append([task, title, found, "≥ 0, ≤ 0", word[one >= 0.0 >= without]])
    return markdown(table)


def characters() -> str:
    """Return each method at each rank: test loss at its one rate, and what the one rate costs."""
    head = [
        "method",
        "rank",
        "parameters",
        "one rate",
        "test loss",
        "less dense",
        "less factorised",
    ]
    table = [[*head, "best rate of the rank", "price of one rate"]]
    stored = figures("characters")
    chosen: dict[tuple[str, int], Runs] = {}
    for method in ("dense", "factorised", "geolora"):
        rows = pick(stored, method=method)
        rate = best_rate(pick(rows, seed=0), lower=True)
        for rank in sorted({row["rank"] for row in rows}):
            found = {row["seed"]: row for row in pick(rows, rank=rank, rate=rate)}
            chosen[method, rank] = found
            swept = {row["rate"]: row["dev"] for row in pick(rows, rank=rank, seed=0)}
            best = min(sorted(swept), key=swept.__getitem__)
            tests = {seed: row["test"] for seed, row in found.items()}
            share = statistics.fmean(r["parameters"] for r in found.values()) / 393_216
            low, high = min(tests.values()), max(tests.values())
            against = [
                _range(tests, chosen[base])
                for base, known in (
                    (("dense", 0), method != "dense"),
                    (("factorised", rank), method == "geolora"),
                )
                if known
            ]
            table.append(
                [
                    SCRATCH[method],
                    str(rank or ""),
                    f"{100.0 * share:.1f} %",
                    f"{rate:g}",
                    f"{statistics.fmean(tests.values()):.3f} ({low:.3f} to {high:.3f})",
                    *[*against, "", ""][:2],
                    f"{best:g}",
                    f"{swept[rate] - swept[best]:.3f}",
                ]
            )
    return markdown(table)


def _range(tests: Mapping[int, float], others: Runs) -> str:
    gaps = paired(tests, {seed: row["test"] for seed, row in others.items()})
    return Interval(statistics.fmean(gaps), min(gaps), max(gaps)).text(3)


# --------------------------------------------------------------------------------- computing time


def speed() -> str:
    """Return the time of GeoLoRA's step over that of LoRA's, with quartiles, and the memory."""
    head = ["network", "r", "to LoRA (PEFT)", "to LoRA by our function", "update, share of a step"]
    table = [[*head, "peak MiB (LoRA)"]]
    rows = figures("speed")
    for row in pick(rows, method="geolora"):
        (lora,) = pick(rows, network=row["network"], rank=row["rank"], method="lora")
        ratios = [
            f"{row[f'to_{base}']:.3f} [{row[f'low_{base}']:.3f}, {row[f'high_{base}']:.3f}]"
            for base in ("lora", "lean")
        ]
        share = f"{100.0 * row['update'] / row['ms']:.1f} %"
        memory = f"{row['peak']:.0f} ({lora['peak']:.0f})"
        table.append([row["network"], str(row["rank"]), *ratios, share, memory])
    return markdown(table)


def cost() -> str:
    """Return how the time of an integrator's step grows: median and range of rounds."""
    table = [["integrator", "exponent of m", "exponent of r", "ms, m = 4096, r = 16"]]
    rows = figures("cost")
    for name in dict.fromkeys(row["integrator"] for row in rows):
        found, cells = pick(rows, integrator=name), []
        for column in ("exponent_m", "exponent_r"):
            values = [row[column] for row in found]
            cells.append(f"{statistics.median(values):.2f} [{min(values):.2f}, {max(values):.2f}]")
        table.append([name, *cells, f"{found[0]['ms']:.1f}"])
    return markdown(table)


TABLES: Mapping[str, Callable[[], str]] = {
    "choice": choice,
    "methods": methods,
    "comparisons": comparisons,
    "untuned": untuned,
    "tuned": tuned,
    "adaptive_outcome": adaptive_outcome,
    "maps": maps,
    "batches": batches,
    "short_runs": short_runs,
    "forgetting": forgetting,
    "scratch_outcome": scratch_outcome,
    "scratch": scratch,
    "characters": characters,
    "speed": speed,
    "cost": cost,
}
"""Every table of the documentation by its name."""

"""The measurements as tables, in Markdown and on the page "Fast path", and as a picture."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from verification.shown import Rows, markdown_table

__all__ = ["APART", "MEASURED", "documented", "drawn", "machine", "markdown", "tables"]

MEASURED = Path(__file__).parent / "measured" / "results.json"
"""The stored measurements; they name their hardware."""
APART = MEASURED.with_name("processes.json")
"""A stored run that has methods alone in processes, which take longer than all other parts together."""
QUOTIENTS = (
    ("fast", "bare", "the floor with its products"),
    ("fast", "adalora", "AdaLoRA"),
    ("merged", "adalora", "AdaLoRA"),
    ("adaptive", "adalora", "AdaLoRA"),
)
"""What is compared with another row than LoRA (PEFT): both rows, and the other one in words."""


def machine(found: Mapping[str, Any]) -> str:
    """Processor, threads, throughput, versions and date in one line."""
    about = found["environment"]
    speed = f"{about['threads']} threads, {about['gemm_gflops']:.0f} GFLOP/s in a large float32 GEMM"
    names = ("torch", "peft", "transformers", "numba")
    versions = ", ".join(f"{name} {about[name]}" for name in names if about.get(name))
    quick = " A quick run: few rounds, small sizes." if found["quick"] else ""
    return f"{about['processor']}, {speed}; {versions}; {about['measured']}.{quick}"


def markdown(found: Mapping[str, Any]) -> str:
    """The tables for the docs."""
    lines = [machine(found)]
    for title, rows in tables(found).items():
        lines += ["", f"### {title}", "", markdown_table(rows)]
    return "\n".join(lines) + "\n"


def documented(found: Mapping[str, Any], apart: Mapping[str, Any]) -> list[str]:
    """What docs/fast_path.md and fast_path_figures.md have of the stored runs, that of ``MEASURED`` and that of ``APART``: their
    machines, and the tables in short, in Markdown, in the order of the pages.
    """
    processes = (_processes_in_short(case) for case in apart["processes"])
    cases = found["training"]
    trainings = (_training_in_brief(cases), _training_in_short(cases), _geometry_in_short(found["geometry"]))
    others = (_variants_in_short(found["variants"]), _kept_in_short(found["kept"]))
    short = (*trainings, *others, *processes, _updates_in_short(found["updates"]), _growth(found["growth"]))
    return [machine(found), machine(apart), *(markdown_table(list(rows)) for rows in short)]


def tables(found: Mapping[str, Any]) -> dict[str, Rows]:
    """Every table by its title, first row the head: medians, quartiles in brackets, ratios to LoRA (PEFT) in the same rounds."""
    made: dict[str, Rows] = {}
    for case in [*found.get("training", []), *found.get("variants", [])]:
        made[f"{case['title']}: whole training steps, {_rounds(case)}"] = list(_training(case))
    for case in _kept(found):
        made[f"{case['title']}: {_rounds(case)}"] = [_TIMES, *map(_timed, case["rows"].values())]
    for case in found.get("geometry", []):
        made[f"{case['title']}, the geometry alone: {_rounds(case)}"] = list(_geometry(case))
    for case in found.get("processes", []):
        made[f"{case['title']}: {case['rounds']} processes of {case['steps']} steps each, in turn"] = list(_processes(case))
    for case in found.get("compiled", []):
        made[f"{case['title']}, under torch.compile: {case['rounds']} interleaved rounds"] = list(_compiled(case))
    if "updates" in found:
        made["The update alone"] = list(_updates(found["updates"]))
    if "growth" in found:
        made["Growth of the update"] = list(_growth(found["growth"]))
    return made


def _rounds(case: Mapping[str, Any]) -> str:
    places = "one process" if case["processes"] == 1 else f"{case['processes']} processes"
    return f"{case['rounds']} interleaved rounds in {places}"


def _kept(found: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The networks whose methods were in turn in processes that keep what is freed, where one can."""
    return [case | {"title": f"{case['title']}, freed memory kept"} for case in found.get("kept", []) if case["rows"]]


_TIMES = ["method", "ms a step", "ratio to LoRA (PEFT)", "to the floor", "to lean LoRA"]


def _timed(row: Mapping[str, Any]) -> list[str]:
    low, middle, high = row["milliseconds"]
    lean = f"{row['over_lean'][1]:.3f}" if row["over_lean"] else ""
    return [
        row["title"],
        f"{middle:.1f} [{low:.1f}, {high:.1f}]",
        _ratio(row["ratio"]),
        f"{row['ratio_to_floor'][1]:.3f}",
        lean,
    ]


def _training(case: Mapping[str, Any]) -> Iterator[list[str]]:
    yield [*_TIMES, "GFLOP", "peak MiB", "remark"]
    for row in case["rows"].values():
        yield [*_timed(row), f"{row['gflop']:.1f}", f"{row['peak_mib']:.0f}", row["note"]]


def _training_in_brief(cases: list[dict[str, Any]]) -> Iterator[list[str]]:
    """What a user gets, all networks side by side."""
    rows = [case["rows"] for case in cases]
    yield ['`fused=True`, `method="fast"`', *(case["title"] for case in cases)]
    yield ["its defaults (Adam, ranks adapt), to LoRA (PEFT)", *(_ratio(row["adaptive"]["ratio"]) for row in rows)]
    yield ["its defaults, to lean LoRA", *(_ratio(row["adaptive"]["over_lean"]) for row in rows)]
    yield ["Adam at fixed rank 8, to LoRA (PEFT)", *(_ratio(row["adam"]["ratio"]) for row in rows)]
    yield ["Adam at fixed rank 8, to lean LoRA", *(_ratio(row["adam"]["over_lean"]) for row in rows)]
    yield [
        "peak MiB of its defaults, in brackets LoRA (PEFT)",
        *(f"{row['adaptive']['peak_mib']:.0f} ({row['lora']['peak_mib']:.0f})" for row in rows),
    ]


def _training_in_short(cases: list[dict[str, Any]]) -> Iterator[list[str]]:
    """All networks side by side: ratios to LoRA (PEFT), then the fast step beside floor, lean LoRA and AdaLoRA, and memory."""
    by_name: dict[str, list[dict[str, Any]]] = {name: [case["rows"][name] for case in cases] for name in cases[0]["rows"]}
    fast = by_name["fast"]
    yield ["ratio to LoRA (PEFT)", *(case["title"] for case in cases)]
    yield ["LoRA (PEFT), ms a step", *(f"{row['milliseconds'][1]:.0f}" for row in by_name["lora"])]
    for name, rows in by_name.items():
        if name != "lora":
            yield [rows[0]["title"], *(_ratio(row["ratio"]) for row in rows)]
    for name in ("fast", "optimizer", "adam", "adaptive"):
        rows = by_name[name]
        yield [f"**{rows[0]['title']}, to the floor**", *(f"{row['ratio_to_floor'][1]:.3f}" for row in rows)]
        yield [f"**{rows[0]['title']}, to lean LoRA**", *(_ratio(row["over_lean"]) for row in rows)]
    for name, other, said in QUOTIENTS:
        quotients = (f"{a['ratio'][1] / b['ratio'][1]:.3f}" for a, b in zip(by_name[name], by_name[other], strict=True))
        yield [f"**{by_name[name][0]['title']}, to {said}** (quotient of their ratios)", *quotients]
    for name in ("lora", "fast", "merged", "adaptive"):
        yield [f"peak MiB: {by_name[name][0]['title']}", *(f"{row['peak_mib']:.0f}" for row in by_name[name])]
    yield ["layer steps by Householder's QR", *(row["note"].partition(" layer steps")[0] for row in fast)]


_OF_PROCESSES = "median of a process, 95 %"


def _geometry(case: Mapping[str, Any]) -> Iterator[list[str]]:
    yield ["method", "ms a step", "ratio to lean LoRA", _OF_PROCESSES, "medians of the processes"]
    for row in case["rows"].values():
        low, middle, high = row["milliseconds"]
        medians = ", ".join(f"{value:.3f}" for value in sorted(row["of_processes"]))
        yield [row["title"], f"{middle:.1f} [{low:.1f}, {high:.1f}]", _ratio(row["over_lean"]), _between(row), medians]


def _between(row: Mapping[str, Any]) -> str:
    """Where the median of the processes lies, if there were enough of them."""
    return " to ".join(f"{end:.3f}" for end in row["interval"]) if row["interval"] else ""


def _geometry_in_short(cases: list[dict[str, Any]]) -> Iterator[list[str]]:
    """All networks side by side: ratios to lean LoRA, and where the median of the processes lies."""
    rows = [case["rows"] for case in cases]
    yield [f"ratio to lean LoRA, {_rounds(cases[0])}", *(case["title"] for case in cases)]
    for name, row in rows[0].items():
        if name == "lean":
            yield [f"{row['title']}, ms a step", *(f"{of[name]['milliseconds'][1]:.0f}" for of in rows)]
        else:
            yield [row["title"], *(_ratio(of[name]["over_lean"]) for of in rows)]
            yield [f"{row['title']}: {_OF_PROCESSES}", *(_between(of[name]) for of in rows)]


def _kept_in_short(cases: list[dict[str, Any]]) -> Iterator[list[str]]:
    """All networks side by side: ratios to LoRA (PEFT), then the fast step beside the floor and lean LoRA."""
    rows = [case["rows"] for case in cases]
    yield ["freed memory kept, ratio to LoRA (PEFT)", *(case["title"] for case in cases)]
    yield ["LoRA (PEFT), ms a step", *(f"{row['lora']['milliseconds'][1]:.0f}" for row in rows)]
    for name, row in rows[0].items():
        if name != "lora":
            yield [row["title"], *(_ratio(of[name]["ratio"]) for of in rows)]
    own = ("fast", "optimizer", "adam", "adaptive")
    for name in ("lean", *own):
        yield [f"**{rows[0][name]['title']}, to the floor**", *(_ratio(of[name]["ratio_to_floor"]) for of in rows)]
    for name in own:
        yield [f"**{rows[0][name]['title']}, to lean LoRA**", *(_ratio(of[name]["over_lean"]) for of in rows)]


def _variants_in_short(cases: list[dict[str, Any]]) -> Iterator[list[str]]:
    """All settings side by side: ratios to LoRA (PEFT) with the same setting."""
    yield ["ratio to LoRA (PEFT)", *(case["title"] for case in cases)]
    for name, row in cases[0]["rows"].items():
        if name != "lora":
            yield [row["title"], *(_ratio(case["rows"][name]["ratio"]) for case in cases)]


def _processes_in_short(case: Mapping[str, Any]) -> Iterator[list[str]]:
    """A line a method: as it is, and with the memory kept."""
    head = ["ms", "page faults", "to LoRA (PEFT) as it is", "memory kept: ms", "to LoRA as it is", "to LoRA with memory kept"]
    yield [case["title"], *head]
    kept = {row["title"]: row for row in case["rows"] if row["kept"]}
    for row in case["rows"]:
        if not row["kept"]:
            other = kept[row["title"]]
            as_it_is = [f"{row['milliseconds'][1]:.0f}", f"{row['faults']:,.0f}", _ratio(row["ratio"])]
            yield [
                row["title"],
                *as_it_is,
                f"{other['milliseconds'][1]:.0f}",
                _ratio(other["ratio"]),
                _ratio(other["ratio_same"]),
            ]


def _updates_in_short(points: list[dict[str, Any]]) -> Iterator[list[str]]:
    """Milliseconds over the rank, a line a method: after the others, then after itself."""
    yield [f"{points[0]['layers']} layers of {points[0]['m']}, ms", *(f"r = {point['r']}" for point in points)]
    titles = {"adamw": "AdamW on the factors of LoRA", "fast": "fast", "unguarded": "unguarded", "reference": "reference"}
    for way, said in (("rows", ""), ("repeated", ", repeated")):
        for name, title in titles.items():
            yield [title + said, *(f"{point[way][name]['milliseconds'][1]:.2f}" for point in points)]
        yield [f"fast to AdamW{said}", *(_ratio(point[way]["fast"]["ratio"]) for point in points)]


def _processes(case: Mapping[str, Any]) -> Iterator[list[str]]:
    yield [
        "method",
        "freed memory",
        "ms a step",
        "page faults a step",
        "ratio to LoRA (PEFT) as it is",
        "to LoRA in the same way",
        "to the floor",
    ]
    for row in case["rows"]:
        way, figures = "kept" if row["kept"] else "as it is", [f"{row['milliseconds'][1]:.1f}", f"{row['faults']:.0f}"]
        yield [row["title"], way, *figures, _ratio(row["ratio"]), _ratio(row["ratio_same"]), f"{row['ratio_to_floor'][1]:.3f}"]


def _compiled(case: Mapping[str, Any]) -> Iterator[list[str]]:
    yield ["method", "way", "ms a step", "ratio to LoRA (PEFT) as it is"]
    for row in case["rows"]:
        yield [row["title"], row["way"], f"{row['milliseconds'][1]:.1f}", _ratio(row["ratio"])]


def _updates(points: list[dict[str, Any]]) -> Iterator[list[str]]:
    yield ["layers", "m = n", "r", "called after", "fast ms", "ratio to AdamW", "AdamW ms", "unguarded ms", "reference ms"]
    for point in points:
        for way, said in (("rows", "the others"), ("repeated", "itself")):
            ms = {name: f"{row['milliseconds'][1]:.2f}" for name, row in point[way].items()}
            others = [ms[name] for name in ("adamw", "unguarded", "reference")]
            size = [str(point[axis]) for axis in ("layers", "m", "r")]
            yield [*size, said, ms["fast"], _ratio(point[way]["fast"]["ratio"]), *others]


def _growth(growth: Mapping[str, Any]) -> Iterator[list[str]]:
    """A fitted exponent a line, and that between the two largest sizes that were measured, where constant costs count least."""
    yield ["along", "from", "to", "at", "exponent", "between the two largest"]
    for axis, table in growth.items():
        for fit in table["exponents"]:
            at = next(name for name in ("m", "r") if name in fit)
            line = sorted((point[axis], point["milliseconds"][1]) for point in table["points"] if point[at] == fit[at])
            (a, before), (b, after) = line[-2:]
            last = f"{math.log(after / before) / math.log(b / a):.2f} ({a} to {b})"
            yield [axis, str(fit["from"]), str(fit["to"]), f"{at} = {fit[at]}", f"{fit['exponent']:.2f}", last]


def _ratio(quartiles: list[float]) -> str:
    low, middle, high = quartiles
    return f"{middle:.3f} [{low:.3f}, {high:.3f}]"


def drawn(found: Mapping[str, Any]) -> Figure | None:
    """One panel for each table, and for each growing axis; None if there is no panel."""
    import matplotlib as mpl

    trainings = [*found.get("training", []), *found.get("variants", []), *_kept(found)]
    in_two_ways = [*found.get("processes", []), *found.get("compiled", [])]
    of_processes = found.get("geometry", [])
    panels = len(trainings) + len(of_processes) + len(in_two_ways) + ("updates" in found) + len(found.get("growth", {}))
    if not panels:
        return None
    columns = min(3, panels)
    with mpl.rc_context({"font.size": 8, "ytick.labelsize": 7}):
        count = -(-panels // columns)
        drawing = Figure(figsize=(5 * columns, 3.8 * count), layout="constrained")
        rows = drawing.subfigures(count, 1, squeeze=False)[:, 0]  # labels of one row leave the panels of the others their width
        axes = (ax for row in rows for ax in row.subplots(1, columns, squeeze=False)[0])
        for case in trainings:
            _bars(next(axes), case)
        for case in of_processes:
            _dots(next(axes), case)
        for case in in_two_ways:
            _paired_bars(next(axes), case)
        if "updates" in found:
            ax = next(axes)
            points = found["updates"]
            for name in ("adamw", "unguarded", "fast", "reference"):
                milliseconds = [point["rows"][name]["milliseconds"][1] for point in points]
                ax.plot([point["r"] for point in points], milliseconds, "o-", label=name)
            _logarithmic(ax, "r", [point["r"] for point in points], "update alone, 36 layers of 384")
        for axis, table in found.get("growth", {}).items():
            ax, fixed = next(axes), {"m": "r", "r": "m", "layers": "m"}[axis]
            for value in sorted({p[fixed] for p in table["points"]}):
                line = [p for p in table["points"] if p[fixed] == value]
                ax.plot([p[axis] for p in line], [p["milliseconds"][1] for p in line], "o-", label=f"{fixed} = {value}")
            _logarithmic(ax, axis, sorted({p[axis] for p in table["points"]}), f"growth of the update in {axis}")
        for ax in axes:
            ax.set_axis_off()
    return drawing


def _logarithmic(ax: Any, name: str, measured: list[int], title: str) -> None:
    """Milliseconds over what grows, both logarithmic, with a label where something was measured."""
    ax.set(xscale="log", yscale="log", xlabel=name, ylabel="ms", title=title)
    ax.set_xticks(measured, labels=[str(value) for value in measured])
    ax.minorticks_off()
    ax.legend()


def _bars(ax: Any, case: Mapping[str, Any]) -> None:
    """Ratios to LoRA (PEFT), the quartiles as whiskers."""
    rows = list(case["rows"].values())
    low, middle, high = zip(*(row["ratio"] for row in rows), strict=True)
    whiskers = [[m - a for m, a in zip(middle, low, strict=True)], [b - m for m, b in zip(middle, high, strict=True)]]
    ax.barh(_labels(rows), middle, xerr=whiskers, color="#88aacc")
    _beside(ax, case["title"], "time of a training step, LoRA (PEFT) = 1")


def _dots(ax: Any, case: Mapping[str, Any]) -> None:
    """Ratios to lean LoRA, the median of each process a stroke, and a bar where their own median lies."""
    rows = [row for name, row in case["rows"].items() if name != "lean"]
    for place, row in enumerate(rows):
        if row["interval"]:
            low, high = row["interval"]
            ax.barh(place, high - low, left=low, height=0.4, color="#88aacc")
        ax.plot(row["of_processes"], [place] * len(row["of_processes"]), "|", color="black", markersize=14)
    ax.set_yticks(range(len(rows)), labels=_labels(rows))
    ax.set_ylim(-0.8, len(rows) - 0.2)
    _beside(ax, f"{case['title']}: the geometry alone", "time of a training step, lean LoRA = 1")


def _paired_bars(ax: Any, case: Mapping[str, Any]) -> None:
    """Ratios to LoRA (PEFT) as it is, of every method in both ways."""
    ways: dict[str, list[dict[str, Any]]] = {}
    for row in case["rows"]:
        ways.setdefault(_way(row), []).append(row)
    for k, (way, rows) in enumerate(ways.items()):
        at = [i + 0.4 * (k - 0.5 * (len(ways) - 1)) for i in range(len(rows))]
        ax.barh(at, [row["ratio"][1] for row in rows], height=0.4, label=way)
    labels = _labels(next(iter(ways.values())))
    ax.set_yticks(range(len(labels)), labels=labels)
    ax.set_xlim(right=2.2 * max(row["ratio"][1] for row in case["rows"]))
    ax.legend(loc="center right")
    _beside(ax, case["title"], "time of a training step, LoRA (PEFT) as it is = 1")


def _labels(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Titles of rows, in lines that leave the bars their room."""
    return [textwrap.fill(row["title"], 40) for row in rows]


def _way(row: Mapping[str, Any]) -> str:
    """How a method was run, of a table that has it run in two ways."""
    return row["way"] if "way" in row else "alone, memory kept" if row["kept"] else "alone, as it is"


def _beside(ax: Any, title: str, what: str) -> None:
    """Rows from above, and a line at 1, where what they are compared with is."""
    ax.axvline(1.0, color="black", linewidth=0.8)
    ax.invert_yaxis()
    ax.set_title(title, loc="right")  # over the labels of the rows as well, where there is room
    ax.set_xlabel(what)

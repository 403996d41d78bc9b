"""The results for the page "Rigor": those of ``build/rigor/*.json`` if there are any, else those of
``measured/*.json`` here.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from verification.report.ladder_figure import figure
from verification.support.pictures import data_uri
from verification.support.shown import Item, Page, Rows, Shown

__all__ = ["FOLDER", "MEASURED", "PAGE"]

FOLDER = Path("build") / "rigor"
MEASURED = Path(__file__).parent / "measured"
"""Stored, sealed copies of files of :data:`FOLDER`; where one does not name the sources of its
figures, the page says so.
"""
OUTCOMES = ("certified", "void", "refuted", "undecided")
VERDICTS = {
    "lost": "lost",
    "damaged": "accepted damaged",
    "hang": "hangs",
    "traceback": "tracebacks",
}


def _certificates(data: dict[str, Any]) -> Shown:
    texts = data["statements"]
    rows = [["Statement", "Theory", "", *OUTCOMES]]
    for name, counts in data["outcomes"].items():
        found = [str(counts.get(outcome, 0)) for outcome in OUTCOMES]
        rows.append([name, texts[name]["section"], texts[name]["text"], *found])
    broken = [["Broken step or projection", "Refuted on", "Statements refuted", "Checker agrees"]]
    for name, one in data["refuted"].items():
        row = (
            [one["instance"], ", ".join(one["statements"]), "yes" if one["followed"] else "NO"]
            if one
            else ["nowhere", "", "NO"]
        )
        broken.append([name, *row])
    refuted = len(data["refuted"]) - len(data["not_refuted"])
    line = (
        f"{data['instances']} instances; {data['more_bits']} decisions needed more than double precision's bits; "
        f"{refuted} of {len(data['refuted'])} broken steps refuted by proof; {len(data['objections'])} objections of the "
        f"independent checker; {data['seconds']} s."
    )
    tables = {"Outcomes": rows, "What must be refuted": broken}
    if data["objections"]:
        tables["Objections"] = [["Objection"], *([line] for line in data["objections"])]
    return Shown(data["passed"], line, tables)


def _ladder(data: dict[str, Any]) -> Shown:
    within, tolerance = data["as predicted"], f"{data['tolerance']:g}"
    rows = [["Quantity", "Slope", "Predicted", f"Within {tolerance}"]]
    for name, predicted in data["predicted"].items():
        rows.append([name, f"{data['slopes'][name]:.3f}", f"{predicted:g}", _yes(within[name])])
    points = [
        [
            "Real step",
            "Relative error of W₁",
            "Allowed",
            "Within",
            "Bits of the control",
            "Its error",
            "Allowed",
            "Beyond",
        ]
    ]
    for name, one in data["real steps"].items():
        control = data["lossy steps"][name]
        shown = (
            f"{one['error']:.1e}",
            f"{one['allowed']:.1e}",
            _yes(one["within"]),
            str(control["bits"]),
            f"{control['error']:.1e}",
            f"{control['allowed']:.1e}",
        )
        points.append([name, *shown, _yes(not control["within"])])
    rungs = ", ".join(f"{name} ({bits} bits)" for name, bits in data["bits"].items())
    line = f"{sum(within.values())} of {len(within)} slopes within {tolerance} of the prediction; rungs: {rungs}."
    return Shown(
        data["passed"],
        line,
        {"Slopes of log error": rows, "Steps of this package": points},
        data_uri(figure(data)),
    )


def _long_runs(data: dict[str, Any]) -> Shown:
    tables: dict[str, Rows] = {}
    for run in data["runs"]:
        rows = [["Tenth", "Defect of the bases / eps", "Ranks", "µs a step", "Peak MiB"]]
        for number, tenth in enumerate(run["tenths"], 1):
            ranks = f"{tenth['ranks'][0]} to {tenth['ranks'][-1]}"
            micro, peak = 1e6 * tenth["seconds"] / tenth["steps"], tenth["peak_kib"] / 1024
            rows.append(
                [
                    str(number),
                    f"{tenth['defect'] / run['eps']:.1f}",
                    ranks,
                    f"{micro:.0f}",
                    f"{peak:.0f}",
                ]
            )
        tables[f"{run['steps']:,} steps in {run['dtype']}"] = rows
        tables[f"Checks in {run['dtype']}"] = [
            ["Check", "Holds"],
            *([check, _yes(ok)] for check, ok in run["checks"].items()),
        ]
    lines = []
    for run in data["runs"]:
        held, resumed = (
            sum(run["checks"].values()),
            f", resumed {run['resumed']} times" if run["resumed"] else "",
        )
        lines.append(
            f"{run['steps']:,} steps in {run['dtype']}{resumed}: {held} of {len(run['checks'])} checks hold"
        )
    return Shown(data["passed"], "; ".join(lines) + ".", tables)


def _faults(data: dict[str, Any]) -> Shown:
    verdicts = data["verdicts"]
    kinds = list(verdicts.values())[0]  # noqa: RUF015  (StopIteration is no error of a file)
    table: Rows = [["What goes wrong", *verdicts, "Not fine"]]
    for kind in kinds:
        counts = [sum(found[kind].values()) for found in verdicts.values()]
        rest = sum(counts) - sum(found[kind].get("fine", 0) for found in verdicts.values())
        table.append([kind, *map(str, counts), str(rest)])
    findings = [
        [one["word"], one["program"], one["kind"], one["reason"]] for one in data["findings"]
    ]
    words = Counter(one["word"] for one in data["findings"])
    verdict_counts = ", ".join(f"{words[word]} {what}" for word, what in VERDICTS.items())
    line = f"{data['faults']} faults of {len(kinds)} kinds in {len(verdicts)} programs: {verdict_counts}."
    tables = {"Faults": table}
    if findings:
        tables["Not fine"] = [["Verdict", "Program", "Fault", "Reason"], *findings]
    return Shown(data["passed"], line, tables)


def _fuzzing(data: dict[str, Any]) -> Shown:
    rows = [
        ["Operation", "Times"],
        *([name, f"{count:,}"] for name, count in sorted(data["counts"].items())),
    ]
    violation = (
        f"VIOLATION: {data['violation'].splitlines()[0]}" if data["violation"] else "no violation"
    )
    counted = f"{data['operations']:,} operations, {data['steps']:,} of them steps"
    line = f"{counted} (at least {data['floor']:,} are required); {violation}; {data['seconds']} s of processor time."
    return Shown(data["passed"], line, {"Operations": rows})


def _mutation(data: dict[str, Any]) -> Shown:
    rows = [
        [
            "Scope",
            "Mutants",
            "Killed",
            "Equivalent",
            "Survived",
            "Score",
            "Required",
            "Tried",
            "Measured",
        ]
    ]
    for scope in data["scopes"]:
        counts = [str(scope[key]) for key in ("mutants", "killed", "equivalent", "survived")]
        score = "none" if scope["score"] is None else f"{100.0 * scope['score']:.1f} %"
        tried = "a sample" if scope["sampled"] else "all"
        rows.append(
            [scope["name"], *counts, score, f"{100.0 * scope['floor']:g} %", tried, _where(scope)]
        )
    tables, faults = (
        {"Mutation scores": rows},
        [[line] for scope in data["scopes"] for line in scope["objections"]],
    )
    if faults:
        tables["Objections"] = [["Objection"], *faults]
    scores = ", ".join(f"{name} {score}" for name, *_, score, _, _, _ in rows[1:])
    line = f"Of the mutants that are not equivalent: {scores}; {len(faults)} objections to the list of those that are."
    return Shown(data["passed"], line, tables)


def _coverage(data: dict[str, Any]) -> Shown:
    rows = [
        ["Module", "Branches"],
        *([name, f"{value:.1f} %"] for name, value in data["branch_percent"].items()),
    ]
    line = f"{data['total']:.1f} % in all; required: {data['least']:g} %."
    return Shown(data["passed"], line, {"Branch coverage": rows})


def _yes(holds: Any) -> str:
    return "yes" if holds else "NO"


def _where(data: dict[str, Any]) -> str:
    return "{date}, {processor}, commit {commit}".format_map(data["machine"])


_ITEMS = (
    Item(
        "certificates",
        "Certificates",
        "results.json",
        "make rigor",
        "Proofs by ball arithmetic about the exact numbers that double precision took in and gave out. Void: a statement says "
        "nothing about this output. Every certificate is checked by a program that shares no code with what made it.",
        _certificates,
        MEASURED / "results.json",
    ),
    Item(
        "ladder",
        "Precision ladder",
        "ladder.json",
        "make rigor",
        "One step with 8 to 113 significant bits against 200: errors fall like the unit round-off, and the two routes to the "
        "gradients lose what is predicted. Next to it the reference and the fast path, each with a control that must be noticed, "
        "the same step of a gradient with fewer bits.",
        _ladder,
        MEASURED / "ladder.json",
    ),
    Item(
        "long-runs",
        "Long runs",
        "long_runs.json",
        "python -m verification.trust.long_runs",
        "Many steps with a target that changes between ranks 6 and 1. The defect is measured just before the bases are cured.",
        _long_runs,
        MEASURED / "long_runs.json",
    ),
    Item(
        "faults",
        "Faults",
        "faults.json",
        "python -m verification.trust.faults",
        "What goes wrong on machines, done to small runs of the commands that keep files.",
        _faults,
        MEASURED / "faults.json",
    ),
    Item(
        "fuzzing",
        "Fuzzing",
        "fuzzing.json",
        "HYPOTHESIS_PROFILE=nightly pytest tests/verification/trust/test_fuzzing.py",
        "Drawn sequences of everything that can happen to a state, judged by the dense oracle.",
        _fuzzing,
        MEASURED / "fuzzing.json",
    ),
    Item(
        "mutation",
        "Mutation score",
        "mutation.json",
        "make mutation",
        "How many small changes of the sources the checks notice. Stored is the core.",
        _mutation,
        MEASURED / "mutation.json",
    ),
    Item(
        "coverage",
        "Branch coverage",
        "coverage.json",
        "make coverage",
        "The share of the branches of the core that its tests take.",
        _coverage,
        MEASURED / "coverage.json",
    ),
)

PAGE = Page(
    "rigor",
    "Rigor: how far can the checks be trusted?",
    "Tests sample. This page says what was proved of the numbers that double precision returns, what happens in long runs and "
    "when machines fail, and how well the checks themselves are checked. What was not measured here is shown as it is stored, if "
    "it is.",
    "rigor-report.html",
    _ITEMS,
)

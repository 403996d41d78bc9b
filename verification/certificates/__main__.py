"""``python -m verification.certificates``: prove the statements on every instance, refute every
mutant, let the checker follow.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from rich.console import Console

from geolora_ref.oracle.broken.mutants import MUTANTS
from geolora_ref.support.files import write_json
from geolora_ref.support.terminal import Terminal
from verification.certificates.certificate import BITS, certify, outcomes
from verification.certificates.checker import objections
from verification.certificates.instances import (
    PROJECTIONS,
    Instance,
    Output,
    broken_projection,
    draw,
    mutant,
    reference,
)
from verification.certificates.statements import STATEMENTS
from verification.support.command_line import ProgressBar, integer_from, writable_folder
from verification.support.machine import provenance

__all__ = ["BROKEN", "CHANCES", "main", "prove", "refute"]

RIGHT_HERE = (
    "upper-right-unconjugated",
    "upper-right-transposed",
    "lower-left-transposed",
    "missing-conjugate",
    "strict-threshold",
)
"""Mutants that are right on real data, or unless Ŵ = 0."""
SMALL = 9
"""The largest size of the instances on which mutants are refuted."""
CHANCES = 168
"""The number of those instances, each pair of a start and a cut three times.  Singular values from
a Gram matrix differ by rounding errors only: they are refuted on one instance in fifteen, and on
which one depends on the processor."""
BROKEN: dict[str, Callable[[Instance], Output]] = {
    **{
        name: mutant(name)
        for name, m in MUTANTS.items()
        if m.visible_in == "output" and name not in RIGHT_HERE
    },
    **{name: broken_projection(name) for name in PROJECTIONS},
}
"""Every broken step and projection that real data can show."""

Report = Callable[[str], None]


def prove(instances: Iterable[Instance], report: Report = lambda what: None) -> dict[str, Any]:
    """Certificates of the reference, the objections of the checker, and the number of each outcome.

    An unusable output, about which nothing can be proved, has no outcomes, and a reason.
    """
    counters: dict[str, Counter[str]] = {name: Counter() for name in STATEMENTS}
    found: dict[str, Any] = {
        "certificates": [],
        "objections": [],
        "unusable": {},
        "outcomes": counters,
    }
    for x in instances:
        certificate = certify(x, reference(x))
        found["certificates"].append(certificate)
        found["objections"] += [
            f"{x.id}: {line}" for line in objections(json.loads(json.dumps(certificate)))
        ]
        if "unusable" in certificate:
            found["unusable"][x.id] = certificate["unusable"]
        for name, statement in certificate["statements"].items():
            found["outcomes"][name][statement["outcome"]] += 1
        report(x.id)
    return found


def refute(
    names: Iterable[str], instances: Sequence[Instance], report: Report = lambda what: None
) -> dict[str, Any]:
    """For every broken step the first instance where a statement is refuted, which ones, and
    whether the checker agrees.
    """
    found: dict[str, Any] = {}
    for name in names:
        found[name] = next(_refutations(BROKEN[name], instances), None)
        report(name)
    return found


def _refutations(
    step: Callable[[Instance], Output], instances: Sequence[Instance]
) -> Iterator[dict[str, Any]]:
    for x in instances:
        with np.errstate(all="ignore"):  # broken steps overflow
            certificate = certify(x, step(x), BITS[:2])
        statements = outcomes(certificate, "refuted")
        if statements:
            followed = not objections(json.loads(json.dumps(certificate)))
            yield {
                "instance": x.id,
                "statements": statements,
                "followed": followed,
                "certificate": certificate,
            }


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status 0: everything is certified, every broken step is refuted, and the checker follows
    all of it.
    """
    parser = argparse.ArgumentParser(
        prog="python -m verification.certificates", description="Proofs by ball arithmetic."
    )
    parser.add_argument(
        "--count",
        type=integer_from(1),
        default=112,
        help="instances of the reference (default: 112)",
    )
    parser.add_argument(
        "--largest", type=integer_from(5), default=24, help="largest m and n (default: 24)"
    )
    parser.add_argument(
        "--seed", type=integer_from(0), default=0, help="where the random draws start (default: 0)"
    )
    parser.add_argument(
        "--only",
        action="append",
        choices=list(BROKEN),
        metavar="NAME",
        help="refute this broken step only",
    )
    parser.add_argument("--json", action="store_true", help="print the summary as JSON")
    parser.add_argument("--output", type=writable_folder, default="build/rigor", metavar="FOLDER")
    options = parser.parse_args(argv)
    names, started, about = options.only or list(BROKEN), time.monotonic(), provenance()
    console = Terminal(stderr=options.json)
    with ProgressBar(console, width=40) as bar:
        task = bar.add_task("starting", total=options.count + len(names))

        def report(what: str) -> None:
            bar.update(task, advance=1, description=what)

        proved = prove(draw(options.count, options.seed, options.largest), report)
        refuted = refute(names, list(draw(CHANCES, options.seed, SMALL)), report)
    summary = _summary(proved, refuted, time.monotonic() - started) | about
    write_json(
        options.output / "certificates.json",
        {"format": 1, "certificates": proved["certificates"]},
    )
    certificates = [one["certificate"] for one in refuted.values() if one]
    write_json(
        options.output / "refutations.json",
        {"format": 1, "certificates": certificates},
    )
    write_json(options.output / "results.json", summary)
    if options.json:
        print(json.dumps(summary, ensure_ascii=False, indent=1))
    else:
        _print(summary, console)
    console.print(
        f"{options.output}/results.json, certificates.json, refutations.json", markup=False
    )
    return 0 if summary["passed"] else 1


def _summary(proved: dict[str, Any], refuted: dict[str, Any], seconds: float) -> dict[str, Any]:
    counts = {name: dict(counter) for name, counter in proved["outcomes"].items()}
    open_statements = {
        name: c
        for name, c in counts.items()
        if set(c) - {"certified", "void"} or not c.get("certified")
    }
    refutations = {
        name: one and {key: one[key] for key in ("instance", "statements", "followed")}
        for name, one in refuted.items()
    }
    not_refuted = [name for name, one in refuted.items() if not (one and one["followed"])]
    return {
        "format": 1,
        "seconds": round(seconds, 1),
        "instances": len(proved["certificates"]),
        "statements": {
            name: {"section": one.section, "text": one.text} for name, one in STATEMENTS.items()
        },
        "outcomes": counts,
        "more_bits": sum(
            s["bits"] > BITS[0] for c in proved["certificates"] for s in c["statements"].values()
        ),
        "objections": proved["objections"],
        "unusable": proved["unusable"],
        "refuted": refutations,
        "not_refuted": not_refuted,
        "passed": not (
            open_statements or not_refuted or proved["objections"] or proved["unusable"]
        ),
    }


def _print(summary: dict[str, Any], console: Console) -> None:
    for name, counts in summary["outcomes"].items():
        line = ", ".join(f"{count} {outcome}" for outcome, count in sorted(counts.items()))
        console.print(
            f"{name:<24} {line:<32} {STATEMENTS[name].text}", markup=False, soft_wrap=True
        )
    refuted = len(summary["refuted"]) - len(summary["not_refuted"])
    console.print(
        f"{refuted} of {len(summary['refuted'])} broken steps refuted; "
        f"left: {', '.join(summary['not_refuted']) or 'none'}"
    )
    for line in (
        *summary["objections"],
        *(f"{instance}: unusable: {why}" for instance, why in summary["unusable"].items()),
    ):
        console.print(line, style="red", markup=False)
    verdict = "everything is proved" if summary["passed"] else "NOT everything is proved"
    console.print(
        f"{verdict}: {summary['instances']} instances, {len(summary['objections'])} objections, "
        f"{summary['seconds']} s"
    )


if __name__ == "__main__":
    sys.exit(main())

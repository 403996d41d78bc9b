"""Check the claims that the options name, print a table, write the report."""

from __future__ import annotations

import argparse
import json
import os
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from geolora_ref.support.files import locked
from geolora_ref.support.terminal import Terminal
from verification.claim import Claim, Plan
from verification.claims import CLAIMS, HEADINGS
from verification.compare import print_differences
from verification.outcome import ClaimOutcome
from verification.report.report import as_data, drawn, write_report
from verification.runner import RunnerError, cache_of, run
from verification.support.command_line import ProgressBar
from verification.support.machine import provenance
from verification.support.options import DEFAULT_FOLDER

__all__ = ["execute", "print_outcomes"]


def execute(options: argparse.Namespace) -> int:
    """Exit status 0 only if every claim holds and every negative control fails; 1: not so; 2: it
    could not be checked; 130 and 143: interrupted and terminated, with the finished cases kept.
    """
    console = Terminal(stderr=options.json)
    plan = Plan("full" if options.full else "quick", options.seed)
    try:
        if options.compare:
            print_differences(*options.compare, Terminal())  # type: ignore[call-arg]
            return 0
        claims = _chosen(options, plan)
        if options.list:
            list_claims(claims, Terminal())
            return 0
        part = "" if len(claims) == len(CLAIMS) else "-part"
        folder = options.output or DEFAULT_FOLDER / f"{plan.effort}{part}"
        with _terminated_like_interrupted(), locked(folder):
            return check(claims, plan, folder, options, console)
    except (OSError, ValueError, RunnerError) as error:
        Terminal(stderr=True).print(f"[red]cannot check:[/] {escape(str(error))}", soft_wrap=True)
        return 2
    except KeyboardInterrupt as interrupt:
        name, status = ("terminated", 143) if interrupt.args else ("interrupted", 130)
        console.print(f"{name}: the same command continues with the cases that are left")
        return status


def _chosen(options: argparse.Namespace, plan: Plan) -> list[Claim]:
    """The claims to check: those named, else those that the added modules change, else all.

    Raises ``ValueError`` for a module that cannot be imported and a name that no claim has.
    """
    before = {c.id: _case_ids(c, plan) for c in CLAIMS.values()} if options.adding else {}
    for name in options.adding:
        try:
            import_module(name)
        except Exception as error:
            reason = f"{type(error).__name__}: {error}"
            raise ValueError(f"--with: expected a module to import, {name!r}: {reason}") from error
    changed = [name for name in before if before[name] != _case_ids(CLAIMS[name], plan)]
    changed += [name for name in CLAIMS if options.adding and name not in before]
    if unknown := [name for name in options.only if name not in CLAIMS]:
        wanted = f"expected one of {', '.join(CLAIMS)}"
        raise ValueError(f"--only: {wanted}; found {', '.join(unknown)}")
    return [CLAIMS[name] for name in dict.fromkeys(options.only or changed or CLAIMS)]


def _case_ids(claim: Claim, plan: Plan) -> list[str]:
    return [case.id for case in claim.cases(plan)]


@contextmanager
def _terminated_like_interrupted() -> Iterator[None]:
    """A context in which SIGTERM is like Ctrl-C, so that the worker processes end."""

    def terminate(number: int, frame: object) -> None:
        raise KeyboardInterrupt(number)

    before = signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def check(
    claims: Sequence[Claim],
    plan: Plan,
    folder: Path,
    options: argparse.Namespace,
    console: Console,
) -> int:
    """Check these claims in a folder that no other run uses; returns the exit status."""
    origin, started, cache = provenance(), time.monotonic(), cache_of(folder, plan)
    if cache.exists():
        console.print("continuing an interrupted run")
    for line in folder.glob("unfinished-*"):
        if line != cache:
            console.print(f"not used, from other sources or another plan: {line}", soft_wrap=True)
    with ProgressBar(console, width=22, what="checked") as bar:
        task = bar.add_task("starting", total=None)
        outcomes = run(
            claims,
            plan,
            jobs=options.jobs or os.cpu_count() or 1,
            cache=cache,
            modules=options.adding,
            progress=lambda name, done, total: bar.update(
                task, description=name, completed=done, total=total
            ),
        )
    seconds = time.monotonic() - started
    report = write_report([drawn(outcome) for outcome in outcomes], plan, folder, seconds, origin)
    if options.json:
        data = as_data(outcomes, plan, seconds, origin)
        print(json.dumps(data, ensure_ascii=False, indent=1))
    else:
        print_outcomes(outcomes, console)
    failed = [outcome.claim.id for outcome in outcomes if not outcome.holds]
    standing = "the claim holds" if len(outcomes) == 1 else f"all {len(outcomes)} claims hold"
    verdict = (
        f"[red]{len(failed)} of {len(outcomes)} claims do not stand: {', '.join(failed)}"
        if failed
        else f"[green]{standing}, every negative control fails"
    )
    of = f"; {len(outcomes)} of {len(CLAIMS)} claims" if len(outcomes) < len(CLAIMS) else ""
    console.print(f"{verdict}[/] ({seconds:.0f} s{of})", soft_wrap=True)
    console.print(f"report: {escape(str(report.resolve()))}", soft_wrap=True)
    return 1 if failed else 0


def list_claims(claims: Sequence[Claim], console: Console) -> None:
    """Print the claims with their statements and controls."""
    for claim in claims:
        section = claim.section if claim.section in HEADINGS else "in no section of the theory"
        title = escape(f"({section}) {claim.title}")
        statement = escape(claim.statement)
        console.print(f"[bold]{claim.id}[/] {title}\n    {statement}", soft_wrap=True)
        for control in claim.controls:
            line = f"    must fail: {control.id}: {control.why}"
            console.print(line, style="dim", markup=False, soft_wrap=True)


def print_outcomes(outcomes: Sequence[ClaimOutcome], console: Console) -> None:
    """Print a table that fits 80 columns, one row a claim, then the reasons why claims do not stand."""
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0))
    table.add_column("claim", no_wrap=True)
    for name in ("cases", "ratios", "worst", "limit"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("controls\nthat fail", no_wrap=True)
    table.add_column("verdict", min_width=len("does not"))
    for outcome in outcomes:
        failing = sum(bool(control.failed) for control in outcome.controls)
        table.add_row(
            outcome.claim.id,
            str(len(outcome.results)),
            str(outcome.count),
            f"{outcome.worst:.3g}",
            f"{outcome.claim.limit:g}",
            f"{failing} of {len(outcome.controls)}",
            f"[{'green' if outcome.holds else 'red'}]{outcome.verdict}[/]",
        )
    console.print(table)
    for outcome in outcomes:
        for problem in outcome.problems[:10]:
            console.print(f"[red]{outcome.claim.id}[/]: {escape(problem)}")
        if len(outcome.problems) > 10:
            more = len(outcome.problems) - 10
            console.print(f"[red]{outcome.claim.id}[/]: and {more} more, see results.json")

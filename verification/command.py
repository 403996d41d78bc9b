"""Check the claims that the options name, print a table, write the report."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from geolora_ref.support.files import locked, require_regular, require_writable
from geolora_ref.support.streams import let_go
from geolora_ref.support.terminal import Terminal
from verification.campaign.backends import BackendError, quiet_end
from verification.campaign.extensions import Extensions, added, extended, foreign_sources
from verification.campaign.journal import Journal
from verification.campaign.outcomes import ClaimOutcome
from verification.campaign.runner import key, records, run, units
from verification.claim import Claim, Plan
from verification.claims import CLAIMS, HEADINGS
from verification.report.compare import tell_changes
from verification.report.report import (
    FILES,
    PAGES,
    as_data,
    drawn,
    write_pages_beside,
    write_report,
)
from verification.support.command_line import ProgressBar
from verification.support.machine import provenance
from verification.support.options import DEFAULT_FOLDER, refuse_unknown
from verification.support.options import refuse as options_refused

__all__ = ["execute", "print_outcomes"]


def execute(options: argparse.Namespace) -> int:
    """Exit status 0 only if every claim holds and every negative control fails; 1: not so; 2: it
    could not be checked.

    With --compare, 0: every claim that stood stands; 1: not so; 2: one of the two cannot be read.
    130: interrupted, 143: terminated; with --full the finished cases are in the journal.
    ``SystemExit(2)``: additions that cannot be judged, and names that no claim has.
    """
    if options.compare:
        try:
            return tell_changes(options.compare[0], options.compare[1], Terminal())
        except (OSError, ValueError) as error:
            return refuse(str(error))
    added_to = Extensions(tuple(options.claim), tuple(options.problem), tuple(options.integrator))
    try:
        with added(added_to):
            refuse_unknown(options.only or (), CLAIMS)
    except ValueError as error:
        options_refused(error)
    console = Terminal(stderr=options.json)
    plan = Plan("full" if options.full else "quick", options.seed)
    others = extended(added_to, plan)
    if others and (useless := [name for name in options.only or () if name not in others]):
        judging = f"--only: expected claims that judge what is added, which are {', '.join(others)}"
        options_refused(ValueError(f"{judging}; found {', '.join(useless)}"))
    try:
        with terminated_like_interrupted(), quiet_end(), added(added_to):
            claims = [CLAIMS[name] for name in dict.fromkeys(options.only or others or CLAIMS)]
            folder = options.output or DEFAULT_FOLDER / (
                plan.effort if len(claims) == len(CLAIMS) else f"{plan.effort}-part"
            )
            if options.list:
                list_claims(claims, Terminal())
                status = 0
            else:
                with locked(folder):
                    status = check(claims, plan, folder, options, console, others, added_to)
            sys.stdout.flush()
        return status
    except OSError as error:  # the folder is taken by another run, unwritable or full; every file written so far is whole
        let_go(sys.stdout)  # the full disk may be that of stdout
        return refuse(str(error))
    except KeyboardInterrupt as interrupt:
        return stopped(interrupt, "what had been written is whole", console)


def refuse(reason: str) -> int:
    """Print why the command cannot continue; returns its exit status."""
    Terminal(stderr=True).print(f"[red]cannot go on:[/] {escape(reason)}", soft_wrap=True)
    return 2


def stopped(interrupt: KeyboardInterrupt, rest: str, console: Console) -> int:
    """Say what stopped the run and what is kept of it; returns the exit status."""
    name, status = (
        ("terminated", 143) if isinstance(interrupt, Terminated) else ("interrupted", 130)
    )
    console.print(f"{name}: {escape(rest)}", soft_wrap=True)
    return status


class Terminated(KeyboardInterrupt):
    """SIGTERM came: treated like Ctrl-C, so that the worker processes end and their finished cases
    are kept.
    """


@contextmanager
def terminated_like_interrupted() -> Iterator[None]:
    """A context in which SIGTERM raises :class:`Terminated`; outside of the main thread, which
    alone gets signals, no change.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def terminate(*_: object) -> None:
        raise Terminated

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
    others: Collection[str],
    extensions: Extensions,
) -> int:
    """Check these claims in a folder that no other run uses; ``others`` : the ids of those that the
    record does not cover.
    """
    try:
        records(
            plan
        )  # outcomes are compared with the record, so an unreadable one is refused before any case is done
    except ValueError as error:
        return refuse(str(error))
    whole = len(claims) == len(CLAIMS)
    for name in (*FILES, *(PAGES if whole else ())):
        require_regular(folder / name)
        require_writable(folder / name)
    foreign = foreign_sources(extensions)
    journal = Journal(folder, plan, fresh=options.fresh or not options.full, foreign=foreign)
    for line in journal.damaged:
        console.print(f"[yellow]{escape(line)}; its case is done again[/]", soft_wrap=True)
    counted: dict[str, Any] = {"origin": provenance(), "foreign": foreign}
    counted["resumed"] = sum(key(unit) in journal.done for unit in units(claims, plan))
    started = time.monotonic()
    jobs = options.jobs or os.cpu_count() or 1
    try:
        with bar("checked", console) as progress:
            workers: dict[str, Any] = {
                "jobs": jobs,
                "scheduler": options.scheduler,
                "extensions": extensions,
            }
            outcomes = run(claims, plan, journal, **workers, unrecorded=others, progress=progress)
    except (KeyboardInterrupt, BackendError) as error:
        kept = f"{len(journal.done)} finished cases are kept in {journal.path}; --full continues from there"
        rest = kept if options.full else "without --full the next run starts over"
        if isinstance(error, BackendError):
            return refuse(f"{error}; {rest}")
        return stopped(error, rest, console)
    seconds = time.monotonic() - started
    with bar("drawn", console) as progress:
        sections = drawn(outcomes, progress)
    outcomes = [section.outcome for section in sections]
    if not options.json:
        print_outcomes(outcomes, console)
    report = write_report(sections, plan, folder, seconds, **counted)
    if whole:
        write_pages_beside(folder)
    if options.json:
        print(json.dumps(as_data(outcomes, plan, seconds, **counted), ensure_ascii=False, indent=1))
    failed = [outcome.claim.id for outcome in outcomes if not outcome.holds]
    standing = "the claim holds" if len(outcomes) == 1 else f"all {len(outcomes)} claims hold"
    verdict = (
        f"[red]{len(failed)} of {len(outcomes)} claims do not stand: {', '.join(failed)}"
        if failed
        else f"[green]{standing}, every negative control fails"
    )
    facts = [f"{seconds:.0f} s"]
    if len(outcomes) < len(CLAIMS):
        facts.append(f"{len(outcomes)} of {len(CLAIMS)} claims were checked")
    if new := [outcome.claim.id for outcome in outcomes if outcome.holds and not outcome.on_record]:
        facts.append(f"not on record: {', '.join(new)}")
    if resumed := counted["resumed"]:
        facts.append(f"{resumed} cases are from an earlier run")
    console.print(
        f"{verdict}[/] ({'; '.join(facts)})\nreport: {escape(str(report.resolve()))}",
        soft_wrap=True,
    )
    return 1 if failed else 0


@contextmanager
def bar(what: str, console: Console) -> Iterator[Callable[[str, int, int], None]]:
    """A progress bar over claims with the unit ``what``; yields the function of (claim id, done,
    total) that moves it.
    """
    with ProgressBar(console, width=22, what=what) as progress:
        task = progress.add_task("starting", total=None)
        yield lambda name, done, total: progress.update(
            task, description=name, completed=done, total=total
        )


def list_claims(claims: Sequence[Claim], console: Console) -> None:
    """Print the claims with their statements and controls."""
    for claim in claims:
        section = claim.section if claim.section in HEADINGS else "in no section of the theory"
        title = escape(f"({section}) {claim.title}")
        console.print(f"[bold]{claim.id}[/] {title}\n    {escape(claim.statement)}", soft_wrap=True)
        for control in claim.controls:
            console.print(
                f"    must fail: {control.id}: {control.why}",
                style="dim",
                markup=False,
                soft_wrap=True,
            )


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
            f"[{'red' if not outcome.holds else 'green' if outcome.on_record else 'yellow'}]{outcome.verdict}[/]",
        )
    console.print(table)
    for outcome in outcomes:
        for problem in outcome.problems[:10]:
            console.print(f"[red]{outcome.claim.id}[/]: {escape(problem)}")
        if len(outcome.problems) > 10:
            console.print(
                f"[red]{outcome.claim.id}[/]: and {len(outcome.problems) - 10} more, see results.json"
            )

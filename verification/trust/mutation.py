"""``python -m verification.trust.mutation``: break the code in small ways, and count which breaks
the tests and claims notice.

Every mutant runs in a fork of this process, which has imported the libraries; a fork forgets
what it has of this package, and imports it with one file changed.  What is mutated, what must notice and
how many are drawn is in ``mutation.toml``; survivors that cannot be noticed are in
``mutation_equivalents.toml``, each with its reason.
"""

from __future__ import annotations

import argparse
import gc
import os
import random
import resource
import signal
import sys
import tomllib
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from importlib.machinery import ModuleSpec, SourceFileLoader
from importlib.util import spec_from_file_location
from itertools import islice
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any
from unittest.mock import patch

from scipy.stats import binomtest

from geolora_ref.support.files import digest, locked, read_json, write_json
from geolora_ref.support.terminal import Terminal
from verification.support.command_line import ProgressBar, integer_from
from verification.support.machine import ROOT, provenance
from verification.trust.mutation_rules import RULES
from verification.trust.mutation_sources import SourceMutant, mutants_of

__all__ = ["Scope", "Suspect", "accepted", "judge", "main", "summary"]

PLAN = ROOT / "verification" / "trust" / "mutation.toml"
BUILD = ROOT / "build" / "rigor"
OURS = ("geolora_ref", "verification", "tests")
PRELOADED = (
    "numpy", "scipy.linalg", "scipy.integrate", "scipy.stats", "torch", "array_api_compat.numpy", "array_api_compat.torch",
    "array_api_strict", "hypothesis", "pytest", "jaxtyping", "beartype", "mpmath", "joblib", "threadpoolctl", "sklearn",
    "matplotlib.figure",
)  # fmt: skip
CONFIDENCE = 0.95
FORMAT = 3
"""The format number of mutation.json."""
KILLED = ("killed", "timeout")
"""The outcomes of a mutant that was noticed."""
CONSOLE = Terminal()
say = partial(CONSOLE.print, markup=False, highlight=False, soft_wrap=True)

Check = Callable[[], bool]
"""A function that returns whether everything holds; it is called in a fork."""


@dataclass(frozen=True)
class Suspect:
    """A mutant and the check that ought to notice it."""

    mutant: SourceMutant
    check: Check


@dataclass(frozen=True)
class Scope:
    """A part of the code that is mutated together, and the least score that this part must reach."""

    name: str
    floor: float
    suspects: Sequence[Suspect]
    drawn: Sequence[Suspect]


class Altered(SourceFileLoader):
    """An import hook that finds the mutated module before the others do, and loads it from its
    changed text.
    """

    def __init__(self, mutant: SourceMutant) -> None:
        name = mutant.file.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
        super().__init__(name, str(ROOT / mutant.file))
        self.text = mutant.mutated

    def get_code(self, fullname: str) -> CodeType:
        """The changed text, compiled; nothing is cached."""
        code: CodeType = compile(self.text, self.path, "exec", dont_inherit=True)
        return code

    def find_spec(
        self, fullname: str, path: Any = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Where the changed module is; no other is found here."""
        return (
            spec_from_file_location(fullname, self.path, loader=self)
            if fullname == self.name
            else None
        )


# --- what must notice -----------------------------------------------------------------------------


class Profile:
    """A pytest plugin that sets Hypothesis: few examples, always the same, and no shrinking of failures."""

    def pytest_configure(self) -> None:
        """Load the profile after that of the test run."""
        from hypothesis import Phase, settings

        settings.register_profile(
            "mutation",
            max_examples=10,
            deadline=None,
            derandomize=True,
            database=None,
            phases=(Phase.explicit, Phase.generate),
        )
        settings.load_profile("mutation")


def tests_pass(arguments: Sequence[str]) -> bool:
    """Return whether these tests pass, without the run-time type checker: no mutant may be killed
    by the shapes in annotations.
    """
    import pytest

    with patch("jaxtyping.install_import_hook", lambda *_: nullcontext()):
        return (
            pytest.main(
                ["-x", "--assert=plain", "-p", "no:cacheprovider", "--tb=no", *arguments],
                plugins=[Profile()],
            )
            == 0
        )


def claim_stands(module: str) -> bool:
    """Return whether the claim of this module holds in the quick plan, as sharp as on record, and
    its pictures and tables can be made.

    ``verification.claims`` is imported first: it refuses claims whose names and sources are not
    what they should be.
    """
    from matplotlib.figure import Figure

    warnings.simplefilter("ignore")
    claim, runner = import_module(module).CLAIM, import_module("verification.campaign.runner")
    plan, found = import_module("verification.claim").Plan("quick"), {}
    for unit in runner.units([claim], plan):
        found[runner.key(unit)] = result = runner.work(unit)
        if result.error or (
            not unit[1] and (result.worst > claim.limit or result.violated_hypotheses)
        ):
            return False  # no other unit can change that
    outcome = runner.outcome(claim, plan, found)
    for figure in claim.figures:
        figure.draw(Figure().subplots(), outcome.results)
    for table in claim.tables:
        head, *rows = table.rows(outcome.results)
        if not rows or any(len(row) != len(head) for row in rows):
            return False
    return bool(outcome.holds)


# --- mutants in forks -----------------------------------------------------------------------------


def judge(check: Check, mutant: SourceMutant | None, limit: int) -> tuple[str, float]:
    """Run the check in a fork, with the mutant in place of its file; returns the outcome and the
    seconds of processor time.

    "survived", "killed", "timeout": ``limit`` seconds of processor time (a busy machine must not
    make a difference) or ten times as many by the clock, or "error" if the system ended the
    process, for want of memory for example, which says nothing about the check.
    """
    child = os.fork()
    if child == 0:
        _in_fork(check, mutant, limit)
    _, status, used = os.wait4(child, 0)
    seconds = used.ru_utime + used.ru_stime
    ended = os.WTERMSIG(status) if os.WIFSIGNALED(status) else None
    if ended in (signal.SIGXCPU, signal.SIGALRM):
        return "timeout", seconds
    if ended == signal.SIGKILL:
        return "error", seconds
    return "survived" if status == 0 else "killed", seconds


def _in_fork(check: Check, mutant: SourceMutant | None, limit: int) -> None:
    """Never returns: exits with 0 if the check holds."""
    status = 1
    try:
        _, hard = resource.getrlimit(resource.RLIMIT_CPU)
        resource.setrlimit(
            resource.RLIMIT_CPU, (limit, hard)
        )  # not a hard limit as well, which would end it by SIGKILL
        signal.alarm(10 * limit)  # ends a check that waits for ever without computing
        silent = os.open(os.devnull, os.O_RDWR)
        for stream in (0, 1, 2):
            os.dup2(silent, stream)
        for name in [name for name in sys.modules if name.split(".")[0] in OURS]:
            del sys.modules[name]
        if mutant is not None:
            sys.meta_path.insert(0, Altered(mutant))
        status = 0 if check() else 1
    finally:
        os._exit(status)


def preload() -> None:
    """Import the libraries that every fork needs, so that no fork has to."""
    for name in PRELOADED:
        with suppress(ModuleNotFoundError):
            import_module(name)
    import_module("torch").set_num_threads(1)
    gc.collect()
    gc.freeze()


# --- the plan, the run, the result ----------------------------------------------------------------


def _plan() -> dict[str, Any]:
    return tomllib.loads(PLAN.read_text(encoding="utf-8"))


def scopes(names: Sequence[str] = (), most: int | None = None) -> Iterator[Scope]:
    """The scopes of ``mutation.toml``, all or those named, each with the mutants that its seed
    draws, at most ``most``.

    A smaller sample is the beginning of a larger one.
    """
    plan = _plan()
    for scope in plan["scope"]:
        if names and scope["name"] not in names:
            continue
        rules = tuple(RULES[name] for name in scope.get("rules", ()))
        suspects: list[Suspect] = []
        for module in scope["module"]:
            patterns = [module["file"]] if isinstance(module["file"], str) else module["file"]
            for path in sorted(path for pattern in patterns for path in ROOT.glob(pattern)):
                file = path.relative_to(ROOT).as_posix()
                suspects += [
                    Suspect(mutant, _check(file, module, plan["options"]))
                    for mutant in mutants_of(ROOT, file, rules)
                ]
        order = list(suspects)
        random.Random(scope.get("seed", 0)).shuffle(order)  # noqa: S311  a sample, not a secret
        size = scope.get("sample", len(order))
        programs = (suspect for suspect in order if suspect.mutant.compiles)
        yield Scope(
            scope["name"],
            scope["floor"],
            suspects,
            list(islice(programs, size if most is None else min(size, most))),
        )


def _check(file: str, module: dict[str, Any], options: dict[str, list[str]]) -> Check:
    if "tests" in module:
        return partial(tests_pass, [*module["tests"], *options[module.get("options", "all")]])
    return partial(claim_stands, file.removesuffix(".py").replace("/", "."))


def accepted() -> dict[str, str]:
    """The mutants that nothing can notice, with reasons; ``ValueError`` for an entry without a
    reason or given twice.
    """
    entries = tomllib.loads(
        (ROOT / "verification/trust/mutation_equivalents.toml").read_text(encoding="utf-8")
    )["equivalent"]
    reasons = {f"{entry['in']}::{entry['diff']}": entry["reason"] for entry in entries}
    if len(reasons) != len(entries) or not all(reasons.values()):
        raise ValueError("mutation_equivalents.toml: expected every mutant once, with a reason")
    return reasons


def summary(scope: Scope, outcomes: dict[str, str], reasons: dict[str, str]) -> dict[str, Any]:
    """The figures of one scope and its verdict; mutants that are accepted as equivalent do not
    count in the score.
    """
    drawn = [suspect.mutant.key for suspect in scope.drawn]
    counted = [key for key in drawn if key not in reasons]
    survivors = [key for key in counted if outcomes[key] == "survived"]
    killed = sum(outcomes[key] in KILLED for key in counted)
    faults = objections(scope, outcomes, reasons)
    interval = (
        binomtest(killed, len(counted)).proportion_ci(CONFIDENCE, "exact") if counted else None
    )
    return {
        "name": scope.name,
        "mutants": len(scope.suspects),
        "tried": len(drawn),
        "sampled": len(drawn) < len(scope.suspects),
        "killed": killed,
        "timeouts": sum(outcomes[key] == "timeout" for key in counted),
        "equivalent": len(drawn) - len(counted),
        "survived": len(survivors),
        "score": round(killed / len(counted), 4) if counted else None,
        "score_at_least": round(float(interval.low), 4)
        if interval and len(drawn) < len(scope.suspects)
        else None,
        "floor": scope.floor,
        "survivors": survivors,
        "objections": faults,
        "passed": bool(counted) and killed / len(counted) >= scope.floor and not faults,
    }


def objections(scope: Scope, outcomes: dict[str, str], reasons: dict[str, str]) -> list[str]:
    """Reasons not to believe the score: listed equivalents that match no mutant or a killed one,
    and mutants whose check was ended by the system.
    """
    files = {suspect.mutant.file for suspect in scope.suspects}
    keys = {suspect.mutant.key for suspect in scope.suspects}
    ours = [key for key in reasons if key.split("::")[0] in files]
    tried = dict.fromkeys([*(suspect.mutant.key for suspect in scope.drawn), *ours])
    return [
        *(f"no such mutant: {key}" for key in ours if key not in keys),
        *(
            f"accepted as equivalent, but {outcomes[key]}: {key}"
            for key in ours
            if outcomes.get(key) in KILLED
        ),
        *(
            f"ended by the system, twice (--keep tries it again): {key}"
            for key in tried
            if outcomes.get(key) == "error"
        ),
    ]


def limits(suspects: Sequence[Suspect]) -> dict[str, int]:
    """The seconds that each file's check may take; ``RuntimeError`` if a check fails on the code
    without a mutant.
    """
    allowed: dict[str, int] = {}
    for suspect in suspects:
        file = suspect.mutant.file
        if file not in allowed:
            outcome, seconds = judge(suspect.check, None, 600)
            if outcome != "survived":
                raise RuntimeError(
                    f"{file}: expected its check to hold before anything is mutated, found: {outcome}"
                )
            allowed[file] = 10 + round(4.0 * seconds)
            say(f"{file}: holds, {seconds:.1f} s")
    return allowed


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status 0: every scope that was run reaches its floor, and its accepted mutants exist and
    survive; 1: otherwise; 2: a scope is unknown, or earlier outcomes are damaged.
    """
    names = [scope["name"] for scope in _plan()["scope"]]
    parser = argparse.ArgumentParser(
        prog="python -m verification.trust.mutation", description=__doc__
    )
    what = f"{', '.join(names)}; all by default, of the others the last results are kept"
    parser.add_argument("scope", nargs="*", help=what)
    keep = "go on: what an earlier run killed with these very sources and tests is not tried again"
    parser.add_argument("--keep", action="store_true", help=keep)
    parser.add_argument(
        "--sample", type=integer_from(1), help="try at most so many mutants of each scope"
    )
    options = parser.parse_args(arguments)
    if unknown := [
        name for name in options.scope if name not in names
    ]:  # argparse's choices would refuse an empty list
        parser.error(f"scope: expected some of {', '.join(names)}; found {', '.join(unknown)}")
    os.chdir(ROOT)
    os.environ["CI"] = "true"
    os.environ["NUMBA_DISABLE_JIT"] = (
        "1"  # a function that Numba has cached would stand in for all of its mutants
    )
    about = provenance("tests")
    try:
        with locked(BUILD / "mutation"):
            results = _all(options, names, about)
    except OSError as error:  # another run is at work here
        parser.error(str(error))
    for result in results.values():
        _report(result)
    return int(not all(result["passed"] for result in results.values()))


def _all(
    options: argparse.Namespace, names: Sequence[str], about: dict[str, Any]
) -> dict[str, dict[str, Any]]:
    """Run the scopes that were selected; returns their results.  Ends the program if earlier outcomes
    are damaged.
    """
    store = BUILD / "mutation_outcomes.json"
    kept = {"format": 2, "sources": about["sources"], "plan": digest(PLAN.read_bytes())}
    try:
        outcomes = _known(store, kept) if options.keep else {}
    except ValueError as error:
        sys.stderr.write(f"{error}; without --keep every mutant is tried again\n")
        raise SystemExit(2) from error
    reasons, chosen = accepted(), list(scopes(options.scope, options.sample))
    preload()
    for scope in chosen:
        _run(scope, outcomes, reasons, lambda: write_json(store, kept | {"outcomes": outcomes}))
    results = {scope.name: summary(scope, outcomes, reasons) | about for scope in chosen}
    _keep(results, names)
    return results


def _known(store: Path, kept: dict[str, Any]) -> dict[str, str]:
    """The outcomes of an earlier run with the same sources, tests and plan; none, with a message,
    if these differ.

    Raises ``ValueError`` that names the file if it is damaged.
    """
    if not store.exists():
        return {}
    found = read_json(store)
    outcomes: dict[str, str] = found.pop("outcomes", {})
    if found == kept:
        return outcomes
    say("sources, tests or plan are not those of the earlier run: every mutant is tried again")
    return {}


def _keep(results: dict[str, dict[str, Any]], names: Sequence[str]) -> None:
    """Write mutation.json: these results, and the last ones of the other scopes, if they can be
    read and have this form.

    The file as a whole names the sources that all of its scopes were tried with, or none if they differ.
    """
    path, earlier = BUILD / "mutation.json", {}
    with suppress(OSError, ValueError):
        data = read_json(path)
        if data.get("format") == FORMAT:
            earlier = {scope["name"]: scope for scope in data["scopes"]}
    together = earlier | results
    found = [together[name] for name in names if name in together]
    about = next(iter(results.values()))
    same = about["sources"] if all(scope["sources"] == about["sources"] for scope in found) else {}
    whole = {"format": FORMAT, "machine": about["machine"], "sources": same}
    write_json(path, whole | {"scopes": found, "passed": all(scope["passed"] for scope in found)})


def _run(
    scope: Scope, outcomes: dict[str, str], reasons: dict[str, str], save: Callable[[], None]
) -> None:
    """Try every drawn mutant that is not known to be killed, and every accepted one; ``save`` what
    is known now and then.
    """
    extra = [s for s in scope.suspects if s.mutant.key in reasons and s not in scope.drawn]
    todo = [s for s in (*scope.drawn, *extra) if outcomes.get(s.mutant.key) not in KILLED]
    allowed = limits(todo)
    # This process forks: the bar must have no thread and must leave the streams alone.
    with ProgressBar(
        CONSOLE, auto_refresh=False, redirect_stdout=False, redirect_stderr=False
    ) as bar:
        task = bar.add_task(scope.name, total=len(todo))
        try:
            for number, suspect in enumerate(todo, 1):
                mutant = suspect.mutant
                outcome = outcomes[mutant.key] = _tried(suspect, allowed[mutant.file])
                if outcome not in KILLED and mutant.key not in reasons:
                    say(f"[{number}/{len(todo)}] {outcome}, line {mutant.line}: {mutant.key}")
                bar.update(task, completed=number, refresh=True)
                if number % 20 == 0:
                    save()
        finally:  # after an interrupt --keep resumes
            save()


def _tried(suspect: Suspect, limit: int) -> str:
    """The outcome of a mutant; one that the system ended is tried once more, since memory may have
    been short.
    """
    outcome, _ = judge(suspect.check, suspect.mutant, limit)
    return judge(suspect.check, suspect.mutant, limit)[0] if outcome == "error" else outcome


def _report(result: dict[str, Any]) -> None:
    counted = result["tried"] - result["equivalent"]
    bound = (
        f", at least {result['score_at_least']:.1%} of all (95 %)"
        if result["score_at_least"] is not None
        else ""
    )
    score = "no score" if result["score"] is None else f"{result['score']:.1%}"
    say(f"{result['name']}: {result['killed']} of {counted} mutants killed ({score}{bound}), ")
    say(
        f"    {result['equivalent']} more accepted as equivalent; {result['tried']} of {result['mutants']} were tried"
    )
    for fault in result["objections"]:
        say(fault)


if __name__ == "__main__":
    raise SystemExit(main())

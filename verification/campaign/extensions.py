"""Claims, problems and integrators from other packages: objects named by import path, judged along
with the built-in ones.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from geolora_ref.integrators import RK4, TruncationRule
from geolora_ref.integrators.integrator import StepError
from geolora_ref.oracle.trial.load import load_object
from geolora_ref.problems import GradientFlow, MatrixODE, RotatingExponential
from geolora_ref.support.foreign import place, words
from verification.claim import Claim, Plan
from verification.claims import CLAIMS
from verification.claims.problems import ZOO
from verification.instruments.gradient_flows import FLOWS, STARTS
from verification.instruments.integrator_family import FAMILY, Member
from verification.support.machine import digest_of

__all__ = ["NONE", "Extensions", "added", "extended", "foreign_sources"]


class Extensions(NamedTuple):
    """The additions to a run, each named "package.module:attribute".

    ``claims`` : each a :class:`~verification.claim.Claim`.  ``problems`` : functions of a random
    generator that return a :class:`~geolora_ref.problems.problem.MatrixODE`; a gradient flow with a
    constant β joins all claims on gradient flows.
    ``integrators`` : each a :class:`~verification.instruments.integrator_family.Member`, an integrator with its
    promises.
    """

    claims: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()
    integrators: tuple[str, ...] = ()


NONE = Extensions()


@contextmanager
def added(extensions: Extensions) -> Iterator[None]:
    """A context in which the additions are entries of ``CLAIMS``, ``ZOO``, ``FLOWS`` and ``FAMILY``.

    Raises ``ValueError`` that says which name is taken, or leads to an object of the wrong kind.
    """
    registries: tuple[dict[str, Any], ...] = (CLAIMS, ZOO, FLOWS, FAMILY)
    before = [dict(registry) for registry in registries]
    try:
        for name in extensions.claims:
            claim = _loaded(name, "--claim", Claim)
            _enter(CLAIMS, claim.id, claim, f"--claim {name}")
        for name in extensions.problems:
            _enter(
                FLOWS if _has_slope(name) else ZOO,
                name,
                load_object(name, "--problem"),
                f"--problem {name}",
            )
        for name in extensions.integrators:
            member = _loaded(name, "--integrator", Member)
            _refuse_broken(member, name)
            _enter(FAMILY, member.name, member, f"--integrator {name}")
        yield
    finally:
        for registry, entries in zip(registries, before, strict=True):
            registry.clear()
            registry.update(entries)


def _loaded(name: str, option: str, kind: type) -> Any:
    found = load_object(name, option)
    if not isinstance(found, kind):
        raise ValueError(
            f"{option}: expected a {kind.__module__}.{kind.__name__}, found {type(found).__name__} at {name!r}"
        )
    return found


def _enter(registry: dict[str, Any], key: str, entry: Any, who: str) -> None:
    if registry.setdefault(key, entry) is not entry:
        raise ValueError(f"{who}: expected a name of its own, {key!r} is taken")


@lru_cache
def _refuse_broken(member: Member, name: str) -> None:
    """Raise ``ValueError`` unless the integrator of a member takes a step: one step, before every claim
    reports the same error.
    """
    problem = RotatingExponential.random(6, np.random.default_rng(0), rank=2)
    try:
        member.make(TruncationRule.fixed_rank(2), RK4).step(problem, 0.0, problem.start(2), 0.1)
    except Exception as error:
        cause = error.__cause__ if isinstance(error, StepError) and error.__cause__ else error
        wanted = "--integrator: expected a Member whose integrator takes a step of rank 2"
        raise ValueError(f"{wanted}, {name!r} raised {words(cause)}{_where(cause)}") from error


@lru_cache
def _has_slope(name: str) -> bool:
    """Return whether the claims on gradient flows can run on the problem of this name; one instance
    is made to find out.
    """
    make: Callable[[np.random.Generator], object] = load_object(name, "--problem")
    wanted = "--problem: expected a function of a random generator that returns a MatrixODE"
    try:
        problem = make(np.random.default_rng(0))
    except Exception as error:
        raise ValueError(f"{wanted}, {name!r} raised {words(error)}{_where(error)}") from error
    if not isinstance(problem, MatrixODE):
        raise ValueError(f"{wanted}, {name!r} returned {type(problem).__name__}")
    rank = max(map(len, STARTS.values()))
    return (
        isinstance(problem, GradientFlow)
        and bool(np.isfinite(problem.lipschitz))
        and min(problem.shape) >= rank
    )


def _where(error: BaseException) -> str:
    """The place in brackets; empty for a call that fits no signature, which no line has raised."""
    at = place(error)
    return f" (at {at})" if at else ""


def extended(extensions: Extensions, plan: Plan) -> list[str]:
    """The ids of the claims that the record does not cover: added ones, and those that get more
    cases by the additions.
    """

    def cases() -> dict[str, list[str]]:
        return {claim.id: [case.id for case in claim.cases(plan)] for claim in CLAIMS.values()}

    before = cases()
    with added(extensions):
        return [name for name, ids in cases().items() if ids != before.get(name)]


def foreign_sources(extensions: Extensions) -> Mapping[str, str]:
    """A digest for each addition, by its name: of all Python files of its package, or of its one module."""
    return {name: _digest(name) for names in extensions for name in names}


def _digest(name: str) -> str:
    top = sys.modules[name.partition(":")[0].partition(".")[0]]
    if folders := [Path(folder) for folder in getattr(top, "__path__", ())]:
        return digest_of(
            {
                path.relative_to(folder).as_posix(): path
                for folder in folders
                for path in folder.rglob("*.py")
            }
        )
    file = getattr(top, "__file__", None)
    return digest_of({name: Path(file)}) if file else "unknown"

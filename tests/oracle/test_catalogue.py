"""The catalogue is what backends were judged by: a changed question is a change of the oracle, and is noticed here."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict

import pytest

from geolora_ref.oracle.cases import TRAPS, CaseParameters
from geolora_ref.oracle.catalogue import catalogue

DIGEST = "3ae3e3bd97021ea457bc3d89e019bb707a1a49d9883f9c5f0b4ca88827ad6a6f"
"""Of all that determines the questions, and of their flags.  Where it changes, the changelog says why ("Oracle semantics")."""


def test_no_question_has_changed() -> None:
    asked = [(c.id, c.group, c.flags, asdict(c.parameters), c.steps, c.trained) for c in catalogue()]
    assert hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest() == DIGEST


TRAP_PROPERTIES: dict[str, Callable[[CaseParameters], bool]] = {
    "many small values, absolute threshold": lambda p: p.tau is None and p.theta == 0.25 and p.m != p.n,
    "keep nothing but the minimum": lambda p: p.tau == 1.0 and p.min_rank > 1,
    "everything is kept": lambda p: p.tau == 0.0 and p.max_rank is None and 2 * p.r < min(p.m, p.n),
    "the usual start": lambda p: p.core == "zero" and p.gradient == "rank one",
    "at the cap": lambda p: p.tau == 0.0 and p.max_rank == p.r,
    "one by one": lambda p: (p.m, p.n, p.r) == (1, 1, 1),
    "full rank, wide": lambda p: p.m < p.n and p.r == p.m,
    "no step": lambda p: p.learning_rate == 0.0 and p.tau == 0.0,
    "complex and dense": lambda p: p.complex and p.core == "dense",
}


@pytest.mark.parametrize("name", TRAP_PROPERTIES)
def test_a_trap_is_what_its_name_says(name: str) -> None:
    assert TRAP_PROPERTIES[name](TRAPS[name])

"""The catalogue is what backends were judged by: a changed question is a change of the oracle, and is noticed here."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import numpy as np
import pytest

from geolora_ref.oracle.cases import TRAPS, CaseParameters
from geolora_ref.oracle.catalogue import catalogue
from geolora_ref.oracle.check import run_case
from geolora_ref.oracle.harness import Harness
from geolora_ref.oracle.stages import Stages

DIGEST = "1ae1c2098bc28ccfac3cf9eb0c39a489e1afeb4bf5c607538df32e3e2c9212ce"
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


# --- what only cases of more than one block can see --------------------------------------------------------------------


def rows_beyond_a_block(U: Any, S: Any, V: Any, dK: Any, dL: Any, dS: Any, **parameters: Any) -> Any:
    """One block of 1024 threads takes a column: the gradient of the rows behind is never read."""
    dK = np.where(np.arange(len(dK))[:, None] < 1024, dK, 0.0)
    return Stages().step(U, S, V, dK, dL, dS, **parameters)


def columns_in_whole_tiles(U: Any, S: Any, V: Any, dK: Any, dL: Any, dS: Any, **parameters: Any) -> Any:
    """Matrices of more than one tile of 64 are treated tile by tile, and the remainder is not."""
    whole = 64 * (len(dL) // 64) or len(dL)
    dL = np.where(np.arange(len(dL))[:, None] < whole, dL, 0.0)
    return Stages().step(U, S, V, dK, dL, dS, **parameters)


def aligned_branch(U: Any, S: Any, V: Any, dK: Any, dL: Any, dS: Any, **parameters: Any) -> Any:
    """Without a remainder another branch is taken, and that one forgets the S-step."""
    aligned = all(size % 16 == 0 for size in (len(U), len(V), len(S)))
    return Stages().step(U, S, V, dK, dL, 0.0 * dS if aligned else dS, **parameters)


def core_of_a_warp(U: Any, S: Any, V: Any, dK: Any, dL: Any, dS: Any, **parameters: Any) -> Any:
    """A core of more than 128 columns is beyond the kernel: its last singular values are lost."""
    U1, S1, V1 = Stages().step(U, S, V, dK, dL, dS, **parameters)
    kept = min(len(S1), 64 if 2 * len(S) > 128 else len(S1))
    return U1[:, :kept].copy(), S1[:kept, :kept].copy(), V1[:, :kept].copy()


@pytest.mark.parametrize(
    ("step", "sizes"),
    [
        (rows_beyond_a_block, {"rows"}),
        (columns_in_whole_tiles, {"rows", "columns", "core"}),
        (aligned_branch, {"aligned-tall", "aligned-wide"}),
        (core_of_a_warp, {"core"}),
    ],
)
def test_blocks_see_what_no_other_case_can(step: Callable[..., Any], sizes: set[str]) -> None:
    """The other cases have at most 48 rows and columns and ranks below 16, where these steps are the reference."""
    harness, cases = Harness.of(step), catalogue()
    others = [case.parameters for case in cases if case.group != "block"]
    assert max(max(p.m, p.n) for p in others) == 48
    assert max(min(p.m, p.n, 2 * p.r) for p in others) <= 16
    failed = [case for case in cases if case.group == "block" and run_case(harness, case)[0].outcome == "failed"]
    assert {case.flags[1] for case in failed} == sizes

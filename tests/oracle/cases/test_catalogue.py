"""The catalogue is what backends were judged by: a changed question is a change of the oracle, and
is noticed here.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from geolora_ref.oracle.broken.mutants import MUTANTS
from geolora_ref.oracle.broken.stages import Stages
from geolora_ref.oracle.cases.catalogue import BACKWARDS, LAYOUTS, catalogue
from geolora_ref.oracle.cases.step_case import TRAPS, CaseParameters
from geolora_ref.oracle.check import check_step, run_case
from geolora_ref.oracle.judges.criteria import FAIL
from geolora_ref.oracle.trial.choice import questions
from geolora_ref.oracle.trial.harness import Harness
from geolora_ref.support.memory import misread
from tests.libraries import load
from tests.nightly import NIGHTLY

pytestmark = pytest.mark.usefixtures("module_unchecked")

DIGEST = "8d89dd996a89f39eaf893880e6969cd3bcebb2bdd81a85723e0c332abd4eceb6"
"""Digest of all that determines the cases, and of their flags.  Where it changes, the changelog
says why ("Oracle semantics").
"""


def test_no_question_has_changed() -> None:
    plain = [
        (c.id, c.group, c.flags, asdict(c.parameters), c.steps, c.trained, c.returned, c.layout)
        for c in catalogue()
    ]
    entries = [
        (*entry, c.last) if c.last else entry for entry, c in zip(plain, catalogue(), strict=True)
    ]
    assert hashlib.sha256(json.dumps(entries, sort_keys=True).encode()).hexdigest() == DIGEST


def test_the_largest_questions_are_what_the_page_says() -> None:
    sizes = [(max(c.parameters.m, c.parameters.n), c.parameters.r) for c in catalogue()]
    page = " ".join(
        (Path(__file__).parents[3] / "docs" / "conformance.md").read_text("utf-8").split()
    )
    most = "more than {} rows or columns or a rank above {} to start with".format(
        *(max(X) for X in zip(*sizes, strict=True))
    )
    assert most in page


TRAP_PROPERTIES: dict[str, Callable[[CaseParameters], bool]] = {
    "many small values, absolute threshold": lambda p: (
        p.tau is None and p.theta == 0.25 and p.m != p.n
    ),
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


def test_what_is_said_of_a_gradient_against_w_is_not_said_where_w_is_zero() -> None:
    for case in catalogue():
        if case.group == "gradient" and case.parameters.core == "zero":
            assert not any(
                words in case.reason
                for words in ("lost beside W", "rounding of W", "dwarfs W", "W is lost")
            )


def test_a_tail_next_to_the_threshold_is_clearly_on_one_side() -> None:
    """By two to four times what fails, in the precision that the id names, and a tie in the next
    lower one.
    """
    close = [
        case
        for case in catalogue()
        if case.group == "threshold" and any(p in case.id for p in EPS_OF)
    ]
    assert len(close) == 16
    for case in close:
        p, eps = case.parameters, next(eps for name, eps in EPS_OF.items() if name in case.id)
        threshold = p.theta if p.theta is not None else 2.0 * (p.tau or 0.0)
        gap = (threshold - 1.0) / (4.0 * np.sqrt(p.m + p.n) * 2.0 * (1.0 + (p.tau or 0.0)) * eps)
        assert (gap > 0.0) == case.id.rsplit("-", 1)[0].endswith("above")
        assert 2.0 * FAIL < abs(gap) < 4.0 * FAIL


EPS_OF = {"double": 2.0**-52, "single": 2.0**-23}


# --- what only cases of more than one block can see -----------------------------------------------


def rows_beyond_a_block(
    U: Any, S: Any, V: Any, dK: Any, dL: Any, dS: Any, **parameters: Any
) -> Any:
    """One block of 1024 threads takes a column: the gradient of the other rows is never read."""
    dK = np.where(np.arange(len(dK))[:, None] < 1024, dK, 0.0)
    return Stages().step(U, S, V, dK, dL, dS, **parameters)


def columns_in_whole_tiles(
    U: Any, S: Any, V: Any, dK: Any, dL: Any, dS: Any, **parameters: Any
) -> Any:
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


SIZED = ("path", "hard", "array", "stack", "layer", "remainder")
"""Groups of large sizes, too, where each path gets all cases."""
MANY_EQUAL = "threshold-near-one"
"""Without a gradient, and 64 x 64 of rank 64: with fewer than 51 equal values, no τ between 0.99
and 1 lets another number of them go than 0.99.
"""


@pytest.mark.parametrize(
    ("step", "sizes"),
    [
        (rows_beyond_a_block, {"rows"}),
        (
            columns_in_whole_tiles,
            {"rows", "columns", "core", "capacity-32", "capacity-64", "layout"},
        ),
        (aligned_branch, {"aligned-tall", "aligned-wide"}),
        (core_of_a_warp, {"core"}),
    ],
)
def test_blocks_see_what_no_other_case_can(step: Callable[..., Any], sizes: set[str]) -> None:
    """But for those that cross sizes with limits, other cases have at most 48 rows and columns and
    ranks below 16, where these steps are the reference.
    """
    harness, cases = Harness.of(step), catalogue()
    others = [
        case.parameters
        for case in cases
        if case.group not in ("block", "crossed", *SIZED) and case.id != MANY_EQUAL
    ]
    assert max(max(p.m, p.n) for p in others) == 48
    assert max(min(p.m, p.n, 2 * p.r) for p in others) <= 16
    rows = [
        run_case(harness, case)[0]
        for case in cases
        if case.group == "block" and "complex" not in case.flags
    ]
    assert {row.flags[1] for row in rows if row.outcome == "failed"} == sizes, [
        row.finding for row in rows
    ]


def test_complex_blocks_see_a_transpose_that_is_one_in_large_tiles_alone() -> None:
    wrong = MUTANTS["upper-right-unconjugated"].step

    def step(U: Any, S: Any, V: Any, *gradients: Any, **parameters: Any) -> Any:
        return (wrong if max(len(U), len(V)) > 64 else Stages().step)(
            U, S, V, *gradients, **parameters
        )

    harness, large = Harness.of(step, dtype="complex128"), ("block", "crossed")
    rows = [
        run_case(harness, case)[0]
        for case in catalogue()
        if "complex" in case.flags and case.group in large
    ]
    blocks, crossed = (
        {f"{group}-{of}-complex" for of in sizes} for group, sizes in LARGE_AND_COMPLEX.items()
    )
    assert {row.id for row in rows if row.outcome == "failed"} == blocks | crossed


LARGE_AND_COMPLEX = {"block": ("aligned-tall", "rows"), "crossed": ("remainder", "mirror")}


# --- how the arguments lie in memory --------------------------------------------------------------

LAYOUT: dict[str, str] = {} if NIGHTLY else {"group": "layout"}
"""The requested layouts: all other arguments lie row by row, packed."""


@pytest.mark.parametrize("array", ["numpy", "torch"])
def test_a_step_that_reads_strides_conforms_in_every_layout(array: str) -> None:
    """torch's arrays are never read backwards."""
    load(array)
    report = check_step(Stages().step, array=array, select={"group": "layout"})
    assert report.passed
    never = {"reversed", *BACKWARDS} if array == "torch" else set()
    assert {row.flags[1] for row in report.rows} == {*LAYOUTS, *BACKWARDS} - never


def test_one_layout_that_is_forgotten_is_seen() -> None:
    """Columns that are distinguished from rows, and any stride between them taken for 1; then the other way
    round.
    """

    def contiguous_only(X: Any) -> Any:
        packed = X.flags.c_contiguous or X.flags.f_contiguous or min(X.strides) < 0
        return X if packed else misread(X, (X.shape[1], 1))

    def rows_only(X: Any) -> Any:
        return X.T.reshape(X.shape) if X.flags.f_contiguous and not X.flags.c_contiguous else X

    ignored = check_step(MUTANTS["strides-ignored"].step, select=LAYOUT).diagnosis
    assert ignored is not None
    assert {"columns", "mixed"} <= {*ignored.layouts}
    assert "reads its arguments as C-ordered memory" in ignored.text
    reversed_ = check_step(
        lambda *arrays, **p: Stages().step(
            *(X[::-1] if X.strides[0] < 0 else X for X in arrays), **p
        ),
        select=LAYOUT,
    ).diagnosis
    assert reversed_ is not None
    sentence = "(reversed, turned) is right with the same numbers row by row in memory: it reads these layouts wrongly"
    assert sentence in reversed_.text
    for read, seen in (
        (contiguous_only, {"spaced", "padded", "long"}),
        (rows_only, {"columns", "mixed"}),
    ):
        failures = check_step(
            lambda *arrays, read=read, **p: Stages().step(*map(read, arrays), **p), select=LAYOUT
        ).failures
        assert {row.flags[-1 if row.group == "block" else 1] for row in failures} == seen


@pytest.mark.usefixtures("undiagnosed")
def test_gradients_that_are_read_with_the_strides_of_the_factors_are_seen() -> None:
    """K = U S − λ∇_K by an elementwise kernel that is given one stride for both."""

    def read(X: Any, like: Any) -> Any:
        return (
            misread(X, [stride // X.itemsize for stride in like.strides])
            if min(X.strides) > 0
            else X
        )

    def step(U: Any, S: Any, V: Any, dK: Any, dL: Any, dS: Any, **parameters: Any) -> Any:
        return Stages().step(U, S, V, read(dK, U), read(dL, V), read(dS, S), **parameters)

    failures = check_step(step, select=LAYOUT).failures
    expected = {f"layout-mixed-{shape}" for shape in ("square", "tall", "wide", "larger")}
    assert {row.id for row in failures} == expected | ({"block-layout-mixed"} if NIGHTLY else set())


@pytest.mark.usefixtures("undiagnosed")
def test_an_array_that_begins_within_its_memory_is_seen() -> None:
    """A kernel that is handed where the memory begins."""
    torch = load("torch").module

    def step(*arrays: Any, **parameters: Any) -> Any:
        return Stages().step(
            *(torch.as_strided(X, X.shape, X.stride(), 0) for X in arrays), **parameters
        )

    failures = check_step(step, array="torch", select={"group": "layout"}).failures
    assert {row.flags[1] for row in failures} == {"spaced", "flat"}


def test_libraries_without_strides_have_no_cases_of_strides() -> None:
    load("jax")
    assert {case.layout for case in questions(Harness.of(Stages().step, array="jax"))} == {"rows"}


# --- limits in every state, thresholds nearby, gradients of one side ------------------------------


def limits_forgotten(where: Callable[..., bool], **forgotten: Any) -> Callable[..., Any]:
    """In one state, which has a branch of its own, limits are taken for these."""

    def step(U: Any, S: Any, V: Any, *gradients: Any, **parameters: Any) -> Any:
        if where(U, S, V, *gradients, **parameters):
            parameters |= forgotten
        return Stages().step(U, S, V, *gradients, **parameters)

    return step


def no_step(*arrays: Any, learning_rate: float, **limits: Any) -> bool:
    return learning_rate == 0.0


def full_rank(U: Any, S: Any, V: Any, *gradients: Any, **parameters: Any) -> bool:
    return len(S) == min(len(U), len(V)) > 1


def rank_one(U: Any, S: Any, *others: Any, **parameters: Any) -> bool:
    return len(S) == 1


def from_zero(U: Any, S: Any, *others: Any, **parameters: Any) -> bool:
    return not np.any(S)


def zero_exit(which: int) -> Callable[..., Any]:
    """No step where one of the three gradients is zero up to rounding against the others."""

    def step(*arrays: Any, **parameters: Any) -> Any:
        sizes = [float(np.linalg.norm(X)) for X in arrays[3:]]
        if 0.0 < sizes[which] <= 1e-13 * sum(sizes):
            parameters["learning_rate"] = 0.0
        return Stages().step(*arrays, **parameters)

    return step


def decided_in_single(
    U: Any, S: Any, V: Any, dK: Any, dL: Any, dS: Any, *, tau: Any, **parameters: Any
) -> Any:
    tau = None if tau is None else float(np.float32(tau))
    return Stages().step(U, S, V, dK, dL, dS, tau=tau, **parameters)


def equal_values_together(*arrays: Any, **parameters: Any) -> Any:
    """A cluster of singular values is kept or cut as a whole."""
    U1, S1, V1 = Stages().step(*arrays, **parameters)
    whole = Stages().step(
        *arrays, **(parameters | {"tau": 0.0, "theta": None, "max_rank": None, "min_rank": 1})
    )
    sigma, r = np.diag(whole[1]), len(S1)
    while (
        parameters["max_rank"] is None
        and r < len(sigma)
        and abs(sigma[r] - sigma[r - 1]) <= 1e-12 * abs(sigma[0])
    ):
        r += 1
    return (
        (U1, S1, V1)
        if r == len(S1)
        else (whole[0][:, :r].copy(), whole[1][:r, :r].copy(), whole[2][:, :r].copy())
    )


def refusing(*arrays: Any, min_rank: int, **parameters: Any) -> Any:
    if min_rank > min(2 * len(arrays[1]), len(arrays[0]), len(arrays[2])):
        raise ValueError("min_rank: too large")
    return Stages().step(*arrays, min_rank=min_rank, **parameters)


def one_is_all(*arrays: Any, tau: Any, **parameters: Any) -> Any:
    return Stages().step(*arrays, tau=0.0 if tau is not None and tau > 1.0 else tau, **parameters)


NARROW: dict[str, tuple[Callable[..., Any], str]] = {
    "no cap where λ = 0": (limits_forgotten(no_step, max_rank=None), "limit"),
    "no truncation where λ = 0": (
        limits_forgotten(no_step, tau=0.0, theta=None, min_rank=1, max_rank=None),
        "limit",
    ),
    "no cap at full rank": (limits_forgotten(full_rank, max_rank=None), "limit"),
    "no minimum at full rank": (limits_forgotten(full_rank, min_rank=1), "limit"),
    "no minimum at rank one": (limits_forgotten(rank_one, min_rank=1), "limit"),
    "no cap from zero": (limits_forgotten(from_zero, max_rank=None), "limit"),
    "no minimum from zero": (limits_forgotten(from_zero, min_rank=1), "limit"),
    "a minimum beyond all columns is refused": (refusing, "limit"),
    "no step where dK = 0": (zero_exit(0), "gradient"),
    "no step where dL = 0": (zero_exit(1), "gradient"),
    "no step where dS = 0": (zero_exit(2), "gradient"),
    "τ in single precision": (decided_in_single, "threshold"),
    "clusters are kept together": (equal_values_together, "threshold"),
    "τ > 1 is none": (one_is_all, "threshold"),
}


@pytest.mark.parametrize("name", NARROW)
def test_what_goes_wrong_in_one_state_only_is_seen(name: str) -> None:
    step, group = NARROW[name]
    harness = Harness.of(step)
    failed = [case.id for case in catalogue() if case.group == group and "complex" not in case.flags
              and run_case(harness, case)[0].outcome == "failed"]  # fmt: skip
    assert failed
    apart = {"complex", "beyond"}  # in the second sort min_rank is beyond all columns as well
    others = [
        case
        for case in catalogue()
        if case.group in ("shape", "truncation") and not apart & set(case.flags)
    ]
    others = others if NIGHTLY else others[::5]
    assert not [case.id for case in others if run_case(harness, case)[0].outcome == "failed"]

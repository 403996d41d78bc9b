"""The cases of the catalogue reject the defects that they are made for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from geolora_ref.oracle.broken.stages import Stages
from geolora_ref.oracle.cases.catalogue import LAYOUTS, catalogue
from geolora_ref.oracle.check import check_step, run_case
from geolora_ref.oracle.judges.criteria import FAIL
from geolora_ref.oracle.trial.harness import Harness
from geolora_ref.support.memory import misread
from tests.libraries import load
from tests.nightly import NIGHTLY

pytestmark = pytest.mark.usefixtures("module_unchecked")


def test_tails_next_to_the_threshold() -> None:
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


@pytest.mark.parametrize(
    ("step", "sizes"),
    [
        (rows_beyond_a_block, {"rows"}),
        (columns_in_whole_tiles, {"rows", "columns", "core", "capacity-32", "capacity-64"}),
        (aligned_branch, {"aligned-tall", "aligned-wide"}),
        (core_of_a_warp, {"core"}),
    ],
)
def test_blocks(step: Callable[..., Any], sizes: set[str]) -> None:
    """Each of these defects shows at the sizes of blocks that it is about."""
    cases = [case for case in catalogue() if case.group == "block" and case.layout == "rows"]
    rows = [run_case(Harness.of(step), case)[0] for case in cases if "complex" not in case.flags]
    assert {row.flags[1] for row in rows if row.outcome == "failed"} == sizes


# --- how the arguments lie in memory --------------------------------------------------------------


@pytest.mark.parametrize("array", ["numpy", "torch"])
def test_every_layout_conforms(array: str) -> None:
    """torch's arrays are never read backwards."""
    load(array)
    report = check_step(Stages().step, array=array, select={"group": "layout"})
    assert report.passed
    never = {"reversed", "backwards", "turned"} if array == "torch" else set()
    assert {row.flags[1] for row in report.rows} == {*LAYOUTS} - never


@pytest.mark.usefixtures("undiagnosed")
def test_gradient_read_with_other_strides() -> None:
    """K = U S − λ∇_K by an elementwise kernel that is given one stride for both."""

    def read(X: Any, like: Any) -> Any:
        return (
            misread(X, [stride // X.itemsize for stride in like.strides])
            if min(X.strides) > 0
            else X
        )

    def step(U: Any, S: Any, V: Any, dK: Any, dL: Any, dS: Any, **parameters: Any) -> Any:
        return Stages().step(U, S, V, read(dK, U), read(dL, V), read(dS, S), **parameters)

    failures = check_step(step, select={"group": "layout"}).failures
    assert {row.flags[1] for row in failures} == {"mixed"}


@pytest.mark.usefixtures("undiagnosed")
def test_offset_into_memory() -> None:
    """A kernel that is handed where the memory begins."""
    torch = load("torch").module

    def step(*arrays: Any, **parameters: Any) -> Any:
        return Stages().step(
            *(torch.as_strided(X, X.shape, X.stride(), 0) for X in arrays), **parameters
        )

    failures = check_step(step, array="torch", select={"group": "layout"}).failures
    assert {row.flags[1] for row in failures} == {"spaced", "flat"}


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
def test_defect_in_one_state(name: str) -> None:
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

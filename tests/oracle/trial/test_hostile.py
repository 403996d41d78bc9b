"""Backends that end the program, mix the problems of a stack, return arrays of another kind, or
keep what they have returned: each gets rows, none conforms by accident, and every one stands next to
a right backend that conforms."""

from __future__ import annotations

import ctypes
import importlib.machinery
import itertools
import json
import os
import platform
import random
import re
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from geolora_ref.cli import main
from geolora_ref.oracle import check_step, conformance_suite
from geolora_ref.oracle.broken.mutants import MUTANTS
from geolora_ref.oracle.broken.stages import Stages
from geolora_ref.oracle.cases.catalogue import catalogue
from geolora_ref.oracle.trial.choice import questions
from geolora_ref.oracle.trial.harness import HANDLING, Harness, _unchanged
from geolora_ref.oracle.trial.manners import watched
from tests.libraries import load
from tests.nightly import NIGHTLY
from tests.support.test_foreign import UnreadableError

pytestmark = pytest.mark.usefixtures("module_unchecked", "undiagnosed")

REFERENCE = Stages()
FEW = {"id": "shape-tall"}
SEQUENCES = {"group": "sequence"}


def right(*arrays: Any, **parameters: Any) -> Any:
    return REFERENCE.step(*arrays, **parameters)


def errors(step: Callable[..., Any], **options: Any) -> set[str]:
    """The errors of the rows; the run judges all its cases whatever happens."""
    options = {"select": FEW} | options
    report = check_step(step, **options)
    assert len(report.rows) >= 5
    return {row.error or ", ".join(row.criteria) for row in report.failures}


# --- a backend that ends the program --------------------------------------------------------------


@pytest.mark.parametrize(
    ("end", "what"),
    [
        (lambda: sys.exit(0), "raised SystemExit: 0"),
        (lambda: pytest.skip("not today"), "raised Skipped: not today"),
        (lambda: exec("raise GeneratorExit"), "raised GeneratorExit: "),
    ],
)
def test_a_backend_that_ends_the_program_gets_a_row(end: Callable[[], None], what: str) -> None:
    def step(*arrays: Any, **parameters: Any) -> Any:
        if not np.any(arrays[1]):  # only where S = 0
            end()
        return right(*arrays, **parameters)

    report = check_step(step, select=FEW)
    assert [(row.id, row.error, row.outcome) for row in report.failures] == [
        ("shape-tall-zero", what, "failed")
    ]


def test_the_user_may_interrupt_a_run() -> None:
    def step(*arrays: Any, **parameters: Any) -> Any:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        check_step(step, select=FEW)


# --- stacks ---------------------------------------------------------------------------------------


def each(*stacks: Any, **parameters: Any) -> list[Any]:
    return [right(*arrays, **parameters) for arrays in zip(*stacks, strict=True)]


def stacked(*stacks: Any, **parameters: Any) -> tuple[Any, ...]:
    """One rank for all: where ϑ = 0, rounding may keep a direction in one problem and not in another."""
    results = each(*stacks, **parameters)
    r = min(len(S1) for _, S1, _ in results)
    return tuple(
        np.stack(X)
        for X in zip(*((U1[:, :r], S1[:r, :r], V1[:, :r]) for U1, S1, V1 in results), strict=True)
    )


def with_the_first(index: int) -> Callable[..., Any]:
    """The argument at this place is that of the first problem for all of them."""

    def step(*stacks: Any, **parameters: Any) -> Any:
        mixed = [
            np.repeat(X[:1], len(X), axis=0) if i == index else X for i, X in enumerate(stacks)
        ]
        return each(*mixed, **parameters)

    return step


@pytest.mark.parametrize("step", [each, stacked])
def test_a_right_backend_for_stacks_conforms(step: Callable[..., Any]) -> None:
    """Also where the threshold is a tie: one stack needs one rank.  By night in all cases, else in
    those and the quick ones.
    """
    choices: list[dict[str, Any]] = (
        [{}] if NIGHTLY else [{"quick": True}, {"select": {"group": "threshold"}}]
    )
    for options in choices:
        report = check_step(step, batched=True, directions=True, **options)
        assert report.passed, report.failures[:3]


@pytest.mark.parametrize("index", range(6), ids=["U", "S", "V", "dK", "dL", "dS"])
def test_problems_of_a_stack_may_not_be_mixed(index: int) -> None:
    report = check_step(with_the_first(index), batched=True, select=FEW)
    assert len(report.failures) >= 4  # where S = 0 a wrong S cannot show
    assert all(
        criterion.startswith("problem ") for row in report.failures for criterion in row.criteria
    )


def decided_by_the_first(*stacks: Any, **parameters: Any) -> list[Any]:
    """τ‖Σ‖ of the first problem is the threshold of all."""
    if parameters["tau"] is not None:
        first = REFERENCE.run(*(X[0] for X in stacks), **parameters)["S_hat"]
        parameters |= {"tau": None, "theta": parameters["tau"] * float(np.linalg.norm(first))}
    return each(*stacks, **parameters)


def form_of_the_first(U: Any, S: Any, *rest: Any, **parameters: Any) -> list[Any]:
    """Where the first S is diagonal, all are taken for diagonal."""
    if np.array_equal(S[0], np.diag(np.diag(S[0]))):
        S = S * np.eye(S.shape[-1])
    return each(U, S, *rest, **parameters)


@pytest.mark.parametrize(
    ("step", "select"), [(decided_by_the_first, {"group": "truncation"}), (form_of_the_first, FEW)]
)
def test_one_problem_may_not_decide_for_a_stack(
    step: Callable[..., Any], select: Mapping[str, str]
) -> None:
    assert check_step(step, batched=True, select=select).failures


def test_ranks_of_a_list_are_those_of_its_problems() -> None:
    """One rank, that of the first or the last problem, for all: seen where the problems of a stack
    have different ranks.
    """

    def ranks_of(index: int) -> Callable[..., Any]:
        def step(*stacks: Any, **parameters: Any) -> list[Any]:
            rank = len(each(*stacks, **parameters)[index][1])
            return each(
                *stacks,
                **(parameters | {"tau": 0.0, "theta": None, "min_rank": rank, "max_rank": rank}),
            )

        return step

    assert check_step(each, batched=True, select=FEW).passed
    for index, problems, which in ((0, (2, 4), ", without a gradient"), (-1, (1, 3), "")):
        failures = check_step(ranks_of(index), batched=True, select=FEW).failures
        seen = {criterion.partition(":")[0] for row in failures for criterion in row.criteria}
        assert seen == {f"problem {k} of the stack of two ranks{which}" for k in problems}


@pytest.mark.parametrize(
    "mixed",
    [
        lambda results: [results[0]] * len(results),
        lambda results: [results[-1]] * len(results),
        lambda results: results[::-1],
        lambda results: results[1:] + results[:1],
        lambda results: results[-1:] + results[:-1],
        lambda results: [results[k - k % 2] for k in range(len(results))],
        lambda results: [results[k + 1 - 2 * (k % 2)] for k in range(len(results))],
    ],
    ids=[
        "the first",
        "the last",
        "reversed",
        "shifted down",
        "shifted up",
        "the first of two",
        "neighbours",
    ],
)
def test_results_of_a_stack_may_not_be_mixed(mixed: Callable[[list[Any]], list[Any]]) -> None:
    report = check_step(
        lambda *stacks, **parameters: mixed(each(*stacks, **parameters)), batched=True, select=FEW
    )
    assert len(report.failures) == len(report.rows)


def test_every_problem_of_a_stack_has_a_result() -> None:
    found = errors(lambda *stacks, **parameters: each(*stacks, **parameters)[:1], batched=True)
    wanted = r"expected \(U1, S1, V1\) of [2-5] problems, found list of 1: tuple of 3: ndarray \("
    assert all(re.match(wanted, error) for error in found)
    assert found


@pytest.mark.parametrize("group", ["shape", "gradient"])
def test_a_whole_step_of_a_stack_has_the_gradient_of_each_problem(group: str) -> None:
    """Constant gradients come as stacks as well."""

    def whole(
        U: Any, S: Any, V: Any, gradients: Callable[[Any], Any], **parameters: Any
    ) -> list[Any]:
        G = gradients(U @ S @ np.swapaxes(V, 1, 2))
        GH = np.swapaxes(G, 1, 2)
        return each(U, S, V, G @ V, GH @ U, np.swapaxes(U, 1, 2) @ G @ V, **parameters)

    def of_the_first(
        U: Any, S: Any, V: Any, gradients: Callable[[Any], Any], **parameters: Any
    ) -> list[Any]:
        return whole(U, S, V, lambda W: np.repeat(gradients(W)[:1], len(W), axis=0), **parameters)

    assert check_step(whole, whole=True, batched=True, select={"group": group}).passed
    assert not check_step(of_the_first, whole=True, batched=True, select={"group": group}).passed


# --- results of another kind ----------------------------------------------------------------------


def changed(index: int, change: Callable[[Any], Any]) -> Callable[..., Any]:
    def step(*arrays: Any, **parameters: Any) -> Any:
        results = list(right(*arrays, **parameters))
        results[index] = change(results[index])
        return tuple(results)

    return step


KINDS: dict[str, tuple[Callable[..., Any], str]] = {
    "complex": (changed(1, lambda X: X + 0j), "S1: expected float64, found complex128"),
    "single": (changed(0, lambda X: X.astype(np.float32)), "U1: expected float64, found float32"),
    "extended": (
        changed(2, lambda X: X.astype(np.longdouble)),
        f"V1: expected float64, found {np.dtype(np.longdouble)}",
    ),
    "integers": (changed(1, lambda X: X.astype(int)), "S1: expected float64, found int64"),
    "objects": (changed(1, lambda X: X.astype(object)), "S1: expected float64, found object"),
    "strings": (changed(0, lambda X: X.astype("U8")), "U1: expected float64, found <U8"),
    "lists": (
        changed(0, lambda X: X.tolist()),
        "U1: expected an array of numpy, found builtins.list",
    ),
    "a number": (
        changed(1, lambda X: X[0, 0]),
        "S1: expected an array of numpy, found numpy.float64",
    ),
    "a mapping": (
        lambda *arrays, **parameters: dict(zip("USV", right(*arrays, **parameters), strict=True)),
        "U1: expected an array of numpy, found builtins.str",
    ),
}


@pytest.mark.parametrize(("step", "what"), KINDS.values(), ids=KINDS)
def test_a_result_has_the_kind_of_the_arguments(step: Callable[..., Any], what: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert errors(step) == {what}


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda X: X.numpy().astype(float), "U1: expected an array of torch, found numpy.ndarray"),
        (lambda X: X.double(), "U1: expected float32, found float64"),
        (lambda X: X.to("meta"), "U1: expected cpu, found meta"),
    ],
    ids=["library", "dtype", "device"],
)
def test_a_result_has_the_library_the_dtype_and_the_device_of_the_arguments(
    change: Callable[[Any], Any], what: str
) -> None:
    load("torch")
    assert errors(right, array="torch", dtype="float32") == set()
    assert errors(changed(0, change), array="torch", dtype="float32") == {what}


# --- what a backend sets or keeps -----------------------------------------------------------------


def test_the_arithmetic_of_the_kit_is_not_that_of_the_backend() -> None:
    """A setting that a backend leaves is a finding, and changes neither the kit's own products nor
    the caller's setting.
    """
    seen = []

    def step(*arrays: Any, **parameters: Any) -> Any:
        seen.append(np.geterr())
        np.seterr(all="raise")
        with np.errstate(all="ignore"):
            return right(*arrays, **parameters)

    before = np.geterr()
    report = check_step(
        step, select={} if NIGHTLY else {"group": "magnitude"}
    )  # where it overflows and underflows
    assert {row.error for row in report.rows} == {HANDLING}
    assert np.geterr() == before
    assert seen == [before] * len(seen)


def test_the_backend_has_the_arithmetic_of_its_caller() -> None:
    def step(*arrays: Any, **parameters: Any) -> Any:
        np.float64(1.0) / np.zeros(1)
        return right(*arrays, **parameters)

    with np.errstate(divide="raise"):
        assert errors(step) == {"raised FloatingPointError: divide by zero encountered in divide"}
    with np.errstate(divide="ignore"):
        assert errors(step) == set()


def keeping(copies: bool) -> Callable[..., Any]:
    """Results of one shape come in the same memory every time, unless they are copied."""
    workspace: dict[Any, Any] = {}

    def step(*arrays: Any, **parameters: Any) -> Any:
        results = []
        for name, X in zip(("U", "S", "V"), right(*arrays, **parameters), strict=True):
            place = workspace.setdefault((name, X.shape), np.empty_like(X))
            place[:] = X
            results.append(place.copy() if copies else place)
        return tuple(results)

    return step


def test_a_result_belongs_to_the_caller() -> None:
    assert errors(keeping(copies=True), select=SEQUENCES) == set()
    kept = (
        "changed the result of an earlier step: what was given and returned belongs to the caller"
    )
    handed_back = "changed its inputs in place"
    assert errors(keeping(copies=False), select=SEQUENCES) == {kept, handed_back}


@pytest.mark.parametrize("batched", [False, True])
@pytest.mark.parametrize("count", [2, 3, 4])
def test_workspaces_that_are_used_in_turn_are_noticed(count: int, batched: bool) -> None:
    places, calls = (
        [[keeping(copies=False) for _ in range(5)] for _ in range(count)],
        itertools.count(),
    )

    def step(*arrays: Any, **parameters: Any) -> Any:
        turn = places[next(calls) % count]
        if not batched:
            return turn[0](*arrays, **parameters)
        return [
            place(*problem, **parameters) for place, *problem in zip(turn, *arrays, strict=False)
        ]

    found = errors(step, select=SEQUENCES, batched=batched)
    assert any(
        error.startswith(("changed the result of an earlier step", "changed its inputs"))
        for error in found
    )


def test_what_a_backend_keeps_for_itself_may_not_be_returned() -> None:
    """A basis that is computed once for each shape: the caller may do with it what it likes."""
    kept: dict[int, Any] = {}

    def one_column(copies: bool) -> Callable[..., Any]:
        def step(*arrays: Any, **parameters: Any) -> Any:
            U1, S1, V1 = right(*arrays, **parameters)
            if len(V1) > 1:
                return U1, S1, V1
            one = kept.setdefault(copies, np.ones((1, 1)))
            return U1 * V1[0, 0], S1, one.copy() if copies else one

        return step

    select = {"id": "shape-one-column"}
    assert errors(one_column(copies=True), select=select) == set()
    assert errors(one_column(copies=False), select=select) != set()


@pytest.mark.parametrize("overlapping", [0, 1])
def test_results_may_be_slices_of_one_pool_that_do_not_overlap(overlapping: int) -> None:
    torch = load("torch").module
    pool, used = torch.empty(10**6, dtype=torch.float64), 0

    def keep(X: Any) -> Any:
        nonlocal used
        place = pool[used : used + X.numel()].view(X.shape)
        used += X.numel() - overlapping
        return place.copy_(X)

    def step(*arrays: Any, **parameters: Any) -> Any:
        return tuple(map(keep, right(*arrays, **parameters)))

    failed = errors(step, array="torch", select=SEQUENCES)
    assert bool(failed) == bool(overlapping)


def test_results_may_have_any_layout_and_come_back_in_it() -> None:
    """Slices of a wider array are what a truncation leaves; a backend that takes memory for rows
    reads something else.
    """
    torch = load("torch").module

    def step(U: Any, S: Any, V: Any, *gradients: Any, **parameters: Any) -> Any:
        if ignoring:
            U, S, V = (torch.as_strided(X, X.shape, (X.shape[1], 1)) for X in (U, S, V))
        U1, S1, V1 = right(U, S, V, *gradients, **parameters)
        return (
            torch.cat([U1, U1], dim=1)[:, : len(S1)],
            S1,
            torch.cat([V1, V1], dim=1)[:, : len(S1)],
        )

    for ignoring in (False, True):
        failed = errors(step, array="torch", select=SEQUENCES)
        assert bool(failed) == ignoring


@pytest.mark.parametrize(
    ("handed_out", "what"),
    [
        (lambda torch, X: X.clone().requires_grad_() * 1.0, "one that requires gradients"),
        (lambda torch, X: torch.nn.Parameter(X), "one that requires gradients"),
        (
            lambda torch, X: torch.inference_mode()(X.clone)(),
            "an inference tensor, which nobody can change",
        ),
    ],
)
def test_results_belong_to_the_caller(handed_out: Callable[..., Any], what: str) -> None:
    torch = load("torch").module

    def step(*arrays: Any, **parameters: Any) -> Any:
        U1, S1, V1 = right(*arrays, **parameters)
        return U1, handed_out(torch, S1), V1

    found = errors(step, array="torch", select={"group": "limit"})
    assert found == {f"S1: expected an array that belongs to the caller, found {what}"}


def test_the_state_of_the_caller_is_put_back_where_the_backend_has_set_the_same() -> None:
    torch = load("torch").module
    before = torch.get_rng_state()

    def step(*arrays: Any, **parameters: Any) -> Any:
        torch.set_rng_state(before)
        return right(*arrays, **parameters)

    assert errors(step, array="torch", select={"id": "shape-tall"})
    assert torch.equal(torch.get_rng_state(), before)


def test_a_default_device_is_put_back_where_torch_cannot_tell_that_there_is_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Up to release 2.9 ``get_default_device`` raises after ``set_default_device(None)``."""
    torch = load("torch").module
    get, put = torch.get_default_device, torch.set_default_device
    devices: list[str | None] = [None]

    def default_device() -> Any:
        if devices[-1] is None:
            raise AttributeError("'NoneType' object has no attribute 'device'")
        return get()

    def set_device(device: str | None) -> None:
        devices.append(device)
        put(device)

    monkeypatch.setattr(torch, "get_default_device", default_device)
    monkeypatch.setattr(torch, "set_default_device", set_device)
    try:
        with watched() as said:
            torch.set_default_device("meta")
        assert [line.partition(":")[0] for line in said] == [
            "left torch with another default device"
        ]
        assert torch.get_default_device().type == "cpu"
    finally:
        put(None)


def of_c() -> Any:
    """The C library."""
    return ctypes.CDLL(None)


MODES = (0x400, 0x800, 0xC00) if platform.machine() in ("x86_64", "AMD64") else ()
"""The numbers of rounding down, up and towards 0, where the constants of C are known."""


@pytest.mark.parametrize("array", ["numpy", "torch"])
@pytest.mark.parametrize(
    ("meddle", "what"),
    [
        (lambda torch: torch.manual_seed(3), "seeded or used torch's global random generator"),
        (lambda torch: torch.randn(2), "seeded or used torch's global random generator"),
        (lambda torch: torch.set_grad_enabled(False), "left torch with another grad mode"),
        (
            lambda torch: torch.set_default_dtype(torch.float64),
            "left torch with another default dtype",
        ),
        (
            lambda torch: torch.use_deterministic_algorithms(True),
            "left torch with another choice of deterministic algorithms",
        ),
        (
            lambda torch: torch.use_deterministic_algorithms(False),
            "left torch with another choice of deterministic algorithms",
        ),
        (lambda torch: torch.set_num_threads(3), "left torch with another number of threads"),
        (
            lambda torch: torch.set_float32_matmul_precision("medium"),
            "left torch with another precision of float32 products",
        ),
        (
            lambda torch: torch.set_flush_denormal(True),
            "left the processor with another treatment of subnormal numbers",
        ),
        *(
            (
                lambda torch, mode=mode: of_c().fesetround(mode),
                "left the processor with another rounding mode",
            )
            for mode in MODES
        ),
        (
            lambda torch: np.seterr(all="ignore"),
            "left NumPy with another handling of floating-point errors",
        ),
        (lambda torch: torch.set_default_device("meta"), "left torch with another default device"),
        (lambda torch: torch.set_autocast_enabled("cpu", True), "left torch with another autocast"),
        (
            lambda torch: torch.set_autocast_dtype("cpu", torch.float16),
            "left torch with another autocast",
        ),
        (lambda torch: random.seed(3), "seeded Python's global random generator"),
        (
            lambda torch: os.environ.update(OMP_NUM_THREADS="7"),
            "changed a number of threads in the environment",
        ),
        (
            lambda torch: os.environ.pop("OMP_NUM_THREADS"),
            "changed a number of threads in the environment",
        ),
    ],
)
def test_global_state_belongs_to_the_caller(
    meddle: Callable[[Any], None], what: str, array: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch = load("torch").module
    monkeypatch.setenv("OMP_NUM_THREADS", "1")

    def settings() -> tuple[Any, ...]:
        modes: tuple[Any, ...] = (
            torch.is_grad_enabled(),
            torch.get_default_dtype(),
            torch.get_deterministic_debug_mode(),
        )
        modes += (
            torch.zeros(()).device,
            torch.is_autocast_enabled("cpu"),
            torch.get_autocast_dtype("cpu"),
        )
        modes += (
            random.getstate(),
            os.environ.get("OMP_NUM_THREADS"),
            np.geterr(),
            of_c().fegetround(),
        )
        return (
            *modes,
            torch.get_num_threads(),
            torch.get_float32_matmul_precision(),
            np.float64(5e-324) * 1.0,
        )

    def step(*arrays: Any, **parameters: Any) -> Any:
        meddle(torch)
        return right(*arrays, **parameters)

    torch.manual_seed(3)  # the state that the backend would set
    torch.use_deterministic_algorithms(True, warn_only=True)
    before, state = settings(), torch.get_rng_state()
    try:
        found = errors(step, array=array, select={"id": "shape-square"})
        assert settings() == before
        assert torch.equal(torch.get_rng_state(), state)
    finally:
        torch.use_deterministic_algorithms(False)
    assert found
    assert all(error.startswith(what) for error in found)


def test_numbers_may_be_drawn_from_pythons_generator() -> None:
    """Run-time type checkers do, of an array that they look into."""

    def step(*arrays: Any, **parameters: Any) -> Any:
        for _ in range(2000):
            random.random()
        return right(*arrays, **parameters)

    assert not errors(step, select={"id": "shape-square"})


def test_the_run_continues_in_whatever_state_a_backend_leaves(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Here NumPy without a function that the kit needs; the row says so and where."""

    def gone(*arguments: Any, **keywords: Any) -> Any:
        raise RuntimeError("out of order")

    def step(*arrays: Any, **parameters: Any) -> Any:
        output = right(*arrays, **parameters)
        monkeypatch.setattr(np, "cumsum", gone)
        return output

    report = check_step(step, select={"id": "shape-square"})
    monkeypatch.undo()
    assert len(report.rows) == 5
    assert {row.error for row in report.failures} == {
        "left a state in which the kit cannot continue: RuntimeError: out of order"
    }


@pytest.mark.parametrize("of", ["cuda", "mkldnn"])
def test_the_precision_of_one_backend_of_torch_belongs_to_the_caller(of: str) -> None:
    torch = load("torch").module
    if not hasattr(torch.backends.mkldnn, "matmul"):
        pytest.skip("this torch (before 2.9) has no precision of each backend")
    backends = {"cuda": torch.backends.cuda.matmul, "mkldnn": torch.backends.mkldnn.matmul}

    def step(*arrays: Any, **parameters: Any) -> Any:
        backends[of].fp32_precision = "tf32"
        return right(*arrays, **parameters)

    before = {name: backend.fp32_precision for name, backend in backends.items()}
    found = errors(step, select={"id": "shape-tall"})
    assert {name: backend.fp32_precision for name, backend in backends.items()} == before
    assert found == {
        "left torch with another precision of float32 products: it belongs to the caller"
    }


def test_threads_that_call_a_step_at_once_do_not_share() -> None:
    """A workspace that each call has for itself is right; what a thread cannot do is reported."""
    shared: dict[Any, Any] = {}

    def in_a_workspace(U: Any, S: Any, *others: Any, **parameters: Any) -> Any:
        mine = shared.setdefault(S.shape, S.copy())
        mine[...] = S
        time.sleep(1e-3)
        return right(U, mine.copy(), *others, **parameters)

    def of_the_main_thread(*arguments: Any, **parameters: Any) -> Any:
        if threading.current_thread() is not threading.main_thread():
            raise RuntimeError("not here")
        return right(*arguments, **parameters)

    assert check_step(in_a_workspace, select=FEW)
    assert not check_step(in_a_workspace, select=FEW, threads=3)
    assert not errors(right, threads=2)
    assert not errors(each, threads=2, batched=True)
    rows = check_step(of_the_main_thread, select=FEW, threads=2).rows
    assert {row.error for row in rows} == {
        "in another thread at the same time: raised RuntimeError: not here"
    }
    assert {row.where for row in rows} == {
        f"{__file__}:{of_the_main_thread.__code__.co_firstlineno + 2}"
    }
    with pytest.raises(ValueError, match=r"^threads: expected an integer >= 1, found 0$"):
        check_step(right, threads=0)


def test_a_long_exception_is_a_short_row() -> None:
    def step(*arrays: Any, **parameters: Any) -> Any:
        raise RuntimeError(f"{'x' * 500}\nand a stack trace of the compiler")

    assert errors(step) == {f"raised RuntimeError: {'x' * 200}…"}


def test_what_is_returned_may_fail_in_every_way() -> None:
    class Odd:
        shape = 3

        def __iter__(self) -> Any:
            raise UnreadableError

    def step(*arrays: Any, **parameters: Any) -> Any:
        return Odd()

    assert errors(step) == {
        "expected (U1, S1, V1), found Odd (UnreadableError: (its message raised RuntimeError))"
    }


def test_an_input_belongs_to_the_caller_after_the_step_as_well() -> None:
    before: list[Any] = []

    def step(*arrays: Any, **parameters: Any) -> Any:
        for X in before:
            X[...] = 0.0
        before[:] = arrays
        return right(*arrays, **parameters)

    changed = (
        "changed an input of an earlier step: what was given and returned belongs to the caller"
    )
    assert changed in errors(step, select=SEQUENCES)


@pytest.mark.parametrize(
    ("form", "array"),
    [
        (lambda X: setattr(X, "shape", (-1,)), "numpy"),
        (lambda X: setattr(X, "dtype", np.int64), "numpy"),
        (lambda X: X.resize_(X.numel()), "torch"),
    ],
    ids=["shape", "dtype", "torch"],
)
def test_the_form_of_an_input_belongs_to_the_caller_as_well(
    form: Callable[[Any], Any], array: str
) -> None:
    """Its bytes are what they were."""
    before: list[Any] = []

    def step(*arrays: Any, **parameters: Any) -> Any:
        for X in before:
            form(X)
        before[:] = arrays
        return right(*arrays, **parameters)

    changed = (
        "changed an input of an earlier step: what was given and returned belongs to the caller"
    )
    assert changed in errors(step, select={"group": "shape"}, array=array)


# --- stages ---------------------------------------------------------------------------------------


def run(change: Callable[[dict[str, Any]], Any]) -> Callable[..., Any]:
    return lambda *arrays, **parameters: change(REFERENCE.run(*arrays, **parameters))


def _raising(named: Mapping[str, Any]) -> Any:
    raise ArithmeticError("no stages today")


def _seeding(named: dict[str, Any]) -> Any:
    np.random.seed(0)  # noqa: NPY002
    return named


class NoArray:
    """An object that cannot be read as an array."""

    def __array__(self, *_: Any, **options: Any) -> Any:
        raise RuntimeError("no array")


STAGES: dict[str, tuple[Callable[..., Any], str]] = {
    "raises": (run(_raising), "stages: raised ArithmeticError: no stages today"),
    "exits": (run(lambda named: sys.exit(0)), "stages: raised SystemExit: 0"),
    "seeds": (
        run(_seeding),
        "stages: seeded or used NumPy's global random generator: the caller's randomness changes",
    ),
    "a list": (
        run(lambda named: named | {"S_hat": []}),
        "stages: S_hat: expected an array of numpy, found builtins.list",
    ),
    "no array": (
        run(lambda named: named | {"S_hat": NoArray()}),
        "stages: S_hat: expected an array of numpy, found tests.oracle.trial.test_hostile.NoArray",
    ),
    "K transposed": (run(lambda named: named | {"K_new": named["K_new"].T}), "line 3: K_new"),
    "L not finite": (
        run(lambda named: named | {"L_new": named["L_new"] * np.nan}),
        "line 3: L_new",
    ),
    "V not finite": (
        run(lambda named: named | {"V_tilde": named["V_tilde"] * np.nan}),
        "line 4: V_tilde finite",
    ),
    "S not finite": (
        run(lambda named: named | {"S_hat": named["S_hat"] * np.nan}),
        "line 5: S_hat",
    ),
    "hidden": (MUTANTS["k-transposed-core"].stages.run, "line 3: K_new"),  # type: ignore[union-attr]
}


@pytest.mark.parametrize(("stages", "what"), STAGES.values(), ids=STAGES)
def test_wrong_stages_of_a_right_step_get_rows(stages: Callable[..., Any], what: str) -> None:
    found = {
        error.partition(" (at ")
        for error in errors(right, stages=stages, select={"id": "shape-square"})
    }
    assert {error for error, _, _ in found} == {what}
    assert {bool(place) for _, _, place in found} == {"raised" in what}  # an exception has one


@pytest.mark.parametrize("dtype", ["float64", "float32", "complex128"])
def test_right_stages_conform(dtype: str) -> None:
    """By day in the quick cases, or those of one group."""
    choices: dict[str, Any] = {
        "float32": {"select": {"group": "truncation"}},
        "complex128": {"select": {"group": "complex"}},
    }
    report = check_step(
        right,
        stages=REFERENCE.run,
        dtype=dtype,
        **({} if NIGHTLY else choices.get(dtype, {"quick": True})),
    )
    assert report.passed, report.failures[:3]


@pytest.mark.parametrize(
    "select",
    [{}] if NIGHTLY else [{"group": group} for group in ("shape", "truncation", "sequence")],
)
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"] if NIGHTLY else ["bfloat16"])
def test_right_stages_in_half_precision_conform(dtype: str, select: dict[str, str]) -> None:
    """Sequences among them, in which the defect of the bases adds up; by night of up to 100 steps."""
    load("torch")

    def stages(*arrays: Any, **parameters: Any) -> dict[str, Any]:
        named = REFERENCE.run(*(X.float() for X in arrays), **parameters)
        output = named.pop("output")
        return {name: X.to(arrays[0].dtype) for name, X in named.items()} | {
            "output": [X.to(arrays[0].dtype) for X in output]
        }

    options: dict[str, Any] = {"array": "torch", "dtype": dtype, "select": select}
    report = check_step(
        lambda *arrays, **p: tuple(stages(*arrays, **p)["output"]), stages=stages, **options
    )
    assert report.passed, report.failures[:3]
    assert (report.precision, report.stored) == ("float32", True)


def test_stages_with_a_dense_core_conform_where_none_other_is_promised() -> None:
    def stages(*arrays: Any, **parameters: Any) -> dict[str, Any]:
        named = REFERENCE.run(*arrays, **parameters)
        U, S, V = named["output"]
        Q = np.linalg.qr(np.random.default_rng(0).standard_normal(S.shape)).Q
        return named | {"output": (U @ Q.T, Q @ S, V)}

    def step(*arrays: Any, **parameters: Any) -> Any:
        return stages(*arrays, **parameters)["output"]

    select = {"group": "shape"}
    assert check_step(step, stages=stages, diagonal=False, select=select).passed
    assert any(
        "line 6: S diagonal" in row.criteria
        for row in check_step(right, stages=stages, select=select).failures
    )


def test_a_whole_step_has_no_stages() -> None:
    with pytest.raises(
        ValueError, match=r"^stages: expected none with whole: a whole step forms dK, dL, dS itself"
    ):
        check_step(right, whole=True, stages=REFERENCE.run)


# --- what is claimed ------------------------------------------------------------------------------


def test_what_the_claimed_precision_cannot_hold_is_no_case() -> None:
    """Single precision overflows and underflows where double does not."""

    def single(*arrays: Any, **parameters: Any) -> tuple[Any, ...]:
        return tuple(
            X.astype(np.float64)
            for X in right(*(X.astype(np.float32) for X in arrays), **parameters)
        )

    with np.errstate(all="ignore"):
        report = check_step(
            single, precision="float32", select={} if NIGHTLY else {"group": "magnitude"}
        )
        assert report.passed, report.failures[:3]
        assert not check_step(single, select={"flag": "double-range"}).passed
    beyond = {case.id for case in catalogue() if "double-range" in case.flags}
    suite: Any = conformance_suite(single, precision="float32")
    ids = suite.test_case.pytestmark[0].kwargs["ids"]
    assert (
        {row.id for row in report.rows}
        <= {*ids}
        == {case.id for case in questions(Harness.of(single, precision="float32"))}
    )
    assert beyond
    assert beyond.isdisjoint(ids)


# --- the command line and pytest ------------------------------------------------------------------

BACKENDS = {
    "good": "from geolora_ref.oracle.broken.stages import Stages\nstep = Stages().step\n",
    "bad": "import sys\ndef exits(*a, **k): sys.exit(0)\n"
    "from geolora_ref.oracle.broken.mutants import MUTANTS\nwrong = MUTANTS['k-step-sign'].step\n",
    "exits": "import sys\nsys.exit(0)\n",
    "skips": "import pytest\npytest.skip('not today', allow_module_level=True)\n",
    "broken": "def step(:\n",
    "raising": "raise RuntimeError('out of luck')\n",
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name, source in BACKENDS.items():
        (tmp_path / f"{name}.py").write_text(source)
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def test_an_import_that_fails_is_reported_with_its_place_if_it_has_one(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A compiled module that cannot be loaded has none; a file has one, also in a folder named like
    the import system.
    """
    (folder / f"compiled{importlib.machinery.EXTENSION_SUFFIXES[0]}").write_text("no machine code")
    (folder / "importlib_users").mkdir()
    (folder / "importlib_users" / "mine.py").write_text("raise ValueError('no')")
    for backend, message in (
        ("compiled:step", r"raised ImportError: [^(]*$"),
        ("importlib_users.mine:step", r"\(at .*mine\.py:1\)$"),
    ):
        with pytest.raises(SystemExit):
            main(["check", backend])
        assert re.search(message, capsys.readouterr().err.strip())


def test_a_backend_that_exits_does_not_conform(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["check", "bad:exits", "--tests", "id=shape-tall"]) == 1
    assert "raised SystemExit: 0" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["exits:step"], "backend: the import of 'exits' raised SystemExit: 0"),
        (["skips:step"], "backend: the import of 'skips' raised Skipped: not today"),
        (["broken:step"], "backend: the import of 'broken' raised SyntaxError: invalid syntax"),
        (["raising:step"], "backend: the import of 'raising' raised RuntimeError: out of luck"),
        ([".good:step"], "backend: expected package.module:function, found '.good:step'"),
        (["./good.py:step"], "backend: expected package.module:function, found './good.py:step'"),
        (["good.py:step"], "backend: no module 'good.py'"),
        (
            ["good:step", "--stages", "raising:step"],
            "the import of 'raising' raised RuntimeError: out of luck",
        ),
        (["good:step", "--stages", "good:step", "--whole"], "stages: expected none with whole"),
        (
            ["good:step", "--array", "torch", "--device", "meta"],
            "device: expected torch to make and read arrays on the device 'meta', found NotImplementedError: Cannot copy",
        ),
        (
            ["good:step", "--array", "torch", "--device", "bogus"],
            "device: expected torch to make and read arrays on the device 'bogus', found RuntimeError: Expected one of",
        ),
    ],
)
def test_a_wrong_call_is_status_2(
    folder: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["check", *arguments])
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err


def test_what_counts_as_unchanged() -> None:
    """Shape, dtype and values; the sign of a zero and the bits of a NaN are no values."""
    values = np.array([[1.0, 0.0, np.nan, 2.0]])
    other_nan = np.copysign(np.nan, -1.0)
    assert _unchanged(values.copy(), values)
    assert _unchanged(np.array([[1.0, -0.0, other_nan, 2.0]]), values)
    assert not _unchanged(np.array([[1.0, 0.0, np.nan, 3.0]]), values)
    assert not _unchanged(values.T.copy(), values)
    assert not _unchanged(values.view(np.int64), values)


def run_pytest(folder: Path, interpreter: list[str], *arguments: str) -> tuple[int, str]:
    """Run pytest in a process of its own."""
    command = [
        sys.executable,
        *interpreter,
        "-q",
        "-p",
        "no:cacheprovider",
        "-p",
        "no:xdist",
        *arguments,
    ]
    ended = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    return ended.returncode, ended.stdout + ended.stderr


def test_pytest_refuses_options_of_a_backend_that_is_not_given(folder: Path) -> None:
    status, printed = run_pytest(folder, ["-m", "pytest"], "--geolora-dtype", "float31")
    assert (status, "--geolora-dtype: expected --geolora-backend with it" in printed) == (
        4,
        True,
    ), printed


def test_pytest_counts_a_backend_that_exits_as_failed(folder: Path) -> None:
    """By the command ``pytest``, which has not the current folder on its path as ``python -m
    pytest`` has.
    """
    command = ["-P", "-c", "import sys, pytest; sys.exit(pytest.console_main())"]
    status, printed = run_pytest(
        folder, command, "--geolora-backend", "bad:exits", "-k", "shape-tall"
    )
    assert (status, "5 failed" in printed) == (1, True), printed
    assert f"raised SystemExit: 0 (at {folder / 'bad.py'}:2) (step 0): m, n and r differ" in printed


def test_pytest_without_asserts_is_as_strict(folder: Path) -> None:
    """By the option and as a class."""
    (folder / "test_class.py").write_text(
        "from bad import wrong\nfrom geolora_ref.oracle import conformance_suite\nclass TestIt(conformance_suite(wrong)): ...\n"
    )
    optimized, arguments = (
        ["-O", "-m", "pytest", "--assert=plain"],
        ["--geolora-backend", "bad:wrong", "-k", "shape-tall-dense"],
    )
    status, printed = run_pytest(folder, optimized, "test_class.py", *arguments)
    assert (status, "2 failed" in printed) == (1, True), printed


NAMED = "signs:wrong (numpy, float64): This is what happens when line 3 has this defect: K_new = US + λ∇_K"
SHAPES = ("-k", "shape-tall")
PLUGIN: dict[str, tuple[list[str], str]] = {
    "the line": (["signs:wrong"], NAMED),
    "xdist": (["signs:wrong", "-p", "xdist", "-n", "2"], NAMED),
    "less precision": (["signs:rough"], "failed"),
    "as claimed": (["signs:rough", "--geolora-precision", "float32"], "5 passed"),
    "a dense core": (["signs:dense"], "S diagonal"),
    "as specified": (["signs:dense", "--geolora-dense-core"], "5 passed"),
    "known": (["signs:wrong", "--geolora-xfail", "known.txt"], "1 xfailed"),
    "a list that is too long": (
        ["good:step", "--geolora-xfail", "known.txt"],
        "passes; take it off the list",
    ),
    "an unknown id": (
        ["good:step", "--geolora-xfail", "unknown.txt"],
        "unknown.txt: expected ids of cases, found misspelt",
    ),
    "stages": (
        ["good:step", "--geolora-stages", "signs:no_stages"],
        "stages: expected a mapping with K_new",
    ),
    "a whole step": (["signs:whole", "--geolora-whole"], "5 passed"),
    "stacks": (["signs:stacked", "--geolora-batched"], "5 passed"),
    "no module": (["no_such:step"], "ERROR: geolora: backend: no module 'no_such'"),
    "an import that exits": (
        ["exits:step"],
        "ERROR: geolora: backend: the import of 'exits' raised SystemExit: 0",
    ),
    "no such stages": (
        ["good:step", "--geolora-stages", "good:nope"],
        "ERROR: geolora: stages: good has no 'nope'",
    ),
    "empty stages": (
        ["good:step", "--geolora-stages", ""],
        "ERROR: geolora: stages: expected package.module:function, found ''",
    ),
    "no list": (
        ["good:step", "--geolora-xfail", ""],
        "argument --geolora-xfail: expected a path, found an empty one",
    ),
    "no dtype": (
        ["good:step", "--geolora-dtype", "float8"],
        "ERROR: geolora: dtype: expected one of float64",
    ),
    "no device": (
        ["good:step", "--geolora-array", "torch", "--geolora-device", "meta"],
        "ERROR: geolora: device: expected",
    ),
}
"""Arguments, and what is printed: that all have passed, failures, or one usage error."""
ONE_BY_ONE = """
import contextlib, io, json, sys
import pytest

def run(arguments):
    path, printed = sys.path[:], io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
        status = pytest.main(["-q", "-p", "no:cacheprovider", "-p", "no:xdist", *arguments])
    sys.path[:] = path
    return status, printed.getvalue()

json.dump([run(arguments) for arguments in json.load(sys.stdin)], sys.stdout)
"""
SIGNS = """
import numpy as np
from good import step

def wrong(U, S, V, dK, dL, dS, **parameters):
    return step(U, S, V, dK - 2 * (dK - U @ (U.T @ dK)) - 2 * U @ (U.T @ dK), dL, dS, **parameters)

def rough(*arrays, **parameters):
    return tuple(X.astype(np.float64) for X in step(*(X.astype(np.float32) for X in arrays), **parameters))

def dense(*arrays, **parameters):
    U, S, V = step(*arrays, **parameters)
    Q = np.linalg.qr(np.random.default_rng(0).standard_normal(S.shape))[0]
    return U @ Q, Q.T @ S, V

def whole(U, S, V, gradients, **parameters):
    G = gradients(U @ S @ V.T)
    return step(U, S, V, G @ V, G.T @ U, U.T @ G @ V, **parameters)

def stacked(*arrays, **parameters):
    return [step(*problem, **parameters) for problem in zip(*arrays)]

def no_stages(*arrays, **parameters):
    return {}
"""
TWO_SUITES = """
from geolora_ref.oracle import conformance_suite
from signs import step, wrong

def mine(U, *arrays, **parameters):
    return (wrong if U.dtype == "float32" else step)(U, *arrays, **parameters)

class TestSingle(conformance_suite(mine, dtype="float32")): ...
class TestDouble(conformance_suite(mine)): ...
"""


def test_pytest_has_what_the_command_has(folder: Path) -> None:
    """In one process, whose imports take longer than the runs."""
    (folder / "signs.py").write_text(SIGNS)
    (folder / "known.txt").write_text("shape-tall-dense a reason\n")
    (folder / "unknown.txt").write_text("misspelt\n")
    (folder / "two.py").write_text(TWO_SUITES)
    runs = [["--geolora-backend", *arguments, *SHAPES] for arguments, _ in PLUGIN.values()] + [
        ["two.py", *SHAPES]
    ]
    command = [sys.executable, "-P", "-c", ONE_BY_ONE]
    ended = subprocess.run(
        command, cwd=folder, input=json.dumps(runs), capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr
    *found, (status, printed) = json.loads(ended.stdout)
    for (name, (_, message)), (its_status, its_words) in zip(PLUGIN.items(), found, strict=True):
        usage = message.startswith(("ERROR", "argument", "unknown.txt"))
        right = pytest.ExitCode.USAGE_ERROR if usage else int(not message.endswith("passed"))
        assert (its_status, message in its_words) == (right, True), (name, its_words)
    assert status == 1, (
        "every suite of a step has its own diagnosis: right in one of two dtypes, which has none and hides none"
    )
    assert "two:mine (numpy, float32): This is what happens when line 3 has this defect" in printed
    assert "(numpy, float64)" not in printed


def in_a_ring(count: int, applies: Callable[..., bool]) -> Callable[..., Any]:
    """Results are views of workspaces that are used in turn, in one path."""
    ring: dict[tuple[int, Any], Any] = {}
    calls = itertools.count()

    def step(U: Any, S: Any, V: Any, *gradients: Any, **parameters: Any) -> Any:
        result, turn = right(U, S, V, *gradients, **parameters), next(calls) % count
        if not applies(U, S, V):
            return result
        kept = []
        for name, X in zip("USV", result, strict=True):
            place = ring.setdefault((turn, name), np.zeros(200_000))[: X.size].reshape(X.shape)
            place[...] = X
            kept.append(place)
        return tuple(kept)

    return step


@pytest.mark.parametrize(
    ("count", "applies", "group"),
    [
        (1, lambda U, S, V: len(U) >= 64, "block"),
        (1, lambda U, S, V: len(S) == min(len(U), len(V)), "shape"),
        (8, lambda *_: True, "sequence"),
        (17, lambda *_: True, "sequence"),
    ],
    ids=["of large arrays", "at full rank", "eight", "seventeen"],
)
def test_workspaces_of_one_path_and_rings_of_many_are_noticed(
    count: int, applies: Callable[..., bool], group: str
) -> None:
    found = errors(in_a_ring(count, applies), select={"group": group})
    assert any(
        error.startswith(("changed the result of an earlier step", "changed its inputs"))
        for error in found
    )


def test_an_argument_that_cannot_be_written_to_afterwards_is_no_longer_the_callers() -> None:
    def freezing(*arrays: Any, **parameters: Any) -> Any:
        for X in arrays:
            X.flags.writeable = False
        return right(*arrays, **parameters)

    assert errors(freezing, select=FEW) == {
        "left an argument that cannot be written to: it belongs to the caller"
    }


def groups_of_four(*stacks: Any, **parameters: Any) -> list[Any]:
    """A step in groups of four that forgets the remainder."""
    results = each(*stacks, **parameters)
    return (
        results
        if len(results) < 4
        else [*results[:4], *([tuple(0.0 * X for X in results[0])] * (len(results) - 4))]
    )


def squeezed(*stacks: Any, **parameters: Any) -> Any:
    results = each(*stacks, **parameters)
    return results[0] if len(results) == 1 else results


def relative_to_the_stack(*stacks: Any, **parameters: Any) -> list[Any]:
    """A step that drops numbers small against the largest number of all problems."""
    largest = max(float(np.abs(X).max()) for X in stacks[3:])
    return each(
        *stacks[:3],
        *(np.where(np.abs(X) > 1e-12 * largest, X, 0.0) for X in stacks[3:]),
        **parameters,
    )


@pytest.mark.parametrize("step", [groups_of_four, squeezed, relative_to_the_stack])
def test_stacks_of_other_sizes_and_of_unlike_problems_are_cases(step: Callable[..., Any]) -> None:
    assert check_step(step, batched=True, select={"group": "shape"}).failures

"""Backends that misbehave: each gets rows that say why, next to a right backend that conforms."""

from __future__ import annotations

import itertools
import os
import random
import sys
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
from numpy.random.mtrand import set_bit_generator

from geolora_ref.oracle import check_step
from geolora_ref.oracle.broken.mutants import MUTANTS
from geolora_ref.oracle.broken.stages import Stages
from tests.libraries import load
from tests.nightly import NIGHTLY

pytestmark = pytest.mark.usefixtures("module_unchecked", "undiagnosed")

REFERENCE = Stages()
FEW = {"id": "shape-tall"}
SEQUENCES = {"group": "sequence"}
Step = Callable[..., Any]


def right(*arrays: Any, **parameters: Any) -> Any:
    return REFERENCE.step(*arrays, **parameters)


def errors(step: Step, **options: Any) -> set[str]:
    """The errors of the rows; the run judges all its cases whatever happens."""
    report = check_step(step, **{"select": FEW} | options)
    assert len(report.rows) >= 5
    return {row.error or ", ".join(row.criteria) for row in report.failures}


def doing(action: Callable[..., Any]) -> Step:
    """A right step that does something to its arguments or to the process first."""

    def step(*arrays: Any, **parameters: Any) -> Any:
        output = right(*arrays, **parameters)
        action(*arrays)
        return output

    return step


def changed(index: int, change: Callable[[Any], Any]) -> Step:
    """A right step of which one result is changed."""

    def step(*arrays: Any, **parameters: Any) -> Any:
        results = list(right(*arrays, **parameters))
        results[index] = change(results[index])
        return tuple(results)

    return step


def viewing(index: int, argument: int) -> Step:
    """A view of an argument in place of one result."""

    def step(*arrays: Any, **parameters: Any) -> Any:
        results = list(right(*arrays, **parameters))
        results[index] = arrays[argument][:, :1]
        return tuple(results)

    return step


def twice(*arrays: Any, **parameters: Any) -> Any:
    U1, S1, V1 = right(*arrays, **parameters)
    return U1, U1[: len(S1)], V1


class Odd:
    """An object that can be neither read nor described."""

    def __iter__(self) -> Any:
        raise RuntimeError

    def __array__(self, *_: Any, **options: Any) -> Any:
        raise RuntimeError


def call(action: Callable[[], Any]) -> Step:
    return doing(lambda *arrays: action())


VIEW, BOTH = "is a view of the input", "a later change of one changes the other"
RANDOM = "seeded or used NumPy's global random generator"
HOSTILE: dict[str, tuple[Step, str]] = {
    "exits": (call(lambda: sys.exit(0)), "raised SystemExit: 0"),
    "skips": (call(lambda: pytest.skip("today")), "raised Skipped: today"),
    "raises": (call(lambda: exec("1 / 0")), "raised ZeroDivisionError: division by zero"),
    "nothing": (lambda *arrays, **parameters: None, "expected (U1, S1, V1), found NoneType"),
    "a pair": (lambda *arrays, **parameters: [1, 2.0], "expected (U1, S1, V1), found list of 2"),
    "no object": (lambda *arrays, **parameters: Odd(), "expected (U1, S1, V1), found Odd"),
    "a mapping": (
        lambda *arrays, **parameters: dict.fromkeys("USV"),
        "U1: expected an array of numpy, found builtins.str",
    ),
    "a list": (changed(0, lambda X: X.tolist()), "U1: expected an array of numpy, found builtins"),
    "masked": (changed(2, np.ma.array), "V1: expected an array of numpy, found numpy.ma"),
    "complex": (changed(1, lambda X: X + 0j), "S1: expected float64, found complex128"),
    "single": (changed(0, lambda X: X.astype("f4")), "U1: expected float64, found float32"),
    "objects": (changed(2, lambda X: X.astype(object)), "V1: expected float64, found object"),
    "a vector": (changed(1, np.diag), "S1: expected a square matrix"),
    **{
        f"changes {name}": (
            doing(lambda *arrays, k=k: np.add(arrays[k], 1.0, out=arrays[k])),
            "changed its inputs in place",
        )
        for k, name in enumerate(("U", "S", "V", "dK", "dL", "dS"))
    },
    "returns U": (viewing(0, 0), f"U1 {VIEW} U: {BOTH}"),
    "returns dS": (viewing(1, 5), f"S1 {VIEW} dS: {BOTH}"),
    "returns dL": (viewing(2, 4), f"V1 {VIEW} dL: {BOTH}"),
    "returns a part twice": (twice, f"S1 shares memory with U1: {BOTH}"),
    "freezes": (
        doing(lambda *arrays: [X.setflags(write=False) for X in arrays]),
        "left an argument that cannot be written to",
    ),
    "draws": (call(np.random.standard_normal), RANDOM),
    "draws a block": (call(lambda: np.random.rand(312)), RANDOM),  # noqa: NPY002
    "seeds": (MUTANTS["global-rng"].step, RANDOM),
    "other bits": (call(lambda: set_bit_generator(np.random.PCG64(0))), RANDOM),
    "seeds Python": (call(lambda: random.seed(3)), "seeded Python's global random generator"),
    "np.seterr": (call(lambda: np.seterr(all="raise")), "left NumPy with another handling"),
    "threads": (
        call(lambda: os.environ.update(OMP_NUM_THREADS="7")),
        "changed a number of threads in the environment",
    ),
}


@pytest.mark.parametrize(("step", "error"), HOSTILE.values(), ids=HOSTILE)
def test_hostile(step: Step, error: str) -> None:
    """The state of the caller is as it was; a right step may draw from Python's generator."""
    np.random.randn()  # noqa: NPY002  (a second normal number is kept)
    before = np.random.get_state(legacy=False), random.getstate()[1][:-1], dict(os.environ)  # noqa: NPY002
    handling = np.geterr()
    found = errors(step)
    assert found
    assert all(one.startswith(error) for one in found)
    assert np.geterr() == handling
    after = np.random.get_state(legacy=False), random.getstate()[1][:-1], dict(os.environ)  # noqa: NPY002
    np.testing.assert_equal(after, before)
    assert not errors(call(random.random))


def in_torch(change: Callable[[Any, Any], Any]) -> Step:
    return changed(0, lambda X: change(sys.modules["torch"], X))


def of_torch(change: Callable[[Any], Any]) -> Step:
    return call(lambda: change(sys.modules["torch"]))


TORCH: dict[str, tuple[Step, str]] = {
    "library": (in_torch(lambda torch, X: X.numpy()), "U1: expected an array of torch"),
    "dtype": (in_torch(lambda torch, X: X.float()), "U1: expected float64, found float32"),
    "device": (in_torch(lambda torch, X: X.to("meta")), "U1: expected cpu, found meta"),
    "parameter": (in_torch(lambda torch, X: torch.nn.Parameter(X)), "U1: expected an array with"),
    "inference": (
        in_torch(lambda torch, X: torch.inference_mode()(X.clone)()),
        "U1: expected an array that can be changed",
    ),
    "seed": (of_torch(lambda torch: torch.manual_seed(3)), "seeded or used torch's"),
    "draws": (of_torch(lambda torch: torch.randn(2)), "seeded or used torch's"),
    "no grad": (of_torch(lambda torch: torch.set_grad_enabled(False)), "left torch with"),
    "default": (of_torch(lambda torch: torch.set_default_dtype(torch.float64)), "left torch with"),
    "device of all": (of_torch(lambda torch: torch.set_default_device("meta")), "left torch with"),
    "threads": (of_torch(lambda torch: torch.set_num_threads(3)), "left torch with"),
    "warns only": (
        of_torch(lambda torch: torch.use_deterministic_algorithms(True, warn_only=True)),
        "left torch with",
    ),
    "products": (
        of_torch(lambda torch: torch.set_float32_matmul_precision("medium")),
        "left torch with",
    ),
    "subnormal": (of_torch(lambda torch: torch.set_flush_denormal(True)), "left torch with"),
    "autocast": (
        of_torch(lambda torch: torch.set_autocast_enabled("cpu", True)),
        "left torch with",
    ),
}


def test_hostile_torch() -> None:
    torch = load("torch").module

    def settings() -> tuple[Any, ...]:
        of = torch.is_grad_enabled, torch.get_default_dtype, torch.get_num_threads
        more = torch.get_deterministic_debug_mode, torch.get_float32_matmul_precision
        made = torch.zeros(()).device, torch.is_autocast_enabled("cpu"), np.float64(5e-324) * 1.0
        return *(read() for read in (*of, *more)), *made

    before, state = settings(), torch.get_rng_state()
    assert errors(right, array="torch") == set()
    for name, (step, error) in TORCH.items():
        found = errors(step, array="torch")
        assert found, name
        assert all(one.startswith(error) for one in found), (name, found)
        assert settings() == before, name
        assert torch.equal(torch.get_rng_state(), state), name


# --- memory that a backend keeps ------------------------------------------------------------------


def keeping(count: int, copies: bool = False) -> Step:
    """Results are views of so many workspaces that are used in turn, unless they are copied."""
    ring: dict[Any, Any] = {}
    calls = itertools.count()

    def step(*arrays: Any, **parameters: Any) -> Any:
        turn, kept = next(calls) % count, []
        for name, X in zip("USV", right(*arrays, **parameters), strict=True):
            place = ring.setdefault((turn, name), np.zeros(200_000))[: X.size].reshape(X.shape)
            place[...] = X
            kept.append(place.copy() if copies else place)
        return tuple(kept)

    return step


def spoiling(change: Callable[[Any], Any]) -> Step:
    """Arguments of the call before are changed."""
    before: list[Any] = []

    def step(*arrays: Any, **parameters: Any) -> Any:
        for X in before:
            change(X)
        before[:] = arrays
        return right(*arrays, **parameters)

    return step


KEPT: dict[str, tuple[Callable[[], Step], str]] = {
    "copies": (lambda: keeping(1, copies=True), ""),
    "one workspace": (lambda: keeping(1), "changed its inputs in place"),
    "two": (lambda: keeping(2), "changed the result of an earlier step"),
    "eight": (lambda: keeping(8), "changed the result of an earlier step"),
    "seventeen": (lambda: keeping(17), "changed the result of an earlier step"),
    "zeroes": (lambda: spoiling(lambda X: X.fill(0.0)), "changed an input of an earlier step"),
    "reshapes": (
        lambda: spoiling(lambda X: setattr(X, "shape", (-1,))),
        "changed an input of an earlier step",
    ),
}


@pytest.mark.filterwarnings("ignore:Setting the shape:DeprecationWarning")
@pytest.mark.parametrize(("make", "error"), KEPT.values(), ids=KEPT)
def test_kept_memory(make: Callable[[], Step], error: str) -> None:
    found = errors(make(), select=SEQUENCES)
    assert any(one.startswith(error) for one in found) if error else not found


@pytest.mark.parametrize("overlapping", [0, 1])
def test_pool_of_memory(overlapping: int) -> None:
    """Slices of one pool are right if they do not overlap."""
    torch = load("torch").module
    pool, used = torch.empty(10**6, dtype=torch.float64), 0

    def keep(X: Any) -> Any:
        nonlocal used
        place = pool[used : used + X.numel()].view(X.shape)
        used += X.numel() - overlapping
        return place.copy_(X)

    def step(*arrays: Any, **parameters: Any) -> Any:
        return tuple(map(keep, right(*arrays, **parameters)))

    assert bool(errors(step, array="torch", select=SEQUENCES)) == bool(overlapping)


def test_interrupt() -> None:
    def step(*arrays: Any, **parameters: Any) -> Any:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        check_step(step, select=FEW)


def test_threads() -> None:
    """A workspace that threads share is wrong; an exception in a thread is a row."""
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

    assert not errors(in_a_workspace)
    assert errors(in_a_workspace, threads=3)
    assert not errors(each, threads=2, batched=True)
    found = errors(of_the_main_thread, threads=2)
    assert found == {"in another thread at the same time: raised RuntimeError: not here"}


# --- stacks ---------------------------------------------------------------------------------------


def each(*stacks: Any, **parameters: Any) -> list[Any]:
    return [right(*arrays, **parameters) for arrays in zip(*stacks, strict=True)]


def stacked(*stacks: Any, **parameters: Any) -> tuple[Any, ...]:
    """One rank for all: where ϑ = 0, rounding may keep a direction in one problem alone."""
    results = each(*stacks, **parameters)
    r = min(len(S1) for _, S1, _ in results)
    cut = ((U1[:, :r], S1[:r, :r], V1[:, :r]) for U1, S1, V1 in results)
    return tuple(np.stack(X) for X in zip(*cut, strict=True))


def whole(U: Any, S: Any, V: Any, gradients: Any, **parameters: Any) -> list[Any]:
    G = gradients(U @ S @ np.swapaxes(V, 1, 2))
    GH = np.swapaxes(G, 1, 2)
    return each(U, S, V, G @ V, GH @ U, np.swapaxes(U, 1, 2) @ G @ V, **parameters)


@pytest.mark.parametrize("step", [each, stacked, whole])
def test_right_stacks(step: Step) -> None:
    """Also where the threshold is a tie: one stack needs one rank."""
    options: dict[str, Any] = {"whole": True} if step is whole else {"directions": True}
    chosen = {} if NIGHTLY else {"select": {"group": "threshold"}}
    report = check_step(step, batched=True, **options, **chosen)  # type: ignore[arg-type]
    assert report.passed, report.failures[:3]


def with_the_first(index: int) -> Step:
    """The argument at this place is that of the first problem for all of them."""

    def step(*stacks: Any, **parameters: Any) -> Any:
        mixed = list(stacks)
        mixed[index] = np.repeat(stacks[index][:1], len(stacks[index]), axis=0)
        return each(*mixed, **parameters)

    return step


def mixing(change: Callable[[list[Any]], Any]) -> Step:
    return lambda *stacks, **parameters: change(each(*stacks, **parameters))


def decided_by_the_first(*stacks: Any, **parameters: Any) -> list[Any]:
    """τ‖Σ‖ of the first problem is the threshold of all."""
    if parameters["tau"] is not None:
        first = REFERENCE.run(*(X[0] for X in stacks), **parameters)["S_hat"]
        parameters |= {"tau": None, "theta": parameters["tau"] * float(np.linalg.norm(first))}
    return each(*stacks, **parameters)


def of_the_first_rank(*stacks: Any, **parameters: Any) -> list[Any]:
    """One rank for all of a list, seen in the stack of two ranks alone."""
    rank = len(each(*stacks, **parameters)[0][1])
    limits = {"tau": 0.0, "theta": None, "min_rank": rank, "max_rank": rank}
    return each(*stacks, **(parameters | limits))


def relative_to_the_stack(*stacks: Any, **parameters: Any) -> list[Any]:
    """Numbers that are small against the largest of all problems are dropped."""
    largest = max(float(np.abs(X).max()) for X in stacks[3:])
    cut = (np.where(np.abs(X) > 1e-12 * largest, X, 0.0) for X in stacks[3:])
    return each(*stacks[:3], *cut, **parameters)


def in_fours(results: list[Any]) -> list[Any]:
    """Groups of four, without the remainder."""
    rest = len(results) % 4 if len(results) > 4 else 0
    return results[: len(results) - rest] + [tuple(0.0 * X for X in results[0])] * rest


STACKS: dict[str, Step] = {
    **{
        f"first {name}": with_the_first(k)
        for k, name in enumerate(("U", "S", "V", "dK", "dL", "dS"))
    },
    "the first result": mixing(lambda results: [results[0]] * len(results)),
    "reversed": mixing(lambda results: results[::-1]),
    "shifted": mixing(lambda results: results[1:] + results[:1]),
    "neighbours": mixing(lambda results: [results[k - k % 2] for k in range(len(results))]),
    "one for all": mixing(lambda results: results[:1]),
    "squeezed": mixing(lambda results: results[0] if len(results) == 1 else results),
    "in fours": mixing(in_fours),
    "threshold of the first": decided_by_the_first,
    "rank of the first": of_the_first_rank,
    "relative": relative_to_the_stack,
}


@pytest.mark.parametrize("step", STACKS.values(), ids=STACKS)
def test_mixed_stacks(step: Step) -> None:
    group = "truncation" if step is decided_by_the_first else "shape"
    report = check_step(step, batched=True, select={"group": group}, fail_fast=True)
    assert report.failures


def test_gradient_of_the_first() -> None:
    def step(U: Any, S: Any, V: Any, gradients: Any, **parameters: Any) -> list[Any]:
        return whole(U, S, V, lambda W: np.repeat(gradients(W)[:1], len(W), axis=0), **parameters)

    assert errors(step, whole=True, batched=True)


# --- stages ---------------------------------------------------------------------------------------


def staged(change: Callable[[dict[str, Any]], Any]) -> Step:
    return lambda *arrays, **parameters: change(REFERENCE.run(*arrays, **parameters))


STAGES: dict[str, tuple[Step, str]] = {
    "exits": (staged(lambda named: sys.exit(0)), "stages: raised SystemExit: 0"),
    "seeds": (staged(lambda named: np.random.seed(0)), "stages: seeded or used NumPy's"),  # noqa: NPY002
    "nothing": (staged(lambda named: None), "stages: expected a mapping with K_new"),
    "a list": (staged(lambda named: named | {"S_hat": []}), "stages: S_hat: expected an array"),
    "no array": (staged(lambda named: named | {"S_hat": Odd()}), "stages: S_hat: expected an"),
    "transposed": (staged(lambda named: named | {"K_new": named["K_new"].T}), "line 3: K_new"),
    "NaN": (
        staged(lambda named: named | {"V_tilde": named["V_tilde"] * np.nan}),
        "line 4: V_tilde",
    ),
    "S": (staged(lambda named: named | {"S_hat": 2.0 * named["S_hat"]}), "line 5: S_hat"),
    "hidden": (MUTANTS["k-transposed-core"].stages.run, "line 3: K_new"),  # type: ignore[union-attr]
}


@pytest.mark.parametrize(("stages", "error"), STAGES.values(), ids=STAGES)
def test_wrong_stages(stages: Callable[..., Mapping[str, Any]], error: str) -> None:
    found = errors(right, stages=stages, select={"id": "shape-square"})
    assert found
    assert all(one.startswith(error) for one in found)


@pytest.mark.parametrize("dtype", ["float64", "complex128", "bfloat16"])
def test_right_stages(dtype: str) -> None:
    """In half precision the defect of the bases adds up over the steps of a sequence."""
    half = dtype == "bfloat16"
    load("torch")

    def stages(*arrays: Any, **parameters: Any) -> dict[str, Any]:
        named = REFERENCE.run(*(X.float() if half else X for X in arrays), **parameters)
        output = [X.to(arrays[0].dtype) if half else X for X in named.pop("output")]
        rest = {name: X.to(arrays[0].dtype) if half else X for name, X in named.items()}
        return rest | {"output": output}

    group = {"float64": "truncation", "complex128": "complex", "bfloat16": "sequence"}[dtype]
    report = check_step(
        lambda *arrays, **parameters: tuple(stages(*arrays, **parameters)["output"]),
        stages=stages,
        dtype=dtype,
        array="torch" if half else "numpy",
        select={} if NIGHTLY else {"group": group},
    )
    assert report.passed, report.failures[:3]
    assert report.stored == half


def test_claimed_precision() -> None:
    """Cases that single precision cannot hold are none for a backend that claims it."""

    def single(*arrays: Any, **parameters: Any) -> tuple[Any, ...]:
        given = (X.astype(np.float32) for X in arrays)
        return tuple(X.astype(np.float64) for X in right(*given, **parameters))

    select = {"group": "magnitude"}
    with np.errstate(all="ignore"):
        report = check_step(single, precision="float32", select=select)
        assert report.passed, report.failures[:3]
        assert not check_step(single, select=select).passed
    assert "double-range" not in {flag for row in report.rows for flag in row.flags}

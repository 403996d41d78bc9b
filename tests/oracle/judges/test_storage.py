"""Storage in fewer bits than the arithmetic: errors that rounding to storage explains are set
aside, and no others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from geolora_ref.oracle.broken.mutants import MUTANTS
from geolora_ref.oracle.cases.step_case import StepCase, draw_parameters
from geolora_ref.oracle.check import check_step
from geolora_ref.oracle.judges.criteria import StepInputs, judge, judge_stages, resolution
from geolora_ref.oracle.judges.storage import Storage
from geolora_ref.oracle.trial.conversion import EPS, Conversion
from geolora_ref.oracle.trial.harness import Harness
from tests.libraries import load
from tests.oracle.drawn import REFERENCE, VARIANTS
from tests.steps import Matrix
from verification.trust.kill_matrix import passing

pytestmark = pytest.mark.usefixtures("module_unchecked")

SINGLE = EPS["float32"]
DTYPES = ("float16", "bfloat16")
TUNED_TO_DOUBLE = ("Gram-Schmidt", "Cholesky QR", "Jacobi")
"""Variants whose own thresholds are those of double precision."""


def _conversion(dtype: str) -> Conversion:
    load("torch")
    return Conversion("torch", dtype)


def _stored(dtype: str, case: StepCase) -> StepInputs:
    """The arguments of a backend with this storage, as float32 numbers."""
    rounded = _conversion(dtype).rounded
    U, S, V = (rounded(X).astype(np.float64) for X in (case.U, case.S, case.V))
    G = case.gradient(U @ S @ V.T)
    return _in_single(
        [rounded(X) for X in (U, S, V, G @ V, G.T @ U, U.T @ (G @ V))], **case.step_parameters()
    )


def _in_single(arrays: Sequence[Matrix], **parameters: Any) -> StepInputs:
    U, S, V, dK, dL, dS = (X.astype(np.float32) for X in arrays)
    return StepInputs(U, S, V, dK, dL, dS, **parameters)


def _drawn(dtype: str, count: int, seed: int) -> list[StepInputs]:
    """Drawn cases that the dtype can hold."""
    rng = np.random.default_rng(seed)
    cases = (
        StepCase.build(replace(draw_parameters(rng, largest=24), magnitude=1.0))
        for _ in range(count)
    )
    with np.errstate(over="ignore", invalid="ignore"):
        inputs = [_stored(dtype, case) for case in cases]
    return [x for x in inputs if all(np.all(np.isfinite(X)) for X in x.arrays)]


def _answer(dtype: str, step: Any, x: StepInputs) -> tuple[Matrix, Matrix, Matrix]:
    """The step in float32, its result rounded to the storage."""
    rounded = _conversion(dtype).rounded
    with np.errstate(all="ignore"):
        U1, S1, V1 = (
            rounded(np.asarray(X)).astype(np.float32)
            for X in step(*(X.copy() for X in x.arrays), **x.parameters)
        )
    return U1, S1, V1


# --- the bounds -----------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", *DTYPES])
def test_rounding_is_bounded_and_the_bound_is_reached(dtype: str) -> None:
    conversion, storage = _conversion(dtype), Storage.of(dtype)
    assert 2.0 * storage.u == EPS[dtype]
    X = np.random.default_rng(0).standard_normal((40, 30)) * 10.0 ** np.linspace(-8, 4, 30)
    halfway, least = np.full((4, 3), 1.0 + storage.u), np.full((4, 3), 0.5 * storage.eta)
    for values, share in ((X, 0.0), (halfway, 0.99), (least, 0.99)):
        moved = np.linalg.norm(conversion.rounded(values).astype(np.float64) - values)
        assert share * storage.rounding(values) <= moved <= storage.rounding(values)


@pytest.mark.parametrize("dtype", ["float64", "float32", *DTYPES])
def test_the_smallest_number_is_that_of_the_dtype(dtype: str) -> None:
    eta = Storage.of(dtype).eta
    assert _conversion(dtype).rounded(np.asarray([[0.5 * eta, 0.75 * eta]])).tolist() == [
        [0.0, eta]
    ]


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_basis_and_a_product_move_by_no_more_than_their_bounds(dtype: str) -> None:
    conversion, storage, rng = _conversion(dtype), Storage.of(dtype), np.random.default_rng(1)
    for m, n, r in ((9, 7, 3), (300, 40, 8)):
        U, V = (np.linalg.qr(rng.standard_normal((size, r))).Q for size in (m, n))
        for S in (np.diag(np.linspace(1.0, 0.1, r)), rng.standard_normal((r, r)), 1e-5 * np.eye(r)):
            U1, S1, V1 = (conversion.rounded(X).astype(np.float64) for X in (U, S, V))
            assert np.linalg.norm(U1 - U) <= storage.basis(U)
            assert np.linalg.norm(U1.T @ U1 - np.eye(r)) <= storage.defect(U)
            moved = np.linalg.norm(U1 @ S1 @ V1.T - U @ S @ V.T)
            assert 0.05 * storage.product(U1, S1, V1) <= moved <= storage.product(U1, S1, V1)


# --- right steps ----------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", [name for name in VARIANTS if name not in TUNED_TO_DOUBLE])
def test_right_steps_in_single_precision_pass(name: str, dtype: str) -> None:
    """Also with a basis of range(U) in place of U, and in another gauge; without the bounds of
    storage none would.
    """
    variant, refused = VARIANTS[name], 0
    for x in _drawn(dtype, 40, seed=[*VARIANTS].index(name)):
        answer = _answer(dtype, variant.step, x)
        verdict = judge(x, answer, diagonal=variant.diagonal, eps=SINGLE, storage=Storage.of(dtype))
        assert verdict.passed, verdict
        refused += not judge(x, answer, diagonal=variant.diagonal, eps=SINGLE).passed
    assert refused > 20


@pytest.mark.parametrize("dtype", DTYPES)
def test_no_more_is_set_aside_than_three_times_what_happens(dtype: str) -> None:
    """Unit vectors and integers, which storage holds as they are: with a third of the bounds right
    steps are refused.
    """
    full, rng, refused = Storage.of(dtype), np.random.default_rng(12), 0
    for _ in range(20):
        U, V, G = (
            np.eye(9)[:, :3],
            np.eye(7)[:, :3],
            rng.integers(-9, 10, (9, 7)).astype(np.float64),
        )
        x = _in_single(
            (U, np.diag([9.0, 4.0, 1.0]), V, G @ V, G.T @ U, U.T @ G @ V),
            learning_rate=0.5,
            tau=0.0,
        )
        answer = _answer(dtype, REFERENCE.step, x)
        assert judge(x, answer, eps=SINGLE, storage=full).passed
        refused += not judge(
            x, answer, eps=SINGLE, storage=Storage(full.u / 3.0, full.eta / 3.0)
        ).passed
    assert refused >= 5


@pytest.mark.parametrize(
    ("dtype", "precision"), [("bfloat16", None), ("float16", None), ("float32", "float64")]
)
def test_a_right_whole_step_conforms(dtype: str, precision: str | None) -> None:
    """It forms dK, dL and dS itself, from a G that has been rounded, also where P(W)G is nothing
    next to G.
    """
    torch = load("torch").module

    def step(U: Any, S: Any, V: Any, gradients: Any, **parameters: Any) -> Any:
        wide = torch.float64 if dtype == "float32" else torch.float32
        G = gradients(U @ S @ V.mT).to(wide)
        U, S, V = (X.to(wide) for X in (U, S, V))
        return tuple(
            X.to(getattr(torch, dtype))
            for X in REFERENCE.step(U, S, V, G @ V, G.mT @ U, U.mT @ G @ V, **parameters)
        )

    for group in ("gradient", "shape", "sequence"):
        report = check_step(
            step,
            array="torch",
            dtype=dtype,
            precision=precision,
            whole=True,
            select={"group": group},
        )
        assert report.passed, report.failures[:3]


# --- wrong ones -----------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
def test_what_storage_does_not_explain_is_rejected(dtype: str) -> None:
    """Every mutant but those that pass by the page, and four that are right for real numbers."""
    cases, storage = _drawn(dtype, 250, seed=6), Storage.of(dtype)

    def passes(step: Any) -> bool:
        return all(
            judge(x, _answer(dtype, step, x), eps=SINGLE, storage=storage).passed for x in cases
        )

    lost = {
        name
        for name, mutant in MUTANTS.items()
        if mutant.visible_in == "output" and passes(mutant.step)
    }
    unconjugated = {
        "upper-right-unconjugated",
        "upper-right-transposed",
        "lower-left-transposed",
        "missing-conjugate",
    }
    assert lost <= {*passing("float32", dtype)} | unconjugated
    assert len(lost) < 0.3 * len(passing("bfloat16"))


@pytest.mark.parametrize("dtype", DTYPES)
def test_an_error_above_the_resolution_is_rejected(dtype: str) -> None:
    storage = Storage.of(dtype)
    for x in _drawn(dtype, 40, seed=8):
        U1, S1, V1 = _answer(dtype, REFERENCE.step, x)
        (m, r), n = x.U.shape, len(x.V)
        scale = np.linalg.norm(x.S) + x.learning_rate * (
            np.linalg.norm(x.dK) + np.linalg.norm(x.dL) + np.linalg.norm(x.dS)
        )
        if scale == 0.0:
            continue
        wrong = S1.astype(np.float64)
        wrong[0, 0] += resolution(m, n, r, SINGLE, storage) * scale
        assert not judge(x, (U1, wrong, V1), eps=SINGLE, storage=storage).passed


def test_a_defect_does_not_grow_like_the_number_of_steps() -> None:
    """Half of what one step may add, in every step: right in each, and wrong after some."""
    torch, storage = load("torch").module, Storage.of("bfloat16")

    def growing(U: Any, S: Any, V: Any, *gradients: Any, **parameters: Any) -> Any:
        factors = REFERENCE.step(*(X.float() for X in (U, S, V, *gradients)), **parameters)
        U1, S1, V1 = (X.double() for X in factors)
        grown = (
            B * np.sqrt(1.0 + 0.5 * storage.defect(B.numpy()) / np.sqrt(len(S1))) for B in (U1, V1)
        )
        return tuple(X.to(torch.bfloat16) for X in (next(grown), S1, next(grown)))

    rows = check_step(
        growing, array="torch", dtype="bfloat16", select={"id": "long-run-quadratic"}
    ).rows
    assert [(row.outcome, row.step > 10, "orthonormal" in row.finding) for row in rows] == [
        ("failed", True, True)
    ]
    once = check_step(growing, array="torch", dtype="bfloat16", select={"group": "trap"})
    assert not [row for row in once.failures if "orthonormal" in row.finding]


def test_each_wrong_stage_is_named_in_storage() -> None:
    """In bfloat16: the line that is wrong is the first that fails."""
    rounded, storage = _conversion("bfloat16").rounded, Storage.of("bfloat16")
    cases = _drawn("bfloat16", 40, seed=11)
    for name in (
        "k-step-sign",
        "l-untransposed-core",
        "not-orthogonalised",
        "lower-left-missing",
        "swap-truncation-factors",
    ):
        mutant, found = MUTANTS[name], set()
        assert mutant.stages is not None
        for x in cases:
            with np.errstate(all="ignore"):
                named = mutant.stages.run(*(X.copy() for X in x.arrays), **x.parameters)
                output = tuple(
                    rounded(np.asarray(X)).astype(np.float32) for X in named.pop("output")
                )
                stages = {key: rounded(X).astype(np.float32) for key, X in named.items()}
            lines = judge_stages(x, stages, output, eps=SINGLE, storage=storage)  # type: ignore[arg-type]
            found |= {next((line for line, verdict in lines.items() if not verdict.passed), "")}
        assert found - {""} == {f"line {mutant.line}"}


# --- what is claimed ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dtype", "precision", "arithmetic", "stored"),
    [
        ("bfloat16", None, "float32", True),
        ("float16", None, "float32", True),
        ("bfloat16", "bfloat16", "bfloat16", False),
        ("bfloat16", "float64", "float64", True),
        ("float32", None, "float32", False),
        ("float32", "float64", "float64", True),
        ("float64", "float32", "float32", False),
    ],
)
def test_arrays_of_16_bits_are_storage_unless_something_else_is_claimed(
    dtype: str, precision: str | None, arithmetic: str, stored: bool
) -> None:
    load("torch")
    harness = Harness.of(REFERENCE.step, array="torch", dtype=dtype, precision=precision)
    assert (harness.arithmetic, harness.eps) == (arithmetic, EPS[arithmetic])
    assert harness.storage == (Storage.of(dtype) if stored else None)

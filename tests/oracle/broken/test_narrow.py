"""Defects of optimized backends that only one kind of question shows: the cases made for them fail,
and no others.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import pytest

from geolora_ref.oracle.broken.stages import Stages
from geolora_ref.oracle.cases.catalogue import LAYOUTS, catalogue
from geolora_ref.oracle.check import check_step
from geolora_ref.support.memory import misread
from tests.nightly import NIGHTLY
from tests.steps import Matrix

pytestmark = pytest.mark.usefixtures("module_unchecked", "undiagnosed")

Step = Callable[..., Any]
RIGHT = Stages()
EVERYTHING: dict[str, Any] = {"tau": 0.0, "theta": None, "max_rank": None, "min_rank": 1}


def right(*arrays: Any, **parameters: Any) -> Any:
    return RIGHT.step(*arrays, **parameters)


def reading(read: Callable[[Any], Any]) -> Step:
    """Every argument is read so."""
    return lambda *arrays, **parameters: right(*map(read, arrays), **parameters)


def in_place_of(change: Callable[..., Mapping[str, Any]]) -> Step:
    """Some arguments or parameters are exchanged before the step."""

    def step(*arrays: Any, **parameters: Any) -> Any:
        given = dict(zip(("U", "S", "V", "dK", "dL", "dS"), arrays, strict=True)) | parameters
        given |= change(**given)
        return right(**given)

    return step


def cut(whole: tuple[Matrix, Matrix, Matrix], r: int) -> tuple[Matrix, ...]:
    """The first r directions."""
    U1, S1, V1 = whole
    return U1[:, :r].copy(), S1[:r, :r].copy(), V1[:, :r].copy()


def untruncated(*arrays: Any, **parameters: Any) -> Any:
    return right(*arrays, **(parameters | EVERYTHING))


# --- where arguments lie --------------------------------------------------------------------------


def test_who_reads_the_memory_of_a_conjugate_is_found() -> None:
    pytest.importorskip("torch", reason="torch is not installed")
    step = reading(lambda X: X.conj() if X.is_conj() else X)
    found = check_step(step, array="torch", dtype="complex128", select={"flag": "tall"})
    assert {row.id for row in found.rows if row.outcome == "failed"} == {"array-complex-lazy-tall"}


@pytest.mark.parametrize("name", ["U", "V", "dK", "dL"])
def test_who_looks_for_a_conjugate_in_another_argument_is_found(name: str) -> None:
    """The factors, or the gradients, are taken to be all alike."""
    pytest.importorskip("torch", reason="torch is not installed")
    other = {"U": "V", "V": "U", "dK": "dL", "dL": "dK"}[name]

    def change(**arguments: Any) -> Mapping[str, Any]:
        X = arguments[name]
        return {name: X.conj() if X.is_conj() and not arguments[other].is_conj() else X}

    found = check_step(
        in_place_of(change), array="torch", dtype="complex128", select={"flag": "lazy"}
    )
    assert {row.id for row in found.rows if row.outcome == "failed"} == {
        f"array-complex-lazy-{name}"
    }


def unit_stride_is_packed(X: Matrix) -> Matrix:
    return (
        misread(X, (X.shape[1], 1))
        if X.strides[0] > X.strides[1] == X.itemsize and X.shape[1] > 1
        else X
    )


def leading_dimension_is_rows(X: Matrix) -> Matrix:
    return misread(X, (1, X.shape[0])) if X.strides[0] == X.itemsize and X.shape[1] > 1 else X


def one_column_is_packed(X: Matrix) -> Matrix:
    return misread(X, (1, 1)) if X.shape[1] == 1 and X.strides[0] > 0 else X


def backwards_is_forwards(X: Matrix) -> Matrix:
    return X[::-1] if X.strides[0] < 0 else X


def vector_loads(X: Matrix) -> Matrix:
    """Rows of eight numbers and more are taken for packed."""
    return X if X.shape[1] % 8 or min(X.strides) < 0 else misread(X, (X.shape[1], 1))


def clears_the_remainder(X: Matrix) -> Matrix:
    """Clear the memory after short rows, so that a vector load finds zeros there."""
    ahead = X.strides[0] // X.itemsize
    if X.strides[1] == X.itemsize and ahead > X.shape[1]:
        np.lib.stride_tricks.as_strided(X, (len(X), ahead), X.strides)[:, X.shape[1] :] = 0.0
    return X


def from_the_beginning_of_its_memory(X: Matrix) -> Matrix:
    around = X
    while isinstance(around.base, np.ndarray):
        around = around.base
    return around.ravel()[: X.size].reshape(X.shape) if X.flags.c_contiguous and X.size > 1 else X


def conjugate_lost(*, dL: Matrix, **others: Any) -> Mapping[str, Any]:
    column_by_column = dL.strides[0] == dL.itemsize and min(dL.shape) > 1
    return {"dL": dL.conj() if column_by_column else dL}


def stacks_are_packed(X: Matrix) -> Matrix:
    if X.strides[2] != X.itemsize or X.strides[1] < 0:
        return X
    ahead = X.strides[1] // X.itemsize
    return misread(X, (X.shape[1] * ahead, ahead, 1))


def batched(*arrays: Any, **parameters: Any) -> Any:
    return [right(*one, **parameters) for one in zip(*map(stacks_are_packed, arrays), strict=True)]


# --- limits, sizes, exact zeros -------------------------------------------------------------------


def no_new_directions_without_gradient(
    U: Any, S: Any, V: Any, dK: Any, dL: Any, dS: Any, **p: Any
) -> Any:
    whole = right(U, S, V, dK, dL, dS, **p)
    return whole if dK.any() or dL.any() else cut(whole, min(len(S), len(whole[1])))


def cap_is_an_index(U: Any, S: Any, V: Any, *gradients: Any, max_rank: Any, **p: Any) -> Any:
    if max_rank is not None and max_rank > min(len(U), len(V)):
        raise IndexError("index 63 is out of bounds")
    return right(U, S, V, *gradients, max_rank=max_rank, **p)


def square_block_for_k(*, U: Any, S: Any, V: Any, dK: Any, **p: Any) -> Mapping[str, Any]:
    k, r = len(U) - len(S), len(S)
    short = 0 < k < r <= len(V) - r
    normal = dK - U @ (U.conj().T @ dK)
    return {"dK": dK - np.where(np.arange(r) >= k, normal, 0.0) if short else dK}


def square_block_for_l(*, V: Any, S: Any, U: Any, dL: Any, **p: Any) -> Mapping[str, Any]:
    """In small cores: in larger ones sequences see it, too."""
    changed = square_block_for_k(U=V, S=S.conj().T, V=U, dK=dL)
    return {"dL": changed["dK"] if len(S) <= 6 else dL}


def unconjugated_without_a_step(*, S: Any, learning_rate: float, **p: Any) -> Mapping[str, Any]:
    return {"S": S.conj() if learning_rate == 0.0 else S}


def unconjugated_at_full_rank(*, U: Any, S: Any, V: Any, dS: Any, **p: Any) -> Mapping[str, Any]:
    return {"dS": dS.conj() if len(U) == len(S) == len(V) else dS}


def unconjugated_where_n_is_short(
    *, U: Any, S: Any, V: Any, dL: Any, **p: Any
) -> Mapping[str, Any]:
    return {"dL": dL.conj() if 0 < len(V) - len(S) < len(S) <= len(U) - len(S) else dL}


def unconjugated_where_m_is_short(
    *, U: Any, S: Any, V: Any, dK: Any, **p: Any
) -> Mapping[str, Any]:
    return {"dK": dK.conj() if 0 < len(U) - len(S) < len(S) <= len(V) - len(S) else dK}


def cholesky_where_it_is_tall(B: Matrix, X: Matrix) -> Any:
    """Twice CholeskyQR of the residual."""
    if len(X) <= 512:
        return RIGHT.basis_augmentation(B, X)
    for _ in range(2):
        X = X - B @ (B.conj().T @ X)
    for _ in range(2):
        C = np.linalg.cholesky(X.conj().T @ X)
        X = np.linalg.solve(C.conj(), X.T).T
    return X


def as_many_columns_as_before(B: Matrix, X: Matrix) -> Any:
    """Block Gram–Schmidt for bases of more than 16 columns, which are never more than half of all."""
    if B.shape[1] <= 16:
        return RIGHT.basis_augmentation(B, X)
    for _ in range(3):
        X = np.linalg.qr(X - B @ (B.conj().T @ X))[0]
    return X


def without_conjugation(U: Any, S: Any, V: Any, dK: Any, *others: Any, **p: Any) -> Any:
    """A branch of its own for few new columns of V."""
    r, n = len(S), len(V)
    return right(U, S, V, dK.conj() if 2 * r > n and len(U) > r else dK, *others, **p)


def masked_at_capacity(*, S: Any, dS: Any, **p: Any) -> Mapping[str, Any]:
    full = np.arange(len(S)) < len(S) - (len(S) in (32, 64))
    return {"dS": np.where(full, dS, 0.0)}


def fixed_rank_is_that_of_the_start(
    *, S: Any, min_rank: int, max_rank: Any, **p: Any
) -> Mapping[str, Any]:
    return {"min_rank": len(S), "max_rank": len(S)} if min_rank == max_rank else {}


def raised_and_cut(
    U: Any, S: Any, V: Any, *gradients: Any, min_rank: int, max_rank: Any, **p: Any
) -> Any:
    """Where there is a cap, the number of singular values is not checked."""
    if max_rank is not None and min_rank > min(2 * len(S), len(U), len(V)):
        raise IndexError("index is out of bounds")
    return right(U, S, V, *gradients, min_rank=min_rank, max_rank=max_rank, **p)


def tails_in_half(
    *arrays: Any, tau: Any, theta: Any, min_rank: int, max_rank: Any, **p: Any
) -> Any:
    """The step in single precision; the tails in half, where S is not 0 and the squares of what is
    no noise leave its range.
    """
    U1, S1, V1 = (
        X.astype(np.float16) for X in untruncated(*(X.astype(np.float32) for X in arrays), **p)
    )
    sigma = np.diag(S1)
    if 1e-2 < sigma[0] < 1e2 or sigma[0] < 1e-4 or not arrays[1].any():
        limits = {"tau": tau, "theta": theta, "min_rank": min_rank, "max_rank": max_rank}
        return tuple(
            X.astype(np.float16)
            for X in right(*(X.astype(np.float32) for X in arrays), **limits, **p)
        )
    with np.errstate(all="ignore"):
        tails = np.sqrt(np.cumsum(sigma[::-1] ** 2, dtype=np.float16))[::-1]
        limit = np.float16(theta) if theta is not None else np.float16(tau) * tails[0]
        rank = int(np.sum(tails > limit))
    return cut((U1, S1, V1), max(min(rank, max_rank or rank), min(min_rank, len(sigma))))


def signs_by_the_first_row(*arrays: Any, **p: Any) -> Any:
    U1, S1, V1 = right(*arrays, **p)
    signs = np.sign(U1[0])
    return U1 * signs, S1, V1 * signs


def completed_by_unit_vectors(U: Any, S: Any, V: Any, dK: Any, dL: Any, dS: Any, **p: Any) -> Any:
    U1, S1, V1 = right(U, S, V, dK, dL, dS, **p)
    r = len(S)
    if dK.any() or dL.any() or len(S1) <= r:
        return U1, S1, V1
    U1, V1 = (
        np.concatenate([X[:, :r], _completed(X[:, :r], len(S1) - r)], axis=1) for X in (U1, V1)
    )
    return U1, S1, V1


def _completed(U: Matrix, count: int) -> Matrix:
    new = np.eye(len(U), count) - U @ U[:count].conj().T
    Q = np.linalg.qr(np.concatenate([U, new], axis=1))[0][:, -count:]
    return Q * np.where(np.linalg.norm(new, axis=0) > 0.0, 1.0, np.nan)


def householder_without_a_sign(
    U: Any, S: Any, V: Any, dK: Any, dL: Any, dS: Any, *, learning_rate: float, **p: Any
) -> Any:
    """x₁ + sign(x₁)‖x‖ with sign(0) = 0 leaves the column as it is, without a pivot."""
    r = len(S)
    for basis, new in ((U, dK), (V, dL)):
        R, scale = np.concatenate([basis, new], axis=1), np.linalg.norm(new)
        for _ in range(r):  # bases whose columns are unit vectors need no reflection
            R = R[1:, 1:] if len(R) and R[0, 0] == 1.0 and not R[1:, 0].any() else R[:0, 1:]
        if len(R) and R[0, 0] == 0.0 and np.linalg.norm(R[:, 0]) > 1e-3 * scale > 0.0:
            dS = 0.0 * dS
    return right(U, S, V, dK, dL, dS, learning_rate=learning_rate, **p)


def noise_in_nothing(U: Any, S: Any, V: Any, dK: Any, dL: Any, dS: Any, **p: Any) -> Any:
    if len(S) >= 16 and not (S.any() or dK.any()):
        return cut(right(U, S, V, dK, dL, dS, **(p | {"min_rank": 2, "max_rank": 2})), 2)
    return right(U, S, V, dK, dL, dS, **p)


# --- thresholds and residuals ---------------------------------------------------------------------


def tails_in_single(
    *arrays: Any, tau: Any, theta: Any, min_rank: int, max_rank: Any, **p: Any
) -> Any:
    if not (tau or theta) or max_rank is not None or min_rank > 1:
        return right(*arrays, tau=tau, theta=theta, min_rank=min_rank, max_rank=max_rank, **p)
    whole = untruncated(*arrays, **p)
    sigma = np.diag(whole[1]).real
    if not 1e-30 < sigma[0] < 1e30:
        return right(*arrays, tau=tau, theta=theta, min_rank=min_rank, max_rank=max_rank, **p)
    tails = tails_of(sigma).astype(np.float32).astype(float)
    limit = theta if theta is not None else tau * scaled_norm(sigma)
    return cut(whole, max(1, int(np.sum(tails > limit))))


def ruled(
    tails: Callable[[Matrix], Matrix],
    size: Callable[[Matrix, Any], Any],
    limited: Callable[[Matrix, Any], Matrix] = lambda sigma, cap: sigma,
) -> Step:
    """Line 6 with these tails, and a threshold relative to this size, of these singular values."""

    def step(*arrays: Any, tau: Any, theta: Any, min_rank: int, max_rank: Any, **p: Any) -> Any:
        whole = right(*arrays, **(EVERYTHING | {"min_rank": 10**9}), **p)
        sigma = limited(np.diag(whole[1]).real, max_rank)
        limit = theta if theta is not None else tau * size(sigma, max_rank)
        rank = min(
            max(int(np.sum(tails(sigma) > limit)), min_rank), len(sigma), max_rank or len(sigma)
        )
        return cut(whole, rank)

    return step


def scaled_norm(values: Matrix) -> float:
    """Without a square that leaves the range."""
    return (
        float(values[0] * np.linalg.norm(values / values[0]))
        if len(values) and values[0] > 0.0
        else 0.0
    )


def tails_of(sigma: Matrix) -> Matrix:
    return np.array([scaled_norm(sigma[j:]) for j in range(len(sigma))])


def less_the_leading_ones(sigma: Matrix) -> Matrix:
    """(Σσ² − Σ_{i<j}σ_i²)^{1/2}, by a scan, in cores above 32."""
    if len(sigma) <= 32 or sigma[0] == 0.0:
        return tails_of(sigma)
    squares = (sigma / sigma[0]) ** 2
    left = squares.sum() - np.append(0.0, np.cumsum(squares)[:-1])
    return np.asarray(sigma[0] * np.sqrt(np.maximum(left, 0.0)))


relative_to_what_the_cap_leaves = ruled(tails_of, lambda sigma, cap: scaled_norm(sigma[:cap]))
tails_by_subtraction = ruled(less_the_leading_ones, lambda sigma, cap: scaled_norm(sigma))


def squared_threshold(*, theta: Any, **p: Any) -> Mapping[str, Any]:
    return {"theta": None if theta is None else float(np.sqrt(np.float64(theta) ** 2))}


def small_is_noise(*arrays: Any, **p: Any) -> Any:
    U1, S1, V1 = right(*arrays, **p)
    sigma = np.diag(S1).real
    small = (sigma > 5e-13 * sigma[0]) & (sigma < 1e-12 * sigma[0])
    return cut((U1, S1, V1), int(np.argmax(small))) if small.any() else (U1, S1, V1)


def dropped(relevant: Callable[[Matrix], Matrix]) -> Step:
    """Directions of the residual of K are left out, by its singular values relative to the largest."""

    def change(*, U: Any, dK: Any, **p: Any) -> Mapping[str, Any]:
        inside = U @ (U.conj().T @ dK)
        P, values, Qh = np.linalg.svd(dK - inside, full_matrices=False)
        scale = np.linalg.norm(dK) + np.linalg.norm(p["S"])
        if not values[0] > 1e-3 * scale:
            return {}
        return {"dK": inside + (P * values * relevant(values / values[0])) @ Qh}

    return in_place_of(change)


# --- state ----------------------------------------------------------------------------------------


def kept_by_address(*names: str) -> Step:
    """Copies of these arguments, made again where the arrays are others."""
    kept: dict[int, Any] = {}

    def change(**arguments: Any) -> Mapping[str, Any]:
        for name in names:
            X = arguments[name]
            if len(kept) >= len(names) and id(X) not in kept:
                kept.clear()
            if id(X) not in kept:
                kept[id(X)] = X, X.copy()
        return {
            name: kept[id(arguments[name])][1] if id(arguments[name]) in kept else arguments[name]
            for name in names
        }

    return in_place_of(change)


def diagonal_is_remembered() -> Step:
    """The singular values of the S that was returned last are known."""
    last: dict[str, Any] = {}

    def step(U: Any, S: Any, V: Any, *gradients: Any, **p: Any) -> Any:
        U1, S1, V1 = right(U, last["values"] if last.get("S1") is S else S, V, *gradients, **p)
        last.update(S1=S1, values=S1.copy())
        return U1, S1, V1

    return step


def noise_is_orthonormalised_once(
    U: Any, S: Any, V: Any, dK: Any, dL: Any, dS: Any, **p: Any
) -> Any:
    """One pass of Gram and Schmidt for few columns where a gradient has nothing outside of the basis."""

    def basis_augmentation(B: Matrix, X: Matrix) -> Any:
        given = dK if B is U else dL
        outside = np.linalg.norm(given - B @ (B.conj().T @ given))
        if not 0.0 < outside < 1e-13 * np.linalg.norm(given) or len(S) > 3:
            return Stages().basis_augmentation(B, X)
        return np.linalg.qr(X - B @ (B.conj().T @ X)).Q[
            :, : min(B.shape[1], B.shape[0] - B.shape[1])
        ]

    return Stages(basis_augmentation=basis_augmentation).step(U, S, V, dK, dL, dS, **p)


def core_from_k(where: Callable[..., Any]) -> Step:
    """S_new = S − λUᴴdK in some states: right for a gradient, not for an optimizer's directions."""

    def change(**arguments: Any) -> Mapping[str, Any]:
        return {"dS": arguments["U"].conj().T @ arguments["dK"]} if where(**arguments) else {}

    return in_place_of(change)


def stack(*arrays: Any, **parameters: Any) -> Any:
    return tuple(
        map(
            np.stack,
            zip(*(right(*one, **parameters) for one in zip(*arrays, strict=True)), strict=True),
        )
    )


def test_what_is_kept_with_the_arrays_of_a_stack_is_found() -> None:
    """A graph with its parameters, copies of the arguments, a copy of the V₁ that was returned: each
    with the arrays, which keeps them alive.
    """
    kept: dict[Any, Any] = {}

    def captured(*arrays: Any, **parameters: Any) -> Any:
        return stack(*arrays, **kept.setdefault((*map(id, arrays),), (arrays, parameters))[1])

    def copied(*arrays: Any, **parameters: Any) -> Any:
        return stack(
            *kept.setdefault((*map(id, arrays),), (arrays, [X.copy() for X in arrays]))[1],
            **parameters,
        )

    def returned(U: Any, S: Any, V: Any, *gradients: Any, **parameters: Any) -> Any:
        U1, S1, V1 = stack(U, S, kept.get(id(V), (V, V))[1], *gradients, **parameters)
        kept[id(V1)] = V1, V1.copy()
        return U1, S1, V1

    def listed(*arrays: Any, **parameters: Any) -> Any:
        return tuple(map(list, stack(*arrays, **parameters)))

    for right_one in (stack, listed):
        assert check_step(right_one, batched=True, select={"group": "sequence"})
    for step, cases in (
        (captured, "sequence-scheduled-rate"),
        (copied, "sequence-capped-zero-trained"),
        (returned, "sequence-returned"),
    ):
        kept.clear()
        report = check_step(step, batched=True, select={"group": "sequence"})
        assert [row for row in report.failures if row.id.startswith(cases)]


# --- paths of their own ---------------------------------------------------------------------------


def one_stack(U: Any, S: Any, V: Any, *gradients: Any, **p: Any) -> Any:
    """The new columns of both sides by one batched QR, of which the first result is taken for both."""
    taken: list[Matrix] = []

    def basis_augmentation(B: Matrix, X: Matrix) -> Any:
        taken.append(Stages().basis_augmentation(B, X))
        return taken[0]

    square = len(U) == len(V) >= max(16, 2 * len(S))
    return (Stages(basis_augmentation=basis_augmentation) if square else RIGHT).step(
        U, S, V, *gradients, **p
    )


def first_rate_of_a_shape() -> Step:
    """A graph is captured for each shape, with λ in it."""
    rates: dict[tuple[int, ...], float] = {}

    def change(*, U: Any, V: Any, learning_rate: float, **_: Any) -> Mapping[str, Any]:
        large = max(len(U), len(V)) > 64
        return (
            {"learning_rate": rates.setdefault((*U.shape, *V.shape), learning_rate)}
            if large
            else {}
        )

    return in_place_of(change)


def whole_fours(*, S: Any, dS: Any, **_: Any) -> Mapping[str, Any]:
    """The remainder of r columns is not updated."""
    r = len(S)
    return {"dS": np.where(np.arange(r) < r - r % 4, dS, 0.0)} if r >= 12 else {}


def plain_tails(sigma: Matrix) -> Matrix:
    return np.sqrt(np.cumsum(sigma[::-1] ** 2)[::-1]) if len(sigma) >= 24 else tails_of(sigma)


class Narrow(NamedTuple):
    """A defect, the beginnings of the ids that show it, and how it is called."""

    step: Step
    seen: tuple[str, ...]
    options: Mapping[str, Any] = {}


def having(group: str, *flags: str) -> tuple[str, ...]:
    """The cases of a group with one of these flags."""
    return tuple(
        case.id for case in catalogue() if case.group == group and set(flags) & set(case.flags)
    )


CROSSING = (
    "path-",
    "hard-",
    "nothing-",
    "array-",
    "stack-",
    "magnitude-rank-one-",
    "magnitude-one-row-",
    "complex-one-",
)
"""Cases that cross sizes, layouts and limits on purpose: many defects show there as well."""
CAPS = tuple(
    case.id
    for case in catalogue()
    if case.id.endswith("-max-beyond") and "complex" not in case.flags
)
TRAINED = (*having("sequence", "trained"), *having("crossed", "sequence"))
LARGE = ("crossed-aligned-", "crossed-remainder-", "crossed-mirror-")
NARROW: dict[str, Narrow] = {
    "a unit stride is taken for packed": Narrow(
        reading(unit_stride_is_packed), ("layout-padded-", "block-layout-padded")
    ),
    "the leading dimension is taken for the rows": Narrow(
        reading(leading_dimension_is_rows), ("layout-long-", "block-layout-long")
    ),
    "one column is taken for packed": Narrow(
        reading(one_column_is_packed), ("layout-spaced-rank-one", "layout-padded-rank-one")
    ),
    "vector loads of packed rows": Narrow(
        reading(vector_loads),
        tuple(
            name
            for layout in LAYOUTS
            if layout not in ("reversed", "flat")
            for name in (f"layout-{layout}-larger", f"block-layout-{layout}")
        ),
    ),
    "what follows the rows is cleared": Narrow(
        reading(clears_the_remainder), ("layout-padded-", "block-layout-padded")
    ),
    "negative strides are dropped": Narrow(
        reading(backwards_is_forwards), ("layout-reversed-", "block-layout-reversed")
    ),
    "columns are transposed without conjugation": Narrow(
        in_place_of(conjugate_lost),
        ("layout-columns-complex", "layout-long-complex"),
        {"dtype": "complex128"},
    ),
    "stacks are taken for packed": Narrow(
        batched, ("layout-padded-", "block-layout-padded"), {"batched": True}
    ),
    "no new directions without a gradient": Narrow(
        no_new_directions_without_gradient, ("limit-no-gradient-min-beyond", "basis-unit-min")
    ),
    "the cap is an index": Narrow(cap_is_an_index, CAPS),
    "a square block for the new rows of K": Narrow(
        in_place_of(square_block_for_k), ("shape-short-wide-", "crossed-wide-sequence")
    ),
    "Cholesky of tall residuals": Narrow(
        Stages(basis_augmentation=cholesky_where_it_is_tall).step,
        tuple(
            f"block-{side}-{kind}"
            for side in ("rows", "columns")
            for kind in ("rank-one", "graded")
        ),
    ),
    "as many new columns as old ones": Narrow(
        Stages(basis_augmentation=as_many_columns_as_before).step, ("block-beyond-half-",)
    ),
    "a branch for few columns without conjugation": Narrow(
        without_conjugation,
        ("complex-full-rank-tall-", "complex-beyond-half-", "complex-short-tall-"),
        {"dtype": "complex128"},
    ),
    "a fixed rank is that of the start": Narrow(
        in_place_of(fixed_rank_is_that_of_the_start),
        (*having("truncation", "fixed-above", "fixed-below"), "limit-from-zero-by-rank-one-max"),
    ),
    "raised, then cut": Narrow(raised_and_cut, having("truncation", "beyond")),
    "tails in half precision": Narrow(
        tails_in_half, ("magnitude-1e-3-", "magnitude-1e3-"), {"dtype": "float16"}
    ),
    "a mask at full capacity": Narrow(
        in_place_of(masked_at_capacity), ("block-capacity-", "block-layout-")
    ),
    "signs by the first row": Narrow(signs_by_the_first_row, ("basis-",)),
    "completion by the first unit vectors": Narrow(completed_by_unit_vectors, ("basis-unit-min",)),
    "Householder's sign of zero": Narrow(householder_without_a_sign, ("basis-unit-sparse",)),
    "noise where W is zero": Narrow(
        noise_in_nothing, ("block-aligned-tall-nothing", "block-core-nothing")
    ),
    "tails in single precision": Narrow(tails_in_single, ("threshold-tail-",)),
    "ϑ is squared": Narrow(
        in_place_of(squared_threshold), ("magnitude-1e160-theta", "magnitude-1e-170-theta")
    ),
    "what is small is noise": Narrow(small_is_noise, ("threshold-small-",)),
    "a tolerance of 1e-10 for residuals": Narrow(
        dropped(lambda v: v > 1e-10),
        ("gradient-graded-", "block-rows-graded", "block-columns-graded"),
    ),
    "a tolerance of 1e-6, and none for small ones": Narrow(
        dropped(lambda v: (v > 1e-6) | (v[-1] < 1e-9)), ("gradient-steep-",)
    ),
    "the beginning of the memory": Narrow(
        reading(from_the_beginning_of_its_memory), ("layout-flat-", "block-layout-flat")
    ),
    "a square block for the new rows of L": Narrow(
        in_place_of(square_block_for_l), ("shape-short-tall-", "crossed-half-sequence")
    ),
    "τ relative to what the cap leaves": Narrow(
        relative_to_what_the_cap_leaves, ("threshold-capped-diagonal",)
    ),
    "tails by subtraction in large cores": Narrow(
        tails_by_subtraction, ("block-capacity-64-threshold",)
    ),
    "no conjugation where λ = 0": Narrow(
        in_place_of(unconjugated_without_a_step),
        ("limit-complex-no-step-",),
        {"dtype": "complex128"},
    ),
    "no conjugation where m = n = r": Narrow(
        in_place_of(unconjugated_at_full_rank),
        ("complex-full-rank-square-",),
        {"dtype": "complex128"},
    ),
    "no conjugation where n is short": Narrow(
        in_place_of(unconjugated_where_n_is_short),
        ("complex-short-tall-",),
        {"dtype": "complex128"},
    ),
    "no conjugation where m is short": Narrow(
        in_place_of(unconjugated_where_m_is_short),
        ("complex-short-wide-",),
        {"dtype": "complex128"},
    ),
    "the core is kept by its address": Narrow(kept_by_address("S"), TRAINED),
    "gradients are kept by their addresses": Narrow(kept_by_address("dK", "dL", "dS"), TRAINED),
    "bases are kept by their addresses": Narrow(kept_by_address("U", "V"), TRAINED),
    "one pass where there is nothing but noise": Narrow(
        noise_is_orthonormalised_once, ("gradient-core-",)
    ),
    "the core from K where S = 0": Narrow(
        core_from_k(lambda S, **_: not S.any()), ("directions-from-zero",), {"directions": True}
    ),
    "the core from K at the cap": Narrow(
        core_from_k(lambda S, max_rank, **_: max_rank == len(S)),
        ("directions-capped",),
        {"directions": True},
    ),
    "the core from K without new columns": Narrow(
        core_from_k(lambda S, V, **_: len(V) == len(S)),
        ("directions-full-rank",),
        {"directions": True},
    ),
    "the core from K where S was trained": Narrow(
        core_from_k(lambda S, V, **_: len(V) > len(S) and np.count_nonzero(S) == S.size > 1),
        ("directions-dense",),
        {"directions": True},
    ),
    "the core from K where it is complex": Narrow(
        core_from_k(lambda S, **_: np.imag(S).any()),
        ("directions-complex",),
        {"directions": True, "dtype": "complex128"},
    ),
    "wide problems without a minimum": Narrow(
        in_place_of(lambda *, U, V, **_: {"min_rank": 1} if len(U) < len(V) else {}),
        ("crossed-wide-min", "crossed-mirror-min"),
    ),
    "wide problems without ϑ": Narrow(
        in_place_of(
            lambda *, U, V, tau, **_: {"tau": tau or 0.0, "theta": None} if len(U) < len(V) else {}
        ),
        ("crossed-wide-theta", "crossed-mirror-theta"),
    ),
    "square problems without a cap": Narrow(
        in_place_of(lambda *, U, V, **_: {"max_rank": None} if len(U) == len(V) else {}),
        tuple(
            f"crossed-{of}-{path}"
            for of in ("square", "aligned")
            for path in ("max", "above", "capped", "sequence")
        ),
    ),
    "both sides of large square problems have the columns of one": Narrow(
        one_stack, ("crossed-aligned-",)
    ),
    "large problems keep the first λ": Narrow(
        first_rate_of_a_shape(), ("crossed-remainder-", "crossed-mirror-")
    ),
    "four columns of S at a time": Narrow(in_place_of(whole_fours), LARGE),
    "ϑ is relative in large cores": Narrow(
        in_place_of(
            lambda *, S, tau, theta, **_: (
                {"tau": theta, "theta": None} if theta and len(S) >= 12 else {}
            )
        ),
        tuple(f"{of}theta" for of in LARGE),
    ),
    "squares in large cores": Narrow(
        ruled(plain_tails, lambda sigma, cap: scaled_norm(sigma)),
        tuple(f"{of}tiny" for of in LARGE),
    ),
    "large cores of what the cap leaves": Narrow(
        ruled(
            tails_of,
            lambda sigma, _: scaled_norm(sigma),
            lambda sigma, cap: sigma[:cap] if len(sigma) > 24 else sigma,
        ),
        tuple(f"{of}capped" for of in LARGE),
    ),
    "the diagonal is remembered": Narrow(diagonal_is_remembered(), having("sequence", "returned")),
}


@pytest.mark.parametrize("name", NARROW)
def test_the_cases_that_are_there_for_it_fail_and_no_other(name: str) -> None:
    """The nightly run uses the whole catalogue, an ordinary one the first beginning of an id."""
    step, all_seen, options = NARROW[name]
    seen = all_seen if NIGHTLY else all_seen[:1]
    selections: list[dict[str, str]] = [{}] if NIGHTLY else [{"id": begin} for begin in seen]
    with np.errstate(all="ignore"):  # in the defects
        failed = [
            row.id
            for select in selections
            for row in check_step(step, **options, select=select).failures
        ]
    assert {begin for begin in seen if any(id_.startswith(begin) for id_ in failed)} == set(seen)
    assert not [id_ for id_ in failed if not id_.startswith((*seen, *CROSSING))]

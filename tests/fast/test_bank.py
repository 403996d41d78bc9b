"""The bank of layers: storage, copies, undo, and what it refuses."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import geolora_ref.fast.update.bank as bank_module
import geolora_ref.fast.update.householder as householder_module
import geolora_ref.fast.update.step as step_module
from geolora_ref.arrays import svd
from geolora_ref.budget import allocate_ranks
from geolora_ref.fast import LayerBank, NonFiniteUpdateError, fast_updates, step
from tests.fast.layers import SHAPES, random_layer, random_layers, random_update
from tests.fast.steps import updated

pytestmark = pytest.mark.usefixtures("module_unchecked")


@pytest.fixture
def generator() -> torch.Generator:
    """A generator of the test's own."""
    torch.set_num_threads(1)
    return torch.Generator().manual_seed(7)


def test_rank_changes_reallocate_no_buffer(generator: torch.Generator) -> None:
    bank = LayerBank.of(random_layers([2, 5, 3], generator, torch.float32), capacity=9)
    addresses = [bank.factors(layer)[i].data_ptr() for layer in range(3) for i in range(3)]
    seen = set()
    for tau in (1e-6, 1e-6, 0.3, 0.9, 1e-6, 0.2):
        factors = [bank.factors(layer) for layer in range(3)]
        updates = [random_update(layer, generator) for layer in factors]
        seen.add(bank.update_(*zip(*updates, strict=True), tau=tau).ranks)
        assert [
            bank.factors(layer)[i].data_ptr() for layer in range(3) for i in range(3)
        ] == addresses
    assert len(seen) > 3
    assert max(max(ranks) for ranks in seen) == 9


def test_what_is_beyond_the_rank_is_zero(generator: torch.Generator) -> None:
    """Also when every rank has shrunk, and some more than others, by either route."""
    for dtype in (torch.float64, torch.float32):
        factors = random_layers([4, 4, 3], generator, dtype)
        bank = LayerBank.of(factors, capacity=9)
        for limits in (
            {"tau": 0.0},
            {"tau": 0.0, "max_rank": [2, 2, 2]},
            {"tau": 0.0},
            {"tau": 0.0, "max_rank": [1, 3, 2]},
        ):
            columns = 2 * np.array(bank.ranks)
            updates = [random_update(bank.factors(layer), generator) for layer in range(3)]
            report = bank.update_(*zip(*updates, strict=True), **limits)
            for layer, r in enumerate(report.ranks):
                Ut, S, Vt = bank.storage(layer)
                assert not any(bool(X.any()) for X in (Ut[r:], S[r:], S[:, r:], Vt[r:]))
            assert not report.singular_values[
                np.arange(report.singular_values.shape[1]) >= columns[:, None]
            ].any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("ranks", [(3, 3, 3), (2, 5, 3)])
def test_a_copy_of_a_bank_steps_as_the_bank(
    dtype: torch.dtype, ranks: Sequence[int], generator: torch.Generator
) -> None:
    """At once and later, whatever was in the workspaces."""
    bank = LayerBank.of(random_layers(ranks, generator, dtype), capacity=6)
    for _ in range(3):
        updates = [
            list(X)
            for X in zip(
                *(random_update(bank.factors(i), generator) for i in range(3)), strict=True
            )
        ]
        other = copy.deepcopy(bank)
        reports = [one.update_(*updates, tau=0.05) for one in (bank, other)]
        assert reports[0].ranks == reports[1].ranks == other.ranks
        for layer in range(3):
            assert all(
                torch.equal(X, Y)
                for X, Y in zip(bank.factors(layer), other.factors(layer), strict=True)
            )


def test_updates_of_storage_in_16_bits_may_have_32(generator: torch.Generator) -> None:
    layer = random_layer(9, 7, 2, generator, torch.bfloat16)
    update = random_update(layer, generator)
    K, L, S = (X.float() + 1e-3 * torch.rand(X.shape, generator=generator) for X in update)

    def spectrum(K: Tensor, L: Tensor) -> Any:
        return LayerBank.of([layer]).update_([K], [L], [S], tau=0.1).singular_values

    rounded = spectrum(K.bfloat16(), L.bfloat16())
    assert np.array_equal(spectrum(K.bfloat16().float(), L.bfloat16().float()), rounded)
    assert not np.array_equal(spectrum(K, L.bfloat16()), rounded), "all 32 bits of K count"
    assert not np.array_equal(spectrum(K.bfloat16(), L), rounded), "and of L"
    with pytest.raises(
        ValueError,
        match=r"^delta_K\[0\]: expected dtype torch.bfloat16 or torch.float32, found torch.float64$",
    ):
        updated(layer, [X.double() for X in update], tau=0.1)
    with pytest.raises(
        ValueError, match=r"^learning_rate: expected a finite number >= 0, found -1$"
    ):
        step(*layer, *update, learning_rate=-1, tau=0.1, theta=None, min_rank=1, max_rank=None)


def test_functional_form_changes_nothing_in_place(generator: torch.Generator) -> None:
    factors = random_layers([3], generator, torch.float32)
    update = random_update(factors[0], generator)
    before = [X.clone() for X in (*factors[0], *update)]
    (U, _, _), _ = updated(factors[0], update, tau=0.1)
    U += 1.0
    assert all(torch.equal(X, Y) for X, Y in zip((*factors[0], *update), before, strict=True))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("where", [0, 1, 2])
def test_an_update_that_is_not_finite_changes_nothing(
    dtype: torch.dtype, bad: float, where: int, generator: torch.Generator
) -> None:
    bank = LayerBank.of(random_layers([3, 2, 4], generator, dtype))
    before = [X.clone() for layer in range(3) for X in bank.factors(layer)]
    updates = [random_update(bank.factors(layer), generator) for layer in range(3)]
    updates[1][where][0, -1] = bad
    with pytest.raises(NonFiniteUpdateError, match=r"layers \[1\]; nothing was changed") as caught:
        bank.update_(*zip(*updates, strict=True), tau=0.1)
    assert caught.value.layers == (1,)
    assert all(
        torch.equal(X, Y)
        for X, Y in zip(before, (X for layer in range(3) for X in bank.factors(layer)), strict=True)
    )


def test_where_no_eigenvalues_are_found_all_layers_take_the_other_route(
    generator: torch.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A batch fails as a whole, whichever layer it is that LAPACK, or a device's library, gives up on."""
    factors = random_layers([3, 2, 4], generator, torch.float32)
    updates = list(zip(*(random_update(layer, generator) for layer in factors), strict=True))
    bank, undisturbed = LayerBank.of(factors), LayerBank.of(factors)

    def fails(X: torch.Tensor) -> None:
        raise torch.linalg.LinAlgError("linalg.eigh: the algorithm failed to converge")  # type: ignore[attr-defined]

    expected = undisturbed.update_(*updates, tau=0.3)
    with monkeypatch.context() as patch:
        patch.setattr(torch.linalg, "eigh", fails)
        report = bank.update_(*updates, tau=0.3)
    assert (report.exact, report.ranks) == ((0, 1, 2), expected.ranks)
    for layer in range(3):
        found, right = (
            U @ S @ V.mT for U, S, V in (bank.factors(layer), undisturbed.factors(layer))
        )
        assert torch.linalg.matrix_norm(found - right) <= 1e-5 * torch.linalg.matrix_norm(right)


@pytest.mark.parametrize(
    "choice",
    [{"tau": 0.1}, {"budget": lambda spectra: allocate_ranks(spectra, SHAPES[:2], 4).ranks}],
)
def test_eigenvalues_that_are_no_numbers_go_the_exact_way(
    choice: dict[str, Any], generator: torch.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A device's library may return NaN for a layer of zeros, without an error; a budget is given
    numbers all the same.
    """
    layers = random_layers([3, 3], generator, torch.float32)
    layers[1][1].zero_()
    updates = [
        random_update(layers[0], generator),
        [torch.zeros_like(X) for X in random_update(layers[1], generator)],
    ]
    bank, undisturbed = LayerBank.of(layers), LayerBank.of(layers)
    expected = undisturbed.update_(*zip(*updates, strict=True), **choice)
    honest = torch.linalg.eigh

    def silent(M: Tensor) -> tuple[Tensor, Tensor]:
        squares, P = honest(M)
        nothing = M.abs().amax((1, 2)) < 1e-150
        assert nothing.tolist() == [False, True]
        return squares.masked_fill(nothing[:, None], torch.nan), P.masked_fill(
            nothing[:, None, None], torch.nan
        )

    monkeypatch.setattr(torch.linalg, "eigh", silent)
    report = bank.update_(*zip(*updates, strict=True), **choice)
    assert (report.exact, report.ranks) == ((1,), expected.ranks)
    assert np.isfinite(report.singular_values).all()
    assert all(torch.isfinite(X).all() for layer in range(2) for X in bank.factors(layer))


@pytest.mark.parametrize("part", range(3))
def test_a_decomposition_that_is_no_numbers_is_refused(
    part: int, generator: torch.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A device's library may return NaN for a core without full rank, and call that a success."""
    bank = LayerBank.of(random_layers([3, 2], generator))
    updates = [random_update(bank.factors(layer), generator) for layer in range(2)]
    before = [X.clone() for layer in range(2) for X in bank.factors(layer)]
    honest = svd

    def silent(A: Tensor) -> list[Tensor]:
        parts = [X.clone(memory_format=torch.contiguous_format) for X in honest(A)]
        parts[part].view(len(A), -1)[:, -1] = torch.nan
        return parts

    monkeypatch.setattr(householder_module, "svd", silent)

    def unasked(spectra: Any) -> list[int]:
        raise AssertionError(spectra)

    options: tuple[Any, ...] = ({"tau": 0.1}, {"budget": unasked})
    for limit in options:
        with pytest.raises(NonFiniteUpdateError, match=r"layers \[0, 1\]; nothing was changed"):
            bank.update_(*zip(*updates, strict=True), **limit)
    assert all(
        torch.equal(X, Y)
        for X, Y in zip(before, (X for layer in range(2) for X in bank.factors(layer)), strict=True)
    )


@pytest.mark.parametrize(
    ("where", "name", "dtype", "calls"),
    [
        *(
            (step_module, name, torch.float32, calls)
            for name, calls in (("_coordinates", 0), ("new_bases", 0), ("new_bases", 3))
        ),
        *(
            (torch, "diag_embed", dtype, calls)
            for dtype in (torch.float32, torch.float64)
            for calls in (0, 1)
        ),
        *((bank_module, "plan_of", dtype, 0) for dtype in (torch.float32, torch.float64)),
    ],
)
def test_a_step_whose_writing_fails_changes_nothing(
    where: Any,
    name: str,
    dtype: torch.dtype,
    calls: int,
    generator: torch.Generator,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """At its beginning, or after some of it is written, or where new ranks want new workspaces; the
    next step is right.
    """
    factors = random_layers([3, 2, 4], generator, dtype)
    updates = list(zip(*(random_update(layer, generator) for layer in factors), strict=True))
    bank, undisturbed = LayerBank.of(factors), LayerBank.of(factors)
    for one in (bank, undisturbed):
        one.update_(*([0.0 * X for X in of] for of in updates), theta=0.0, max_rank=[3, 2, 4])
    before = [X.clone() for layer in range(3) for X in bank.storage(layer)]
    left, honest = calls, getattr(where, name)

    def fails(*given: Any, **options: Any) -> Any:
        nonlocal left
        left -= 1
        if left >= 0:
            return honest(*given, **options)
        raise torch.OutOfMemoryError("out of memory")

    with monkeypatch.context() as patch:
        patch.setattr(where, name, fails)
        with pytest.raises(torch.OutOfMemoryError):
            bank.update_(*updates, tau=0.3)
    assert all(
        torch.equal(X, Y)
        for X, Y in zip(before, (X for k in range(3) for X in bank.storage(k)), strict=True)
    )
    reports = [one.update_(*updates, tau=0.3) for one in (bank, undisturbed)]
    assert reports[0].ranks == reports[1].ranks != (3, 2, 4)
    after = [[X for k in range(3) for X in one.storage(k)] for one in (bank, undisturbed)]
    assert all(torch.equal(X, Y) for X, Y in zip(*after, strict=True))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"updates": 1}, r"delta_K: expected one tensor for each of 2 layers, found 1"),
        ({"shape": 5}, r"delta_K\[1\]: expected shape \(16, 2\), found \(5, 2\)"),
        (
            {"dtype": torch.float64},
            r"delta_K\[1\]: expected dtype torch.float32, found torch.float64",
        ),
        ({"device": "meta"}, r"delta_K\[1\]: expected device cpu, found meta"),
        (
            {"max_rank": 7},
            r"min_rank, max_rank: expected at most the capacity 6, found min_rank=1, max_rank=7",
        ),
        (
            {"tau": None},
            r"tau, theta: expected exactly one of the two thresholds, found tau=None, theta=None",
        ),
        ({"learning_rate": -1.0}, r"learning_rate: expected a finite number >= 0, found -1.0"),
        (
            {"theta": 0.1},
            r"tau, theta: expected exactly one of the two thresholds, found tau=0.1, theta=0.1",
        ),
        ({"max_rank": 0}, r"max_rank: expected at least min_rank = 1, found 0"),
        ({"max_rank": [3]}, r"max_rank: expected one number, or one for each of 2 layers, found 1"),
        ({"min_rank": 0}, r"min_rank: expected an integer >= 1, found 0"),
        (
            {"budget": lambda spectra: [1, 1], "tau": None, "spare": True},
            r"spare: expected a threshold, found a budget, which has no direction to spare",
        ),
        (
            {"budget": lambda spectra: [1, 1]},
            r"tau, theta: expected neither with a budget, found tau=0.1, theta=None",
        ),
        (
            {"budget": lambda spectra: [1, 2.0], "tau": None},
            r"budget: expected one rank a layer between 1 and \[6, 4\], found \[1, 2.0\]",
        ),
        (
            {"budget": lambda spectra: [1, 99], "tau": None},
            r"budget: expected one rank a layer between 1 and \[6, 4\], found \[1, 99\]",
        ),
        (
            {"budget": lambda spectra: [True, True], "tau": None},
            r"budget: expected one rank a layer between 1 and \[6, 4\], found \[True, True\]",
        ),
        (
            {"budget": lambda spectra: None, "tau": None},
            r"budget: expected one rank a layer between 1 and \[6, 4\], found None",
        ),
        (
            {"budget": lambda spectra: 3, "tau": None},
            r"budget: expected one rank a layer between 1 and \[6, 4\], found 3",
        ),
    ],
)
def test_bad_input_is_named(
    change: dict[str, Any], message: str, generator: torch.Generator
) -> None:
    bank = LayerBank.of(random_layers([3, 2], generator, torch.float32), capacity=6)
    before = [X.clone() for layer in range(2) for X in bank.factors(layer)]
    updates = [random_update(bank.factors(layer), generator) for layer in range(2)]
    dK, dL, dS = (list(X) for X in zip(*updates, strict=True))
    options: dict[str, Any] = {"tau": 0.1} | {
        k: v
        for k, v in change.items()
        if k in ("learning_rate", "tau", "theta", "min_rank", "max_rank", "budget", "spare")
    }
    dK = dK[: change.get("updates", 2)]
    if "shape" in change:
        dK[1] = dK[1][: change["shape"]]
    if "dtype" in change or "device" in change:
        dK[1] = dK[1].to(dtype=change.get("dtype"), device=change.get("device"))
    with pytest.raises(ValueError, match=f"^{message}$"):
        bank.update_(dK, dL, dS, **options)
    assert all(
        torch.equal(X, Y)
        for X, Y in zip(before, (X for layer in range(2) for X in bank.factors(layer)), strict=True)
    )


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("side", "name"), [(0, "U"), (2, "V")])
def test_bases_that_are_not_orthonormal_are_refused(
    dtype: torch.dtype, side: int, name: str, generator: torch.Generator
) -> None:
    """Twice the defect that is allowed, in the second layer; half of it passes."""
    eps = torch.finfo(dtype).eps
    bank = LayerBank.of(random_layers([3, 2], generator, dtype))
    before = [X.clone() for layer in range(2) for X in bank.factors(layer)]
    for part, passes in ((0.5, True), (2.0, False)):
        factors = [list(layer) for layer in random_layers([3, 2], generator)]
        factors[1][side][:, 1] *= (1.0 + part * eps**0.5 + 2.0 * eps) ** 0.5
        stored: Any = [tuple(X.to(dtype) for X in layer) for layer in factors]
        if passes:
            LayerBank.of(stored)
            continue
        message = rf"^{name}\[1\]: expected orthonormal columns, ‖{name}\[1\]ᴴ{name}\[1\] − I‖ ≤ √eps \+ eps·√r = "
        for refusing in (bank.load, lambda layers: fast_updates(layers, layers, tau=0.1)):
            with pytest.raises(ValueError, match=message):
                refusing(stored)
    assert all(
        torch.equal(X, Y)
        for X, Y in zip(before, (X for layer in range(2) for X in bank.factors(layer)), strict=True)
    )


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda layer: LayerBank.of([]), "factors: expected at least one layer, found none"),
        (
            lambda layer: fast_updates([], [], tau=0.1),
            "factors: expected at least one layer, found none",
        ),
        (
            lambda layer: LayerBank([], 2),
            r"shapes: expected at least one layer of positive shape \(m, n\), found \[\]",
        ),
        (
            lambda layer: LayerBank([(3, 0)], 2),
            r"shapes: expected at least one layer of positive shape \(m, n\), found \[\(3, 0\)\]",
        ),
        (lambda layer: LayerBank([(3, 3)], 0), "capacity: expected an integer >= 1, found 0"),
        (lambda layer: LayerBank([(3, 3)], 2.0), r"capacity: expected an integer >= 1, found 2\.0"),  # type: ignore[arg-type]
        (
            lambda layer: LayerBank([(3, 3)], 2, dtype=torch.complex64),
            "dtype: expected one of torch.float64, torch.float32, torch.bfloat16, torch.float16, found torch.complex64",
        ),
        (
            lambda layer: LayerBank([(3, 3)], 1).update_(None, None, [layer[1]], tau=0.1),
            r"LayerBank: expected factors, which load\(\) puts in, found none",
        ),
        (
            lambda layer: fast_updates([layer], [layer], tau=0.1, max_rank=[1, 2]),
            "max_rank: expected one number, or one for each of 1 layers, found 2",
        ),
        (
            lambda layer: LayerBank.of([layer]).update_(
                None,
                None,
                [layer[1]],
                tau=0.1,
                max_rank=[[1]],  # type: ignore[list-item]
            ),
            r"max_rank: expected an integer or None, found \[1\]",
        ),
        (
            lambda layer: LayerBank.of([layer], capacity=2),
            r"U\[0\]: expected a rank between 1 and min\(capacity, m, n\) = 2, found 3 columns",
        ),
        (
            lambda layer: LayerBank.of([layer, tuple(X.double() for X in layer)]),
            r"U\[1\]: expected dtype torch.float32, found torch.float64",
        ),
        (
            lambda layer: LayerBank.of([(layer[0], layer[1][:2], layer[2])]),
            r"S\[0\]: expected shape \(3, 3\), found \(2, 3\)",
        ),
        (
            lambda layer: LayerBank.of([(layer[0], layer[1], layer[2][:, :2])]),
            r"V\[0\]: expected shape \(7, 3\), found \(7, 2\)",
        ),
        (
            lambda layer: LayerBank.of([layer]).load([layer, layer]),
            "factors: expected 1 layers, found 2",
        ),
    ],
)
def test_a_bank_that_cannot_be_is_refused(
    make: Callable[[Any], Any], message: str, generator: torch.Generator
) -> None:
    with pytest.raises(ValueError, match=f"^{message}$"):
        make(random_layer(9, 7, 3, generator, torch.float32))

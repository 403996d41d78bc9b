"""Unusual steps: the ends of the range, one side without an update, interrupts between two writes,
ranks far apart.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import geolora_ref.fast.update.bank as bank_module
import geolora_ref.fast.update.step as step_module
from geolora_ref.fast import LayerBank, NonFiniteUpdateError, fast_updates
from geolora_ref.fast.update.bank import LayerFactors
from tests.fast.layers import random_layer, random_layers, random_update

pytestmark = pytest.mark.usefixtures("module_unchecked")


@pytest.fixture
def generator() -> torch.Generator:
    """A generator of the test's own."""
    torch.set_num_threads(1)
    return torch.Generator().manual_seed(11)


def with_core(size: float, layer: LayerFactors) -> LayerFactors:
    """The layer with S = size·I."""
    U, S, V = layer
    return U, size * torch.eye(len(S), dtype=S.dtype), V


def nothing(layer: LayerFactors) -> LayerFactors:
    """ΔK = 0, ΔL = 0, ΔS = 0."""
    U, S, V = (torch.zeros_like(X) for X in layer)
    return U, V, S


def everything(bank: LayerBank) -> list[Tensor]:
    """Copies of all buffers."""
    return [X.clone() for layer in range(len(bank.shapes)) for X in bank.storage(layer)]


def equal(before: list[Tensor], after: list[Tensor]) -> bool:
    """Bit by bit."""
    return all(torch.equal(X, Y) for X, Y in zip(before, after, strict=True))


# --- the ends of the range ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "limits", [{"tau": 0.0}, {"tau": 0.1}, {"theta": 1.0}, {"budget": lambda spectra: [2]}]
)
@pytest.mark.parametrize(("dtype", "sigma"), [(torch.float64, 1.6e308), (torch.float32, 3e38)])
def test_a_norm_beyond_the_range_is_refused(
    limits: dict[str, Any], dtype: torch.dtype, sigma: float, generator: torch.Generator
) -> None:
    """Every singular value is inside, but no tail, and no threshold that is relative to it."""
    bank = LayerBank.of([with_core(sigma, random_layer(9, 7, 2, generator, dtype))])
    before = everything(bank)
    with pytest.raises(NonFiniteUpdateError, match=r"layers \[0\]; nothing was changed"):
        bank.update_(*([X] for X in nothing(bank.factors(0))), **limits)
    assert equal(before, everything(bank))


@pytest.mark.parametrize("share", [1.005, 0.995])
def test_a_singular_value_just_beyond_the_storage_is_refused(
    share: float, generator: torch.Generator
) -> None:
    largest = torch.finfo(torch.float32).max
    bank = LayerBank.of([with_core(0.5 * largest, random_layer(8, 6, 1, generator, torch.float32))])
    given = (
        *([X] for X in nothing(bank.factors(0))[:2]),
        [torch.full((1, 1), (0.5 - share) * largest)],
    )
    if share > 1.0:
        with pytest.raises(NonFiniteUpdateError):
            bank.update_(*given, tau=0.1)
    else:
        assert bank.update_(*given, tau=0.1).singular_values[0, 0] == pytest.approx(
            share * largest, rel=1e-6
        )


def test_layers_of_one_shape_are_scaled_each_by_its_own_power_of_two(
    generator: torch.Generator,
) -> None:
    layers = [
        with_core(size, random_layer(8, 6, 2, generator))
        for size in (1.0, 2.0**40, 1e300, 1e-300, 1.7e308 / 1.5)
    ]
    _, report = fast_updates(layers, [nothing(layer) for layer in layers], tau=0.0, max_rank=2)
    np.testing.assert_allclose(
        report.singular_values[:, :2],
        [[size, size] for size in (1.0, 2.0**40, 1e300, 1e-300, 1.7e308 / 1.5)],
    )


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_an_S_that_is_no_number_names_its_layer(
    dtype: torch.dtype, generator: torch.Generator
) -> None:
    layers = random_layers([3, 3], generator, dtype)
    layers[1][1][0, 0] = torch.nan
    bank = LayerBank.of(layers)
    with pytest.raises(NonFiniteUpdateError, match=r"layers \[1\]"):
        bank.update_(*zip(*(nothing(layer) for layer in layers), strict=True), tau=0.1)


def test_a_product_of_S_beyond_the_range_names_its_layer(generator: torch.Generator) -> None:
    layers = random_layers([2, 2], generator)
    updates = [nothing(layer) for layer in layers]
    updates[0][2].fill_(1e300)
    with pytest.raises(NonFiniteUpdateError, match=r"layers \[0\]"):
        LayerBank.of(layers).update_(*zip(*updates, strict=True), learning_rate=1e9, tau=0.1)


# --- the guard ------------------------------------------------------------------------------------


@pytest.mark.parametrize("side", [0, 1])
def test_one_large_update_is_enough_to_go_the_exact_way(
    side: int, generator: torch.Generator
) -> None:
    """ΔK or ΔL alone, orthogonal to its basis and a million times S."""
    U, _, V = layer = random_layer(96, 64, 4, generator, torch.float32)
    X = (U, V)[side].double()
    normal = torch.linalg.qr(torch.cat([X, torch.randn(len(X), 1, generator=generator)], 1))[0][
        :, 4:
    ].float()
    deltas = [torch.zeros_like(U), torch.zeros_like(V)]
    deltas[side] = normal @ torch.tensor([[1.0, 0.0, 0.0, 0.0]])
    given = with_core(1e-6, layer)
    _, report = fast_updates(
        [given], [(deltas[0], deltas[1], torch.zeros(4, 4))], theta=0.0, min_rank=4, max_rank=4
    )
    assert report.exact == (0,)


@pytest.mark.parametrize("rate", [1e3, 1e-3])
@pytest.mark.parametrize(("size", "exact"), [(3e-4, ()), (3e-1, (0,))])
def test_the_guard_sees_the_product_of_rate_and_update(
    rate: float, size: float, exact: tuple[int, ...], generator: torch.Generator
) -> None:
    """λΔK of this size against σ = 1e-6 … whatever the share of λ in it is."""
    layer = with_core(1e-6, random_layer(96, 64, 4, generator, torch.float32))
    dK, dL, dS = nothing(layer)
    dK[:, 0] = torch.linalg.qr(torch.cat([layer[0], torch.randn(96, 1, generator=generator)], 1))[
        0
    ][:, 4] * (size / rate)
    report = fast_updates(
        [layer], [(dK, dL, dS)], learning_rate=rate, theta=0.0, min_rank=4, max_rank=4
    )[1]
    assert report.exact == exact


def test_ranks_are_chosen_again_as_often_as_layers_are_found_untrusted(
    generator: torch.Generator,
) -> None:
    """A budget that gives to one layer what the other loses there: both go through Householder's
    QR, one after the other.
    """
    layers = [
        (U, torch.diag(torch.tensor([1.0, 1.0, 1e-6])), V)
        for U, _, V in random_layers([3, 3], generator, torch.float32)
    ]
    bank, calls = LayerBank.of(layers), []

    def budget(spectra: Any) -> list[int]:
        calls.append([len(sigma) for sigma in spectra])
        return [3, 2] if len(calls) == 1 else [3, 3]

    report = bank.update_(*zip(*(nothing(layer) for layer in layers), strict=True), budget=budget)
    assert (report.exact, report.ranks) == ((0, 1), (3, 3))
    assert calls == 3 * [[6, 6]]
    assert float(bank.factors(1)[1][2, 2]) == pytest.approx(1e-6, rel=1e-5)


def test_what_lies_beyond_the_columns_of_the_bases_is_zero(generator: torch.Generator) -> None:
    """9 x 4 at rank 3 has four singular values, not six."""
    layer = random_layer(9, 4, 3, generator, torch.float32)
    _, report = fast_updates([layer], [random_update(layer, generator)], theta=0.0)
    assert not report.singular_values[0, 4:].any()
    assert report.ranks == (4,)
    assert report.discarded[0] == 0.0


def test_a_long_layer_of_rank_one_changes_nothing_for_the_others(
    generator: torch.Generator,
) -> None:
    """The roots of the lengths belong to the layers of a class, wherever these are in the bank."""
    long = random_layer(200_000, 2, 1, generator, torch.float32)
    other = random_layer(24, 16, 8, generator, torch.float32)
    updates = [random_update(layer, generator) for layer in (long, other)]
    together = fast_updates([long, other], updates, tau=0.0)[1]
    alone = fast_updates([other], updates[1:], tau=0.0)[1]
    np.testing.assert_array_equal(together.singular_values[1], alone.singular_values[0])


# --- what a failed step leaves --------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("error", [KeyboardInterrupt, torch.OutOfMemoryError])
@pytest.mark.parametrize("limits", [{"tau": 0.0}, {"tau": 0.3}])
def test_interrupted_before_the_cores_are_written_nothing_has_changed(
    limits: dict[str, Any],
    error: type[BaseException],
    dtype: torch.dtype,
    generator: torch.Generator,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Ranks that grow leave rows after the old ones, ranks that fall leave zeros in them."""
    bank = LayerBank.of(random_layers([3, 2, 4], generator, dtype), capacity=8)
    updates = list(
        zip(*(random_update(bank.factors(layer), generator) for layer in range(3)), strict=True)
    )
    before = everything(bank)

    def fails(*_: Any) -> None:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(torch, "diag_embed", fails)
        with pytest.raises(error):
            bank.update_(*updates, **limits)
    assert equal(before, everything(bank))


def test_interrupted_after_the_cores_nothing_has_changed(
    generator: torch.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last moment before the new ranks count: S has grown and is put back, zeros after the
    rank included.
    """
    bank = LayerBank.of(random_layers([3, 2, 4], generator, torch.float32), capacity=8)
    updates = list(
        zip(*(random_update(bank.factors(layer), generator) for layer in range(3)), strict=True)
    )
    before, write = everything(bank), step_module.write

    def interrupted(*given: Any) -> None:
        write(*given)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(bank_module, "write", interrupted)
        with pytest.raises(KeyboardInterrupt):
            bank.update_(*updates, tau=0.0)
    assert bank.ranks == (3, 2, 4)
    assert equal(before, everything(bank))


# --- what is given --------------------------------------------------------------------------------


def test_factors_and_updates_may_want_gradients(generator: torch.Generator) -> None:
    """None is recorded, in the buffers or on the way to them."""
    layers = [
        tuple(X.requires_grad_() for X in layer)
        for layer in random_layers([3, 2], generator, torch.float32)
    ]
    bank = LayerBank.of(layers)  # type: ignore[arg-type]
    updates = [
        [X.detach().requires_grad_() for X in random_update(bank.factors(layer), generator)]
        for layer in range(2)
    ]
    bank.update_(*zip(*updates, strict=True), tau=0.1)
    assert not any(X.requires_grad for layer in range(2) for X in bank.storage(layer))


def test_a_smaller_S_that_is_loaded_has_nothing_beyond_it(generator: torch.Generator) -> None:
    bank = LayerBank.of(random_layers([3, 3], generator, torch.float32))
    bank.load(random_layers([1, 2], generator, torch.float32))
    for layer, r in enumerate((1, 2)):
        Ut, S, Vt = bank.storage(layer)
        assert not any(bool(X.any()) for X in (Ut[r:], S[r:], S[:, r:], Vt[r:]))


def test_factors_of_mixed_precision_are_refused(generator: torch.Generator) -> None:
    """Only directions may be wider than the storage."""
    U, S, V = random_layer(9, 7, 3, generator, torch.float32)
    with pytest.raises(
        ValueError, match=r"^S\[0\]: expected dtype torch.bfloat16, found torch.float32$"
    ):
        LayerBank.of([(U.bfloat16(), S, V.bfloat16())])


def test_a_budget_may_not_exceed_the_limit_of_a_layer(generator: torch.Generator) -> None:
    bank = LayerBank.of([random_layer(12, 10, 3, generator, torch.float32)], capacity=6)
    with pytest.raises(
        ValueError, match=r"^budget: expected one rank a layer between 1 and \[4\], found \[5\]$"
    ):
        bank.update_(
            *([X] for X in nothing(bank.factors(0))), budget=lambda spectra: [5], max_rank=[4]
        )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"max_rank": [[2], [3]]}, r"max_rank: expected an integer or None, found \[2\]"),
        (
            {"budget": lambda spectra: np.array(3), "tau": None},
            r"budget: expected one rank a layer between 1 and \[6, 4\], found 3",
        ),
        (
            {"delta_K": None, "delta_L": None, "delta_S": None},
            "delta_S: expected one tensor a layer, since there is no delta_K to take it from, found None",
        ),
        ({"delta_S": [None, None]}, r"delta_S\[0\]: expected a tensor, found None"),
    ],
)
def test_what_is_no_number_or_tensor_is_named(
    change: dict[str, Any], message: str, generator: torch.Generator
) -> None:
    bank = LayerBank.of(random_layers([3, 2], generator, torch.float32), capacity=6)
    names = ("delta_K", "delta_L", "delta_S")
    given = dict(
        zip(
            names,
            zip(*(nothing(bank.factors(layer)) for layer in range(2)), strict=True),
            strict=True,
        )
    )
    with pytest.raises(ValueError, match=f"^{message}$"):
        bank.update_(**{**given, "tau": 0.1, **change})


@pytest.mark.parametrize("limit", [0, [1, 0]])
def test_the_functional_form_takes_no_limit_of_zero_for_none(
    limit: Any, generator: torch.Generator
) -> None:
    layers = random_layers([3, 2], generator, torch.float32)
    with pytest.raises(ValueError, match=r"^max_rank: expected at least min_rank = 1, found 0$"):
        fast_updates(layers, [nothing(layer) for layer in layers], tau=0.1, max_rank=limit)


@pytest.mark.parametrize(
    "shapes", [[[6, 7], [6, 7]], np.array([[6, 7], [6, 7]]), [torch.Size([6, 7])] * 2]
)
def test_shapes_may_be_any_pairs_of_integers(shapes: Any, generator: torch.Generator) -> None:
    bank = LayerBank(shapes, 4)
    assert bank.shapes == ((6, 7), (6, 7))
    bank.load([random_layer(6, 7, 2, generator, torch.float32)] * 2)
    bank.update_(*zip(*(nothing(bank.factors(layer)) for layer in range(2)), strict=True), tau=0.1)
    for wrong in ([(6, 7, 1)], [(6.0, 7)], [(True, 7)]):
        with pytest.raises(
            ValueError,
            match=r"^shapes: expected at least one layer of positive shape \(m, n\), found \[",
        ):
            LayerBank(wrong, 4)  # type: ignore[arg-type]

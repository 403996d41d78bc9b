"""The leading half of a spectrum: its bounds, when it is enough, and that it gives the step of the
whole spectrum.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import geolora_ref.fast.update.leading as leading_module
import geolora_ref.fast.update.step as step_module
from geolora_ref.algorithm import RankRule
from geolora_ref.fast import LayerBank, NonFiniteUpdateError
from geolora_ref.fast.update.bank import LayerFactors
from geolora_ref.fast.update.core import Limits, Small, decide_ranks
from geolora_ref.fast.update.leading import defects, smallness
from tests.fast.small_steps import (
    ALLOWED,
    CASES,
    EPS,
    M,
    N,
    dense,
    layer_of,
    many,
    padded,
    small,
    stepped,
    untruncated,
    update_of,
    whole,
    wrong,
)

pytestmark = pytest.mark.usefixtures("module_unchecked")


@pytest.fixture
def generator() -> torch.Generator:
    """A generator of the test's own."""
    torch.set_num_threads(1)
    return torch.Generator().manual_seed(11)


# --- the bounds -----------------------------------------------------------------------------------


def tangent(X: Tensor, Y: Tensor) -> float:
    """The tangent of the largest angle between two ranges."""
    X, Y = torch.linalg.qr(X)[0], torch.linalg.qr(Y)[0]
    sine = float(torch.linalg.matrix_norm(Y - X @ (X.mT @ Y), 2))
    return sine / math.sqrt(1.0 - sine**2)


@pytest.mark.parametrize("b", [0.02, 0.2, 0.5])
@pytest.mark.parametrize(("r", "condition"), [(1, 1.0), (4, 3.0), (6, 30.0)])
def test_the_theorem_holds_and_is_sharp(
    r: int, condition: float, b: float, generator: torch.Generator
) -> None:
    """σ_r(Ŵ) ≥ σ', σ_{r+1}(Ŵ) ≤ ab·σ', sin∠(V, V_r) ≤ b, a product takes the tangent by ab, and the
    error: near if r = 1.
    """
    near: list[list[float]] = []
    for _ in range(20):
        layer = layer_of(r, condition, generator)
        (U, S, V), update = layer, update_of(layer, b, generator)
        W = untruncated(layer, update)
        smallest = float(torch.linalg.svdvals(S - update[2])[-1])
        residuals = [X - Q @ (Q.mT @ X) for Q, X in zip((U, V), update[:2], strict=True)]
        a, its_b = (float(torch.linalg.matrix_norm(R, 2)) / smallest for R in residuals)
        P, sigma, Qt = torch.linalg.svd(W)
        start = tangent(V, Qt[:r].mT)
        ratios = [
            smallest / float(sigma[r - 1]),
            float(sigma[r]) / (a * its_b * smallest),
            start / (1 + start**2) ** 0.5 / its_b,
        ]
        U_h, bound = W @ V, a * its_b * its_b / (1.0 - its_b**2) ** 0.5
        while bound > 1e-11:
            Q = torch.linalg.qr(U_h)[0]
            error = torch.linalg.matrix_norm(Q @ (Q.mT @ W) - (P[:, :r] * sigma[:r]) @ Qt[:r], 2)
            ratios += [
                tangent(Q, P[:, :r]) / bound,
                float(error) / (math.sqrt(2.0) * smallest * bound),
            ]
            U_h, bound = (
                W @ (W.mT @ Q),
                bound * (a * its_b) ** 2,
            )  # the other side: the same theorem for Ŵᵀ
        near.append(ratios)
    for i, values in enumerate(zip(*near, strict=False)):
        assert max(values) <= 1.0 + 1e-4
        assert max(values) > (
            0.5 if r == 1 and b < 0.5 and i < 5 else 0.0
        )  # later, σ_r(Ŵ) > σ' counts h times


@pytest.mark.parametrize("condition", [1.0, 10.0, 300.0])
@pytest.mark.parametrize("b", [0.001, 0.03, 0.1, 0.2])
def test_bounds_without_eigenvalues_are_bounds(
    b: float, condition: float, generator: torch.Generator
) -> None:
    """Bounds of the norm after σ_r, of ‖Ŵ‖ from below, and of the error; values beyond the rank of a
    layer do not count.
    """
    for r in (1, 4, 7):
        layer = layer_of(r, condition, generator)
        update = update_of(layer, b, generator)
        P, sigma, Qt = torch.linalg.svd(untruncated(layer, update))
        (U, S, V), (dK, dL, dS) = (tuple(padded(X, 8) for X in of) for of in (layer, update))
        found, ranks = smallness(small((U, S, V), (dK, dL, dS)), np.array([r])), np.array([r])
        assert float(sigma[r:].norm()) <= found.rest(ranks)[0]
        assert found.size[0] <= float(sigma.norm())
        assert found.largest[0] <= float(sigma[0])
        assert found.smallest[0] <= float(torch.linalg.svdvals(layer[1] - update[2])[-1]) * (
            1.0 + 1e-12
        )
        h = found.products(EPS)[0]
        assert found.is_small[0]
        assert np.isfinite(h)
        W = untruncated(layer, update)
        Q = layer[2] if h % 2 else layer[0]
        for remaining in range(int(h), 0, -1):
            Q = torch.linalg.qr((W if remaining % 2 else W.mT) @ Q)[0]
        best = (P[:, :r] * sigma[:r]) @ Qt[:r]
        assert float(torch.linalg.matrix_norm(Q @ (Q.mT @ W) - best, 2)) <= 0.5 * EPS * float(
            sigma[0]
        )


def known(a: float, b: float, generator: torch.Generator) -> tuple[LayerFactors, LayerFactors]:
    """A layer and an update of rank one of which all norms are known, σ' = 1."""
    U, V = (
        torch.linalg.qr(torch.randn(k, 5, generator=generator, dtype=torch.float64))[0]
        for k in (M, N)
    )
    S = torch.diag(torch.tensor([5.0, 3.0, 2.0, 1.0], dtype=torch.float64))
    dK, dL = (X[:, 4:] @ torch.tensor([[0.0, 0.6, 0.0, 0.8]], dtype=torch.float64) for X in (U, V))
    return (U[:, :4], S, V[:, :4]), (a * dK, b * dL, 0.0 * S)


def test_products_are_the_first_for_which_the_bound_is_small(generator: torch.Generator) -> None:
    """Where a and b are known, from either side on: an even number of products begins with U, and a
    is the sine of its angle.
    """
    seen = set()
    for b in np.geomspace(1e-4, 0.9, 500):
        for share in (1.0, 0.1, 10.0):
            a = min(share * b, 0.95)
            found = smallness(small(*known(a, b, generator)), np.array([4]))
            starts = [b / (1.0 - b * b) ** 0.5, a / (1.0 - a * a) ** 0.5]
            bounds = [2.0**0.5 * (a * b) ** h * starts[(h + 1) % 2] / 5.0 for h in range(1, 8)]
            expected = next(
                (h for h, bound in enumerate(bounds, start=1) if bound <= 0.5 * EPS), np.inf
            )
            assert found.products(EPS)[0] == expected
            assert found.is_small[0] == (max(a, b) <= 0.5)
            assert found.rest(np.array([4]))[0] == pytest.approx(2.0 * a * b, rel=1e-6)
            seen.add(expected)
    assert seen == {1, 2, 3, 4, 5, 6, 7, np.inf}


def test_wide_layers_have_a_second_bound(generator: torch.Generator) -> None:
    """For ΔK with equal singular values ‖ΔᵀΔ‖ is √r times ‖ΔᵀΔ‖_∞, which is exact; for rank one the
    first is exact.
    """
    U, V = (
        torch.linalg.qr(torch.randn(k, 16, generator=generator, dtype=torch.float64))[0]
        for k in (M, N)
    )
    for r, wide in ((16, True), (9, False)):
        layer = U[:, :r], torch.eye(r, dtype=torch.float64), V[:, :r]
        flat = smallness(
            small(layer, (0.1 * U[:, :r], 0.1 * V[:, :r], 0.0 * layer[1])), np.array([r])
        )
        expected = 0.1 if wide else 0.1 * r**0.25
        assert (flat.a[0], flat.b[0]) == pytest.approx((expected, expected))
        one = torch.full((1, r), r**-0.5, dtype=torch.float64) * torch.arange(1, r + 1).double()
        alone = smallness(
            small(layer, (0.01 * U[:, :1] @ one, 0.01 * V[:, :1] @ one, 0.0 * layer[1])),
            np.array([r]),
        )
        assert alone.a[0] == pytest.approx(0.01 * float(one.norm()))


@pytest.mark.parametrize("r", [4, 17])
def test_each_layer_is_judged_by_its_own_numbers(r: int, generator: torch.Generator) -> None:
    """Some need more products than are allowed, next to others that need two."""
    layers = [layer_of(r, condition, generator) for condition in np.geomspace(1.0, 1e6, 40)]
    layers = [
        (U, size * S, V)
        for size, (U, S, V) in zip(np.geomspace(1e-3, 1e3, 40), layers, strict=True)
    ]
    smalls = [
        small(layer, update_of(layer, (0.03, 0.1, 0.49)[i % 3], generator))
        for i, layer in enumerate(layers)
    ]
    cores, A, scale = (torch.cat(X) for X in zip(*(one[1:4] for one in smalls), strict=True))
    together = Small(torch.cat([one.Gamma for one in smalls], dim=1), cores, A, scale, 1.0)
    found, ranks = smallness(together, np.full(40, r)), np.array([r])
    for layer, one in enumerate(smalls):
        alone = smallness(one, ranks)
        np.testing.assert_allclose([X[layer] for X in found], [X[0] for X in alone], rtol=1e-6)
        assert found.products(EPS)[layer] == alone.products(EPS)[0]
        assert found.is_small[layer] == alone.is_small[0]
    assert {2.0, 3.0, np.inf} <= set(found.products(EPS))


@pytest.mark.parametrize(
    ("a", "b"), [(0.01, 0.55), (0.55, 0.01), (1e-6, 1.5), (2.0, 1e-6), (0.01, 2.5)]
)
def test_updates_of_more_than_half_of_the_smallest_are_not_small(
    a: float, b: float, generator: torch.Generator
) -> None:
    """One large update on either side is enough, however small the other one is: F has to be invertible."""
    assert not smallness(small(*known(a, b, generator)), np.array([4])).is_small[0]


@pytest.mark.parametrize("case", ["large update", "S = 0", "no number", "far from diagonal"])
def test_what_is_not_small_is_never_said_to_be(case: str, generator: torch.Generator) -> None:
    layer = layer_of(4, 2.0, generator)
    dK, dL, dS = update_of(layer, {"large update": 3.0}.get(case, 0.01), generator)
    U, S, V = layer
    S = {"S = 0": 0.0 * S, "far from diagonal": torch.ones_like(S)}.get(case, S)
    dS = dS * float("nan") if case == "no number" else dS
    assert not smallness(small((U, S, V), (dK, dL, dS)), np.array([4])).is_small[0]


def test_defects_are_those_of_the_bases(generator: torch.Generator) -> None:
    """The bound is that of the worse side, and takes nothing beyond a layer's rank."""
    layer = layer_of(5, 2.0, generator)
    dK, dL, dS = update_of(layer, 0.1, generator)
    for side in (0, 2):
        factors = list(layer)
        factors[side] = factors[side] @ (
            torch.eye(5, dtype=torch.float64) + 1e-5 * torch.ones(5, 5, dtype=torch.float64)
        )
        expected = float(
            torch.linalg.matrix_norm(
                factors[side].mT @ factors[side] - torch.eye(5, dtype=torch.float64)
            )
        )
        given = [tuple(padded(X, 7) for X in of) for of in (factors, (dK, dL, dS))]
        assert defects(small(*given), np.array([5]))[0] == pytest.approx(expected, rel=1e-3)  # type: ignore[arg-type]
    assert defects(small(layer, (dK, dL, dS)), np.array([5]))[0] < 1e-7


# --- the step -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("condition", "b"), CASES)
@pytest.mark.usefixtures("narrow_as_well")
def test_the_leading_half_is_right(condition: float, b: float, generator: torch.Generator) -> None:
    """To the rounding of the storage, whatever the condition of S and the number of rounds."""
    for r in (1, 4, 9):
        layers, updates = many(r, condition, b, generator)
        bank, report = stepped(layers, updates, tau=0.0, min_rank=r, max_rank=r)
        error, defect_of_bases = wrong(bank, layers, updates)
        assert error < ALLOWED
        assert defect_of_bases < ALLOWED
        for layer, (before, update) in enumerate(zip(layers, updates, strict=True)):
            sigma = torch.linalg.svdvals(untruncated(before, update)).numpy()
            np.testing.assert_allclose(
                report.singular_values[layer, :r], sigma[:r], atol=4 * EPS * sigma[0]
            )
            assert report.discarded[layer] == pytest.approx(
                np.linalg.norm(sigma[r:]), abs=4 * EPS * sigma[0]
            )
        if b < 0.2 and condition < 500.0:
            assert not any(whole(report, layer) for layer in range(12))


@pytest.mark.parametrize("rate", [0.125, 4.0])
@pytest.mark.usefixtures("narrow_as_well")
def test_the_learning_rate_multiplies_the_updates(rate: float, generator: torch.Generator) -> None:
    """λ meets other numbers in the small matrices alone."""
    layers, updates = many(4, 3.0, 0.1, generator)
    _, report = stepped(layers, updates, tau=0.0, max_rank=4)
    scaled = [tuple(X / rate for X in of) for of in updates]
    other, its = stepped(layers, scaled, tau=0.0, max_rank=4, learning_rate=rate)  # type: ignore[arg-type]
    assert not any(whole(one, layer) for one in (report, its) for layer in range(12))
    assert max(wrong(other, layers, updates)) < ALLOWED
    np.testing.assert_allclose(
        its.singular_values[:, :4], report.singular_values[:, :4], rtol=1e-12
    )
    np.testing.assert_allclose(its.discarded, report.discarded, rtol=1e-6)


@pytest.mark.usefixtures("narrow_as_well")
def test_fewer_products_than_the_bound_asks_for_are_not_enough(
    generator: torch.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The negative control: with one W₁ is wrong by more than storage explains."""
    layers, updates = many(4, 2.0, 0.15, generator)
    honest: Callable[..., Any] = leading_module.leading_core
    monkeypatch.setattr(
        step_module, "leading_core", lambda small, ranks, products: honest(small, ranks, 1)
    )
    bank, _ = stepped(layers, updates, tau=0.0, min_rank=4, max_rank=4)
    assert wrong(bank, layers, updates)[0] > 100.0


def one_large(
    r: int, condition: float, b: float, random: bool, generator: torch.Generator
) -> tuple[LayerFactors, LayerFactors]:
    """One singular value of ``condition``, all others 1; the updates of rank one, across the large
    one, or random.
    """
    U, V = (
        torch.linalg.qr(torch.randn(k, r + 1, generator=generator, dtype=torch.float64))[0]
        for k in (M, N)
    )
    S = torch.diag(torch.tensor([condition] + [1.0] * (r - 1), dtype=torch.float64))
    dK, dL = (X[:, r:] @ torch.full((1, r), b / r**0.5, dtype=torch.float64) for X in (U, V))
    if random:
        dK, dL = (torch.randn(X.shape, generator=generator, dtype=torch.float64) for X in (dK, dL))
        dK, dL = (b * X / torch.linalg.matrix_norm(X, 2) for X in (dK, dL))
    return (U[:, :r], S, V[:, :r]), (dK, dL, 0.0 * S)


@pytest.mark.parametrize("condition", [20.0, 77.0, 400.0, 1500.0])
@pytest.mark.parametrize("random", [False, True])
@pytest.mark.usefixtures("narrow_as_well")
def test_nothing_grows_from_product_to_product(
    condition: float, random: bool, generator: torch.Generator
) -> None:
    """One large σ and many rounds: powers of ŴŴᵀ have λ²R_KᵀR_K times powers of the condition in
    them.  A layer that needs none of the rounds is in the same class.
    """
    for r in (2, 9, 16):
        pairs = [one_large(r, condition, b, random, generator) for b in (0.01, 0.25, 0.3, 0.38)]
        layers, updates = [list(X) for X in zip(*pairs, strict=True)]
        bank, report = stepped(layers, updates, tau=0.0, min_rank=r, max_rank=r)
        assert not report.exact
        assert not any(whole(report, layer) for layer in (0, 1))
        error, defect_of_bases = wrong(bank, layers, updates)
        assert error < ALLOWED
        assert defect_of_bases < ALLOWED


@pytest.mark.usefixtures("narrow_as_well")
def test_bases_that_were_loaded_may_be_less_orthonormal(generator: torch.Generator) -> None:
    """With the defect that ``load`` allows: all of the spectrum in float64, and from the next step
    on the leading half.
    """
    for condition, b in ((1.0, 3e-3), (30.0, 0.1), (1000.0, 0.2)):
        layers, updates = many(4, condition, b, generator)
        C = torch.randn(4, 4, generator=generator, dtype=torch.float64)
        C = torch.eye(4, dtype=torch.float64) + 1.4e-4 * C / torch.linalg.matrix_norm(C)
        layers = [(U @ C, S, V @ C) for U, S, V in layers]
        bank, report = stepped(layers, updates, tau=0.0, min_rank=4, max_rank=4)
        assert all(whole(report, layer) for layer in range(12))
        assert max(wrong(bank, layers, updates)) < 2.0
        report = bank.update_(
            *([0.0 * X.float() for X in of] for of in zip(*updates, strict=True)),
            tau=0.0,
            max_rank=4,
        )
        assert not any(whole(report, layer) for layer in range(12))


def test_products_are_for_wide_layers(generator: torch.Generator) -> None:
    for r in (8, 15, 16, 17):
        layer = layer_of(r, 3.0, generator)
        _, report = stepped([layer], [update_of(layer, 0.02, generator)], tau=0.0, max_rank=r)
        assert whole(report) == (r < 16)


@pytest.mark.parametrize("b", [0.02, 2.0])
def test_narrow_and_wide_layers_stand_side_by_side(b: float, generator: torch.Generator) -> None:
    """Arrays of NumPy next to tensors, the wide ones by products or whole: each layer is what it is
    alone.
    """
    ranks = (20, 3, 17, 12, 3, 20)
    layers = [layer_of(r, 3.0, generator) for r in ranks]
    updates = [update_of(layer, b, generator) for layer in layers]
    bank, report = stepped(layers, updates, tau=0.0, max_rank=list(ranks))
    assert [whole(report, layer) for layer in range(6)] == [b > 1.0 or r < 16 for r in ranks]
    assert max(wrong(bank, layers, updates)) < ALLOWED
    for layer, r in enumerate(ranks):
        _, alone = stepped([layers[layer]], [updates[layer]], tau=0.0, max_rank=r)
        np.testing.assert_allclose(
            report.singular_values[layer, :r], alone.singular_values[0, :r], rtol=1e-6
        )


@pytest.mark.usefixtures("narrow_as_well")
def test_layers_of_a_class_go_their_own_ways(generator: torch.Generator) -> None:
    """Ranks 5 and 6 are one class; a large update, and one that has to grow, have whole spectra,
    and no layer changes another.
    """
    ranks, sizes = (6, 5, 6, 5, 6), (0.02, 0.02, 2.0, 0.05, 0.02)
    layers = [layer_of(r, 4.0, generator) for r in ranks]
    updates = [update_of(layer, b, generator) for layer, b in zip(layers, sizes, strict=True)]
    limits: dict[str, Any] = {"theta": 1e-3, "capacity": 12}
    most = [6, 5, 12, 5, 12]
    bank, report = stepped(layers, updates, max_rank=most, **limits)
    assert [whole(report, layer) for layer in range(5)] == [False, False, True, False, False]
    assert (report.ranks[0], report.ranks[4]) == (6, 6)
    for layer, rule in enumerate(report.rank_rules):
        alone, its = stepped([layers[layer]], [updates[layer]], max_rank=most[layer], **limits)
        assert its.ranks[0] == report.ranks[layer]
        assert its.rank_rules[0] == rule
        assert (
            float((dense(alone.factors(0)) - dense(bank.factors(layer))).norm())
            < 2.0 * ALLOWED * EPS
        )
        count = 2 * ranks[layer]
        np.testing.assert_allclose(
            its.singular_values[0, :count], report.singular_values[layer, :count], atol=1e-7
        )
    assert report.ranks[2] > 6
    for X in (bank.storage(1)[0][5:], bank.storage(1)[2][5:], bank.storage(1)[1][5:]):
        assert not X.any()


@pytest.mark.usefixtures("narrow_as_well")
@pytest.mark.parametrize(
    ("limits", "rule", "rank", "full"),
    [
        (
            {"theta": 1e-4, "max_rank": 4},
            RankRule.MAX_RANK,
            4,
            False,
        ),  # the rest is above ϑ, but there is no room
        ({"theta": 1e-4, "max_rank": 6}, None, None, True),  # and here there is
        (
            {"tau": 0.3, "max_rank": 8},
            RankRule.THRESHOLD,
            None,
            False,
        ),  # the rest is below ϑ for certain
        ({"tau": 0.9, "min_rank": 3}, RankRule.MIN_RANK, 3, False),
        ({"tau": 0.9, "min_rank": 5}, RankRule.MIN_RANK, 5, True),
        ({"tau": 0.0, "max_rank": 2}, RankRule.MAX_RANK, 2, False),
        ({"budget": lambda spectra: [3] * len(spectra)}, RankRule.BUDGET, 3, True),
    ],
)
def test_ranks_are_those_of_the_whole_spectrum(
    limits: dict[str, Any],
    rule: RankRule | None,
    rank: int | None,
    full: bool,
    generator: torch.Generator,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    layer = layer_of(4, 5.0, generator)
    update = update_of(layer, 0.1, generator)
    bank, report = stepped([layer], [update], **limits)
    monkeypatch.setattr(step_module, "LEAST_WIDTH", 10**6)
    other, expected = stepped([layer], [update], **limits)
    assert whole(report) == full
    assert whole(expected)
    assert (report.ranks, report.rank_rules) == (expected.ranks, expected.rank_rules)
    assert rule in (None, report.rank_rules[0])
    assert rank in (None, report.ranks[0])
    assert report.theta[0] == pytest.approx(expected.theta[0], rel=ALLOWED * EPS)
    assert report.discarded[0] == pytest.approx(expected.discarded[0], abs=1e-6)
    assert float((dense(bank.factors(0)) - dense(other.factors(0))).norm()) < 4 * EPS


@pytest.mark.usefixtures("narrow_as_well")
def test_a_rest_above_the_threshold_after_all_goes_the_exact_way(
    generator: torch.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bound of the rest may be too small: the norm that is found is checked, and the rank grows."""
    monkeypatch.setattr(leading_module.Smallness, "rest", lambda self, ranks: np.zeros(1))
    layer = layer_of(4, 5.0, generator)
    bank, report = stepped([layer], [update_of(layer, 0.1, generator)], theta=1e-4)
    assert report.exact == (0,)
    assert whole(report)
    assert bank.ranks[0] > 4


@pytest.mark.usefixtures("narrow_as_well")
def test_what_is_beyond_the_rank_is_zero(generator: torch.Generator) -> None:
    """A layer may be cut further than another one of its class."""
    layers = [layer_of(6, condition, generator) for condition in (1.5, 40.0)]
    bank, report = stepped(
        layers, [update_of(layer, 0.02, generator) for layer in layers], theta=0.2
    )
    assert report.ranks[0] == 6 > report.ranks[1]
    assert not any(whole(report, layer) for layer in (0, 1))
    Ut, S, Vt = bank.storage(1)
    r = report.ranks[1]
    assert not any(X[r:].any() for X in (Ut, S, Vt))
    assert not S[:, r:].any()


@pytest.mark.usefixtures("narrow_as_well")
def test_bases_that_are_not_trusted_go_the_exact_way(generator: torch.Generator) -> None:
    """A core of condition 1e4 and a tiny update: the leading half is enough, V₁ of it is not
    orthonormal.
    """
    layers, updates = many(3, 1e4, 1e-3, generator)
    bank, report = stepped(layers, updates, tau=0.0, min_rank=3, max_rank=3)
    assert report.exact == tuple(range(12))
    assert all(whole(report, layer) for layer in range(12))
    assert wrong(bank, layers, updates)[1] < ALLOWED


@pytest.mark.usefixtures("narrow_as_well")
def test_cores_alone(generator: torch.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    layers, updates = many(5, 5.0, 0.05, generator)
    found = []
    for least in (1, 10**6):
        monkeypatch.setattr(step_module, "LEAST_WIDTH", least)
        bank, report = stepped(layers, updates, theta=0.45)
        found.append([dense(bank.factors(layer)) for layer in range(12)])
        assert whole(report) == (least > 1)
        report = bank.update_(None, None, [0.01 * torch.eye(r) for r in bank.ranks], theta=0.3)
        assert whole(report)  # no more values than the layers have columns
        found[-1] += [dense(bank.factors(layer)) for layer in range(12)]
    for X, Y in zip(*found, strict=True):
        assert float((X - Y).norm()) < 8 * EPS


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.usefixtures("narrow_as_well")
def test_storage_in_16_bits_needs_fewer_products(
    dtype: torch.dtype, generator: torch.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    honest: Callable[..., Any] = leading_module.leading_core

    def looking(small: Small, ranks: Any, products: int) -> Any:
        seen.append(products)
        return honest(small, ranks, products)

    monkeypatch.setattr(step_module, "leading_core", looking)
    layers, updates = many(4, 3.0, 0.1, generator)
    for its_dtype in (torch.float32, dtype):
        bank, _ = stepped(layers, updates, its_dtype, tau=0.0, max_rank=4)
        assert max(wrong(bank, layers, updates)) < ALLOWED
    assert seen[0] > seen[1]


def test_an_update_that_is_not_finite_changes_nothing(generator: torch.Generator) -> None:
    layers = [layer_of(16, 3.0, generator) for _ in range(3)]
    updates = [update_of(layer, 0.02, generator) for layer in layers]
    updates[1][0][3, 5] = float("inf")
    bank = LayerBank.of([tuple(X.float() for X in layer) for layer in layers])  # type: ignore[misc]
    before = [dense(bank.factors(layer)) for layer in range(3)]
    with pytest.raises(NonFiniteUpdateError, match=r"layers \[1\]"):
        bank.update_(*([X.float() for X in of] for of in zip(*updates, strict=True)), tau=0.1)
    assert all(torch.equal(dense(bank.factors(layer)), W) for layer, W in enumerate(before))


def test_the_norm_of_the_rest_is_no_singular_value_that_an_edge_keeps() -> None:
    """After the leading values 3 and 0.8 the norm of the rest, 1.5, exceeds the threshold 1."""
    limits = Limits(None, np.array([1.0]), 1, np.array([2]), spectral=True)
    assert decide_ranks(np.array([[3.0, 0.8, 1.5]]), np.array([3]), limits).rank.tolist() == [1]

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
from geolora_ref.fast.update.bank import LayerFactors
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

"""The guard of the Gram route: what it counts, where it is needed, and which layers it sends
through Householder's QR.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import geolora_ref.fast.update.gram as gram_module
from geolora_ref.fast import LayerBank, fast_updates
from geolora_ref.fast.update.core import small_of
from geolora_ref.fast.update.householder import householder_core
from tests.fast.layers import defect, random_layer, random_layers, random_update
from tests.fast.steps import _all_trusted, updated

pytestmark = pytest.mark.usefixtures("module_unchecked")


@pytest.fixture
def generator() -> torch.Generator:
    """A generator of the test's own."""
    torch.set_num_threads(1)
    return torch.Generator().manual_seed(7)


@pytest.mark.parametrize(
    "limits",
    [
        {"tau": 0.0},
        {"tau": 0.0, "max_rank": 8},
        {"theta": 0.0, "min_rank": 8, "max_rank": 8},
        {"tau": 0.1},
    ],
)
@pytest.mark.parametrize(
    "update", ["rank one", "zero columns", "tiny columns", "zero", "in the range"]
)
@pytest.mark.parametrize("core", ["zero", "dense", "one tiny"])
def test_bases_stay_orthonormal_whatever_the_update(
    core: str, update: str, limits: dict[str, Any], generator: torch.Generator
) -> None:
    """The trap: S = 0 and gradients of rank one, where a single QR of the residual leaves 0.27,
    Cholesky NaN, dropping 1.0.
    """
    m, n, r = 96, 64, 8
    U, S, V = random_layer(m, n, r, generator, torch.float32)
    S = {
        "zero": torch.zeros_like(S),
        "dense": S,
        "one tiny": torch.diag(torch.tensor([1.0] * 7 + [1e-30])),
    }[core]
    G = torch.randn(m, n, generator=generator)
    if update == "rank one":
        G = G[:, :1] @ G[:1]
    if update == "in the range":
        G = U @ (U.mT @ G)
    dK, dL, dS = G @ V, G.mT @ U, U.mT @ G @ V
    if update in ("zero columns", "tiny columns"):
        for X in (dK, dL):
            X[:, 1:] *= 0.0 if update == "zero columns" else 1e-25
    if update == "zero":
        dK, dL, dS = (torch.zeros_like(X) for X in (dK, dL, dS))
    (U1, S1, V1), _ = updated((U, S, V), (dK, dL, dS), **limits)
    assert max(defect(U1), defect(V1)) < 1e-6
    assert bool(torch.isfinite(S1).all())


def test_without_the_guard_the_trap_springs(
    monkeypatch: pytest.MonkeyPatch, generator: torch.Generator
) -> None:
    """The negative control: trusting the Gram matrices everywhere spoils the bases."""
    _all_trusted(monkeypatch)
    U, _, V = random_layer(96, 64, 8, generator, torch.float32)
    G = torch.randn(96, 1, generator=generator) @ torch.randn(1, 64, generator=generator)
    (U1, _, _), report = updated(
        (U, torch.zeros(8, 8), V), (G @ V, G.mT @ U, U.mT @ G @ V), theta=0.0, min_rank=8
    )
    assert not report.exact
    assert defect(U1) > 1e-2


def test_an_update_that_is_large_against_what_is_kept_goes_the_exact_way(
    generator: torch.Generator,
) -> None:
    """ΔK and ΔL count in s² although they are orthogonal to the bases, so that S_new + C_K + C_Lᵀ
    does not contain them.
    """
    U, _, V = random_layer(96, 64, 4, generator, torch.float32)
    S = 1e-6 * torch.eye(4)
    large = [
        torch.linalg.qr(torch.cat([X.double(), torch.randn(len(X), 1, generator=generator)], 1))[0][
            :, 4:
        ]
        for X in (U, V)
    ]
    dK, dL = (X.float() @ torch.tensor([[1.0, 0.0, 0.0, 0.0]]) for X in large)
    (U1, _, V1), report = updated(
        (U, S, V), (dK, dL, torch.zeros(4, 4)), theta=0.0, min_rank=4, max_rank=4
    )
    assert report.exact == (0,)
    assert max(defect(U1), defect(V1)) < 1e-6


def test_no_drift_in_a_thousand_single_precision_steps(generator: torch.Generator) -> None:
    """The defect of the bases stays at the rounding of one step: 4·eps₃₂, where drift leaves 2e-5."""
    factors = random_layers([4, 4], generator, torch.float32)
    bank = LayerBank.of(factors, capacity=4)
    worst = 0.0
    for _ in range(1000):
        updates = [random_update(layer, generator, 0.02) for layer in factors]
        report = bank.update_(*zip(*updates, strict=True), tau=0.0, max_rank=4, min_rank=4)
        assert not report.exact
        worst = max(worst, *(defect(X) for layer in (0, 1) for X in bank.factors(layer)[::2]))
    assert worst < 4 * torch.finfo(torch.float32).eps


def test_the_guard_is_at_the_bound_that_is_derived() -> None:
    """(2w + 32 + 3√max(m, n))·eps₆₄·s² ≤ eps₃₂·σ², to the last bit, and never where there is nothing."""
    eps, limit = 2.0**-23, 40 * 2.0**-29  # s² = 1, w = 1, max(m, n) = 4
    squares = np.array([[1.0, limit], [1.0, np.nextafter(limit, 0.0)], [1.0, 0.0], [0.0, 0.0]])
    found = gram_module.trusted(
        squares, np.array([1.0, 1.0, 1.0, 0.0]), np.array([2, 2, 1, 1]), np.full(4, 2.0), eps
    )
    assert found.tolist() == [True, False, True, False]


def _gram_core(B_K: Tensor, B_L: Tensor, S: Tensor, dS: Tensor) -> gram_module.GramCore:
    """λ = 1, of [U | ΔK] and [V | ΔL], which lie in memory as in a bank."""
    Bt_K, Bt_L = (B.mT.contiguous() for B in (B_K, B_L))
    roots = torch.full((len(S),), max(B_K.shape[1], B_L.shape[1]) ** 0.5, dtype=torch.float64)
    Gamma = torch.stack([Bt_K @ Bt_K.mT, Bt_L @ Bt_L.mT])
    return gram_module.gram_core(small_of(Gamma, S, dS, rate=1.0), roots)


def _in_units_of_the_guard(
    w: int,
    update: str,
    generator: torch.Generator,
    *,
    m: int | None = None,
    n: int | None = None,
    count: int = 200,
) -> tuple[float, float]:
    """The worst defect of both bases in units of η(s/σ_r)², and error of a singular value in units
    of √η·s, of many layers.

    Γ_K is singular in each, S of half its rank, and σ_r between s and 1e-5·s for r of this half.
    """
    m, n, r = m or 3 * w + 5, n or 2 * w, (w + 1) // 2
    eta = (2 * w + 32 + 3 * max(m, n) ** 0.5) * 2.0**-52
    draw = partial(torch.randn, generator=generator, dtype=torch.float64)
    U, V = torch.linalg.qr(draw(count, m, w))[0], torch.linalg.qr(draw(count, n, w))[0]
    smallest = 10.0 ** (-5.0 * torch.rand(count, 1, generator=generator, dtype=torch.float64))
    S = torch.diag_embed(torch.where(torch.arange(w) < r, smallest, 0.0))
    C = draw(count, w, 1) @ draw(count, 1, w)
    C /= torch.linalg.matrix_norm(C)[:, None, None]
    dK, dL, dS = U @ C, V @ C.mT, 0 * C
    dL *= {"in the range": 1.0, "K alone": 0.0, "both": -1.0}[update]
    if update == "in the range":  # a large S that the update takes away
        S, dS = S + C, C
    B_K, B_L = torch.cat([U, dK], dim=2), torch.cat([V, dL], dim=2)
    found = _gram_core(B_K, B_L, S, dS)
    assert not found.info.any()
    sigma = found.squares.flip(1).clamp(min=0.0).sqrt()
    true, _, _ = householder_core(B_K.mT, B_L.mT, S, dS)
    wrong = ((sigma - true).abs().amax(1) / (eta * found.scale).sqrt()).max()
    X_K, X_L = found.coordinates(1.0 / sigma[:, None, :r])
    defects = [
        torch.linalg.matrix_norm(B.mT @ B - torch.eye(r, dtype=B.dtype), 2)
        for B in (B_K @ X_K, B_L @ X_L)
    ]
    unit = eta * found.scale / sigma[:, r - 1].square()
    resolved = unit < 1e-4
    return float((torch.maximum(*defects) / unit)[resolved].max()), float(wrong)


@pytest.mark.parametrize("update", ["in the range", "K alone", "both"])
@pytest.mark.parametrize("w", [1, 2, 8, 32])
def test_the_guard_counts_all_that_spoils_the_bases(
    w: int, update: str, generator: torch.Generator
) -> None:
    """A defect of at most η(s/σ)² and singular values to √η·s: what is added to Γ_K, and rounding."""
    defects, values = _in_units_of_the_guard(w, update, generator)
    assert 0.01 < defects < 1.0
    assert values < 1.0


def test_more_added_to_the_diagonal_than_the_guard_counts_is_seen(
    monkeypatch: pytest.MonkeyPatch, generator: torch.Generator
) -> None:
    """The negative control: 32w·eps₆₄ on the diagonal, which the guard knows nothing of."""
    monkeypatch.setattr(
        gram_module, "_added", lambda w, roots: 32 * w * gram_module.EPS + 0 * roots
    )
    defects, values = _in_units_of_the_guard(8, "K alone", generator)
    assert defects > 1.0
    assert values > 1.0


def test_small_singular_values_go_the_exact_way_and_no_others(generator: torch.Generator) -> None:
    """Only the layer whose kept singular value is below what the Gram matrix resolves."""
    factors = random_layers([3, 3], generator, torch.float32)
    factors[1] = (factors[1][0], torch.diag(torch.tensor([1.0, 1.0, 1e-6])), factors[1][2])
    updates = [tuple(torch.zeros_like(X) for X in (U, V, S)) for U, S, V in factors]
    results, report = fast_updates(factors, updates, theta=1e-9, max_rank=3)  # type: ignore[arg-type]
    assert report.exact == (1,)
    assert float(results[1][1][2, 2]) == pytest.approx(1e-6, rel=1e-5)

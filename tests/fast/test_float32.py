"""Products of float32: enough where a step of wide layers is small, and taken nowhere else."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

import geolora_ref.fast.update.step as step_module
from geolora_ref.fast import LayerBank, NonFiniteUpdateError
from geolora_ref.fast.update.bank import LayerFactors
from geolora_ref.fast.update.gram import gram_core
from geolora_ref.fast.update.leading import leading_core
from tests.fast.small_steps import (
    ALLOWED,
    EPS,
    M,
    dense,
    layer_of,
    many,
    stepped,
    untruncated,
    update_of,
    wrong,
)

pytestmark = pytest.mark.usefixtures("module_unchecked")
R = 16
SINGULAR = (
    "rank one",
    "a zero column",
    "two columns nearly equal",
    "nearly in the range",
    "of all sizes",
)


@pytest.fixture
def generator() -> torch.Generator:
    """A generator of the test's own."""
    torch.set_num_threads(1)
    return torch.Generator().manual_seed(23)


@pytest.fixture
def routes(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """The routes of a step, and the number of layers on each: all of the spectrum by products of
    float64, or the leading half by float32.
    """
    seen: list[tuple[str, int]] = []

    def gram(small: Any, roots: Any) -> Any:
        seen.append(("float64", len(small.A)))
        return gram_core(small, roots)

    def leading(small: Any, ranks: Any, products: int) -> Any:
        seen.append(("leading", len(small.A)))
        return leading_core(small, ranks, products)

    monkeypatch.setattr(step_module, "gram_core", gram)
    monkeypatch.setattr(step_module, "leading_core", leading)
    return seen


def singular(layer: LayerFactors, kind: str, b: float, generator: torch.Generator) -> LayerFactors:
    """An update of the size of :func:`update_of` with a Gram matrix that is singular, or nearly."""
    deltas = []
    for Q in (layer[0], layer[2]):
        X = torch.randn(Q.shape, generator=generator, dtype=torch.float64)
        if kind == "rank one":
            X = X[:, :1] @ torch.randn(1, X.shape[1], generator=generator, dtype=torch.float64)
        elif kind == "a zero column":
            X[:, 0] = 0.0
        elif kind == "two columns nearly equal":
            X[:, 1] = X[:, 0] + 1e-7 * X[:, 1]
        elif kind == "nearly in the range":
            X = Q @ (Q.mT @ X) + 1e-4 * X
        else:
            X = X * 10.0 ** -torch.linspace(0.0, 9.0, X.shape[1], dtype=torch.float64)
        deltas.append(b * float(layer[1].diagonal()[-1]) * X / torch.linalg.matrix_norm(X))
    return deltas[0], deltas[1], 0.0 * layer[1]


@pytest.mark.parametrize("kind", SINGULAR)
def test_singular_updates_are_no_exception(
    kind: str, generator: torch.Generator, routes: list[tuple[str, int]]
) -> None:
    """The spectrum after σ_r is right to √δ·λ‖ΔK‖·b, δ = (w + 8 + √ℓ)·eps₃₂."""
    delta = (R + 8 + M**0.5) * EPS
    for condition, b in ((1.0, 0.3), (30.0, 0.3), (300.0, 0.02)):
        layers = [layer_of(R, condition, generator) for _ in range(12)]
        updates = [singular(layer, kind, b, generator) for layer in layers]
        bank, report = stepped(layers, updates, tau=0.0, min_rank=R, max_rank=R)
        assert not report.exact
        assert max(wrong(bank, layers, updates)) < ALLOWED
        for layer, (before, update) in enumerate(zip(layers, updates, strict=True)):
            sigma = torch.linalg.svdvals(untruncated(before, update)).numpy()
            allowed = delta**0.5 * b * b * sigma[R - 1] + ALLOWED * EPS * sigma[0]
            assert report.discarded[layer] == pytest.approx(np.linalg.norm(sigma[R:]), abs=allowed)
    assert routes == [("leading", 12)] * 3


@pytest.mark.parametrize("length", [1536, 4096])
def test_long_bases(length: int, generator: torch.Generator) -> None:
    """√ℓ is more than sums of ℓ terms lose, and a thousand steps lose no more than one
    (``test_update.py``).
    """
    U, V = (
        torch.linalg.qr(torch.randn(length, R, generator=generator, dtype=torch.float64))[0]
        for _ in range(2)
    )
    layer = U, torch.diag(torch.linspace(2.0, 1.0, R, dtype=torch.float64)), V
    update = update_of(layer, 0.05, generator)
    bank, report = stepped([layer], [update], tau=0.0, max_rank=R)
    assert not report.exact
    U1, S1, V1 = (X.double() for X in bank.factors(0))
    identity = torch.eye(R, dtype=torch.float64)
    assert max(float((X.mT @ X - identity).norm()) for X in (U1, V1)) < (2.0 + length**0.5) * EPS
    (U, S, V), (dK, dL, dS) = (tuple(X.float().double() for X in of) for of in (layer, update))
    K, L = (
        U @ (S - dS) - (dK - U @ (U.mT @ dK)),
        dL - V @ (V.mT @ dL),
    )  # Ŵ = K Vᵀ − U Lᵀ, near which W₁ is by ab
    difference = U1.mT @ K @ (V.mT @ V1) - U1.mT @ U @ (L.mT @ V1) - S1
    assert float(difference.norm()) < (2.0 + length**0.5) * EPS * 2.0


@pytest.fixture(params=["medium", "high", "bf16"])
def allowed(request: pytest.FixtureRequest) -> Iterator[str]:
    """Products of float32 may have fewer bits; by the name that torch gave it up to 2.8, or by that
    of the library.
    """
    before = torch.get_float32_matmul_precision()
    if request.param == "bf16":
        if not hasattr(torch.backends.mkldnn, "matmul"):
            pytest.skip("this torch has one setting for all libraries")
        torch.backends.mkldnn.matmul.fp32_precision = "bf16"
    else:
        torch.set_float32_matmul_precision(request.param)
    yield request.param
    if request.param == "bf16":
        torch.backends.mkldnn.matmul.fp32_precision = "none"  # type: ignore[attr-defined]
    torch.set_float32_matmul_precision(before)


def test_products_with_fewer_bits_are_not_taken(
    allowed: str, generator: torch.Generator, routes: list[tuple[str, int]]
) -> None:
    """On processors that have them, bases by those would be 1e-3 from orthonormal."""
    layers, updates = many(R, 2.0, 0.05, generator)
    bank, _ = stepped(layers, updates, tau=0.0, max_rank=R)
    assert routes == [("float64", 12)]
    assert max(wrong(bank, layers, updates)) < 2.0  # and not by float32


@pytest.mark.parametrize("power", [-110, -60, 40, 90])
def test_sizes_of_all_kinds(
    power: int, generator: torch.Generator, routes: list[tuple[str, int]]
) -> None:
    """A step is homogeneous in S and its updates; squares of theirs may be outside of float32."""
    layers, updates = many(R, 2.0, 0.1, generator)
    size = 2.0**power
    layers = [(U, size * S, V) for U, S, V in layers]
    updates = [tuple(size * X for X in of) for of in updates]  # type: ignore[misc]
    bank, report = stepped(layers, updates, tau=0.0, max_rank=R)
    assert max(wrong(bank, layers, updates)) < ALLOWED
    assert not report.exact
    assert routes == [("leading" if power == 40 else "float64", 12)]


def test_factors_that_are_not_finite_are_named(generator: torch.Generator) -> None:
    """A NaN in U shows in no Gram matrix of the updates."""
    layers, updates = many(R, 2.0, 0.05, generator)
    layers[3][0][2, 1] = float("nan")
    bank = LayerBank.of([tuple(X.float() for X in layer) for layer in layers])  # type: ignore[misc]
    before = [dense(bank.factors(layer)) for layer in range(12)]
    with pytest.raises(NonFiniteUpdateError, match=r"layers \[3\]"):
        bank.update_(
            *([X.float() for X in of] for of in zip(*updates, strict=True)), tau=0.0, max_rank=R
        )
    assert all(
        torch.equal(dense(bank.factors(layer)), W) for layer, W in enumerate(before) if layer != 3
    )

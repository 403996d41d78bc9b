"""When the fused function computes with one merged weight, and what that costs: its memory, its
products, its digits.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.nn.functional import linear

from geolora_ref.fast import adapted_linear
from geolora_ref.fast.layer.merging import LEAST_ROWS, merging_pays
from tests.fast.layers import random_layer

M, N, R = 60, 30, 3
ENOUGH = 160
"""8·m·n / (m + n)."""


def _layer(dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """W₀ and U, S, V."""
    generator = torch.Generator().manual_seed(1)
    weight = torch.randn(M, N, generator=generator, dtype=torch.float64).to(dtype)
    U, S, V = (X.requires_grad_() for X in random_layer(M, N, R, generator, dtype))
    return weight, U, S, V


def _rows(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return (
        torch.randn(*shape, N, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
        .to(dtype)
        .requires_grad_()
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    ("shape", "pays"),
    [
        ((ENOUGH,), True),
        ((ENOUGH - 1,), False),
        ((4, ENOUGH // 4), True),
        ((), False),
        ((0,), False),
    ],
)
def test_from_a_number_of_rows_on_it_pays(
    shape: tuple[int, ...], pays: bool, dtype: torch.dtype
) -> None:
    assert ENOUGH * (M + N) == LEAST_ROWS * M * N
    assert merging_pays(_rows(*shape, dtype=dtype), _layer(dtype)[0]) == pays


def test_under_autocast_to_half_precision_nothing_is_merged() -> None:
    """The adapter is far below one unit in the last place of the weight, and x meets it where W₀ is
    zero.
    """
    weight, U, S, V = _layer()
    x = _rows(ENOUGH)
    with torch.no_grad():
        weight.fill_(1.0)
        x[:, ::2], x[:, 1::2] = 1.0, -1.0
        S *= 2.0**-12
    with torch.autocast("cpu", torch.bfloat16):
        y = adapted_linear(x, weight, None, U, S, V)
    expected = (x @ V @ S.mT @ U.mT).detach()
    assert float((y.float() - expected).detach().norm()) <= 4 * 2.0**-7 * float(expected.norm())
    assert float(expected.abs().max()) > 0.0


def _saved(rows: int) -> list[Tensor]:
    """The tensors that a forward pass keeps for its backward pass."""
    weight, U, S, V = _layer()
    kept: list[Tensor] = []
    with saved_tensors_hooks(lambda X: kept.append(X) or X, lambda X: X):  # type: ignore[func-returns-value]
        adapted_linear(_rows(rows), weight, None, U, S, V)
    return kept


def test_the_merged_weight_is_at_most_an_eighth_of_what_passes_through_the_layer() -> None:
    """It is kept in place of the weight, which the layer has anyway."""
    weight, U, S, V = _layer()
    (merged,), (bare,) = (
        [X for X in _saved(rows) if X.shape == (M, N)] for rows in (ENOUGH, ENOUGH - 1)
    )
    assert 8 * merged.numel() <= ENOUGH * (M + N)
    torch.testing.assert_close(merged, (weight + U @ S @ V.mT).detach())
    assert torch.equal(bare, weight)
    assert len(_saved(ENOUGH)) == len(_saved(ENOUGH - 1)) == 6


@pytest.mark.parametrize("size", [1.0, 1e-3, 1e-6])
def test_what_a_small_adapter_loses_is_the_rounding_of_the_base(size: float) -> None:
    """(n + r + 2)·u·|x||W₀ + W|ᵀ, u = 2⁻²⁴: roundings of each entry, and those of the product, to
    first order.

    The gradients of the factors keep their own digits, nothing of the base being in them:
    (T + n)·u·|g|ᵀ(|x||V|) for two sums.
    """
    weight, U, S, V = _layer()
    with torch.no_grad():
        S *= size
    x = _rows(ENOUGH)
    y = adapted_linear(x, weight, None, U, S, V)
    W = weight.double() + (U.double() @ S.double() @ V.double().mT)
    bound = (N + R + 2) * 2.0**-24 * (x.double().abs() @ W.abs().mT) * (1 + 1e-5)
    assert bool(((y - linear(x.double(), W)).abs() <= bound).all())
    g = torch.randn(y.shape, generator=torch.Generator().manual_seed(3))
    y.backward(g)
    exact = [X.detach().double() for X in (g, x, V)]
    dK, terms = (a.mT @ (b @ c) for a, b, c in (exact, [X.abs() for X in exact]))
    assert U.grad is not None
    assert bool(((U.grad - dK).abs() <= (ENOUGH + N) * 2.0**-24 * (1 + 1e-5) * terms).all())


def test_compiled_nothing_is_merged() -> None:
    weight, x = _layer()[0], _rows(ENOUGH)
    marked = torch.compile(
        lambda x: x + 1.0 if merging_pays(x, weight) else x - 1.0, backend="eager", fullgraph=True
    )
    assert torch.equal(marked(x), x - 1.0)

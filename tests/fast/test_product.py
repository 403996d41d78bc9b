"""The product with a frozen weight: both libraries give the same, and each product goes to the
right one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import linear
from torch.utils.flop_counter import FlopCounterMode

from geolora_ref.fast import adapted_linear
from geolora_ref.fast.layer import product as module
from geolora_ref.fast.layer.product import input_gradient, product, takes_onednn
from geolora_ref.fast.layer.skinny import down, row_blocks
from tests.fast.layers import random_layer

ROWS, M, N, R = 1024, 160, 128, 3  # 1.25 times the least work
EPS = torch.finfo(torch.float32).eps


@pytest.fixture
def faster(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pretend a processor on which oneDNN is faster."""
    if not torch.backends.mkldnn.is_available():
        pytest.skip("this torch has no oneDNN")
    monkeypatch.setattr(module, "onednn_is_faster", lambda: True)
    monkeypatch.setattr(module, "_sizes", set())


@contextmanager
def _switched(on: bool) -> Iterator[None]:
    """torch's own switch of oneDNN.  (Its context manager ``flags`` warns where there is no GPU of
    Intel.)
    """
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(torch.backends.mkldnn, "enabled", on)
        yield


def _draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def _worst(found: Tensor, x: Tensor, W: Tensor, bias: Tensor | None = None) -> float:
    """The largest error of x Wᵀ + bias in units of (n + 1)·eps·(|x||W|ᵀ + |bias|), which bounds it
    in every order of the sum.
    """
    exact = linear(x.double(), W.double(), None if bias is None else bias.double())
    size = linear(x.double().abs(), W.double().abs(), None if bias is None else bias.double().abs())
    return float(((found.double() - exact).abs() / ((W.shape[1] + 1) * EPS * size)).max())


def _weights() -> list[Any]:
    wide = _draw(2 * M, 2 * N, seed=1)
    return [
        pytest.param(_draw(M, N, seed=1), id="contiguous"),
        pytest.param(_draw(N, M, seed=1).mT, id="transposed"),
        pytest.param(wide[::2, ::2], id="every other"),
        pytest.param(wide[:M, :N], id="a part"),
    ]


def _inputs() -> list[Any]:
    return [
        pytest.param(_draw(4, ROWS // 4, N), id="blocks"),
        pytest.param(_draw(1, 1, N).expand(4, ROWS // 4, N), id="one row for all"),
        pytest.param(_draw(N, ROWS).mT, id="transposed"),
        pytest.param(_draw(ROWS, 1).expand(ROWS, N), id="one column for all"),
    ]


@pytest.mark.usefixtures("faster")
@pytest.mark.parametrize("onednn", [True, False])
@pytest.mark.parametrize("W", _weights())
@pytest.mark.parametrize("x", _inputs())
def test_the_product_is_right_to_rounding_for_all_strides(
    x: Tensor, W: Tensor, onednn: bool
) -> None:
    bias = _draw(M, seed=2)
    with torch.no_grad(), _switched(onednn):
        assert takes_onednn(x, W) is (onednn and (W.is_contiguous() or W.mT.is_contiguous()))
        found = {None: product(x, W), bias: product(x, W, bias)}
    for b, y in found.items():
        assert y.shape == (*x.shape[:-1], M)
        assert _worst(y, x, W, b) < 1.0


@pytest.mark.usefixtures("faster")
@pytest.mark.parametrize("onednn", [True, False])
@pytest.mark.parametrize("rows", [ROWS, ROWS + 1])
def test_the_gradient_of_the_input_is_right_to_rounding(rows: int, onednn: bool) -> None:
    g, W, U, Lt = (
        row_blocks(_draw(rows, M)),
        _draw(M, N, seed=1),
        _draw(M, R, seed=2),
        _draw(R, N, seed=3),
    )
    bt = down(g, U)
    with torch.no_grad(), _switched(onednn):
        found = input_gradient(g, W, bt, Lt).view(rows, N)
    both = torch.cat([g.reshape(rows, M), bt.mT.reshape(rows, R)], dim=1), torch.cat([W, Lt]).mT
    assert _worst(found, *both) < 1.0


class _Own(Tensor):
    """A tensor of another class, which may do with operations what it likes."""


@pytest.mark.usefixtures("faster")
@pytest.mark.parametrize(
    ("change", "within"),
    [
        pytest.param(lambda x, W: (x, W), torch.enable_grad, id="somebody may differentiate it"),
        pytest.param(
            lambda x, W: (x, W), lambda: FlopCounterMode(display=False), id="somebody counts"
        ),
        pytest.param(lambda x, W: (x, W), lambda: _switched(False), id="switched off"),
        pytest.param(lambda x, W: (x[:800], W), nullcontext, id="little work"),
        pytest.param(
            lambda x, W: (x, torch.cat([W, W], 1)[:, :N]), nullcontext, id="a part of a weight"
        ),
        pytest.param(lambda x, W: (x.double(), W.double()), nullcontext, id="float64"),
        pytest.param(lambda x, W: (x.bfloat16(), W.bfloat16()), nullcontext, id="bfloat16"),
        pytest.param(
            lambda x, W: (x.as_subclass(_Own), W), nullcontext, id="an input of another class"
        ),
        pytest.param(
            lambda x, W: (x, W.as_subclass(_Own)), nullcontext, id="a weight of another class"
        ),
        pytest.param(lambda x, W: (x.to("meta"), W.to("meta")), nullcontext, id="another device"),
    ],
)
def test_other_products_are_those_of_torch(
    change: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]], within: Any
) -> None:
    given = _draw(ROWS, N), torch.nn.Parameter(_draw(M, N, seed=1), requires_grad=False)
    with torch.no_grad():
        assert takes_onednn(*given)
        with within():
            assert not takes_onednn(*change(*given))


def test_a_slower_onednn_is_not_called(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "onednn_is_faster", lambda: False)
    with torch.no_grad():
        assert not takes_onednn(_draw(ROWS, N), _draw(M, N))


class Layer:
    """x, a base and an adapter that counts for more than it, large enough for oneDNN; gradients of
    ⟨y, target⟩ by either form.
    """

    def __init__(self) -> None:
        self.x, self.target = _draw(ROWS, N).requires_grad_(), _draw(ROWS, M, seed=4)
        self.weight, self.bias = _draw(M, N, seed=1), _draw(M, seed=2)
        U, S, V = random_layer(M, N, R, torch.Generator().manual_seed(3), torch.float32)
        self.factors = tuple(X.requires_grad_() for X in (U, 100.0 * S, V))

    def run(self) -> list[Tensor]:
        """y, ∇x, dK, dS and dL."""
        U, S, V = self.factors
        y = adapted_linear(self.x, self.weight, self.bias, U, S, V)
        return [y.detach(), *torch.autograd.grad(y, [self.x, *self.factors], self.target)]

    def size(self) -> Tensor:
        """|W₀| + |U||S||V|ᵀ, float64: what errors of products with the layer are measured by."""
        U, S, V = (X.detach().double().abs() for X in self.factors)
        return self.weight.double().abs() + U @ S @ V.mT


@pytest.mark.usefixtures("faster")
def test_a_layer_computes_the_same_by_both_libraries() -> None:
    """Both sum n products, r of the adapter and the bias, in an order of their own; what the
    factors get has no such product.
    """
    layer = Layer()
    (y, dx, *factors), size = layer.run(), layer.size()
    with _switched(False):
        by_torch = layer.run()
    apart = [(A - B).abs().double() for A, B in zip((y, dx), by_torch, strict=False)]
    x, target = layer.x.detach().double().abs(), layer.target.double().abs()
    assert (apart[0] <= 2 * (N + R + 1) * EPS * (x @ size.mT + layer.bias.double().abs())).all()
    assert (apart[1] <= 2 * (M + R + 1) * EPS * (target @ size)).all()
    assert all(torch.equal(A, B) for A, B in zip(factors, by_torch[2:], strict=True))


@pytest.mark.usefixtures("faster")
def test_compiled_there_are_only_products_that_the_compiler_knows() -> None:
    x, W = _draw(ROWS, N), _draw(M, N, seed=1)
    seen: list[str] = []

    def backend(graph: Any, inputs: Any) -> Any:
        seen.extend(str(node.target) for node in graph.graph.nodes)
        return graph

    with torch.no_grad():
        assert takes_onednn(x, W)
        y = torch.compile(product, fullgraph=True, backend=backend)(x, W)
    assert any("linear" in name for name in seen)
    assert not any("mkldnn" in name for name in seen)
    assert _worst(y, x, W) < 1.0

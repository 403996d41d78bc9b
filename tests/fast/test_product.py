"""The product with a frozen weight: both libraries give the same, and each product goes to the
right one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
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
from geolora_ref.nn import adapt
from tests.fast.layers import random_layer

ROWS, M, N, R = 1024, 160, 128, 3  # 1.25 times the least work
EPS = torch.finfo(torch.float32).eps
ONEDNN = "mkldnn::_linear_pointwise"


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


def _operations(work: Callable[[], Any]) -> set[str]:
    """The names of all operations of torch that are called."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        work()
    return {event.key for event in profile.key_averages()}


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


@pytest.mark.usefixtures("faster")
def test_what_is_not_finite_stays_so() -> None:
    x, W = _draw(ROWS, N), _draw(M, N, seed=1)
    x[0, 0], x[1, 0] = float("nan"), float("inf")
    with torch.no_grad():
        assert takes_onednn(x, W)
        finite = product(x, W).isfinite()
    assert not finite[:2].any()
    assert finite[2:].all()


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


@pytest.mark.usefixtures("faster")
def test_sizes_beyond_the_first_are_torchs_and_the_first_stay(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "MOST_SIZES", 2)
    W = _draw(N, N)
    first, second, third = (_draw(ROWS + k, N) for k in (0, 1, 2))
    with torch.no_grad():
        assert not takes_onednn(first[:8], W), "a small one takes no place"
        assert [takes_onednn(x, W) for x in (first, second, third)] == [True, True, False]
        assert [takes_onednn(x, W) for x in (third, second.view(1, -1, N), first)] == [
            False,
            True,
            True,
        ]
        assert not takes_onednn(first, _draw(2 * N, N))
        assert _worst(product(third, W), third, W) < 1.0


def test_a_slower_onednn_is_not_called(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "onednn_is_faster", lambda: False)
    with torch.no_grad():
        assert not takes_onednn(_draw(ROWS, N), _draw(M, N))


@pytest.mark.parametrize(
    ("processor", "mkl", "onednn", "faster"),
    [
        ("vendor_id\t: AuthenticAMD\nmodel name\t: AMD EPYC", True, True, True),
        ("AMD64 Family 25 Model 17 Stepping 1, AuthenticAMD", True, True, True),
        ("vendor_id\t: GenuineIntel", True, True, False),
        ("", True, True, False),
        ("vendor_id\t: AuthenticAMD", False, True, False),
        ("vendor_id\t: AuthenticAMD", True, False, False),
    ],
)
def test_it_is_faster_on_processors_of_amd(
    monkeypatch: pytest.MonkeyPatch, processor: str, mkl: bool, onednn: bool, faster: bool
) -> None:
    monkeypatch.setattr(module, "_processor", lambda: processor)
    monkeypatch.setattr(torch.backends.mkl, "is_available", lambda: mkl)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: onednn)
    assert module.onednn_is_faster.__wrapped__() is faster


def test_linux_tells_of_the_first_processor(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Whatever its makers write there."""
    cpu_file = tmp_path / "cpuinfo"
    cpu_file.write_bytes(
        "processor\t: 0\nvendor_id\t: AuthenticAMD\nmodel name\t: EPYC™\n".encode()
    )
    really_open = open
    monkeypatch.setattr(
        "builtins.open", lambda file, **how: really_open({"/proc/cpuinfo": cpu_file}[file], **how)
    )
    assert "vendor_id\t: AuthenticAMD\n" in module._processor()


def test_where_linux_does_not_tell_python_does(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: Any, **__: Any) -> Any:
        raise FileNotFoundError

    monkeypatch.setattr("builtins.open", missing)
    monkeypatch.setattr("platform.processor", lambda: "known to Python")
    assert module._processor() == "known to Python"


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
def test_both_products_of_a_layer_go_to_onednn() -> None:
    layer = Layer()
    count = 0

    def counted(*args: Any) -> Tensor:
        nonlocal count
        count += 1
        return linear(*args[:3])

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(torch.ops.mkldnn, "_linear_pointwise", counted)
        layer.run()
    assert count == 2
    assert ONEDNN in _operations(lambda: layer.run())
    with _switched(False):
        assert ONEDNN not in _operations(lambda: layer.run())


@pytest.mark.usefixtures("faster")
def test_a_second_derivative_through_a_large_layer_is_right() -> None:
    layer = Layer()
    v = _draw(ROWS, N, seed=5)
    U, S, V = (X.detach() for X in layer.factors)

    def loss(x: Tensor) -> Tensor:
        return (adapted_linear(x, layer.weight, layer.bias, U, S, V) ** 2).sum() / 2.0

    (gradient,) = torch.autograd.grad(loss(layer.x), layer.x, create_graph=True)
    (second,) = torch.autograd.grad(gradient, layer.x, v)
    W, size = layer.weight.double() + U.double() @ S.double() @ V.double().mT, layer.size()
    expected = v.double() @ W.mT @ W
    terms = N + M + 2 * (2 * R + N)  # of the two products and, for each, of the adapter's three
    assert ((second - expected).abs() <= terms * EPS * (v.double().abs() @ size.mT @ size)).all()


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


@pytest.mark.usefixtures("faster")
@pytest.mark.parametrize("shape", [(ROWS,), (4, ROWS // 4)])
def test_the_base_of_a_layer_with_dropout_has_both_products_by_onednn(shape: Any) -> None:
    layer = adapt(torch.nn.Sequential(torch.nn.Linear(N, M)), rank=R, dropout=0.5, fused=True)["0"]
    x = _draw(*shape, N).requires_grad_()
    y: list[Tensor] = []
    assert ONEDNN in _operations(lambda: y.append(layer(x)))
    assert ONEDNN in _operations(lambda: y[0].sum().backward())

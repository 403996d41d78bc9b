"""The fused adapter function: gradients against autograd and finite differences, precision,
autocast, what acts on ``.grad``.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any
from unittest import mock

import pytest
import torch
import torch._dynamo.testing
from torch import Tensor
from torch.nn.functional import linear

from geolora_ref.fast import adapted_linear
from geolora_ref.fast.layer import linear as module
from geolora_ref.fast.layer.skinny import add_up, down, gradient, row_blocks, up
from tests.fast.layers import random_layer

pytestmark = pytest.mark.usefixtures("module_unchecked")

M, N, R, SCALE = 6, 7, 2, 1.7
CORES = ("zero", "dense", "singular")
FORMS = ("adapted", "apart", "dropped")
FEW, MANY = (
    (3, 5),
    (3, 4, 256),
)  # rows: one block of 15; eight of 384, for which "adapted" merges and "apart" does not


def _draw(generator: torch.Generator, dtype: torch.dtype, *shape: int) -> Tensor:
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)


class Problem:
    """x, a frozen base, a layer and the loss ⟨y, target⟩; G, the dense gradient of the adapter,
    from autograd alone.
    """

    def __init__(
        self,
        core: str,
        dtype: torch.dtype = torch.float64,
        rows: tuple[int, ...] = FEW,
        scale: float = SCALE,
    ) -> None:
        torch.set_num_threads(1)
        self.scale = scale
        generator = torch.Generator().manual_seed(3)
        self.x = _draw(generator, dtype, *rows, N).requires_grad_()
        self.weight, self.bias = (
            _draw(generator, dtype, M, N),
            _draw(generator, dtype, M).requires_grad_(),
        )
        self.target = _draw(generator, dtype, *rows, M)
        U, S, V = random_layer(M, N, R, generator, dtype)
        S = {
            "zero": torch.zeros_like(S),
            "dense": S,
            "singular": S * torch.tensor([[1.0], [0.0]], dtype=dtype),
        }[core]
        self.U, self.S, self.V = (X.requires_grad_() for X in (U, S, V))

    def forward(self, form: str, *, factor_gradients: bool = False) -> Tensor:
        adapter = (self.U, self.S, self.V, self.scale)
        own = (
            self.x * 1.0 if form == "dropped" else None
        )  # the adapter's input, of which the gradient is a part of that of x
        with (
            mock.patch.object(module, "merging_pays", return_value=False)
            if form == "apart"
            else nullcontext()
        ):
            return adapted_linear(
                self.x,
                self.weight,
                self.bias,
                *adapter,
                adapter_x=own,
                factor_gradients=factor_gradients,
            )

    def backward(self, y: Tensor) -> None:
        """Gradients of ⟨y, target⟩ into the parameters."""
        torch.autograd.backward((y * self.target).sum())

    def dense(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """y, ∇x, ∇bias and G by autograd on y = x (W₀ + s W)ᵀ + bias."""
        W = (self.U @ self.S @ self.V.mT).detach().requires_grad_()
        y = linear(self.x, self.weight + self.scale * W, self.bias)
        dx, d_bias, G = torch.autograd.grad((y * self.target).sum(), (self.x, self.bias, W))
        return y, dx, d_bias, G


def _close(X: Tensor | None, Y: Tensor, bound: float = 1e-13) -> bool:
    return X is not None and float((X - Y).detach().norm()) <= bound * max(
        1.0, float(Y.detach().norm())
    )


@pytest.mark.parametrize(
    ("shape", "blocks"),
    [
        ((3, 5, 7), 1),
        ((511, 7), 1),
        ((512, 7), 2),
        ((3, 512, 7), 4),
        ((16, 197, 7), 8),
        ((4097, 7), 1),
        ((1026, 7), 2),
        ((0, 7), 1),
        ((7,), 1),
    ],
)
def test_rows_are_cut_into_even_blocks_none_below_256_rows(
    shape: tuple[int, ...], blocks: int
) -> None:
    x = torch.arange(float(torch.Size(shape).numel())).view(shape)
    cut = row_blocks(x)
    assert cut.shape == (blocks, x.shape[:-1].numel() // blocks, 7)
    assert torch.equal(cut.flatten(), x.flatten())
    assert cut.untyped_storage().data_ptr() == x.untyped_storage().data_ptr(), "no copy"
    assert row_blocks(x.bfloat16()).shape[0] == 1


@pytest.mark.parametrize(
    ("rows", "r"), [((15,), 1), ((15,), 2), ((512,), 1), ((4, 256), 2), ((1,), 2), ((2, 1), 1)]
)
def test_the_products_of_blocks_are_those_of_the_rows(rows: tuple[int, ...], r: int) -> None:
    """Blocks of rank one and of a single row are included; the rows of one block are kept row by row."""
    generator = torch.Generator().manual_seed(0)
    x, V, Kt = (_draw(generator, torch.float64, *shape) for shape in ((*rows, N), (N, r), (r, M)))
    y, blocks = _draw(generator, torch.float64, *rows, M), row_blocks(x)
    a, at = x.view(-1, N) @ V, down(blocks, V)
    assert _close(at.mT.reshape(-1, r), a)
    assert at.shape[0] > 1 or at[0].mT.is_contiguous()
    assert _close(up(at, Kt).view(-1, M), a @ Kt)
    assert _close(gradient(at, row_blocks(y)), a.mT @ y.view(-1, M))
    expected = y.view(-1, M) + 0.7 * a @ Kt
    assert _close(add_up(row_blocks(y), at, Kt, 0.7).view(-1, M), expected)
    assert _close(y.view(-1, M), expected), "in place"


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("scale", [1.0, 2.0, -0.5, 0.0])
def test_every_scale_counts(form: str, scale: float) -> None:
    p = Problem("dense", scale=scale)
    y = p.forward(form)
    p.backward(y)
    expected, dx, _, G = p.dense()
    for X, Y in (
        (y, expected),
        (p.x.grad, dx),
        (p.U.grad, G @ p.V),
        (p.V.grad, G.mT @ p.U),
        (p.S.grad, p.U.mT @ G @ p.V),
    ):
        assert _close(X, Y)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("core", CORES)
@pytest.mark.parametrize("rows", [FEW, MANY])
def test_projected_gradients_are_those_of_the_dense_gradient(
    form: str, core: str, rows: tuple[int, ...]
) -> None:
    p = Problem(core, rows=rows)
    y = p.forward(form)
    p.backward(y)
    expected, dx, d_bias, G = p.dense()
    assert _close(y, expected)
    assert _close(p.x.grad, dx)
    assert _close(p.bias.grad, d_bias)
    assert _close(p.U.grad, G @ p.V), "U.grad is dK = G V"
    assert _close(p.V.grad, G.mT @ p.U), "V.grad is dL = Gᵀ U"
    assert _close(p.S.grad, p.U.mT @ G @ p.V), "S.grad is dS = Uᵀ G V"
    assert p.U.grad is not None
    assert p.U.grad.mT.is_contiguous()


def test_projected_gradients_are_the_derivatives_along_K_L_and_S() -> None:
    """Without autograd: central differences of the loss under W + εE Vᵀ, W + εU Eᵀ, W + εU E Vᵀ,
    exact for a loss linear in W.
    """
    p = Problem("dense")
    p.backward(p.forward("adapted"))
    assert p.U.grad is not None
    assert p.V.grad is not None
    assert p.S.grad is not None
    U, S, V = (X.detach() for X in (p.U, p.S, p.V))

    def loss(W: Tensor) -> float:
        return float((linear(p.x, p.weight + SCALE * W, p.bias) * p.target).detach().sum())

    directions: list[tuple[Tensor, Callable[[Tensor], Tensor]]] = [
        (p.U.grad, lambda E: E @ V.mT),
        (p.V.grad, lambda E: U @ E.mT),
        (p.S.grad, lambda E: U @ E @ V.mT),
    ]
    for derivative, direction in directions:
        E = _draw(torch.Generator().manual_seed(1), derivative.dtype, *derivative.shape)
        slope = loss(U @ S @ V.mT + 0.5 * direction(E)) - loss(U @ S @ V.mT - 0.5 * direction(E))
        assert float((derivative * E).sum()) == pytest.approx(slope, rel=1e-12)


@pytest.mark.parametrize("core", CORES)
def test_gradcheck(core: str) -> None:
    """With factor gradients the function is an ordinary one: every input's gradient by finite
    differences.
    """
    p = Problem(core)

    def adapted(x: Tensor, bias: Tensor, U: Tensor, S: Tensor, V: Tensor) -> Tensor:
        return adapted_linear(x, p.weight, bias, U, S, V, SCALE, factor_gradients=True)

    def dropped(x: Tensor, own: Tensor, U: Tensor, S: Tensor, V: Tensor) -> Tensor:
        return adapted_linear(
            x, p.weight, None, U, S, V, SCALE, adapter_x=own, factor_gradients=True
        )

    assert torch.autograd.gradcheck(adapted, (p.x, p.bias, p.U, p.S, p.V))
    assert torch.autograd.gradcheck(
        dropped, (p.x, (2.0 * p.x).detach().requires_grad_(), p.U, p.S, p.V)
    )


def test_projected_gradients_fail_gradcheck() -> None:
    """The control: dK is not ∇_U, and gradcheck sees it."""
    p = Problem("dense")

    def adapted(x: Tensor, U: Tensor, S: Tensor, V: Tensor) -> Tensor:
        return adapted_linear(x, p.weight, None, U, S, V, SCALE)

    assert not torch.autograd.gradcheck(adapted, (p.x, p.U, p.S, p.V), raise_exception=False)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("dtype", "eps"), [(torch.float32, 2.0**-23), (torch.bfloat16, 2.0**-7)])
@pytest.mark.parametrize("rows", [FEW, MANY])
def test_precision_is_that_of_the_dtype(
    form: str, dtype: torch.dtype, eps: float, rows: tuple[int, ...]
) -> None:
    """A few roundings of every result, and one in single precision of each term of its sums, whose
    terms may cancel.
    """
    p, exact, absolute = (
        Problem("dense", dtype, rows),
        Problem("dense", rows=rows),
        Problem("dense", rows=rows),
    )
    for name in ("x", "weight", "bias", "U", "S", "V", "target"):  # the same rounded numbers
        getattr(exact, name).data = getattr(p, name).data.double()
        getattr(absolute, name).data = getattr(p, name).data.double().abs()
    y = p.forward(form)
    p.backward(y)
    assert y.dtype == dtype
    expected, terms = (
        (y, dx, G @ q.V, G.mT @ q.U) for q in (exact, absolute) for y, dx, _, G in (q.dense(),)
    )
    for X, Y, size in zip((y, p.x.grad, p.U.grad, p.V.grad), expected, terms, strict=True):
        assert X is not None
        bound = 4 * eps * float(Y.detach().norm()) + 2.0**-23 * float(size.detach().norm())
        assert float((X.double() - Y).detach().norm()) <= bound


@pytest.mark.parametrize("form", FORMS)
def test_16_bit_gradients_that_cancel_over_the_rows_keep_the_precision_of_their_sum(
    form: str,
) -> None:
    """Rows and their negatives, but for the last: cut into blocks, the parts of dK would be rounded
    at 1000 times its size.
    """
    p = Problem("dense", torch.bfloat16, (4 * 256,))
    with torch.no_grad():
        p.x.copy_(p.x[0].clone())
        p.target.copy_(p.target[0].clone())
        p.target[512:] *= -1
        p.target[-1] = 0
    y = p.forward(form)
    p.backward(y)
    exact = SCALE * torch.outer(p.target[0].double(), p.x[0].double() @ p.V.double()).detach()
    assert p.U.grad is not None
    assert float((p.U.grad.double() - exact).norm()) <= 4 * 2.0**-7 * float(exact.norm())


def test_autocast_computes_in_its_dtype_and_leaves_gradients_in_the_parameters_dtype() -> None:
    p = Problem("dense", torch.float32)
    expected, _, _, G = p.dense()
    for form in FORMS:
        for X in (p.U, p.S, p.V):
            X.grad = None
        with torch.autocast("cpu", torch.bfloat16):
            y = p.forward(form)
        assert y.dtype == torch.bfloat16
        assert _close(y, expected, 4 * 2.0**-7)
        p.backward(y.float())
        assert p.U.grad is not None
        assert p.U.grad.dtype == torch.float32
        assert float((p.U.grad - G @ p.V).detach().norm()) <= 4 * 2.0**-7 * float(G.norm())
    with torch.autocast("cpu", torch.bfloat16):
        assert _close(
            adapted_linear(p.x, p.weight, None, p.U, p.S, p.V, SCALE),
            expected - p.bias,
            4 * 2.0**-7,
        )


def test_frozen_parts_get_no_gradient() -> None:
    p = Problem("dense")
    for X in (p.U, p.S, p.V, p.bias):
        X.requires_grad_(False)
    for form in FORMS:
        p.x.grad = None
        p.backward(p.forward(form))
        assert _close(p.x.grad, p.target @ (p.weight + SCALE * p.U @ p.S @ p.V.mT))
        assert p.U.grad is None


@pytest.mark.parametrize("form", ["adapted", "apart"])
@pytest.mark.parametrize("rows", [FEW, (64,)])
def test_second_derivatives_are_those_by_x_alone(form: str, rows: tuple[int, ...]) -> None:
    """Through weights that were merged as well, whose factors they would miss."""
    p = Problem("dense", rows=rows)

    def of(y: Tensor) -> Tensor:
        (dx,) = torch.autograd.grad(y.square().sum(), p.x, create_graph=True)
        return dx.square().sum()

    W = (p.U @ p.S @ p.V.mT).detach()
    (found,), (expected,) = (
        torch.autograd.grad(of(y), p.x)
        for y in (p.forward(form), linear(p.x, p.weight + SCALE * W, p.bias))
    )
    assert _close(found, expected, 1e-12)
    for factor in (p.U, p.S, p.V):
        with pytest.raises(
            RuntimeError, match="expected no second derivative with respect to the factors"
        ):
            torch.autograd.grad(of(p.forward(form)), factor)


def test_no_rows_have_gradients_of_zero() -> None:
    """An expert of a mixture that got none, or the last batch."""
    p = Problem("dense")
    x = torch.empty(0, N, dtype=torch.float64)
    for own in (None, x):
        y = adapted_linear(x, p.weight, p.bias, p.U, p.S, p.V, adapter_x=own)
        assert y.shape == (0, M)
        torch.autograd.backward(y.sum())
    assert not any(X.grad is None or bool(X.grad.any()) for X in (p.U, p.S, p.V))


def test_dropout_on_the_adapters_input_alone() -> None:
    """Both paths' gradients reach x."""
    p = Problem("dense")
    mask = (torch.rand(p.x.shape, generator=torch.Generator().manual_seed(2)) > 0.5).double() * 2.0
    y = adapted_linear(p.x, p.weight, p.bias, p.U, p.S, p.V, SCALE, adapter_x=p.x * mask)
    p.backward(y)
    expected = p.target @ p.weight + SCALE * (p.target @ p.U @ p.S @ p.V.mT) * mask
    assert _close(p.x.grad, expected)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"weight": lambda p: p.weight.requires_grad_()},
            "weight: expected a frozen base weight, found one that requires a gradient",
        ),
        (
            {"weight": lambda p: p.weight[0]},
            r"weight: expected a real matrix \(m, n\) of floating point, found \(7,\) torch.float64",
        ),
        (
            {
                name: lambda p, name=name: getattr(p, name).detach().cfloat()
                for name in ("x", "weight", "bias", "U", "S", "V")
            },
            r"weight: expected a real matrix \(m, n\) of floating point, found \(6, 7\) torch.complex64",
        ),
        (
            {"x": lambda p: p.x[..., :3]},
            r"x: expected shape \(3, 5, 7\) for a weight of 6 x 7 and rank 2, found \(3, 5, 3\)",
        ),
        (
            {"U": lambda p: p.U.mT},
            r"U: expected shape \(6, 6\) for a weight of 6 x 7 and rank 6, found \(2, 6\)",
        ),
        (
            {"S": lambda p: p.S[:1]},
            r"S: expected shape \(2, 2\) for a weight of 6 x 7 and rank 2, found \(1, 2\)",
        ),
        (
            {"V": lambda p: p.V.float()},
            "V: expected the dtype of the base, torch.float64, found torch.float32",
        ),
        ({"V": lambda p: p.V.to("meta")}, "V: expected the device of the base, cpu, found meta"),
        (
            {"weight": lambda p: p.weight.to("meta")},
            "x: expected the device of the base, meta, found cpu",
        ),
        (
            {"adapter_x": lambda p: p.x[:2]},
            r"adapter_x: expected one like x, \(3, 5, 7\) torch.float64 on cpu, found \(2, 5, 7\) torch.float64 on cpu",
        ),
        (
            {"bias": lambda p: p.bias[:2]},
            r"bias: expected shape \(6,\) for a weight of 6 x 7 and rank 2, found \(2,\)",
        ),
    ],
)
def test_bad_input_is_named(change: dict[str, Callable[[Problem], Any]], message: str) -> None:
    p = Problem("dense")
    given = {name: getattr(p, name) for name in ("x", "weight", "bias", "U", "S", "V")}
    given |= {name: make(p) for name, make in change.items()}
    with pytest.raises(ValueError, match=f"^{message}$"):
        adapted_linear(**given)

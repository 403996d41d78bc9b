"""The backward pass of the update returns ∇_K, ∇_L and ∇_S: against automatic differentiation of
the dense weight.
"""

from __future__ import annotations

import copy
import re
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

from geolora_ref.gradients import FactorGradients, ProjectedGradients
from geolora_ref.nn import AdaptedLayer, adapt, adapters
from geolora_ref.nn.layers.adapted import layout_of
from geolora_ref.nn.layers.adapter import GradientRoute
from geolora_ref.nn.layers.functions import projected_update, projected_weight
from tests.devices import DEVICES
from verification.network_defects.models import LAYERS, adapted_layer, fill

ROUNDING = 1e-13
REFUSED = re.escape(
    "expected no second derivative with respect to the factors of an adapter, found that one is wanted; layers of geolora_ref.nn "
    "have it with gradients='published' and fused=False; in place of a function of geolora_ref.fast write x @ V @ S.mT @ U.mT, "
    "which torch differentiates"
)


def dense_gradient(layer: AdaptedLayer, x: Tensor, upstream: Tensor) -> Tensor:
    """G = ∇L(W) (m x n) by automatic differentiation of the base layer with weight
    base.weight + alpha·W.
    """
    W = layer.adapter.full().requires_grad_(True)
    weight = layer.base_weight.detach() + layer.alpha * layout_of(layer.base).weight(W)
    (functional_call(layer.base, {"weight": weight}, (x,)) * upstream).sum().backward()
    assert W.grad is not None
    return W.grad


def collected(
    layer: AdaptedLayer, x: Tensor, upstream: Tensor
) -> ProjectedGradients | FactorGradients:
    (layer(x) * upstream).sum().backward()
    gradients = layer.adapter.collected_gradients()
    assert gradients is not None
    return gradients


def relative(X: Tensor, expected: Tensor, scale: Tensor) -> float:
    return float((X - expected).detach().norm() / scale.detach().norm())


@pytest.mark.parametrize("zero", [False, True], ids=["dense S", "S = 0"])
@pytest.mark.parametrize("name", LAYERS)
def test_projected_gradients_are_those_of_the_dense_weight(name: str, zero: bool) -> None:
    layer, x = adapted_layer(name, zero=zero)
    upstream = torch.randn_like(layer(x))
    G, Y = dense_gradient(layer, x, upstream), layer.adapter.factors()
    found, expected = collected(layer, x, upstream), ProjectedGradients.from_dense(Y, G)
    assert isinstance(found, ProjectedGradients)
    assert float(G.norm()) > 0.1
    for part in ("dK", "dL", "dS"):
        assert relative(getattr(found, part), getattr(expected, part), G) < ROUNDING, part


@pytest.mark.parametrize("name", LAYERS)
def test_the_published_route_gives_the_same_where_it_is_defined(name: str) -> None:
    """G_U S⁻ᵀ and G_V S⁻¹ lose cond(S) of the digits, no more."""
    projected, x = adapted_layer(name)
    published, _ = adapted_layer(name, gradients="published")
    upstream = torch.randn_like(projected(x))
    found, expected = collected(published, x, upstream), collected(projected, x, upstream)
    Y = published.adapter.factors()
    assert isinstance(found, FactorGradients)
    assert isinstance(expected, ProjectedGradients)
    condition = float(torch.linalg.cond(Y.S))
    for part in ("dK", "dL", "dS"):
        a, b = getattr(found.projected(Y), part), getattr(expected, part)
        assert relative(a, b, expected.dK) < ROUNDING * condition, part


def added_one_by_one(total: Tensor, axis: int, places: Tensor, terms: Tensor) -> Tensor:
    """``index_add_`` as the atomic additions of a GPU do it: every sum is rounded to the dtype of
    the total.
    """
    assert axis == 0
    for place, term in zip(places.tolist(), terms, strict=True):
        total[place] += term
    return total


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("gradients", ["projected", "published"])
@pytest.mark.parametrize("device", DEVICES)
def test_autocast_loses_no_tokens_of_a_frequent_row(
    device: str, gradients: GradientRoute, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Equal terms, 16 times as many as the dtype can count one by one; only roundings of single
    products are left.
    """
    if device == "cpu":
        monkeypatch.setattr(Tensor, "index_add_", added_one_by_one)
    layer, _ = adapted_layer("embedding", gradients=gradients, device=device)
    layer.float()
    rounding = torch.finfo(dtype).eps
    x = torch.full((int(16 / rounding),), 4, device=device)
    found = []
    for enabled in (True, False):
        layer.zero_grad()
        with torch.autocast(device, dtype, enabled=enabled):
            y = layer(x)
        y.float().mean(0).sum().backward()
        assert layer.adapter.Vt.grad is not None
        found.append(layer.adapter.Vt.grad)
    half, single = found
    assert relative(half, single, single) < 8 * rounding


@pytest.mark.parametrize("name", LAYERS)
def test_the_gradient_of_the_input_is_that_of_the_dense_layer(name: str) -> None:
    layer, x = adapted_layer(name)
    if not x.is_floating_point():
        pytest.skip("row numbers have no gradient")
    upstream, inputs = (
        torch.randn_like(layer(x)),
        [x.clone().requires_grad_(True) for _ in range(2)],
    )
    weight = layer.weight.detach()
    outputs = layer(inputs[0]), functional_call(layer.base, {"weight": weight}, (inputs[1],))
    assert relative(outputs[0], outputs[1], outputs[1]) < ROUNDING
    for output in outputs:
        (output * upstream).sum().backward()
    found, expected = inputs[0].grad, inputs[1].grad
    assert found is not None
    assert expected is not None
    assert relative(found, expected, expected) < ROUNDING


@pytest.mark.parametrize("options", [{"fused": False}, {"fused": True}])
@pytest.mark.parametrize("square", [False, True])
def test_second_derivatives_are_right_for_the_input_and_refused_for_the_factors(
    options: dict[str, Any], square: bool
) -> None:
    """The arrays in the places of the gradients of U and V have no derivative: one through it would
    be wrong without a word.

    The loss may be linear in the output, so that the upstream gradient is a constant.
    """
    torch.manual_seed(2)
    model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 5)).double()
    adapt(model, rank=2, **options)
    twin = copy.deepcopy(model)
    for layer, other in zip(adapters(model).values(), adapters(twin).values(), strict=True):
        fill(layer.adapter)
        other.adapter.assign(layer.adapter.factors())
        other.adapter.gradients, other.fused = "published", False

    def loss(of: nn.Module, x: Tensor) -> Tensor:
        y: Tensor = of(x)
        return y.square().sum() if square else y.sum()

    x = torch.randn(4, dtype=torch.float64, requires_grad=True)
    found, expected = (
        torch.autograd.functional.hessian(partial(loss, m), x) for m in (model, twin)
    )
    assert relative(found, expected, expected) < ROUNDING
    (dx,) = torch.autograd.grad(loss(model, x), x, create_graph=True)
    with pytest.raises(RuntimeError, match=REFUSED):
        dx.square().sum().backward()
    S = adapters(model)["0"].adapter.S
    (dS,) = torch.autograd.grad(loss(model, x), S, create_graph=True)
    with pytest.raises(RuntimeError, match=REFUSED):
        dS.square().sum().backward()


@pytest.mark.parametrize("name", LAYERS)
def test_gradcheck(name: str) -> None:
    """∇_K, ∇_L, ∇_S are the derivatives with respect to additions Δ_K Vᵀ, U Δ_Lᵀ and U Δ_S Vᵀ to W,
    checked by differences.
    """
    layer, x = adapted_layer(name)
    Ut, S, Vt = (X.detach() for X in layer.adapter.active())
    input_map, x = layer.layout.input_map, layer.layout.before(x) if x.is_floating_point() else x
    upstream = torch.randn_like(projected_update(x, Ut, S, Vt, input_map))

    def loss(W: Tensor) -> Tensor:
        """The update with a dense W of full rank: U = I, S = W, V = I."""
        eye = [torch.eye(size, dtype=W.dtype) for size in layer.adapter.shape]
        return (input_map.down(x, eye[1]) @ W.mT @ eye[0] * upstream).sum()

    def probed(dK: Tensor, dL: Tensor, dS: Tensor) -> Tensor:
        return loss(Ut.mT @ S @ Vt + dK @ Vt + Ut.mT @ dL.mT + Ut.mT @ dS @ Vt)

    r, (m, n) = S.shape[0], layer.adapter.shape
    probes = [torch.zeros(size, r, dtype=S.dtype, requires_grad=True) for size in (m, n, r)]
    assert torch.autograd.gradcheck(probed, probes, eps=1e-6, atol=1e-7)
    expected: Any = torch.autograd.grad(probed(*probes), probes)
    a, b, c = leaves = [X.clone().requires_grad_(True) for X in (Ut, S, Vt)]
    (projected_update(x, a, b, c, input_map) * upstream).sum().backward()
    for leaf, derivative in zip(leaves, (expected[0].mT, expected[2], expected[1].mT), strict=True):
        assert leaf.grad is not None
        assert relative(leaf.grad, derivative, derivative) < 1e-12


def test_the_dense_weight_carries_the_same_gradients() -> None:
    leaves = [
        torch.randn(3, 6, dtype=torch.float64),
        torch.randn(3, 3, dtype=torch.float64),
        torch.randn(3, 5, dtype=torch.float64),
    ]
    Ut, S, Vt = (X.requires_grad_(True) for X in leaves)
    G = torch.randn(6, 5, dtype=torch.float64)
    (projected_weight(Ut, S, Vt) * G).sum().backward()
    for found, expected in ((Ut.grad, (G @ Vt.mT).mT), (S.grad, Ut @ G @ Vt.mT), (Vt.grad, Ut @ G)):
        assert found is not None
        assert relative(found, expected, expected) < ROUNDING

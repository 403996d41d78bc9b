"""Adapted layers: nothing changes at the start, merging is exact, state dicts carry the rank, bad
layers are refused.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from torch import nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper

from geolora_ref.nn import GeoLoRA, adapt, adapters, disabled, merge
from tests.nn.kinds import single
from verification.network_defects.models import LAYERS, fill, network, regression, train

compiled: Any = partial(torch.compile, backend="eager")
"""Torch's wrapper; nothing is compiled before a call."""


@pytest.mark.parametrize("name", LAYERS)
def test_an_adapted_model_starts_as_the_model_it_was(name: str) -> None:
    """S = 0: not a bit differs, in single precision."""
    torch.manual_seed(0)
    make, data = LAYERS[name]
    model, x = single(make()), data()
    before = model(x)
    adapt(model, ["0"], rank=3)
    assert torch.equal(model(x), before)


def gains(model: nn.Sequential, alpha: Any) -> list[float]:
    """By layer, the largest root mean square that one spectral step adds to outputs for inputs of
    root mean square 1, over λ.
    """
    torch.manual_seed(0)
    layers = adapt(model, [str(k) for k in range(len(model))], rank=3, alpha=alpha).values()
    optimizer = GeoLoRA(model, lr=1e-3, tau=0.0)
    for layer in layers:
        x = torch.randn(
            5,
            *(
                (layer.in_channels, 6, 6)
                if isinstance(layer.base, nn.Conv2d)
                else (layer.in_features,)
            ),
        )
        layer(x.to(layer.base_weight)).square().sum().backward()
    optimizer.step()
    found = []
    for layer in layers:
        m, n = layer.adapter.shape
        found.append(
            float(torch.linalg.matrix_norm(layer.alpha * layer.adapter.full(), 2))
            * (n / m) ** 0.5
            / 1e-3
        )
    return found


def test_alpha_rms_moves_the_outputs_of_layers_of_any_shape_alike() -> None:
    """At most by κ·λ, κ = 2/√3, and no layer by less than a third of another one; with one alpha for
    all the bound does not hold.
    """

    def layers() -> nn.Sequential:
        return nn.Sequential(
            nn.Linear(40, 5), nn.Linear(5, 40), nn.Linear(12, 12), nn.Conv2d(4, 6, 3)
        ).double()

    found, control = gains(layers(), "rms"), gains(layers(), 1.0)
    assert max(found) <= 2.0 / 3.0**0.5
    assert max(found) < 3.0 * min(found)
    assert max(control) > 2.0
    assert max(control) > 5.0 * min(control)


def test_disabled_is_the_base() -> None:
    model = network()
    x, _ = regression()
    base_only = model(x)
    for layer in adapters(model).values():
        fill(layer.adapter)
    adapted = model(x)
    with disabled(model):
        assert torch.equal(model(x), base_only)
        assert all(layer.weight is layer.base_weight for layer in adapters(model).values())
    assert torch.equal(model(x), adapted)
    assert not torch.equal(adapted, base_only)


def test_disabled_ends_as_it_began() -> None:
    """Nested, and by an exception."""
    model = network()
    layers = adapters(model).values()
    with disabled(model):
        with disabled(model):
            pass
        assert not any(layer.enabled for layer in layers)
    with pytest.raises(ZeroDivisionError), disabled(model):
        raise ZeroDivisionError
    assert all(layer.enabled for layer in layers)


def test_a_state_stays_what_it_was_when_it_was_taken() -> None:
    """At full capacity too, where what is saved is all of the storage."""
    model = network(rank=3, max_rank=3)
    optimizer = GeoLoRA(model, lr=0.1, tau=0.0)
    state = model.state_dict()
    before = {name: X.clone() for name, X in state.items() if "adapter" in name}
    train(model, optimizer, 2)
    assert all(torch.equal(state[name], X) for name, X in before.items())


def test_whoever_reads_the_weight_gets_the_effective_one() -> None:
    """nn.MultiheadAttention never calls its output layer; it multiplies by the layer's weight."""
    torch.manual_seed(0)
    attention = nn.MultiheadAttention(8, 2, batch_first=True).double()
    x = torch.randn(3, 5, 8, dtype=torch.float64)
    before = attention(x, x, x)[0]
    layer = adapt(attention, ["out_proj"], rank=2)["out_proj"]
    torch.testing.assert_close(attention(x, x, x)[0], before, rtol=1e-14, atol=1e-14)
    fill(layer.adapter)
    adapted = attention(x, x, x)[0]
    assert not torch.allclose(adapted, before)
    adapted.square().sum().backward()
    gradients = layer.adapter.collected_gradients()
    assert gradients is not None
    merge(attention)
    torch.testing.assert_close(attention(x, x, x)[0], adapted, rtol=1e-13, atol=1e-13)


def test_the_transposed_linear_layer_of_transformers() -> None:
    pytorch_utils = pytest.importorskip(
        "transformers.pytorch_utils", reason="transformers is not installed"
    )
    torch.manual_seed(0)
    layer = pytorch_utils.Conv1D(6, 9).double()
    with pytest.raises(ValueError, match=r"layers that can be adapted: 0 \(Conv1D\)$"):
        adapt(single(layer), target_modules=["query"])
    twin = nn.Linear(9, 6).double()
    with torch.no_grad():
        twin.weight.copy_(layer.weight.mT)
        twin.bias.copy_(layer.bias)
    model, model2 = single(layer), single(twin)
    one, two = (
        adapt(each, rank=3, generator=torch.Generator().manual_seed(3))["0"]
        for each in (model, model2)
    )
    assert one.adapter.shape == two.adapter.shape == (6, 9)
    fill(one.adapter)
    two.adapter.assign(one.adapter.factors())
    x = torch.randn(4, 9, dtype=torch.float64)
    torch.testing.assert_close(model(x), model2(x), rtol=1e-14, atol=1e-14)
    merge(model)
    torch.testing.assert_close(model(x), model2(x), rtol=1e-14, atol=1e-14)


def test_dropout_acts_on_the_update_only() -> None:
    model = single(nn.Linear(50, 40).double())
    layer = adapt(model, rank=4, dropout=0.5)["0"]
    x = torch.randn(10, 50, dtype=torch.float64)
    assert torch.equal(model(x), layer.base(x))
    fill(layer.adapter)
    assert not torch.equal(model(x), model(x))
    model.eval()
    assert torch.equal(model(x), model(x))


@pytest.mark.parametrize(
    "wrap", [checkpoint_wrapper, lambda part: part], ids=["checkpoint", "plain"]
)
@pytest.mark.parametrize(
    "whole", [compiled, nn.DataParallel, lambda model: model], ids=["compiled", "parallel", "plain"]
)
@pytest.mark.parametrize("target", ["all-linear", r"\d\.\d", ["0.0", "1.0"], "raw"])
def test_names_are_those_without_wrappers(wrap: Any, whole: Any, target: Any) -> None:
    """Those that are given, those that ``adapt`` returns, and those of the reports."""
    parts = [nn.Sequential(wrap(nn.Linear(4, 4))) for _ in range(3)]
    model = whole(nn.Sequential(*parts))
    if target == "raw":  # as the model itself names its modules
        target = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)][
            :2
        ]
    layers = adapt(
        model, target, rank=2, exclude=["2.0"], train=["2.0"] if target != r"\d\.\d" else []
    )
    assert list(layers) == ["0.0", "1.0"]
    assert layers == adapters(model)
    assert parts[0](torch.ones(1, 4)).requires_grad


def test_the_effective_weight_has_the_precision_of_the_factors_under_autocast() -> None:
    """Its readers are not called, so that autocast would round W and not what its backward pass is
    made of.
    """
    torch.manual_seed(0)
    model = nn.Sequential(nn.TransformerEncoderLayer(16, 4, 32, dropout=0.0, batch_first=True))
    layer = adapt(model, ["out_proj"], rank=2)["0.self_attn.out_proj"]
    fill(layer.adapter)
    exact = layer.weight
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(layer.weight, exact)
        model(torch.randn(3, 5, 16)).float().square().mean().backward()
        merge(model)
    assert layer.adapter.S.grad is not None
    assert torch.equal(layer.base_weight, exact)

"""A start from the gradient on torch models: subspace iteration by backward passes."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from geolora_ref.nn import adapt, adapters, orient

RANK = 3


def setting() -> tuple[nn.Module, Callable[[], float], nn.Linear]:
    """An adapted linear model in double precision, its loss, and the layer as it was before."""
    torch.manual_seed(0)
    plain, model = (
        nn.Linear(12, 9, bias=False, dtype=torch.float64),
        nn.Sequential(nn.Linear(12, 9, bias=False, dtype=torch.float64)),
    )
    model[0].load_state_dict(plain.state_dict())
    x, y = torch.randn(40, 12, dtype=torch.float64), torch.randn(40, 9, dtype=torch.float64)
    ((plain(x) - y) ** 2).mean().backward()
    adapt(model, rank=RANK)

    def closure() -> float:
        model.zero_grad()
        loss = ((model(x) - y) ** 2).mean()
        loss.backward()
        return float(loss.detach())

    return model, closure, plain


def test_the_bases_turn_to_the_leading_singular_vectors_and_W_stays() -> None:
    model, closure, plain = setting()
    assert plain.weight.grad is not None
    P, sigma, _ = torch.linalg.svd(plain.weight.grad)
    (layer,) = adapters(model).values()
    tangents, before = [], closure()
    for sweeps in (1, 3):
        orient(model, closure, sweeps)
        assert closure() == before
        U, V = layer.adapter.U, layer.adapter.V
        inside = P[:, :RANK].mT @ U
        tangents.append(
            float(
                torch.linalg.matrix_norm((U - P[:, :RANK] @ inside) @ torch.linalg.inv(inside), 2)
            )
        )
        for basis in (U, V):
            assert (
                torch.linalg.matrix_norm(basis.mT @ basis - torch.eye(RANK, dtype=torch.float64))
                < 1e-13
            )
    # six updates lie between the two
    assert tangents[1] <= tangents[0] * float(sigma[RANK] / sigma[RANK - 1]) ** 6 * (1.0 + 1e-9)


def test_misuse_is_refused() -> None:
    model, closure, plain = setting()
    with pytest.raises(ValueError, match=r"^model: expected adapters, found none"):
        orient(plain, closure)
    with pytest.raises(ValueError, match=r"^sweeps: expected an integer >= 1, found 0"):
        orient(model, closure, 0)
    model.zero_grad()
    with pytest.raises(ValueError, match=r"^closure: expected a backward pass"):
        orient(model, lambda: None)
    (layer,) = adapters(model).values()
    with torch.no_grad():
        layer.adapter.S[0, 0] = 1.0
    with pytest.raises(ValueError, match="expected S = 0"):
        orient(model, closure)

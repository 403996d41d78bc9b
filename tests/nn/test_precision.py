"""A step and the checks of a step use all bits of float32, also where torch may multiply with fewer."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest
import torch
from torch import nn

from geolora_ref.fast.precision import float32_is_whole, own_precision, whole_products
from geolora_ref.nn import GeoLoRA, adapt

pytestmark = pytest.mark.usefixtures("module_unchecked")

CPU = torch.device("cpu")
ALLOWED = ("highest", "high", "medium")


@pytest.fixture(params=ALLOWED)
def allowed(request: pytest.FixtureRequest) -> Iterator[str]:
    """Precisions that torch is allowed everywhere."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(request.param)
    yield request.param
    torch.set_float32_matmul_precision(before)


OF_BACKENDS = pytest.mark.skipif(
    not hasattr(torch.backends.mkldnn, "matmul"),
    reason="this torch (before 2.9) has no precision of each backend",
)


def products() -> tuple[str, ...]:
    """Precisions that are allowed now: on CUDA, by oneDNN, everywhere."""
    return torch.backends.cuda.matmul.fp32_precision, torch.backends.mkldnn.matmul.fp32_precision  # type: ignore[attr-defined]


def defect() -> float:
    """‖QᵀQ − I‖ of an orthonormal basis, as products give it now."""
    Q = torch.linalg.qr(torch.randn(384, 32, generator=torch.Generator().manual_seed(0))).Q
    return float(torch.linalg.matrix_norm(Q.mT @ Q - torch.eye(32)))


@OF_BACKENDS
def test_products_are_whole_inside_and_what_they_were_outside(allowed: str) -> None:
    before, within = (products(), defect()), torch.finfo(torch.float32).eps * 32
    with suppress(KeyError), own_precision(CPU):
        assert products() == ("ieee", "ieee")
        assert float32_is_whole()
        assert defect() <= within
        raise KeyError
    assert (products(), defect()) == before
    assert float32_is_whole() == (allowed == "highest")
    assert torch.get_float32_matmul_precision() == allowed
    assert (before[0] == ("ieee", "ieee")) == (allowed == "highest")


def test_compiled_code_has_the_settings_of_its_surroundings() -> None:
    """The settings of torch are no part of a graph: with them there would be two graphs or none."""

    def product(x: torch.Tensor) -> torch.Tensor:
        with own_precision(CPU):
            return x @ x

    x = torch.randn(3, 3, generator=torch.Generator().manual_seed(0))
    assert torch.equal(torch.compile(product, backend="eager", fullgraph=True)(x), x @ x)


@pytest.mark.parametrize("method", ["reference", "fast"])
def test_a_step_is_the_same_whatever_is_allowed(allowed: str, method: Any) -> None:
    """Bit for bit, from the same gradients; of layers so wide that the defect of fewer bits would
    be refused.
    """
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(384, 384))
    adapt(model, rank=32, max_rank=64)
    with whole_products():
        model(torch.randn(64, 384)).square().mean().backward()
        expected = copy.deepcopy(model)
        for one, its in zip(model.parameters(), expected.parameters(), strict=True):
            its.grad = None if one.grad is None else one.grad.clone()
        GeoLoRA(expected, lr=0.05, method=method).step()
    GeoLoRA(model, lr=0.05, method=method).step()
    assert all(
        torch.equal(X, expected.state_dict()[name]) for name, X in model.state_dict().items()
    )

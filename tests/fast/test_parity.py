"""Parity on a device, tried on the CPU: the fused function stays within its bound, a wrong one does
not, the page shows it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from geolora_ref.fast import LayerBank, StepReport, adapted_linear
from verification.parity import measure as measuring
from verification.parity.functions import FORMS, ROWS, function_difference, ratios

pytestmark = pytest.mark.usefixtures("module_unchecked")

DTYPES = tuple(getattr(torch, name) for name in measuring.DTYPES)
"""A few of the questions, which show what is kept of a verdict."""


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_fused_function_is_within_its_bound(dtype: torch.dtype) -> None:
    found = function_difference("cpu", dtype)
    assert found["passed"]
    assert list(found["forms"]) == list(FORMS)
    assert found["worst"] > (0.01 if dtype.itemsize == 2 else 0.05), "a bound that is not far away"


def _tensorfloat(X: Tensor) -> Tensor:
    """Rounded to 10 bits after the point, as the units for TensorFloat-32 do it; a derivative of one."""
    bits = (X.detach().view(torch.int32) + 0x1000) & ~0x1FFF
    return X + (bits.view(torch.float32) - X.detach())


WRONG: dict[str, tuple[set[str], Callable[..., Tensor]]] = {
    "x in TensorFloat-32": (
        {"y", "dK", "dL"},
        lambda x, *rest, **also: adapted_linear(_tensorfloat(x), *rest, **also),
    ),
    "weight in TensorFloat-32": (
        {"y", "dx"},
        lambda x, weight, *rest, **also: adapted_linear(x, _tensorfloat(weight), *rest, **also),
    ),
    "Sᵀ for S": (
        {"y", "dx"},
        lambda x, W, b, U, S, V, *rest, **also: adapted_linear(x, W, b, U, S.mT, V, *rest, **also),
    ),
    "no scale": (
        {"y", "dx", "dK", "dL", "dS"},
        lambda *given, **also: adapted_linear(*given[:-1], **also),
    ),
    "no bias": (
        {"y", "d_bias"},
        lambda x, W, b, *rest, **also: adapted_linear(x, W, 0.0 * b, *rest, **also),
    ),
    "published gradients": (
        {"dK", "dL"},
        lambda *given, **also: adapted_linear(*given, **also, factor_gradients=True),
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_function_is_not(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    seen, function = WRONG[name]
    monkeypatch.setattr("verification.parity.functions.adapted_linear", function)
    found = ratios("cpu", torch.float32, "adapted", ROWS[0])
    assert {what for what, ratio in found.items() if ratio > 1.0} >= seen
    assert not function_difference("cpu", torch.float32)["passed"]


@pytest.mark.parametrize("where", range(5))
def test_what_is_not_a_number_is_not(monkeypatch: pytest.MonkeyPatch, where: int) -> None:
    """In y, or in the gradient of one of x, bias, U and S alone: no maximum may pass over it."""

    class Spoilt(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, X: Tensor) -> Tensor:
            return X.clone()

        @staticmethod
        def backward(ctx: Any, *upstream: Tensor) -> Tensor:
            return upstream[0] * math.nan

    def function(
        x: Tensor, weight: Tensor, bias: Tensor, U: Tensor, S: Tensor, *rest: Any, **also: Any
    ) -> Tensor:
        if where == 4:
            return adapted_linear(x, weight, bias, U, S, *rest, **also) * math.nan
        trained = [x, bias, U, S]
        trained[where] = Spoilt.apply(trained[where])  # type: ignore[no-untyped-call, unused-ignore]
        return adapted_linear(trained[0], weight, trained[1], trained[2], trained[3], *rest, **also)

    monkeypatch.setattr("verification.parity.functions.adapted_linear", function)
    assert not function_difference("cpu", torch.float32)["passed"]


def test_a_training_that_is_not_a_number_does_not_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measuring, "STEPS", 1)
    assert measuring.training_difference("cpu", torch.float64)["passed"]
    dense = measuring._dense
    monkeypatch.setattr(
        measuring,
        "_dense",
        lambda factors: dense(factors) * (math.nan if factors[0].shape[1] > 4 else 1.0),
    )
    assert not measuring.training_difference("cpu", torch.float64)["passed"]


def _second_bank(
    monkeypatch: pytest.MonkeyPatch,
    dtype: torch.dtype,
    updates: Callable[..., Any] = lambda *updates: updates,
    gauge: Callable[..., Any] = lambda *factors: factors,
) -> dict[str, Any]:
    """The difference of two trainings on the CPU, the second one of other factors or with other updates."""
    banks: list[LayerBank] = []

    class Other(LayerBank):
        def update_(self, *given: Any, **limits: Any) -> StepReport:
            return super().update_(*(updates(*given) if self is banks[1] else given), **limits)

        @classmethod
        def of(cls, factors: Any, capacity: int | None = None) -> LayerBank:
            banks.append(
                super().of([gauge(*layer) for layer in factors] if banks else factors, capacity)
            )
            return banks[-1]

    monkeypatch.setattr(measuring, "LayerBank", Other)
    return measuring.training_difference("cpu", dtype)


@pytest.mark.parametrize("dtype", measuring.BOUNDS)
def test_a_training_that_moves_otherwise_does_not_agree(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype
) -> None:
    """ΔL of one of the two banks is off by a thousandth, or by a part in 1e12 in double precision."""
    off = 1.0 + (1e-3 if dtype == torch.float32 else 1e-12)
    found = _second_bank(monkeypatch, dtype, lambda dK, dL, dS: (dK, [off * X for X in dL], dS))
    assert not found["passed"]
    assert 1.0 < found["worst"] / found["bound"] < 1e3


@pytest.mark.parametrize("dtype", measuring.BOUNDS)
def test_a_training_that_rounds_otherwise_agrees(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype
) -> None:
    """The same layers in another gauge: every number of every step is another one, but W."""
    generator = torch.Generator().manual_seed(1)

    def turned(U: Tensor, S: Tensor, V: Tensor) -> tuple[Tensor, ...]:
        P, Q = (
            torch.linalg.qr(torch.randn(S.shape, generator=generator, dtype=torch.float64))[0]
            for _ in range(2)
        )
        return tuple(X.to(dtype) for X in (U.double() @ P, P.mT @ S.double() @ Q, V.double() @ Q))

    found = _second_bank(monkeypatch, dtype, gauge=turned)
    assert 0.0 < found["worst"] < 0.2 * found["bound"]

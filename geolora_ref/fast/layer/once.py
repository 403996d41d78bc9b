"""Mark values as once differentiable: a second derivative through them raises instead of being
silently wrong.

The backward pass of an adapter returns ∇_K and ∇_L in the places of U and V, and autograd does not
record how they are formed.  A second derivative with respect to the factors would be wrong; one
with respect to the input of a layer is right. (torch's ``once_differentiable`` marks results on a
side branch, which ``torch.autograd.grad`` for other inputs never visits: the results then count as
constants.)

Compiled code does not raise: Dynamo traces a backward pass with gradients off, so the marks are not
in its graph.  Backends that go through AOTAutograd (inductor, the default) refuse every second
derivative themselves; backends that run Dynamo's graph directly ("eager", for debugging) return a
wrong one.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

__all__ = ["once"]


class _Once(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor, *sources: Tensor) -> Tensor:
        return value.view_as(value)

    @staticmethod
    def backward(ctx: Any, *upstream: Any) -> Any:
        raise RuntimeError(
            "expected no second derivative with respect to the factors of an adapter, found that one is wanted; layers of "
            "geolora_ref.nn have it with gradients='published' and fused=False; in place of a function of geolora_ref.fast "
            "write x @ V @ S.mT @ U.mT, which torch differentiates"
        )


def once(value: Tensor, *sources: Tensor) -> Tensor:
    """``value`` itself; differentiating through it, or to the ``sources`` of its data, raises
    ``RuntimeError`` (uncompiled).
    """
    if torch.is_grad_enabled() and not torch.compiler.is_compiling():
        result: Tensor = _Once.apply(value, *sources)  # type: ignore[no-untyped-call, unused-ignore]
        return result
    return value

"""A frozen linear layer with its adapter as one function, y = x W₀ᵀ + bias + s·x V Sᵀ Uᵀ, and its
gradients in one backward pass.

Forward: the two skinny products of LoRA with K = U S. Backward, with upstream gradient g, a = x V
and b = s·g U: ∇x = b (S Vᵀ) + g W₀, and

    dK = ∇_K L = G V = s·gᵀ a,    dL = ∇_L L = Gᵀ U = xᵀ b,    dS = Uᵀ G V = Uᵀ dK,

where the dense gradient G of W = U S Vᵀ is never formed, and nothing is divided by S.

Unlike elsewhere in torch, ``.grad`` of U is dK, ``.grad`` of V is dL and ``.grad`` of S is dS,
which are linear in G (docs/fast_path.md). U (m, r) and V (n, r) are fastest as views U = Ut.mT of a
contiguous (r, m).
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from geolora_ref.fast.layer.merging import merging_pays
from geolora_ref.fast.layer.once import once
from geolora_ref.fast.layer.product import input_gradient, product
from geolora_ref.fast.layer.skinny import add_up, down, gradient, row_blocks, up
from geolora_ref.fast.precision import autocasts, no_autocast

__all__ = ["adapted_linear"]


def adapted_linear(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    U: Tensor,
    S: Tensor,
    V: Tensor,
    scale: float = 1.0,
    *,
    adapter_x: Tensor | None = None,
    factor_gradients: bool = False,
) -> Tensor:
    """A frozen linear layer with its adapter: y = x W₀ᵀ + bias + scale·x' V Sᵀ Uᵀ.

    Parameters
    ----------
    x, adapter_x : (…, n); the adapter's own input x', by default x.
    weight, bias : W₀ (m, n), frozen, and (m,) or None, may be trainable.
    U, S, V : (m, r), (r, r) and (n, r); an S that requires no gradient gets no dS.
    scale : the constant factor of the adapter.
    factor_gradients : ∇_U, ∇_V in place of dK, dL (see above).

    Under autocast everything is computed in its dtype; otherwise all tensors share one dtype. The
    function is twice differentiable with respect to x alone. For many rows (``merging_pays``) a
    merged weight is kept for the backward pass, at most an eighth of x and y.

    Raises ``ValueError`` if the weight requires a gradient, if shapes do not fit, for mixed dtypes
    or devices, or for a scale that is not finite.
    """
    x, adapter_x, weight, bias, U, S, V = _prepared(x, adapter_x, weight, bias, U, S, V)
    y: Tensor = _AdaptedLinear.apply(
        x, adapter_x, weight, bias, U, S, V, _finite(scale), factor_gradients
    )  # type: ignore[no-untyped-call, unused-ignore]
    return y


def _prepared(
    x: Tensor,
    adapter_x: Tensor | None,
    weight: Tensor,
    bias: Tensor | None,
    U: Tensor,
    S: Tensor,
    V: Tensor,
) -> tuple[Tensor, Tensor | None, Tensor, Tensor | None, Tensor, Tensor, Tensor]:
    """The checked arguments, cast to autocast's dtype where it is on, because autocast does not
    cast in-place products.
    """
    if weight.requires_grad:
        raise ValueError(
            "weight: expected a frozen base weight, found one that requires a gradient"
        )
    if autocasts(x.device.type):
        x, weight, U, S, V = (_by_autocast(X) for X in (x, weight, U, S, V))
        bias, adapter_x = (None if X is None else _by_autocast(X) for X in (bias, adapter_x))
    _check(weight, U, S, V, x, bias)
    if adapter_x is not None and (adapter_x.shape, adapter_x.dtype, adapter_x.device) != (
        x.shape,
        x.dtype,
        x.device,
    ):
        found = f"{tuple(adapter_x.shape)} {adapter_x.dtype} on {adapter_x.device}"
        raise ValueError(
            f"adapter_x: expected one like x, {tuple(x.shape)} {x.dtype} on {x.device}, found {found}"
        )
    return x, adapter_x, weight, bias, U, S, V


def _finite(scale: float | Tensor) -> float:
    """The scale as a float, or ``ValueError``."""
    if isinstance(scale, Tensor) and scale.requires_grad:
        raise ValueError(
            "scale: expected a constant, found a tensor that requires a gradient, which it would not get"
        )
    try:
        if -math.inf < scale < math.inf:  # a comparison, which can be compiled for any number
            return float(scale)
    except (TypeError, RuntimeError):  # no number, or an array of several
        pass
    raise ValueError(f"scale: expected a finite number, found {scale!r}")


def _by_autocast(X: Tensor) -> Tensor:
    """X in autocast's dtype; like autocast, it leaves double precision and anything but real
    floating point alone.
    """
    if X.dtype == torch.float64 or not X.is_floating_point():
        return X
    return X.to(torch.get_autocast_dtype(X.device.type))


def _check(weight: Tensor, U: Tensor, S: Tensor, V: Tensor, x: Tensor, bias: Tensor | None) -> None:
    """Raise ``ValueError`` unless every argument fits the weight in shape, dtype and device."""
    if weight.ndim != 2 or not weight.is_floating_point():
        found = f"{tuple(weight.shape)} {weight.dtype}"
        raise ValueError(f"weight: expected a real matrix (m, n) of floating point, found {found}")
    (m, n), r = weight.shape, U.shape[-1]
    expected = {"x": (x, (*x.shape[:-1], n)), "U": (U, (m, r)), "S": (S, (r, r)), "V": (V, (n, r))}
    if bias is not None:
        expected["bias"] = (bias, (m,))
    for name, (X, shape) in expected.items():
        if X.shape != shape:
            raise ValueError(
                f"{name}: expected shape {tuple(shape)} for a weight of {m} x {n} and rank {r}, found {tuple(X.shape)}"
            )
        if X.dtype != weight.dtype:
            raise ValueError(
                f"{name}: expected the dtype of the base, {weight.dtype}, found {X.dtype}"
            )
        if X.device != weight.device:
            raise ValueError(
                f"{name}: expected the device of the base, {weight.device}, found {X.device}"
            )


def _adapter_gradients(
    g: Tensor,
    x: Tensor,
    at: Tensor,
    bt: Tensor,
    U: Tensor,
    S: Tensor,
    scale: float,
    factor: bool,
    of_S: bool,
) -> tuple[Tensor, Tensor | None, Tensor]:
    """(dK, dS, dL), or with ``factor`` (∇_U, ∇_S, ∇_V), from blocks g, x (…, n), at = (x V)ᵀ and
    bt = s·(g U)ᵀ.

    Each is formed transposed, which is the fast layout.  dS is None unless ``of_S``.
    """
    dKt = gradient(at, g)
    if scale != 1.0:
        dKt *= scale
    dLt = gradient(bt, row_blocks(x))
    dS = once(U.mT @ dKt.mT, x) if of_S else None  # x V was formed without a graph
    if factor:
        dKt, dLt = S @ dKt, S.mT @ dLt
    return once(dKt, x).mT, dS, once(dLt).mT


class _AdaptedLinear(torch.autograd.Function):
    """:func:`adapted_linear` with its own backward pass."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        adapter_x: Tensor | None,
        weight: Tensor,
        bias: Tensor | None,
        U: Tensor,
        S: Tensor,
        V: Tensor,
        scale: float,
        factor_gradients: bool,
    ) -> Tensor:
        with no_autocast(x.device.type):
            rows = row_blocks(x)
            ctx.own, its = adapter_x is not None, x if adapter_x is None else adapter_x
            at = down(row_blocks(its), V)
            ctx.merged = not ctx.own and merging_pays(x, weight)
            if ctx.merged:
                weight = torch.addmm(weight, U @ S, V.mT, alpha=scale)
                y = product(rows, weight, bias)
            else:
                Kt = torch.bmm(S.mT[None], U.mT[None])[
                    0
                ]  # before the big product: what ``down`` runs on is in the cache
                y = add_up(product(rows, weight, bias), at, Kt, scale)
            ctx.save_for_backward(its, at, weight, U, S, V)
            ctx.scale, ctx.factor = scale, factor_gradients
            result: Tensor = torch.ops.aten._unsafe_view(
                y, [*x.shape[:-1], weight.shape[0]]
            )  # a view cannot be changed in place
            return result

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        with no_autocast(dy.device.type):
            its, at, weight, U, S, V = ctx.saved_tensors
            if ctx.merged:
                weight = once(weight, U, S, V)
            U, S, V = once(U), once(S), once(V)
            g = row_blocks(dy)
            bt = down(g, U)
            if ctx.scale != 1.0:
                bt *= ctx.scale
            wants_x, wants_its, _, wants_bias, *wants = ctx.needs_input_grad
            dx = d_its = dU = dS = dV = None
            if any(wants[:3]):  # first, while g is in the cache
                dU, dS, dV = _adapter_gradients(
                    g, its, at, bt, U, S, ctx.scale, ctx.factor, wants[1]
                )
            if wants_x and (
                ctx.merged or ctx.own
            ):  # merged: the weight has the adapter; own: its share goes into d_its
                dx = product(g, weight.mT).view(its.shape)
            elif wants_x:
                dx = input_gradient(g, weight, bt, S @ V.mT).view(its.shape)
            if wants_its:
                d_its = up(bt, S @ V.mT).view(its.shape)
            d_bias = g.sum((0, 1)) if wants_bias else None
            return dx, d_its, None, d_bias, dU, dS, dV, None, None

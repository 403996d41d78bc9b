"""x ↦ W x for W = U S Vᵀ, with a backward pass that returns ∇_K, ∇_L and ∇_S in the places of U, V
and S.

For a layer y = x Wᵀ with upstream gradient g, and G = gᵀ x the gradient with respect to W:

    a = x V,  b = g U;     ∇_K = G V = gᵀ a,   ∇_L = Gᵀ U = xᵀ b,   ∇_S = Uᵀ G V = bᵀ a,   ∇_x = (b S) Vᵀ.

Nothing is divided by S. The published form is that of automatic differentiation: G_U = ∇_K Sᵀ,
G_V = ∇_L S, ∇_S.

An update is twice differentiable with respect to x alone: the arrays in the places of U and V are
not derivatives. The bases arrive transposed, Ut (r, m) and Vt (r, n). A *map* says how x meets Vᵀ:
as a matrix, as the kernel of a convolution, as a table to look up.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor
from torch.nn import functional
from torch.nn import grad as convolution_gradients

from geolora_ref.fast.layer.once import once

__all__ = [
    "ConvolutionMap",
    "InputMap",
    "LinearMap",
    "LookupMap",
    "projected_update",
    "projected_weight",
]


@runtime_checkable
class InputMap(Protocol):
    """The linear map x ↦ x V of a kind of layer, and its two adjoints; the last axis of a and b has
    length r.
    """

    def down(self, x: Tensor, Vt: Tensor) -> Tensor:
        """A = x V, (…, r)."""

    def input_gradient(self, c: Tensor, Vt: Tensor, x: Tensor) -> Tensor | None:
        """∇_x from c = b S."""

    def factor_gradient(self, b: Tensor, x: Tensor) -> Tensor:
        """(∇_L)ᵀ, (r, n)."""


def rows(X: Tensor) -> Tensor:
    """All axes but the last one flattened into one."""
    return X.reshape(-1, X.shape[-1])


def _summable(X: Tensor) -> Tensor:
    """X in single precision, or in its own dtype if that is higher."""
    return X.to(torch.promote_types(X.dtype, torch.float32))


@dataclass(frozen=True)
class LinearMap:
    """The map of a linear layer: x (…, n) times the matrix V."""

    def down(self, x: Tensor, Vt: Tensor) -> Tensor:
        """X V."""
        return x @ Vt.mT

    def input_gradient(self, c: Tensor, Vt: Tensor, x: Tensor) -> Tensor:
        """C Vᵀ."""
        return c @ Vt

    def factor_gradient(self, b: Tensor, x: Tensor) -> Tensor:
        """Bᵀ x."""
        return rows(b).mT @ rows(x)


CONVOLUTIONS: dict[int, tuple[Callable[..., Tensor], ...]] = {
    1: (functional.conv1d, convolution_gradients.conv1d_input, convolution_gradients.conv1d_weight),
    2: (functional.conv2d, convolution_gradients.conv2d_input, convolution_gradients.conv2d_weight),
    3: (functional.conv3d, convolution_gradients.conv3d_input, convolution_gradients.conv3d_weight),
}
"""By the number of axes that a kernel moves along: the convolution and its adjoints."""


@dataclass(frozen=True)
class ConvolutionMap:
    """The map of a convolution of padded x (B, channels, extent …), with or without the batch axis B.

    The extent is the length, or height and width, or depth, height and width.  n = channels times
    the entries of a kernel.
    """

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    dilation: tuple[int, ...]

    def _batch(self, X: Tensor) -> Tensor:
        """One sample as a batch of one."""
        return X if X.ndim > len(self.kernel) else X.unsqueeze(0)

    def down(self, x: Tensor, Vt: Tensor) -> Tensor:
        """The r kernels of V, (…, extent', r)."""
        convolve, _, _ = CONVOLUTIONS[len(self.stride)]
        return convolve(
            x, Vt.reshape(-1, *self.kernel), None, self.stride, 0, self.dilation
        ).movedim(-len(self.kernel), -1)

    def input_gradient(self, c: Tensor, Vt: Tensor, x: Tensor) -> Tensor:
        """The transposed convolution of c."""
        _, adjoint, _ = CONVOLUTIONS[len(self.stride)]
        kernels, upstream = (
            Vt.reshape(-1, *self.kernel),
            self._batch(c.movedim(-1, -len(self.kernel))),
        )
        return adjoint(
            list(self._batch(x).shape), kernels, upstream, self.stride, 0, self.dilation
        ).view(x.shape)

    def factor_gradient(self, b: Tensor, x: Tensor) -> Tensor:
        """The correlation of x with b."""
        _, _, correlate = CONVOLUTIONS[len(self.stride)]
        shape, upstream = (b.shape[-1], *self.kernel), self._batch(b.movedim(-1, -len(self.kernel)))
        return correlate(self._batch(x), shape, upstream, self.stride, 0, self.dilation).reshape(
            shape[0], -1
        )


@dataclass(frozen=True)
class LookupMap:
    """The map of an embedding: x (…) holds row numbers; a padding row contributes nothing and
    learns nothing.

    Sums over the tokens of a row are formed in single precision at least.  Devices, and torch's own
    gradient of a look-up, add one by one: in 16 bits all terms but the first few hundred would be
    lost.
    """

    rows: int
    padding_row: int | None

    def kept(self, x: Tensor, like: Tensor) -> Tensor:
        """1 for each row number that counts, 0 for the padding row, with a last axis of length 1."""
        counts = (
            torch.ones_like(x, dtype=torch.bool)
            if self.padding_row is None
            else x != self.padding_row
        )
        return counts.unsqueeze(-1).to(like.dtype)

    def down(self, x: Tensor, Vt: Tensor) -> Tensor:
        """Row x of V; automatic differentiation sums over tokens in the dtype of the table."""
        return functional.embedding(x, _summable(Vt).mT).to(Vt.dtype) * self.kept(x, Vt)

    def input_gradient(self, c: Tensor, Vt: Tensor, x: Tensor) -> None:
        """Row numbers have no gradient."""

    def factor_gradient(self, b: Tensor, x: Tensor) -> Tensor:
        """Sum of b over the tokens of each row."""
        terms = _summable(rows(b * self.kept(x, b)))
        total = terms.new_zeros(self.rows, b.shape[-1])
        return total.index_add_(0, x.reshape(-1), terms).mT.to(b.dtype)


class _ProjectedUpdate(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, Ut: Tensor, S: Tensor, Vt: Tensor, input_map: InputMap
    ) -> Tensor:
        a = input_map.down(x, Vt)
        ctx.save_for_backward(x, Ut, S, Vt, a)
        ctx.input_map = input_map
        return a @ S.mT @ Ut

    @staticmethod
    def backward(ctx: Any, *upstream: Any) -> tuple[Tensor | None, ...]:
        (g,) = upstream
        x, *factors, a = ctx.saved_tensors
        Ut, S, Vt = map(once, factors)
        b = g @ Ut.mT
        dx = ctx.input_map.input_gradient(b @ S, Vt, x) if ctx.needs_input_grad[0] else None
        dK_t = rows(a).mT @ rows(g)
        dL_t = ctx.input_map.factor_gradient(b, x)
        dS = rows(b).mT @ rows(a)
        return dx, once(dK_t, x), once(dS, x), once(dL_t, x), None  # a was formed without a graph


class _ProjectedWeight(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, Ut: Tensor, S: Tensor, Vt: Tensor) -> Tensor:
        ctx.save_for_backward(Ut, S, Vt)
        return Ut.mT @ S @ Vt

    @staticmethod
    def backward(ctx: Any, *upstream: Any) -> tuple[Tensor, ...]:
        (G,) = upstream
        Ut, _, Vt = factors = ctx.saved_tensors
        dK = G @ Vt.mT
        return once(dK.mT, *factors), once(Ut @ dK, *factors), once(Ut @ G, *factors)


def projected_update(x: Tensor, Ut: Tensor, S: Tensor, Vt: Tensor, input_map: InputMap) -> Tensor:
    """X Wᵀ of shape (…, m); gradients (∇_K)ᵀ, ∇_S, (∇_L)ᵀ for Ut, S, Vt."""
    result: Tensor = _ProjectedUpdate.apply(x, Ut, S, Vt, input_map)  # type: ignore[no-untyped-call, unused-ignore]
    return result


def projected_weight(Ut: Tensor, S: Tensor, Vt: Tensor) -> Tensor:
    """The dense W (m, n), for callers that read a layer's weight; gradients as of
    :func:`projected_update`.
    """
    result: Tensor = _ProjectedWeight.apply(Ut, S, Vt)  # type: ignore[no-untyped-call, unused-ignore]
    return result

"""A frozen layer and its low-rank update: y = base(x) + alpha · (x Wᵀ), W = U S Vᵀ.

One module for linear layers (also the transposed ones of GPT-2), convolutions and embeddings.  They differ in how x meets
the factors (``functions.py``) and in how W is laid out in the base weight, which :class:`Layout` says.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from geolora_ref import checks
from geolora_ref.fast import adapted_linear
from geolora_ref.fast.precision import autocasts, own_precision
from geolora_ref.nn.layers.adapter import LowRankAdapter
from geolora_ref.nn.layers.functions import ConvolutionMap, InputMap, LinearMap, LookupMap, projected_update, projected_weight
from geolora_ref.nn.layers.owner import own

__all__ = ["AdaptedLayer", "Convolution", "Fused", "Layout", "check_fused", "is_transposed_linear", "layout_of"]

Fused = Literal["auto", True, False]
Convolution = nn.Conv1d | nn.Conv2d | nn.Conv3d
PLAIN_WEIGHTS: tuple[type[Tensor], ...] = (Tensor, nn.Parameter)
"""Tensors that know every operation."""
PLAIN_FORWARDS = ("transformers.models.falcon.modeling_falcon.FalconLinear",)
"""Subclasses of nn.Linear with a ``forward`` of their own that is the same product."""
CODED_WEIGHTS = ("bitsandbytes.nn.modules.Linear8bitLt", "bitsandbytes.nn.modules.Linear4bit")
"""Those that have the same product from codes of their own in the place of the weight."""


@dataclass(frozen=True)
class Layout:
    """How a kind of layer uses W (m x n): its shape, how x meets the factors, and the ways between W and the layer's tensors.

    This one is that of nn.Linear: nothing to rearrange.
    """

    shape: tuple[int, int]
    input_map: InputMap

    def before(self, x: Tensor) -> Tensor:
        """The input as the map wants it."""
        return x

    def after(self, y: Tensor) -> Tensor:
        """The update (…, m) arranged like the layer's output."""
        return y

    def weight(self, W: Tensor) -> Tensor:
        """W arranged like the layer's weight."""
        return W


@dataclass(frozen=True)
class _TransposedLayout(Layout):
    def weight(self, W: Tensor) -> Tensor:
        return W.mT


@dataclass(frozen=True)
class _ConvolutionLayout(Layout):
    kernels: tuple[int, ...]
    padding: tuple[int, ...]
    padding_mode: str

    def before(self, x: Tensor) -> Tensor:
        return functional.pad(x, self.padding, mode=self.padding_mode)

    def after(self, y: Tensor) -> Tensor:
        return y.movedim(-1, 1 - len(self.kernels))

    def weight(self, W: Tensor) -> Tensor:
        return W.reshape(self.kernels)


@dataclass(frozen=True)
class _EmbeddingLayout(Layout):
    input_map: LookupMap

    def weight(self, W: Tensor) -> Tensor:
        rows = torch.arange(self.shape[1], device=W.device)
        return W.mT * self.input_map.kept(rows, W)


def is_transposed_linear(layer: nn.Module) -> bool:
    """Whether this is the ``Conv1D`` of transformers: a linear layer whose weight is stored as n x m."""
    return type(layer).__name__ == "Conv1D" and hasattr(layer, "nf") and hasattr(layer, "weight")


def layout_of(layer: nn.Module) -> Layout:
    """The layout of a layer's weight.

    Linear: m outputs, n inputs.  Convolution: m output channels, n = input channels x kernel.  Embedding: m features, n rows.
    Raises ``ValueError`` for a layer of another kind, a weight without values (meta device) or not of floating point
    (quantised, other than by bitsandbytes), and for options under which the layer is not linear in its weight.
    """
    weight = getattr(layer, "weight", None)
    if not isinstance(weight, Tensor):
        raise ValueError(f"expected a layer with a weight, found {type(layer).__name__}")
    if weight.is_meta:
        raise ValueError("expected a weight with values, found one on the meta device; load the model first")
    if _is_coded(weight) and not any(_full_name(kind) in CODED_WEIGHTS for kind in type(layer).__mro__):
        raise ValueError(f"expected a weight of floating point, found {weight.dtype} ({type(weight).__name__}): quantised")
    if isinstance(layer, nn.Linear):
        return Layout((layer.out_features, layer.in_features), LinearMap())
    if is_transposed_linear(layer):
        return _TransposedLayout((weight.shape[1], weight.shape[0]), LinearMap())
    if isinstance(layer, Convolution):
        return _convolution_layout(layer)
    if isinstance(layer, nn.Embedding):
        return _embedding_layout(layer)
    kinds = "nn.Linear, Conv1D (transformers), nn.Conv1d, nn.Conv2d, nn.Conv3d or nn.Embedding"
    raise ValueError(f"expected {kinds}, found {type(layer).__name__}")


def _convolution_layout(layer: Convolution) -> Layout:
    if layer.groups != 1:
        raise ValueError(f"expected a convolution with groups = 1, found groups = {layer.groups}: its weight is not one matrix")
    kernels, stride, dilation = tuple(layer.weight.shape), tuple(layer.stride), tuple(layer.dilation)
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    padding = tuple(layer._reversed_padding_repeated_twice)
    shape = kernels[0], math.prod(kernels[1:])
    return _ConvolutionLayout(shape, ConvolutionMap(kernels[1:], stride, dilation), kernels, padding, mode)


def _embedding_layout(layer: nn.Embedding) -> Layout:
    if layer.max_norm is not None or layer.scale_grad_by_freq or layer.sparse:
        raise ValueError("expected an embedding without max_norm, scale_grad_by_freq and sparse gradients")
    if type(layer) is not nn.Embedding:
        raise ValueError(f"expected nn.Embedding itself, found {type(layer).__name__}, which may scale what it looks up")
    lookup = LookupMap(layer.num_embeddings, layer.padding_idx)
    return _EmbeddingLayout((layer.embedding_dim, layer.num_embeddings), lookup)


class AdaptedLayer(nn.Module):
    """y = base(x) + alpha · (dropout(x) Wᵀ) with a frozen ``base`` and W = U S Vᵀ in ``adapter``.

    ``alpha`` is a constant: a factor that depended on the rank would change the function at every truncation.
    ``fused`` : "auto", by ``geolora_ref.fast`` where that applies: one function for base and update, where the base is nn.Linear
    with a frozen weight in the dtype and on the device of the factors (no quantised one, nor another subclass of tensors), and
    nothing is to happen when it is called: no hook and no ``forward`` of its own (as offloading, pruning and older
    parametrisations have them).  Every other layer takes the plain way, and so does gradients="published", whose graph is torch's
    own.  False: the plain way always, base(x) and the update
    beside it, whose output is that of the base to the last bit while S = 0; the fused function rounds otherwise where another
    library multiplies (``fast/layer/product.py``).  True: as "auto", for bases that are as they have to be, or ``ValueError``.
    Hooks for all modules at once, which torch has for debugging and profiling, do not see a fused base: it is not called.
    Whoever reads ``weight`` instead of calling the layer (nn.MultiheadAttention does) gets the effective one, base.weight +
    alpha·W, and gradients pass through it in the same form; dropout, which acts on the input, has no place there.  Every other
    attribute is the base's, but for those that Python itself asks for (``__deepcopy__``).
    A ``state_dict`` holds base and adapter unmerged, also while they are merged; to load one unmerges.  Layers that are given
    one base know nothing of each other: they are saved and loaded unmerged, and the one that was merged last is unmerged first.
    A program that ``torch.export`` makes of it computes the same but cannot be trained: it has the ordinary gradients of U, S, V.
    """

    def __init__(
        self,
        base: nn.Module,
        adapter: LowRankAdapter,
        *,
        alpha: float = 1.0,
        dropout: float = 0.0,
        fused: Fused = "auto",
    ) -> None:
        super().__init__()
        self.layout = layout = layout_of(base)
        if adapter.shape != layout.shape:
            raise ValueError(f"adapter: expected the shape {layout.shape} of the layer's weight, found {adapter.shape}")
        checks.below_one("dropout", dropout)
        if dropout and isinstance(base, nn.Embedding):
            raise ValueError("dropout: expected 0 for an embedding, whose input are row numbers")
        check_fused(fused)
        if fused is True and not _is_like_the_factors(base, adapter):
            found = f"{type(base).__name__}, {base.weight.dtype} beside {adapter.S.dtype}"
            raise ValueError(f"fused: expected nn.Linear with a weight of the factors' dtype and device, found {found}")
        if not abs(checks.number(alpha)) <= torch.finfo(adapter.S.dtype).max:  # beyond it S = 0 would give NaN
            raise ValueError(f"alpha: expected a finite number, found {alpha!r} in {adapter.S.dtype}")
        self.base, self.adapter, self.alpha = base, adapter, float(alpha)
        own(self, [adapter])
        self.dropout = nn.Dropout(dropout)
        self.enabled = True
        self.fused = fused
        self._unmerged_weight: Tensor | None = None
        self.register_state_dict_post_hook(_state_of_the_unmerged)  # type: ignore[no-untyped-call]
        self.register_load_state_dict_pre_hook(_unmerged_for_a_state)  # type: ignore[no-untyped-call]

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        own(self, [self.adapter])

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name == "base" or (name.startswith("__") and name.endswith("__")):  # the base's __deepcopy__ would copy it alone
                raise
            return getattr(self.base, name)

    @property
    def base_weight(self) -> nn.Parameter:
        """The frozen weight."""
        return cast(nn.Parameter, self.base.weight)

    @property
    def merged(self) -> bool:
        """Whether base.weight contains alpha·W at present."""
        return self._unmerged_weight is not None

    @property
    def base_is_merged(self) -> bool:
        """Whether the base has this adapter in its weight, or another one that shares it (``peft_tuner.py``)."""
        return self.merged

    @property
    def weight(self) -> Tensor:
        """The effective weight in the dtype of the base, W by products in that of the factors; base.weight itself while merged or
        disabled.  Raises ``RuntimeError`` for a quantised base, to whose codes nothing can be added.
        """
        if self.merged or not self.enabled:
            return self.base_weight
        if _is_coded(self.base_weight):
            raise RuntimeError(f"weight: expected numbers to add the update to, found codes ({type(self.base_weight).__name__})")
        Ut, S, Vt = self.adapter.in_forward()
        with own_precision(S.device):
            W = self._dense(Ut, S, Vt)
        return self.base_weight + self.alpha * self.layout.weight(W).to(self.base_weight.dtype)

    def _dense(self, Ut: Tensor, S: Tensor, Vt: Tensor) -> Tensor:
        """W = U S Vᵀ, with the gradients of the adapter's route."""
        return projected_weight(Ut, S, Vt) if self.adapter.gradients == "projected" else Ut.mT @ S @ Vt

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002, its name in the layers of torch
        """The base's output and the update."""
        if self.merged or not self.enabled:
            y: Tensor = self.base(input)
            return y
        wanted = self.fused is True or (self.fused and self.adapter.gradients == "projected")
        if wanted and not input.is_nested and self._is_fusable():
            return self._fused(input)
        y = self.base(input)
        return y + self.alpha * self.update(input).to(y.dtype)

    def _is_fusable(self) -> bool:
        """Whether base(x) is x W₀ᵀ + bias, with a frozen W₀, and nothing else."""
        base = self.base
        if not _is_like_the_factors(base, self.adapter) or "forward" in base.__dict__:
            return False
        hooked = base._forward_hooks or base._forward_pre_hooks or base._backward_hooks or base._backward_pre_hooks
        return not (hooked or self.base_weight.requires_grad)

    def _fused(self, x: Tensor) -> Tensor:
        """The same by the fast path."""
        (Ut, S, Vt), base = self.adapter.in_forward(), cast(nn.Linear, self.base)
        dropped = None if _does_nothing(self.dropout) else self.dropout(x)
        published = self.adapter.gradients == "published"
        factors = (Ut.mT, S, Vt.mT, self.alpha)
        return adapted_linear(x, base.weight, base.bias, *factors, adapter_x=dropped, factor_gradients=published)

    def update(self, x: Tensor) -> Tensor:
        """X Wᵀ, arranged like the output of the base; in autocast's precision where that is on."""
        layout, (Ut, S, Vt) = self.layout, self.adapter.in_forward()
        dtype = _working_dtype(x, S)
        if x.is_floating_point():
            x = layout.before(self.dropout(x).to(dtype))
        Ut, S, Vt = (X.to(dtype) for X in (Ut, S, Vt))
        if x.is_nested:  # sequences of different lengths, which torch multiplies by matrices and does not flatten
            return layout.after(functional.linear(x, self._dense(Ut, S, Vt)))
        if self.adapter.gradients == "published":
            return layout.after(layout.input_map.down(x, Vt) @ S.mT @ Ut)
        return layout.after(projected_update(x, Ut, S, Vt, layout.input_map))

    @torch.no_grad()
    def merge(self) -> None:
        """Add alpha·W to base.weight, in its dtype.  The original is kept beside it until :meth:`unmerge`.

        Raises ``RuntimeError`` if it is merged already, if it is disabled, if the base computes its weight anew at each call
        (parametrisations, pruning), or if its class has a ``forward`` of its own, which may use the weight otherwise (weight
        standardisation).
        """
        if self.merged:
            raise RuntimeError("merge: the layer is merged already")
        self.check_mergeable()
        merged = self.weight
        self._unmerged_weight = self.base_weight.detach().clone()
        self.base_weight.copy_(merged)

    def check_mergeable(self) -> None:
        """Raise ``RuntimeError`` unless it is enabled, its bases are its own, and the weight of the base is a parameter that it
        uses as it is.
        """
        if not self.enabled:
            raise RuntimeError("merge: expected an adapter that is enabled, found one that is disabled")
        self.adapter.refuse_foreign_bases()
        if "weight" not in self.base._parameters:
            raise RuntimeError("merge: expected a base whose weight is a parameter, found one that is computed from others")
        if not _is_plain(self.base_weight) or self.base_weight.ndim < 2:  # flat: a piece, as FSDP1 leaves it
            found = f"{type(self.base_weight).__name__} {tuple(self.base_weight.shape)}"
            raise RuntimeError(f"merge: expected a weight that is a tensor of its entries, found a {found}")
        if _has_own_forward(self.base):
            kind = type(self.base).__name__
            raise RuntimeError(f"merge: expected a base that uses its weight as it is, found {kind} with a forward of its own")

    @torch.no_grad()
    def unmerge(self) -> None:
        """Put the original base.weight back, bit for bit.  Raises ``RuntimeError`` if the layer is not merged."""
        if self._unmerged_weight is None:
            raise RuntimeError("unmerge: the layer is not merged")
        self.base_weight.copy_(self._unmerged_weight)
        self._unmerged_weight = None

    @contextmanager
    def disabled(self) -> Iterator[None]:
        """Within this context the layer is its base.  Raises ``RuntimeError`` if it is merged: then its base is another one."""
        if self.merged:
            raise RuntimeError("disabled: expected an adapter that is not merged, found one that is; unmerge it first")
        before, self.enabled = self.enabled, False
        try:
            yield
        finally:
            self.enabled = before


def check_fused(fused: object) -> None:
    """Raise ``ValueError`` unless this is a choice of :class:`AdaptedLayer`."""
    if not isinstance(fused, bool) and fused != "auto":
        raise ValueError(f"fused: expected 'auto', True or False, found {fused!r}")


def _is_like_the_factors(base: nn.Module, adapter: LowRankAdapter) -> bool:
    """Whether the base is nn.Linear itself, with a plain weight in the dtype and on the device of the factors."""
    if type(base) is not nn.Linear:
        return False
    W0, S = base.weight, adapter.S
    return _is_plain(W0) and W0.dtype == S.dtype and W0.device == S.device


def _does_nothing(dropout: nn.Module) -> bool:
    """Whether dropout returns its input.  Its mode is its own: Monte Carlo methods switch it on in a model that is evaluated."""
    return isinstance(dropout, nn.Identity) or (isinstance(dropout, nn.Dropout) and not (dropout.training and dropout.p > 0.0))


def _is_plain(weight: Tensor) -> bool:
    """Whether a weight is no subclass of tensors: quantised ones, and those spread over processes, may know fewer operations."""
    return type(weight) in PLAIN_WEIGHTS


def _is_coded(weight: Tensor) -> bool:
    """Whether a weight holds codes, of which another library makes numbers (quantised)."""
    return not weight.is_floating_point() or weight.element_size() < 2


def _full_name(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


def _has_own_forward(base: nn.Module) -> bool:
    """Whether a subclass of nn.Linear or of a convolution may do something else with its weight."""
    if _full_name(type(base)) in PLAIN_FORWARDS:
        return False
    for kind in (nn.Conv1d, nn.Conv2d, nn.Conv3d):
        if isinstance(base, kind):
            return type(base).forward is not kind.forward or type(base)._conv_forward is not kind._conv_forward
    return isinstance(base, nn.Linear) and type(base).forward is not nn.Linear.forward


def _state_of_the_unmerged(layer: AdaptedLayer, state: dict[str, Any], prefix: str, metadata: dict[str, Any]) -> None:
    """A state with alpha·W in the weight and W beside it would count W twice."""
    if layer._unmerged_weight is not None and f"{prefix}base.weight" in state:
        state[f"{prefix}base.weight"] = layer._unmerged_weight.to(layer.base_weight)  # where the module has been moved to


def _unmerged_for_a_state(layer: AdaptedLayer, state: dict[str, Any], prefix: str, *_: Any) -> None:
    """Base or factors alone as well: alpha·W of before would stay in the weight."""
    if layer.merged and any(key.startswith(prefix) for key in state):
        layer.unmerge()


def _working_dtype(x: Tensor, S: Tensor) -> torch.dtype:
    """That of the factors, or autocast's (which leaves double precision alone)."""
    device = x.device.type
    if autocasts(device) and S.dtype == torch.float32:
        return torch.get_autocast_dtype(device)
    return S.dtype

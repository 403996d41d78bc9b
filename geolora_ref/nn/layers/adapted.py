"""A frozen layer and its low-rank update: y = base(x) + alpha · (x Wᵀ), W = U S Vᵀ.

One module for linear layers (also the transposed ones of GPT-2), convolutions and embeddings.  They
differ in how x meets the factors (``functions.py``) and in how W is laid out in the base weight
(:class:`Layout`).
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
from geolora_ref.nn.layers.functions import (
    ConvolutionMap,
    InputMap,
    LinearMap,
    LookupMap,
    projected_update,
    projected_weight,
)
from geolora_ref.nn.layers.owner import own

__all__ = [
    "AdaptedLayer",
    "Alpha",
    "Convolution",
    "Fused",
    "Layout",
    "alpha_of",
    "check_fused",
    "is_transposed_linear",
    "layout_of",
]

Alpha = float | Literal["rms"]
Fused = Literal["auto", True, False]
Convolution = nn.Conv1d | nn.Conv2d | nn.Conv3d
PLAIN_WEIGHTS: tuple[type[Tensor], ...] = (Tensor, nn.Parameter)
"""Tensor classes that support every operation."""
PLAIN_FORWARDS = ("transformers.models.falcon.modeling_falcon.FalconLinear",)
"""Subclasses of nn.Linear whose own ``forward`` computes the same product."""
CODED_WEIGHTS = ("bitsandbytes.nn.modules.Linear8bitLt", "bitsandbytes.nn.modules.Linear4bit")
"""Subclasses of nn.Linear that compute the same product from a quantised weight."""


@dataclass(frozen=True)
class Layout:
    """How a kind of layer uses W (m x n): its shape, how x meets the factors, and how W maps to the
    layer's tensors.

    The base class is the layout of nn.Linear, where nothing is rearranged.
    """

    shape: tuple[int, int]
    input_map: InputMap

    @property
    def rms(self) -> float:
        """√(m/n): times W x it has a root mean square of at most ‖W‖₂ times that of x; 1 for an
        embedding, whose inputs are row numbers.
        """
        m, n = self.shape
        return math.sqrt(m / n)

    def before(self, x: Tensor) -> Tensor:
        """The input in the form that ``input_map`` takes (padded, for a convolution)."""
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

    @property
    def rms(self) -> float:
        return 1.0

    def weight(self, W: Tensor) -> Tensor:
        rows = torch.arange(self.shape[1], device=W.device)
        return W.mT * self.input_map.kept(rows, W)


def alpha_of(alpha: Any) -> Alpha:
    """A float or "rms"; ``ValueError`` for another word or a number that is not finite."""
    if isinstance(alpha, str) and alpha == "rms":
        return "rms"
    if not math.isfinite(checks.number(alpha)):
        raise ValueError(f"alpha: expected a finite number or 'rms', found {alpha!r}")
    return checks.number(alpha)


def is_transposed_linear(layer: nn.Module) -> bool:
    """Return whether this is the ``Conv1D`` of transformers: a linear layer whose weight is stored
    as n x m.
    """
    return type(layer).__name__ == "Conv1D" and hasattr(layer, "nf") and hasattr(layer, "weight")


def layout_of(layer: nn.Module) -> Layout:
    """The layout of a layer's weight.

    Linear: m outputs, n inputs.  Convolution: m output channels, n = input channels x kernel.
    Embedding: m features, n rows.  Raises ``ValueError`` for a layer of another kind, a weight
    without values (meta device) or not of floating point (quantised, other than by bitsandbytes),
    and for options under which the layer is not linear in its weight.
    """
    weight = getattr(layer, "weight", None)
    if not isinstance(weight, Tensor):
        raise ValueError(f"expected a layer with a weight, found {type(layer).__name__}")
    if weight.is_meta:
        raise ValueError(
            "expected a weight with values, found one on the meta device; load the model first"
        )
    if _is_coded(weight) and not any(
        _full_name(kind) in CODED_WEIGHTS for kind in type(layer).__mro__
    ):
        raise ValueError(
            f"expected a weight of floating point, found {weight.dtype} ({type(weight).__name__}): quantised"
        )
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
        raise ValueError(
            f"expected a convolution with groups = 1, found groups = {layer.groups}: its weight is not one matrix"
        )
    kernels, stride, dilation = (
        tuple(layer.weight.shape),
        tuple(layer.stride),
        tuple(layer.dilation),
    )
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    padding = tuple(layer._reversed_padding_repeated_twice)
    shape = kernels[0], math.prod(kernels[1:])
    return _ConvolutionLayout(
        shape, ConvolutionMap(kernels[1:], stride, dilation), kernels, padding, mode
    )


def _embedding_layout(layer: nn.Embedding) -> Layout:
    if layer.max_norm is not None or layer.scale_grad_by_freq or layer.sparse:
        raise ValueError(
            "expected an embedding without max_norm, scale_grad_by_freq and sparse gradients"
        )
    if type(layer) is not nn.Embedding:
        raise ValueError(
            f"expected nn.Embedding itself, found {type(layer).__name__}, which may scale what it looks up"
        )
    lookup = LookupMap(layer.num_embeddings, layer.padding_idx)
    return _EmbeddingLayout((layer.embedding_dim, layer.num_embeddings), lookup)


class AdaptedLayer(nn.Module):
    """y = base(x) + alpha · (dropout(x) Wᵀ) with a frozen ``base`` and W = U S Vᵀ in ``adapter``.

    ``alpha`` : a constant, or "rms": √(m/n), and 1 for an embedding. Before its truncation, a step
    of the spectral rule then moves the outputs of a linear layer by at most 2λ/√3, both in root
    mean square, whatever its shape (docs/theory/directions.md; [YSB23]).
    ``fused`` : "auto" computes base and update in one function where that applies
    (docs/fast_path.md), False never; True is like "auto", but fuses gradients="published" too.

    Other attributes are the base's, except special ones such as ``__deepcopy__``. A ``state_dict``
    holds base and adapter unmerged, and alpha; loading one unmerges, and refuses another alpha. For
    a base that layers share, see docs/finetuning.md.

    Raises ``ValueError`` for options out of range, and with ``fused=True`` for a base of another
    class, dtype or device.
    """

    def __init__(
        self,
        base: nn.Module,
        adapter: LowRankAdapter,
        *,
        alpha: Alpha = "rms",
        dropout: float = 0.0,
        fused: Fused = "auto",
    ) -> None:
        super().__init__()
        self.layout = layout = layout_of(base)
        if adapter.shape != layout.shape:
            raise ValueError(
                f"adapter: expected the shape {layout.shape} of the layer's weight, found {adapter.shape}"
            )
        checks.below_one("dropout", dropout)
        if dropout and isinstance(base, nn.Embedding):
            raise ValueError("dropout: expected 0 for an embedding, whose input are row numbers")
        check_fused(fused)
        if fused is True and not _is_like_the_factors(base, adapter):
            found = f"{type(base).__name__}, {base.weight.dtype} with factors in {adapter.S.dtype}"
            raise ValueError(
                f"fused: expected nn.Linear with a weight of the factors' dtype and device, found {found}"
            )
        scale = layout.rms if alpha_of(alpha) == "rms" else checks.number(alpha)
        if not abs(scale) <= torch.finfo(adapter.S.dtype).max:  # beyond it S = 0 would give NaN
            raise ValueError(
                f"alpha: expected a finite number or 'rms', found {alpha!r} in {adapter.S.dtype}"
            )
        self.base, self.adapter, self.alpha = base, adapter, scale
        own(self, [adapter])
        self.dropout = nn.Dropout(dropout)
        self.enabled = True
        self.fused = fused
        self._unmerged_weight: Tensor | None = None
        self.register_state_dict_post_hook(_state_of_the_unmerged)  # type: ignore[no-untyped-call]
        self.register_state_dict_post_hook(_note_alpha)  # type: ignore[no-untyped-call]
        self.register_load_state_dict_pre_hook(_compare_alpha)  # type: ignore[no-untyped-call]
        self.register_load_state_dict_pre_hook(_unmerged_for_a_state)  # type: ignore[no-untyped-call]

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        own(self, [self.adapter])

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name == "base" or (
                name.startswith("__") and name.endswith("__")
            ):  # the base's __deepcopy__ would copy it alone
                raise
            return getattr(self.base, name)

    @property
    def base_weight(self) -> nn.Parameter:
        """The frozen weight of the base, with alpha·W in it while merged."""
        return cast(nn.Parameter, self.base.weight)

    @property
    def merged(self) -> bool:
        """Return whether base.weight contains alpha·W at present."""
        return self._unmerged_weight is not None

    @property
    def base_is_merged(self) -> bool:
        """Return whether base.weight contains this adapter or another adapter of the same base
        (``peft_tuner.py``).
        """
        return self.merged

    @property
    def weight(self) -> Tensor:
        """The effective weight in the base's dtype, with W computed in the factors' dtype;
        base.weight itself while merged or disabled.  Raises ``RuntimeError`` for a quantised base:
        nothing can be added to its codes.
        """
        if self.merged or not self.enabled:
            return self.base_weight
        if _is_coded(self.base_weight):
            raise RuntimeError(
                f"weight: expected numbers to add the update to, found codes ({type(self.base_weight).__name__})"
            )
        Ut, S, Vt = self.adapter.in_forward()
        with own_precision(S.device):
            W = self._dense(Ut, S, Vt)
        return self.base_weight + self.alpha * self.layout.weight(W).to(self.base_weight.dtype)

    def _dense(self, Ut: Tensor, S: Tensor, Vt: Tensor) -> Tensor:
        """W = U S Vᵀ, with the gradients of the adapter's route."""
        return (
            projected_weight(Ut, S, Vt) if self.adapter.gradients == "projected" else Ut.mT @ S @ Vt
        )

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002, its name in the layers of torch
        """The base's output plus alpha times the update."""
        if self.merged or not self.enabled:
            y: Tensor = self.base(input)
            return y
        wanted = self.fused is True or (self.fused and self.adapter.gradients == "projected")
        if wanted and not input.is_nested and self._is_fusable():
            return self._fused(input)
        y = self.base(input)
        return y + self.alpha * self.update(input).to(y.dtype)

    def _is_fusable(self) -> bool:
        """Return whether base(x) is x W₀ᵀ + bias, with a frozen W₀, and nothing else."""
        base = self.base
        if not _is_like_the_factors(base, self.adapter) or "forward" in base.__dict__:
            return False
        hooked = (
            base._forward_hooks
            or base._forward_pre_hooks
            or base._backward_hooks
            or base._backward_pre_hooks
        )
        return not (hooked or self.base_weight.requires_grad)

    def _fused(self, x: Tensor) -> Tensor:
        """The output of :meth:`forward` by the fast path."""
        (Ut, S, Vt), base = self.adapter.in_forward(), cast(nn.Linear, self.base)
        dropped = None if _does_nothing(self.dropout) else self.dropout(x)
        published = self.adapter.gradients == "published"
        factors = (Ut.mT, S, Vt.mT, self.alpha)
        return adapted_linear(
            x, base.weight, base.bias, *factors, adapter_x=dropped, factor_gradients=published
        )

    def update(self, x: Tensor) -> Tensor:
        """X Wᵀ, arranged like the output of the base; in autocast's precision while autocast is on."""
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
        """Add alpha·W to base.weight, in its dtype.  The layer keeps the original weight until
        :meth:`unmerge`.

        Raises ``RuntimeError`` if the layer is merged already or disabled, if the base computes its
        weight at each call (parametrisations, pruning), or if the base's class has its own
        ``forward``, which may use the weight otherwise (weight standardisation).
        """
        if self.merged:
            raise RuntimeError("merge: the layer is merged already")
        self.check_mergeable()
        merged = self.weight
        self._unmerged_weight = self.base_weight.detach().clone()
        self.base_weight.copy_(merged)

    def check_mergeable(self) -> None:
        """Raise ``RuntimeError`` unless the layer is enabled, GeoLoRA alone wrote the bases U and
        V, and base.weight is a parameter that the base uses unchanged.
        """
        if not self.enabled:
            raise RuntimeError(
                "merge: expected an adapter that is enabled, found one that is disabled"
            )
        self.adapter.refuse_foreign_bases()
        if "weight" not in self.base._parameters:
            raise RuntimeError(
                "merge: expected a base whose weight is a parameter, found one that is computed from others"
            )
        if (
            not _is_plain(self.base_weight) or self.base_weight.ndim < 2
        ):  # flat: a piece, as FSDP1 leaves it
            found = f"{type(self.base_weight).__name__} {tuple(self.base_weight.shape)}"
            raise RuntimeError(
                f"merge: expected a weight that is a tensor of its entries, found a {found}"
            )
        if _has_own_forward(self.base):
            kind = type(self.base).__name__
            raise RuntimeError(
                f"merge: expected a base that uses its weight as it is, found {kind} with a forward of its own"
            )

    @torch.no_grad()
    def unmerge(self) -> None:
        """Put the original base.weight back, bit for bit.  Raises ``RuntimeError`` if the layer is
        not merged.
        """
        if self._unmerged_weight is None:
            raise RuntimeError("unmerge: the layer is not merged")
        self.base_weight.copy_(self._unmerged_weight)
        self._unmerged_weight = None

    @contextmanager
    def disabled(self) -> Iterator[None]:
        """Within this context the layer is its base.  Raises ``RuntimeError`` while merged:
        base.weight then contains alpha·W.
        """
        if self.merged:
            raise RuntimeError(
                "disabled: expected an adapter that is not merged, found one that is; unmerge it first"
            )
        before, self.enabled = self.enabled, False
        try:
            yield
        finally:
            self.enabled = before


def check_fused(fused: object) -> None:
    """Raise ``ValueError`` unless ``fused`` is "auto", True or False (see :class:`AdaptedLayer`)."""
    if not isinstance(fused, bool) and fused != "auto":
        raise ValueError(f"fused: expected 'auto', True or False, found {fused!r}")


def _is_like_the_factors(base: nn.Module, adapter: LowRankAdapter) -> bool:
    """Return whether the base is nn.Linear itself, with a plain weight in the dtype and on the
    device of the factors.
    """
    if type(base) is not nn.Linear:
        return False
    W0, S = base.weight, adapter.S
    return _is_plain(W0) and W0.dtype == S.dtype and W0.device == S.device


def _does_nothing(dropout: nn.Module) -> bool:
    """Return whether dropout returns its input.  Its own mode counts: Monte Carlo dropout switches
    it on in a model in eval mode.
    """
    return isinstance(dropout, nn.Identity) or (
        isinstance(dropout, nn.Dropout) and not (dropout.training and dropout.p > 0.0)
    )


def _is_plain(weight: Tensor) -> bool:
    """Return whether a weight is a plain tensor: tensor subclasses (quantised, distributed) may
    support fewer operations.
    """
    return type(weight) in PLAIN_WEIGHTS


def _is_coded(weight: Tensor) -> bool:
    """Return whether a weight is quantised: it holds codes that another library decodes into numbers."""
    return not weight.is_floating_point() or weight.element_size() < 2


def _full_name(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


def _has_own_forward(base: nn.Module) -> bool:
    """Return whether a subclass of nn.Linear or of a convolution may do something else with its weight."""
    if _full_name(type(base)) in PLAIN_FORWARDS:
        return False
    for kind in (nn.Conv1d, nn.Conv2d, nn.Conv3d):
        if isinstance(base, kind):
            return (
                type(base).forward is not kind.forward
                or type(base)._conv_forward is not kind._conv_forward
            )
    return isinstance(base, nn.Linear) and type(base).forward is not nn.Linear.forward


def _state_of_the_unmerged(
    layer: AdaptedLayer, state: dict[str, Any], prefix: str, metadata: dict[str, Any]
) -> None:
    """Put the unmerged weight into a state: a state with alpha·W in the weight and W next to it
    would count W twice.
    """
    if layer._unmerged_weight is not None and f"{prefix}base.weight" in state:
        state[f"{prefix}base.weight"] = layer._unmerged_weight.to(
            layer.base_weight
        )  # where the module has been moved to


def _unmerged_for_a_state(layer: AdaptedLayer, state: dict[str, Any], prefix: str, *_: Any) -> None:
    """Unmerge before any part of a state is loaded: otherwise the old alpha·W would stay in the weight."""
    if layer.merged and any(key.startswith(prefix) for key in state):
        layer.unmerge()


def _note_alpha(
    layer: AdaptedLayer, _state: dict[str, Any], _prefix: str, metadata: dict[str, Any]
) -> None:
    """Store alpha with the factors, which mean nothing without it."""
    metadata["alpha"] = layer.alpha


def _compare_alpha(
    layer: AdaptedLayer, state: dict[str, Any], prefix: str, metadata: dict[str, Any], *_: Any
) -> None:
    """Raise ``RuntimeError``, as ``load_state_dict`` does, before a part of this layer is loaded
    from a state of another alpha.
    """
    found = metadata.get("alpha", layer.alpha)
    if found != layer.alpha and any(key.startswith(prefix) for key in state):
        raise RuntimeError(
            f"{prefix}alpha: expected {layer.alpha:.6g}, found a state of a layer with {found:.6g}"
        )


def _working_dtype(x: Tensor, S: Tensor) -> torch.dtype:
    """The dtype of the update: the factors' dtype, or autocast's (which leaves double precision alone)."""
    device = x.device.type
    if autocasts(device) and S.dtype == torch.float32:
        return torch.get_autocast_dtype(device)
    return S.dtype

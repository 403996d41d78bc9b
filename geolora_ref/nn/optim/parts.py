"""Find the adapters and the other parameters in what an optimizer is given: a model, parts of it,
or groups of tensors.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from torch import Tensor, nn

from geolora_ref.nn.layers.adapt import adapters, plain_name, unwrapped
from geolora_ref.nn.layers.adapted import AdaptedLayer
from geolora_ref.nn.layers.adapter import LowRankAdapter
from geolora_ref.nn.layers.owner import is_owned, owner_of

__all__ = ["Members", "members_of", "parts_of"]

WHOLE = "give the optimizer the model"


class Members(NamedTuple):
    """Adapted layers by name, and the names of the other trainable parameters; both without torch's
    wrappers, so that a state can be loaded with and without them.
    """

    layers: dict[str, AdaptedLayer]
    rest: dict[Tensor, str]


def parts_of(model: nn.Module | Iterable[Mapping[str, Any] | Tensor]) -> list[dict[str, Any]]:
    """A model, parts of it with options of their own, or its parameters, as groups; ``ValueError``
    for anything else, such as named parameters.
    """
    if isinstance(model, nn.Module):
        return [{"module": model}]
    found = list(model) if isinstance(model, Iterable) else [model]
    if found and all(isinstance(part, Tensor) for part in found):
        return [{"params": found}]
    parts: list[dict[str, Any]] = []
    for part in found:
        if not isinstance(part, Mapping):
            raise ValueError(
                "model: expected a model, groups {'module': a part of it, …} or model.parameters(), "
                f"found {type(part).__name__}"
            )
        parts.append(dict(part))
    return parts


def members_of(part: dict[str, Any], options: Iterable[str]) -> Members:
    """Take the trainable parameters out of a part, which keeps its options; ``ValueError`` for
    unknown options, and as below.
    """
    module, tensors = part.pop("module", None), part.pop("params", None)
    unknown = sorted(part.keys() - set(options))
    if unknown or not (
        isinstance(module, nn.Module) or (module is None and isinstance(tensors, Iterable))
    ):
        raise ValueError(
            f"model: expected groups with 'module' and options among {sorted(options)}, found {unknown or module or tensors!r}"
        )
    if isinstance(module, nn.Module):
        return _of_module(module)
    return _of_tensors([tensors] if isinstance(tensors, Tensor) else list(tensors))


def _of_module(module: nn.Module) -> Members:
    """The members of a module; ``ValueError`` for adapters with only some factors trainable, or
    outside of their layer.
    """
    every = adapters(module)
    for name, layer in every.items():
        if len({factor.requires_grad for factor in layer.adapter.parameters()}) > 1:
            raise ValueError(
                f"model: expected all factors of an adapter to be trainable or none, found some of {name}"
            )
    whole = {id(layer.adapter) for layer in every.values()}
    for name, inner in module.named_modules():
        if isinstance(inner, LowRankAdapter) and inner.S.requires_grad and id(inner) not in whole:
            raise ValueError(
                f"model: expected adapters in their layers, found {name or 'an adapter'} without its layer"
            )
    layers = {
        name or "layer": layer for name, layer in every.items() if layer.adapter.S.requires_grad
    }
    ids = {id(factor) for layer in layers.values() for factor in layer.adapter.parameters()}
    named = unwrapped(module).named_parameters()
    return Members(
        layers, {p: plain_name(name) for name, p in named if p.requires_grad and id(p) not in ids}
    )


def _of_tensors(tensors: list[Any]) -> Members:
    """The members of a group of tensors without names, as other optimizers take it and
    transformers' Trainer makes it.

    Raises ``ValueError`` for an item that is no tensor, and for an adapter without its layer or
    with factors elsewhere.
    """
    for X in tensors:
        if not isinstance(X, Tensor):
            raise ValueError(f"params: expected tensors, found {type(X).__name__}; {WHOLE}")
    trained = [X for X in tensors if X.requires_grad]
    ids = {id(X) for X in trained}
    layers: dict[str, AdaptedLayer] = {}
    for adapter in dict.fromkeys(owner_of(X) for X in trained if is_owned(X)):
        layer = None if adapter is None else owner_of(adapter)
        if not isinstance(layer, AdaptedLayer) or layer.adapter is not adapter:
            raise ValueError(
                f"params: expected adapters in their layers, found one without its layer; {WHOLE}"
            )
        layers[f"adapter {len(layers)}"] = layer
    owned = {id(factor) for layer in layers.values() for factor in layer.adapter.parameters()}
    if not owned <= ids:
        raise ValueError(
            f"params: expected all factors of an adapter in one group, found some of them elsewhere; {WHOLE}"
        )
    rest = [X for X in trained if id(X) not in owned]
    return Members(layers, {X: f"parameter {k}, {tuple(X.shape)}" for k, X in enumerate(rest)})

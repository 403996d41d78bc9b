"""Put low-rank adapters into a model, in place; list, merge and disable them."""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Never, cast

import torch
from torch import nn

from geolora_ref import checks
from geolora_ref.nn.layers.adapted import (
    AdaptedLayer,
    Alpha,
    Convolution,
    Fused,
    check_fused,
    is_transposed_linear,
    layout_of,
)
from geolora_ref.nn.layers.adapter import GradientRoute, LowRankAdapter
from geolora_ref.nn.layers.lora_words import IN_ADAPT, refuse_words_of_lora

__all__ = [
    "COMPILED",
    "HEAD",
    "adapt",
    "adapter_for",
    "adapters",
    "disabled",
    "foreign_optimizer",
    "merge",
    "parameter_count",
    "plain_name",
    "refuse_compiled",
    "refuse_several_places",
    "refuse_shared",
    "refuse_unseen_dropout",
    "say_what_stays",
    "unmerge",
    "unwrapped",
]

LOG = logging.getLogger("geolora_ref")
COMPILED = "_orig_mod"
"""The name under which a module of ``torch.compile`` holds the original module."""
WRAPPERS = (COMPILED, "_checkpoint_wrapped_module", "_fsdp_wrapped_module")
"""The names under which torch's wrappers hold a module."""
HEAD = "_geolora_head"
"""The attribute of every module of a head: an export knows the head by it when it is frozen again."""


def adapt(
    model: nn.Module,
    target_modules: str | Sequence[str] = "all-linear",
    rank: int = 8,
    *,
    max_rank: int | None = None,
    alpha: Alpha = "rms",
    dropout: float = 0.0,
    dtype: torch.dtype | None = None,
    gradients: GradientRoute = "projected",
    fused: Fused = "auto",
    train: Sequence[str] = (),
    exclude: Sequence[str] = (),
    generator: torch.Generator | None = None,
    **unknown: Never,
) -> dict[str, AdaptedLayer]:
    """Replace layers of ``model`` by :class:`AdaptedLayer` and freeze everything else, as PEFT does.

    Parameters
    ----------
    target_modules : "all-linear" (every nn.Linear and transformers Conv1D outside of ``train``), a
        regular expression for whole module names, or ends of names.
    rank, max_rank : the initial rank, and the largest that the storage holds (default 4·rank); in a
        layer whose min(m, n) is smaller, both are min(m, n).
    alpha, dropout, fused : see :class:`AdaptedLayer`.
    dtype : of the factors; by default the layer's, and at least single precision.
    gradients : see :class:`LowRankAdapter`.
    train, exclude : names of modules that stay trainable as a whole, or stay as they are.
    generator : for the random bases; by default torch's own.

    Returns the new layers by name. The outputs stay the same within rounding, because S = 0.
    Save ``model.state_dict()``, or export: ``from_pretrained`` of transformers does not know the
    names that ``save_pretrained`` writes.

    Raises ``ValueError`` for options out of range, for unknown names, and for layers that cannot be
    adapted (docs/finetuning.md); ``TypeError`` for an unknown option. The model is unchanged then.
    """
    if unknown:
        refuse_words_of_lora("adapt", unknown, IN_ADAPT)
        raise TypeError(f"adapt: got an unexpected keyword argument {next(iter(unknown))!r}")
    checks.integer("rank", rank, 1)
    if max_rank is not None:
        checks.integer("max_rank", max_rank, 1)
    check_fused(fused)
    if adapters(model):
        raise ValueError(
            f"model: expected one without adapters, found {next(iter(adapters(model)))!r}"
        )
    _refuse_layers_of_peft(model)
    heads = _chosen(model, train, "train")
    chosen = _targets(model, target_modules, heads)
    left_out = {
        module
        for whole in _chosen(model, exclude, "exclude").values()
        for module in whole.modules()
    }
    chosen = {name: layer for name, layer in chosen.items() if layer not in left_out}
    if not chosen:
        raise ValueError(
            f"exclude: expected some of the target modules to be left, found all of them excluded; {_names(model)}"
        )
    layers = {}
    for name, layer in chosen.items():
        with checks.naming(name):
            adapter = adapter_for(layer, rank, max_rank, gradients, dtype, generator)
            refuse_shared(model, layer)
            refuse_compiled(model, layer)
            refuse_unseen_dropout(model, layer, dropout)
            layers[name] = AdaptedLayer(layer, adapter, alpha=alpha, dropout=dropout, fused=fused)
    model.requires_grad_(False)
    for module in model.modules():  # marks of an earlier call
        module.__dict__.pop(HEAD, None)
    for head in heads.values():
        head.requires_grad_(True)
        for module in head.modules():
            setattr(module, HEAD, True)
    names = list(model.named_modules(remove_duplicate=False))  # a module may have several names
    for adapted in layers.values():
        adapted.train(adapted.base.training)
        for name in [name for name, module in names if module is adapted.base]:
            model.set_submodule(name, adapted)
    return layers


def adapter_for(
    layer: nn.Module,
    rank: int,
    max_rank: int | None,
    gradients: GradientRoute,
    dtype: torch.dtype | None,
    generator: torch.Generator | None,
) -> LowRankAdapter:
    """A new adapter for a layer, with the options of :func:`adapt`; ``ValueError`` if the layer
    cannot be adapted.
    """
    shape, weight = layout_of(layer).shape, layer.weight
    assert isinstance(weight, torch.Tensor)
    if dtype is None:
        dtype = torch.promote_types(weight.dtype, torch.float32)
    smaller = min(shape)
    most = min(4 * rank if max_rank is None else max_rank, smaller)
    return LowRankAdapter(
        shape,
        min(rank, smaller),
        most,
        gradients=gradients,
        dtype=dtype,
        device=weight.device,
        generator=generator,
    )


def _targets(
    model: nn.Module, target_modules: str | Sequence[str], heads: dict[str, nn.Module]
) -> dict[str, nn.Module]:
    trained = {module: head for head, whole in heads.items() for module in whole.modules()}
    if target_modules == "all-linear":
        found = {
            plain_name(name): module
            for name, module in unwrapped(model).named_modules()
            if (isinstance(module, nn.Linear) or is_transposed_linear(module))
            and module not in trained
        }
        if not found:
            where = f" outside of train={list(heads)}" if heads else ""
            raise ValueError(
                f"target_modules: expected a model with linear layers{where} for 'all-linear', found none"
            )
        say_what_stays(model)
    elif isinstance(target_modules, str):
        found = _matching(model, target_modules)
        if not found:
            raise ValueError(
                f"target_modules: no module name matches {target_modules!r}; {_names(model)}"
            )
    else:
        found = _chosen(model, target_modules, "target_modules")
        if not found:
            raise ValueError(
                f"target_modules: expected at least one name, found none; {_names(model)}"
            )
    for name, module in found.items():
        if module in trained:
            raise ValueError(
                f"target_modules: {name} lies in {trained[module]}, which is trained as a whole"
            )
    if "" in found:
        raise ValueError(
            "target_modules: expected modules inside of the model, found the model itself; put it into a container"
        )
    return found


def say_what_stays(model: nn.Module) -> None:
    """Warn of parameters that stack several matrices, as mixture-of-experts layers have them:
    "all-linear" leaves them alone.
    """
    parameters = [
        (f"{name}.{key}", parameter)
        for name, module in model.named_modules()
        for key, parameter in module.named_parameters(recurse=False)
        if not hasattr(module, "kernel_size")
    ]
    stacks = [name for name, parameter in parameters if parameter.ndim == 3 and len(parameter) > 1]
    if stacks:
        names = checks.first_few(stacks)
        LOG.warning(
            "all-linear: %d parameters of several matrices each stay as they are: %s",
            len(stacks),
            names,
        )


def _matching(model: nn.Module, pattern: str) -> dict[str, nn.Module]:
    """The modules with a name that the whole pattern matches, each under the first of its names."""
    try:
        wanted = re.compile(pattern)
    except re.error as problem:
        raise ValueError(
            f"target_modules: expected a regular expression, found {pattern!r}: {problem}"
        ) from problem
    named = [
        pair
        for whole in (model, unwrapped(model))
        for pair in whole.named_modules(remove_duplicate=False)
    ]
    matched = {
        module
        for name, module in named
        if wanted.fullmatch(name) or wanted.fullmatch(plain_name(name))
    }
    return {
        plain_name(name): module
        for name, module in unwrapped(model).named_modules()
        if module in matched
    }


def _chosen(model: nn.Module, names: Sequence[str], argument: str) -> dict[str, nn.Module]:
    """The modules that ``names`` stand for, each under the first of its names; every name must
    stand for at least one module.
    """
    if isinstance(names, str):
        raise ValueError(f"{argument}: expected a sequence of names, found the string {names!r}")
    if not isinstance(names, Iterable) or not all(isinstance(name, str) for name in names):
        raise ValueError(f"{argument}: expected a sequence of names, found {names!r}")
    found: dict[str, nn.Module] = {}
    for wanted in names:
        matching = _matching(model, rf"(.*\.)?{re.escape(wanted)}")
        if not matching:
            raise ValueError(f"{argument}: no module is called {wanted!r}; {_names(model)}")
        found |= matching
    return found


def _names(model: nn.Module) -> str:
    """The last parts of the names of all layers that can be adapted."""
    kinds = (nn.Linear, Convolution, nn.Embedding)
    ends = {
        plain_name(name).rpartition(".")[2]: type(module).__name__
        for name, module in model.named_modules()
        if isinstance(module, kinds) or is_transposed_linear(module)
    }
    return "layers that can be adapted: " + (
        ", ".join(f"{name} ({kind})" for name, kind in sorted(ends.items())) or "none"
    )


def _refuse_layers_of_peft(model: nn.Module) -> None:
    """Raise ``ValueError`` if PEFT has wrapped a layer: PEFT's own factors would be adapted.  PEFT
    need not be installed.
    """
    for name, module in model.named_modules():
        if any(kind.__name__ == "BaseTunerLayer" for kind in type(module).__mro__):
            raise ValueError(
                f"model: expected one without adapters, found {name!r} ({type(module).__name__} of PEFT); "
                "merge_and_unload() gives the model without them"
            )


def refuse_shared(model: nn.Module, layer: nn.Module) -> None:
    """Raise ``ValueError`` if another module has the weight of this layer."""
    for other, module in model.named_modules():
        if module is not layer and any(p is layer.weight for p in module.parameters(recurse=False)):
            raise ValueError(
                f"expected a weight of its own, found one that it shares with {other}; exclude the layer"
            )


def refuse_compiled(model: nn.Module, layer: nn.Module) -> None:
    """Raise ``ValueError`` if the layer itself is compiled: the wrapper would still call it, and
    no adapter.
    """
    if any(module._modules.get(COMPILED) is layer for module in model.modules()):
        raise ValueError(
            "expected a layer that is not compiled by itself; compile it after it is adapted"
        )


def refuse_unseen_dropout(model: nn.Module, layer: nn.Module, dropout: float) -> None:
    """Raise ``ValueError`` for dropout on the input of a projection that is never called."""
    if dropout and any(
        isinstance(module, nn.MultiheadAttention) and module.out_proj is layer
        for module in model.modules()
    ):
        raise ValueError(
            "dropout: expected 0 for the projection of nn.MultiheadAttention, whose weight is read without a call, "
            f"found {dropout}; exclude the layer"
        )


def refuse_several_places(model: nn.Module, whole: nn.Module) -> None:
    """Raise ``ValueError`` if a module or one of its submodules has several places in the model:
    PEFT replaces the first only.
    """
    inside = set(whole.modules())
    places = [
        f"{name}.{key}".removeprefix(".")
        for name, parent in model.named_modules()
        for key, child in parent._modules.items()
        if parent not in inside and child in inside
    ]
    if len(places) > 1:
        raise ValueError(
            f"expected one place in the model (PEFT replaces no more), found {', '.join(places)}"
        )


def unwrapped(model: nn.Module) -> nn.Module:
    """The model inside of ``torch.compile`` and of data-parallel training."""
    while True:
        if isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
            model = model.module
        elif COMPILED in model._modules:
            model = cast(nn.Module, model._modules[COMPILED])
        else:
            return model


def plain_name(name: str) -> str:
    """The name that a module or parameter has without torch's wrappers (compiled, with activation
    checkpoints, sharded).
    """
    return ".".join(part for part in name.split(".") if part not in WRAPPERS)


def adapters(model: nn.Module) -> dict[str, AdaptedLayer]:
    """All adapted layers of a model by name.  A compiled or data-parallel model is looked through to
    the model inside, and so are torch's wrappers of its parts (compiled, with activation checkpoints,
    sharded).
    """
    return {
        plain_name(name): module
        for name, module in unwrapped(model).named_modules()
        if isinstance(module, AdaptedLayer)
    }


def parameter_count(model: nn.Module) -> int:
    """The numbers in use in all adapters at their present ranks: Σ r(m + n + r)."""
    return sum(layer.adapter.parameter_count for layer in adapters(model).values())


def merge(model: nn.Module) -> None:
    """Merge every adapter, or none if one cannot be: see :meth:`AdaptedLayer.merge`.

    Raises ``RuntimeError`` like :meth:`AdaptedLayer.merge`, with the name of the layer.
    """
    found = adapters(model)
    merged = [name for name, layer in found.items() if layer.merged]
    if merged:
        raise RuntimeError(
            f"merge: expected no layer to be merged, found that {', '.join(merged[:4])} is"
        )
    try:
        for name, layer in found.items():
            with checks.naming(name, RuntimeError):
                layer.merge()
    except BaseException:
        for layer in reversed(found.values()):
            if layer.merged:
                layer.unmerge()
        raise


def unmerge(model: nn.Module) -> None:
    """Undo :func:`merge`, bit for bit, in reverse order because two adapters may share a base.

    Raises ``RuntimeError`` if a layer is not merged; nothing was changed.
    """
    found = adapters(model)
    bare = [name for name, layer in found.items() if not layer.merged]
    if bare:
        raise RuntimeError(
            f"unmerge: expected all layers to be merged, found that {', '.join(bare[:4])} is not"
        )
    for layer in reversed(found.values()):
        layer.unmerge()


@contextmanager
def disabled(model: nn.Module) -> Iterator[None]:
    """Within this context the model computes as before adaptation: every adapter is switched off."""
    with ExitStack() as stack:
        for layer in adapters(model).values():
            stack.enter_context(layer.disabled())
        yield


@contextmanager
def foreign_optimizer(model: nn.Module) -> Iterator[None]:
    """Within this context any optimizer may write into the factors: for baselines that step U, S
    and V as they like.

    ``.grad`` of Ut, S, Vt is (∇_K)ᵀ, ∇_S, (∇_L)ᵀ, or with gradients="published" the derivatives.
    Bases may then stay non-orthonormal until factors are loaded or assigned again;
    ``LowRankAdapter.factors``, and so the next step, refuses them.
    """
    found = {
        module: module.watch.off
        for module in unwrapped(model).modules()
        if isinstance(module, LowRankAdapter)
    }
    for adapter in found:
        adapter.watch.off = True
    try:
        yield
    finally:
        for adapter, before in found.items():
            adapter.watch.off = before
            adapter.watch.written(adapter.Ut, adapter.Vt, math.inf)

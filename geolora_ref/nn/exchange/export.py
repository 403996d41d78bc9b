"""Adapters as a plain LoRA checkpoint, which PEFT and its readers load without this package.

LoRA [H22] adds (lora_alpha/r)·B A to a weight; GeoLoRA adds alpha·U S Vᵀ. So B = alpha·U S and
A = Vᵀ with a scale of 1. Ranks differ from layer to layer, which other readers than PEFT scale
wrongly: vLLM by lora_alpha/r, llama.cpp by lora_alpha over the rank of each B, diffusers by the
first rank. So by default every layer is padded with zeros to the largest rank, and lora_alpha = r.
The compact form has patterns and no zeros, for PEFT alone.

PEFT reads names in ``target_modules`` and in patterns as regular expressions that may match at the
end of a longer name ("fc" matches "decoder.fc" too). Here every name is escaped and anchored, so
that it means one module.
"""

from __future__ import annotations

import os
import re
import tempfile
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel
from peft.tuners.trainable_tokens import TrainableTokensLayer
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import ModulesToSaveWrapper
from safetensors.torch import save
from torch import Tensor, nn
from torch.nn.functional import pad

from geolora_ref import checks
from geolora_ref.fast.precision import own_precision
from geolora_ref.nn.layers.adapt import HEAD, adapters, plain_name, refuse_several_places, unwrapped
from geolora_ref.nn.layers.adapted import AdaptedLayer, Convolution, is_transposed_linear
from geolora_ref.support.files import write_atomically

__all__ = ["ADAPTER_FILES", "DRAFT", "export_lora", "lora_config", "lora_state_dict"]

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
ADAPTER_FILES = (CONFIG, WEIGHTS, "adapter_model.bin")
DRAFT = ".export-"
"""Prefix of the temporary folder of a write; a killed write leaves it on the disk."""
PREFIX = "base_model.model."
"""The prefix that PEFT puts before the names of the base model's modules."""
CONTAINERS = (nn.ModuleDict, nn.ModuleList, nn.ParameterDict, nn.ParameterList)
"""Containers, which PEFT does not save as a whole."""


def export_lora(
    model: nn.Module,
    directory: str | os.PathLike[str],
    *,
    base_model_name_or_path: str | None = None,
    task_type: str | None = None,
    compact: bool = False,
    overwrite: bool = False,
) -> None:
    """Write adapters and other trained modules of ``model`` as ``adapter_config.json`` and
    ``adapter_model.safetensors``.

    ``peft.PeftModel.from_pretrained(base, directory)`` then computes the same as ``model``. Trained
    modules (heads, and those in ``train`` of :func:`~geolora_ref.nn.adapt`) become
    ``modules_to_save``. The factors keep their dtype. A concurrent reader finds the old adapter,
    none, or the new one, but no mixture.

    ``compact`` : every layer at its own rank, for PEFT alone (see above); by default all at the
    largest, for every reader.

    ``base_model_name_or_path``, ``task_type`` : what PEFT's ``AutoPeftModel`` loads; by default
    those of the PEFT model, or of the model that transformers loaded.

    Raises ``FileExistsError`` if the directory holds an adapter already, unless ``overwrite``;
    ``ValueError`` for a model without adapters or merged, and for parts that a LoRA checkpoint
    cannot hold (docs/finetuning.md lists them); ``RuntimeError`` for bases that another optimizer has
    changed. Nothing is written then.
    """
    model = unwrapped(model)
    config = lora_config(
        model, base_model_name_or_path=base_model_name_or_path, task_type=task_type, compact=compact
    )
    state = lora_state_dict(model, compact=compact)
    target = Path(directory)
    present = [name for name in ADAPTER_FILES if (target / name).exists()]
    if present and not overwrite:
        raise FileExistsError(
            f"{target}: expected a directory without an adapter, found {', '.join(present)} (overwrite=True)"
        )
    target.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target, prefix=DRAFT) as draft:
        write_atomically(Path(draft) / WEIGHTS, save(state, metadata={"format": "pt"}))
        config.save_pretrained(draft)
        write_atomically(
            Path(draft) / CONFIG, (Path(draft) / CONFIG).read_bytes()
        )  # PEFT does not sync it
        for name in present:
            (target / name).unlink()
        for name in (WEIGHTS, CONFIG):
            os.replace(Path(draft) / name, target / name)


def lora_config(
    model: nn.Module,
    *,
    base_model_name_or_path: str | None = None,
    task_type: str | None = None,
    compact: bool = False,
) -> LoraConfig:
    """The configuration of the checkpoint.  Raises like :func:`export_lora`."""
    model = unwrapped(model)
    if isinstance(model, PeftModel):
        task_type = task_type or model.active_peft_config.task_type
        base_model_name_or_path = (
            base_model_name_or_path or model.active_peft_config.base_model_name_or_path
        )
    layers = _exportable(model)
    ranks = {_only(name): layer.adapter.rank for name, layer in layers.items()}
    heads = _trained_modules(model)
    return LoraConfig(
        r=max(ranks.values()),
        lora_alpha=max(ranks.values()),
        rank_pattern=ranks if compact else {},
        alpha_pattern=ranks if compact else {},
        target_modules="|".join(re.escape(name) for name in layers),
        modules_to_save=sorted(heads) or None,
        fan_in_fan_out=all(is_transposed_linear(layer.base) for layer in layers.values()),
        base_model_name_or_path=base_model_name_or_path or getattr(model, "name_or_path", None),
        task_type=task_type,
        inference_mode=True,
    )


def lora_state_dict(model: nn.Module, *, compact: bool = False) -> dict[str, Tensor]:
    """A = Vᵀ and B = alpha·U S of every adapter, padded with zeros to the largest rank unless
    ``compact``, and the tensors of the other trained modules: contiguous copies under PEFT's names.

    Raises like :func:`export_lora`.
    """
    state, model = {}, unwrapped(model)
    layers = _exportable(model)
    largest = max(layer.adapter.rank for layer in layers.values())
    for name, layer in layers.items():
        for key, tensor in _factors(layer, layer.adapter.rank if compact else largest).items():
            state[f"{PREFIX}{name}.{key}"] = tensor
    for name, head in _trained_modules(model).items():
        for key, tensor in head.state_dict().items():
            state[PREFIX + _base_name(f"{name}.{key}")] = tensor  # parts of a head may be compiled
    return {
        key: tensor.detach().clone(memory_format=torch.contiguous_format)
        for key, tensor in state.items()
    }


def _factors(layer: AdaptedLayer, r: int) -> dict[str, Tensor]:
    """A (r, n) and B (m, r) as PEFT names and arranges them."""
    Ut, S, Vt = layer.adapter.active()
    zeros, base = r - layer.adapter.rank, layer.base
    with own_precision(S.device):
        B, A = pad(layer.alpha * (Ut.mT @ S), (0, zeros)), pad(Vt, (0, 0, 0, zeros))
    if isinstance(base, nn.Embedding):
        if base.padding_idx is not None:  # PEFT looks this row up as well; here it gets no update
            A = A.index_fill(1, torch.tensor(base.padding_idx, device=A.device), 0.0)
        return {"lora_embedding_A": A, "lora_embedding_B": B}
    if isinstance(base, Convolution):
        A, B = (
            A.reshape(-1, *base.weight.shape[1:]),
            B.reshape(*B.shape, *(1 for _ in base.kernel_size)),
        )
    return {"lora_A.weight": A, "lora_B.weight": B}


def _only(name: str) -> str:
    """The pattern of PEFT that matches this module and no other."""
    return "^" + re.escape(name)


def _base_name(name: str) -> str:
    """The name in the base model of a layer that PEFT or torch (compiled, with activation
    checkpoints, sharded) has wrapped, or the name as it is.
    """
    return plain_name(name).removeprefix(PREFIX).removesuffix(".geolora_active")


def _exportable(model: nn.Module) -> dict[str, AdaptedLayer]:
    """The adapted layers by their names in the base model, if a LoRA checkpoint can hold them."""
    layers = {_base_name(name): layer for name, layer in adapters(model).items()}
    if not layers:
        raise ValueError("model: expected one with adapters, found none")
    attentions = {
        _base_name(f"{name}.out_proj")
        for name, module in model.named_modules()
        if isinstance(module, nn.MultiheadAttention)
    }
    for name, module in model.named_modules():
        parallel = isinstance(module, nn.DataParallel | nn.parallel.DistributedDataParallel)
        if parallel and any(
            part.startswith(f"{_base_name(name)}.") for part in (*layers, *_trained_modules(model))
        ):
            raise ValueError(
                f"{name}: expected a part under its own name, found {type(module).__name__}; put its .module there"
            )
        if isinstance(module, TrainableTokensLayer) and set(module.active_adapters) & set(
            module.trainable_tokens_delta
        ):
            raise ValueError(
                f"{_base_name(name)}: expected an embedding without rows of its own, found trainable_token_indices"
            )
        if isinstance(module, BaseTunerLayer) and module.merged_adapters:
            found = ", ".join(module.merged_adapters)
            raise ValueError(
                f"{_base_name(name)}: expected a base in which no adapter is merged, found {found}; unmerge it"
            )
    for name, layer in layers.items():
        base = layer.base
        with checks.naming(name, RuntimeError):
            refuse_several_places(model, layer)
            layer.adapter.refuse_foreign_bases()
        if layer.base_is_merged:
            raise ValueError(
                f"{name}: expected a base in which no adapter is merged; unmerge it, or save the model itself"
            )
        if name in attentions:
            raise ValueError(
                f"{name}: expected a layer that is called, found the projection of nn.MultiheadAttention"
            )
        if isinstance(base, Convolution) and (
            set(base.dilation) != {1} or base.padding_mode != "zeros"
        ):
            raise ValueError(
                f"{name}: expected a convolution with dilation 1 and padding by zeros, as PEFT's LoRA computes it, "
                f"found dilation {base.dilation}, padding mode {base.padding_mode!r}"
            )
    return layers


def _trained_modules(model: nn.Module) -> dict[str, nn.Module]:
    """The outermost modules outside of the adapters that are trained as a whole or own trainable
    parameters, and PEFT's active copies in ``modules_to_save``, which are not trainable in a model
    that was loaded for inference.

    PEFT accepts no module inside of another saved one, and no container that cannot be called.
    """
    layers = adapters(model)
    heads = [wrapper for wrapper in model.modules() if isinstance(wrapper, ModulesToSaveWrapper)]
    saved = {
        id(head.modules_to_save[name])
        for head in heads
        for name in head.active_adapters
        if name in head.modules_to_save
    }
    inside = {
        id(module)
        for layer in layers.values()
        for part in (layer, layer.base)
        for module in part.modules()
    }
    inside |= {
        id(parameter) for layer in layers.values() for parameter in layer.adapter.parameters()
    }
    kept = {
        id(parameter)
        for module in model.modules()
        if hasattr(module, HEAD)
        for parameter in module.parameters()
    }
    trained_ones = {id(p) for p in model.parameters() if p.requires_grad or id(p) in kept} - inside
    found, covered = {}, set[nn.Module]()
    for name, module in model.named_modules():
        if module in covered:
            continue
        trained = [
            key for key, p in module.named_parameters(recurse=False) if id(p) in trained_ones
        ]
        if trained and (id(module) in inside or not name):
            raise ValueError(
                f"{name}.{trained[0]}: expected it frozen; a LoRA checkpoint has whole modules next to the updates"
            )
        container = isinstance(module, CONTAINERS)
        if trained and container:
            raise ValueError(
                f"{name}: expected trained parameters in a module that is called, found {type(module).__name__}"
            )
        if trained or id(module) in saved or (not container and _is_trained(module, trained_ones)):
            found[_saved_name(name)] = module
            covered |= set(module.modules())
    _refuse_unclear(list(found), model)
    for name, module in found.items():
        with checks.naming(name):
            refuse_several_places(model, module)
    return found


def _is_trained(module: nn.Module, trained: set[int]) -> bool:
    """Return whether the module has parameters, all of them among these."""
    parameters = list(module.parameters())
    return bool(parameters) and all(id(p) in trained for p in parameters)


def _refuse_unclear(heads: list[str], model: nn.Module) -> None:
    """Raise ``ValueError`` for a trained module with adapters inside, or whose name is also the end
    of another name.
    """
    names = {_saved_name(name) for name, _ in model.named_modules()}
    layers = [_base_name(name) for name in adapters(model)]
    for head in heads:
        others = sorted(other for other in names if other != head and other.endswith(head))
        if others:
            raise ValueError(
                f"{head}: expected a name that no other ends in (PEFT would save those too), found {others[0]}"
            )
        adapted = [layer for layer in layers if layer.startswith(f"{head}.")]
        if adapted:
            raise ValueError(
                f"{head}: expected a trained module without adapters inside, found {adapted[0]}"
            )


def _saved_name(name: str) -> str:
    """The name in the base model of a module in one of PEFT's ``modules_to_save`` wrappers; other
    names stay as they are.
    """
    return re.sub(r"\.(modules_to_save\.[^.]+|original_module)(?=\.|$)", "", _base_name(name))

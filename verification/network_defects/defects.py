"""Defects that public layers and optimizers of this field had, each as one broken line, and the
identity that must reject it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from geolora_ref.nn import AdaptedLayer
from geolora_ref.nn.optim.adapter_optimizer import AdapterOptimizer
from verification.network_defects import identities

__all__ = ["DEFECTS", "Defect"]


@dataclass(frozen=True)
class Defect:
    """A broken implementation.

    ``patches`` : by attribute, the broken replacement; ``identity`` : a check that holds for the
    right code and fails for this defect, on every device.
    """

    id: str
    defect: str
    patches: Mapping[str, Any]
    identity: Callable[..., bool]


LAYER, ADAPTER = (
    "geolora_ref.nn.layers.adapted.AdaptedLayer",
    "geolora_ref.nn.layers.adapter.LowRankAdapter",
)
OPTIMIZER = "geolora_ref.nn.optim.adapter_optimizer.AdapterOptimizer"
update, heads = AdaptedLayer.update, AdapterOptimizer.heads

_alpha_over_rank = property(
    lambda layer: vars(layer)["alpha"] / layer.adapter.rank,
    lambda layer, value: vars(layer).update(alpha=value),
)


def _update_with_bias(layer: AdaptedLayer, x: Tensor) -> Tensor:
    y = update(layer, x)
    return (
        y + layer.base.bias
        if isinstance(layer.base, nn.Linear) and layer.base.bias is not None
        else y
    )


def _weight_without_alpha(layer: AdaptedLayer) -> Tensor:
    return (
        layer.base_weight
        if layer.merged
        else layer.base_weight + layer.layout.weight(layer.adapter.full())
    )


def _heads_without_biases(optimizer: AdapterOptimizer) -> Any:
    for parameter in (p for group in optimizer.param_groups for p in group["params"]):
        if parameter.ndim == 1:
            parameter.grad.zero_()
    return heads(optimizer)


def _never_refused(optimizer: AdapterOptimizer) -> bool:
    for parameter in (p for group in optimizer.param_groups for p in group["params"]):
        parameter.grad.nan_to_num_()
    return False


DEFECTS = (
    Defect(
        "scaling-jump",
        "the factor α/r follows the rank when a truncation changes it",
        {f"{LAYER}.alpha": _alpha_over_rank},
        identities.truncation_of_zeros_changes_no_output,
    ),
    Defect(
        "moments-not-transported",
        "momentum stays in the coordinates of the old bases",
        {"geolora_ref.optimizers.HeavyBall.transport": lambda rule, old, moments, new: moments},
        identities.momentum_moves_with_the_bases,
    ),
    Defect(
        "bias-twice",
        "the adapter adds the bias of its base again",
        {f"{LAYER}.update": _update_with_bias},
        identities.adapted_is_the_model_at_the_start,
    ),
    Defect(
        "merge-mismatch",
        "the merged weight lacks the factor α of the forward pass",
        {f"{LAYER}.weight": property(_weight_without_alpha)},
        identities.merged_is_forward,
    ),
    Defect(
        "gradient-of-bias-zeroed",
        "clearing the gradients of the bases clears those of biases",
        {f"{OPTIMIZER}.heads": _heads_without_biases},
        identities.whatever_has_a_gradient_moves,
    ),
    Defect(
        "rank-lost-on-reload",
        "the rank is an attribute outside of the state dict",
        {
            f"{ADAPTER}._save_to_state_dict": nn.Module._save_to_state_dict,
            f"{ADAPTER}._load_from_state_dict": nn.Module._load_from_state_dict,
        },
        identities.reloaded_is_the_model,
    ),
    Defect(
        "parameter-count-xor",
        "r ^ 2 in the place of r²",
        {"geolora_ref.nn.layers.adapter.factor_entries": lambda r, shape: r * sum(shape) + (r ^ 2)},
        identities.counted_are_the_numbers_of_the_state,
    ),
    Defect(
        "amp-skipped-step",
        "the loss scaler finds an overflow, and the step of the bases takes place all the same",
        {f"{OPTIMIZER}._step_supports_amp_scaling": True, f"{OPTIMIZER}.refused": _never_refused},
        identities.overflow_of_a_scaled_loss_changes_nothing,
    ),
)

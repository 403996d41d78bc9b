"""Options of PEFT's LoraConfig, and of other optimizers, and what takes their place here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["IN_ADAPT", "IN_CONFIG", "IN_OPTIMIZER", "refuse_words_of_lora"]

IN_CONFIG = {
    "r": "is called rank (where training starts) here, next to max_rank",
    "lora_alpha": "is called alpha here, 'rms' or a number in the place of lora_alpha/r",
    "lora_dropout": "is called dropout here",
    "init_lora_weights": "is called init_weights here",
    "rank_pattern": "has no counterpart: all layers start with one rank, and training finds that of each",
    "alpha_pattern": "has no counterpart: alpha is 'rms', or one number for all layers",
    "use_rslora": "has no counterpart: alpha alone scales",
    "bias": "has no counterpart: modules_to_save trains modules as a whole",
    "target_parameters": "has no counterpart: target_modules names layers",
}
"""The counterparts in ``GeoLoraConfig``."""
IN_ADAPT = {
    **IN_CONFIG,
    "init_lora_weights": "has no counterpart: S = 0 at the start",
    "bias": "has no counterpart: train names modules that are trained as a whole",
    "modules_to_save": "is called train here",
    "exclude_modules": "is called exclude here",
}
"""The counterparts in :func:`geolora_ref.nn.adapt`."""

IN_OPTIMIZER = {"learning_rate": "is called lr here"}
"""The counterparts in an optimizer."""


def refuse_words_of_lora(
    who: str, options: Mapping[str, Any], counterparts: Mapping[str, str]
) -> None:
    """Raise ``TypeError`` that names the counterparts of all foreign options in ``options``."""
    found = {name: value for name, value in options.items() if name in counterparts}
    if found:
        here = "; ".join(f"{name} {counterparts[name]}" for name in found)
        raise TypeError(f"{who}: expected options of its own, found {found}: {here}")

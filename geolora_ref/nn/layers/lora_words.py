"""Options of PEFT's LoraConfig, and what takes their place here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["IN_ADAPT", "IN_CONFIG", "refuse_words_of_lora"]

IN_CONFIG = {
    "r": "rank, where training starts, and max_rank",
    "lora_alpha": "alpha, 'rms' or a number in the place of lora_alpha/r",
    "lora_dropout": "dropout",
    "init_lora_weights": "init_weights",
    "rank_pattern": "one rank for all at the start; training finds that of each",
    "alpha_pattern": "alpha, 'rms' or one number for all",
    "use_rslora": "alpha",
    "bias": "modules_to_save",
    "target_parameters": "target_modules",
}
"""The counterparts in ``GeoLoraConfig``."""
IN_ADAPT = {
    **IN_CONFIG,
    "init_lora_weights": "nothing: S = 0 at the start",
    "bias": "train",
    "modules_to_save": "train",
    "exclude_modules": "exclude",
}
"""The counterparts in :func:`geolora_ref.nn.adapt`."""


def refuse_words_of_lora(who: str, options: Mapping[str, Any], counterparts: Mapping[str, str]) -> None:
    """Raise ``TypeError`` that names the counterparts of all options of LoraConfig in ``options``."""
    found = {name: value for name, value in options.items() if name in counterparts}
    if found:
        here = "; ".join(f"for {name} {counterparts[name]}" for name in found)
        raise TypeError(f"{who}: expected its own words, {here}; found {found}")

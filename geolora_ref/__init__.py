"""The reference for GeoLoRA: rank-adaptive low-rank fine-tuning by a geometric integrator."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from geolora_ref.algorithm import GeoLoRAStep, RankRule, augmented_step, geolora_step
    from geolora_ref.gradients import FactorGradients, ProjectedGradients
    from geolora_ref.lowrank import LowRank, tangent_projection

__all__ = [
    "FactorGradients",
    "GeoLoRAStep",
    "LowRank",
    "ProjectedGradients",
    "RankRule",
    "augmented_step",
    "geolora_step",
    "tangent_projection",
]

HOMES = ("lowrank", "gradients", "algorithm")
"""The modules of the public names."""

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """A public name, imported at its first use.

    Every pytest run in an environment with this package loads the pytest plugin, which imports this
    file first.  The import must therefore be cheap and work without NumPy.
    """
    if name in HOMES:
        return import_module(f"{__name__}.{name}")
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    homes = (import_module(f"{__name__}.{home}") for home in HOMES)
    return next(getattr(home, name) for home in homes if name in home.__all__)


def __dir__() -> list[str]:
    """All public names, including the ones that are imported on first use."""
    return sorted({*globals(), *__all__, *HOMES})

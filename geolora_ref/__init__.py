"""The reference for GeoLoRA: rank-adaptive low-rank fine-tuning by a geometric integrator."""

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

__version__ = "0.1.0"

from . import algorithm as algorithm
from . import gradients as gradients
from . import lowrank as lowrank
from .algorithm import GeoLoRAStep, RankRule, augmented_step, geolora_step
from .gradients import FactorGradients, ProjectedGradients
from .lowrank import LowRank, tangent_projection

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
__version__: str

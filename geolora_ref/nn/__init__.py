"""GeoLoRA on torch models: adapters, and the optimizer that trains them."""

from geolora_ref.support.extras import noting_how_to_install

with noting_how_to_install():
    from geolora_ref.nn.layers.adapt import (
        adapt,
        adapters,
        disabled,
        foreign_optimizer,
        merge,
        parameter_count,
        unmerge,
    )
    from geolora_ref.nn.layers.adapted import AdaptedLayer
    from geolora_ref.nn.layers.adapter import LowRankAdapter
    from geolora_ref.nn.layers.orient import orient
    from geolora_ref.nn.optim.geolora import GeoLoRA
    from geolora_ref.nn.optim.report import TruncationReport

__all__ = [
    "AdaptedLayer",
    "GeoLoRA",
    "LowRankAdapter",
    "TruncationReport",
    "adapt",
    "adapters",
    "disabled",
    "foreign_optimizer",
    "merge",
    "orient",
    "parameter_count",
    "unmerge",
]

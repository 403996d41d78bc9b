"""Load distributed checkpoints of adapters, whose tensor shapes depend on ranks that training has changed.

``torch.distributed.checkpoint.load`` fills tensors of a state that the caller provides, shape by
shape.  A fresh model has other ranks than the saved one, and a fresh optimizer has no memory yet.
The planner gives both tensors of the checkpoint's shapes.
"""

from __future__ import annotations

import re
from typing import Any

import torch
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner
from torch.distributed.checkpoint.metadata import Metadata, TensorStorageMetadata

__all__ = ["RankPlanner"]

OF_AN_ADAPTER = re.compile(r"(^|\.)(adapter|geolora_adapter\.[^.]+)\.(U|S|V|Ut|Vt)$")


class RankPlanner(DefaultLoadPlanner):
    """Loads adapters and their memory at the ranks that the checkpoint has: ``dcp.load(state,
    planner=RankPlanner())``.

    ``state`` is what ``torch.distributed.checkpoint.state_dict.get_state_dict(model, optimizer)``
    returns, to be set by ``set_state_dict`` afterwards; everything else is torch's own.  Give a
    planner to one ``load`` each.
    """

    def set_up_planner(
        self,
        state_dict: dict[str, Any],
        metadata: Metadata | None = None,
        is_coordinator: bool = False,
    ) -> None:
        """Put tensors of the saved shapes into the requested parts of the state, for every key of
        an adapter.
        """
        assert metadata is not None
        for key, saved in metadata.state_dict_metadata.items():
            path = metadata.planner_data[key]
            if path[0] in state_dict and any(
                isinstance(part, str) and OF_AN_ADAPTER.search(part) for part in path
            ):
                inner = state_dict
                for part in path[:-1]:
                    inner = inner.setdefault(part, {})
                found = inner.get(path[-1])
                if not isinstance(saved, TensorStorageMetadata):
                    inner[path[-1]] = found
                elif not isinstance(found, torch.Tensor) or found.shape != saved.size:
                    device = found.device if isinstance(found, torch.Tensor) else None
                    inner[path[-1]] = torch.empty(
                        saved.size, dtype=saved.properties.dtype, device=device
                    )
        super().set_up_planner(state_dict, metadata, is_coordinator)

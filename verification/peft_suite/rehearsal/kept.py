"""What a run leaves: its adapter, the logits of the trained model, and its trainable parameters."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

__all__ = ["LOGITS", "keep", "logits_of"]

LOGITS = "logits.safetensors"


def keep(model: Any, folder: Path) -> None:
    """Save the adapter, and next to it the logits and the number of trainable parameters after training."""
    model.save_pretrained(folder)
    trainable = torch.tensor(model.get_nb_trainable_parameters()[0])
    save_file({"logits": logits_of(model), "trainable": trainable}, folder / LOGITS)


@torch.no_grad()
def logits_of(model: Any) -> Tensor:
    """Logits for one sentence of all words."""
    logits: Tensor = model.eval()(input_ids=torch.arange(6)[None]).logits
    return logits.clone()

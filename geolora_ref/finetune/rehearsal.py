"""A rehearsal of a run on a model without weights: wrong options are found before weights and data
are read.
"""

from __future__ import annotations

from pathlib import Path

import torch

from geolora_ref.finetune.methods import Method
from geolora_ref.finetune.model import Model, bare_decoder, bare_encoder
from geolora_ref.finetune.plan import TaskName

__all__ = ["rehearse"]


def rehearse(place: Path, task: TaskName, method: Method) -> None:
    """Adapt a model with the layers of the one in ``place``, and make the optimizer of its adapters.

    The weights have memory that is never written, and so takes no room.

    Raises ``ValueError`` for a configuration that transformers does not take, and like
    ``method.prepare``: for target modules that the model lacks, and for numbers out of range.
    """
    model = Model()
    if task == "classification":
        model.encoder, model.head = (
            bare_encoder(place),
            torch.nn.Linear(1, 1),
        )  # any head: its width depends on the data
    else:
        model.encoder, model.head = bare_decoder(place), torch.nn.Identity()
    method.prepare(model, torch.Generator(), 1)

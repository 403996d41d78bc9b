"""The parts of ``geolora-ref finetune`` that differ between tasks; the training loop and its files
are the job's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch

from geolora_ref.finetune.job import Data, Job
from geolora_ref.finetune.methods import GeoLoRAMethod
from geolora_ref.finetune.model import Model

__all__ = ["Say", "Task"]


class Say(Protocol):
    """Prints a line, in a style of rich."""

    def __call__(self, line: str, style: str | None = None) -> None:
        """Print ``line`` as it is, without interpreting markup in it."""


@dataclass(frozen=True)
class Task:
    """A task with the examples of a run.

    Attributes
    ----------
    peft : PEFT's name of the task.
    yardstick : the quantity that is compared in the end, and the owner of the baseline, such as
        ("loss", "a constant prediction").
    digests : digests of the examples, by option.
    load : loads the pretrained model and its tokenizer from a path of ``locate``.
    data : makes tokens and targets with the tokenizer; prints their number, the first example, and
        doubts about the columns.
    try_out : raises ``ValueError`` unless the pretrained model can be trained on such inputs
        (1 x tokens).
    model : makes the model that the job trains; the generator draws new parameters.
    baseline, reached : the baseline value, and the run's own value, which is lower after learning.
    write : writes the task's own files to a folder, from job, tokenizer, method and path of the
        model; returns their names.
    """

    peft: str
    yardstick: tuple[str, str]
    digests: Mapping[str, str | None]
    load: Callable[[Path], tuple[Any, Any]]
    data: Callable[[Any], Data]
    try_out: Callable[[Any, Mapping[str, torch.Tensor]], None]
    model: Callable[[Any, torch.Generator], Model]
    baseline: Callable[[Job], float]
    reached: Callable[[Job], float]
    write: Callable[[Path, Job, Any, GeoLoRAMethod, Path], list[str]] = lambda *_: []

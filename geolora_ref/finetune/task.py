"""What tells one task of ``geolora-ref finetune`` from another; the loop, its files and its resume are the job's."""

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
        """Whatever is in the line is no markup."""


@dataclass(frozen=True)
class Task:
    """A task with the examples of a run.

    Attributes
    ----------
    peft : PEFT's name of the task.
    yardstick : what is compared in the end, and whose value it is to be below: ("loss", "a constant prediction"), say.
    digests : of what was read, by the option.
    load : the pretrained model of a place that ``locate`` has found, and its tokenizer.
    data : tokens and targets, by the tokenizer; says how many there are, the first one as it was understood, what looks wrong.
    try_out : raises ``ValueError`` unless the pretrained model can be trained on such inputs (1 x tokens).
    model : what the job trains, of the pretrained model; the generator draws what is new in it.
    baseline, reached : the value that a run which has learned something is below, and that of the run.
    write : writes files of the task's own to a folder, by job, tokenizer, method and place of the model; their names.
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

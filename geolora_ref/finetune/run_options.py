"""The typed form of the options of ``geolora-ref finetune``.  Nothing here needs torch."""

from __future__ import annotations

import argparse
import re
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from geolora_ref import checks
from geolora_ref.finetune.data import Columns
from geolora_ref.finetune.methods import GeoLoRAMethod
from geolora_ref.finetune.plan import Kind, Plan, TaskName

__all__ = ["RunOptions"]

NAME = re.compile(r"[\w.]+")
"""A module name or the end of one; a text with other characters is "all-linear" or a regular expression."""


@dataclass(frozen=True)
class RunOptions:
    """The options of a run: the files that it reads and writes, its plan and its method.

    Attributes
    ----------
    model : a folder, a GGUF file, a package or a name on the hub, as :func:`geolora_ref.finetune.locate.locate` finds it.
    data, dev : files of examples for the training and for the metric; without ``dev`` the fraction
        ``dev_fraction`` of the training examples is set aside.
    columns, labels : columns of the files, and the kind of labels, None for the kind that
        the metric needs; used by the task "classification" alone.
    max_length : the largest number of tokens of an example.
    checkpoint_every : the number of steps between two checkpoints.
    fresh : replace the checkpoint in ``output`` instead of resuming it.

    Raises ``ValueError`` that names an option out of range, and the errors of :class:`Plan`.
    """

    task: TaskName
    model: str
    data: tuple[Path, ...]
    dev: tuple[Path, ...]
    dev_fraction: float
    columns: Columns
    labels: Kind | None
    max_length: int
    device: str
    plan: Plan
    method: GeoLoRAMethod
    output: Path
    checkpoint_every: int
    fresh: bool

    def __post_init__(self) -> None:
        checks.integer("checkpoint_every", self.checkpoint_every, 1)

    @classmethod
    def from_parsed(cls, parsed: argparse.Namespace) -> RunOptions:
        """The options as argparse returns them, with types."""
        given = vars(parsed)
        grouped: dict[str, Any] = {
            "data": tuple(parsed.data),
            "dev": tuple(parsed.dev or ()),
            "columns": Columns(
                parsed.text_column, parsed.label_column, parsed.pair_column, parsed.header
            ),
            "plan": Plan(**{field.name: given[field.name] for field in fields(Plan)}),
            "method": _method(given),
        }
        return cls(
            **{field.name: given[field.name] for field in fields(cls) if field.name not in grouped},
            **grouped,
        )

    def identity(self) -> dict[str, Any]:
        """The options that determine the run, as plain JSON data, apart from the plan and the files."""
        columns = {
            "text_column": self.columns.text,
            "pair_column": self.columns.pair,
            "label_column": self.columns.label,
            "header": self.columns.header,
            "labels": self.labels,
        }
        return {
            "dev_fraction": None if self.dev else self.dev_fraction,  # unused with dev
            "task": self.task,
            **(columns if self.task == "classification" else {}),
            "max_length": self.max_length,
            "device": self.device,
            **asdict(self.method),
        }


def _method(given: dict[str, Any]) -> GeoLoRAMethod:
    targets = given["target_modules"] or ["all-linear"]
    is_pattern = len(targets) == 1 and not NAME.fullmatch(targets[0])
    chosen = {
        field.name: given[field.name] for field in fields(GeoLoRAMethod) if field.name in given
    }
    chosen["fast"] = not given["reference"]
    chosen["target_modules"] = targets[0] if is_pattern else tuple(targets)
    return GeoLoRAMethod(**chosen)

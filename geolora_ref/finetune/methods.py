"""Methods that make a pretrained model trainable: adapters and an optimizer, described by plain
data that a job runs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

from geolora_ref.budget import Unit
from geolora_ref.optimizers import UpdateRule
from geolora_ref.training import DEFAULT_LEARNING_RATE

if TYPE_CHECKING:  # options are read before torch is imported, which takes seconds
    import torch

    from geolora_ref.finetune.model import Model

__all__ = ["GeoLoRAMethod", "Method", "Prepared", "geolora_prepared"]


@dataclass(frozen=True)
class Prepared:
    """A model that is ready to be trained.

    Attributes
    ----------
    optimizer : steps everything that is trainable.
    ranks : the current rank of every adapted layer, by name; empty for methods without ranks.
    parameters : the number of parameters that the adaptation stores now, without the head.
    penalty : a term that the method adds to the loss, or None.
    after_step : called with the number of steps done, while the gradients of the last one are still
        there.
    truncations : how many truncations the optimizer has done since it was made, and how many of
        them by Householder QR.
    """

    optimizer: torch.optim.Optimizer
    ranks: Callable[[], dict[str, int]]
    parameters: Callable[[], int]
    penalty: Callable[[], torch.Tensor] | None = None
    after_step: Callable[[int], None] | None = None
    truncations: Callable[[], tuple[int, int]] = lambda: (0, 0)


@runtime_checkable
class Method(Protocol):
    """A frozen dataclass; its fields are the whole configuration and plain JSON data."""

    @property
    def name(self) -> str:
        """The name of the method in tables."""

    def prepare(self, model: Model, generator: torch.Generator, steps: int) -> Prepared:
        """Adapt ``model`` in place; ``steps`` is the length of the training to come."""


@dataclass(frozen=True)
class GeoLoRAMethod:
    """GeoLoRA adapters and the GeoLoRA optimizer; the options are those of
    :func:`geolora_ref.nn.adapt` and of the optimizer.

    Without ``tau``, ``theta``, ``share``, ``edge`` and ``budget`` the optimizer's default share decides.
    ``max_rank`` : None means four times ``rank``, so that ranks can grow.
    ``fast`` : use the fast path where it applies; False uses the reference, the same training
    within rounding.
    """

    lr: float = DEFAULT_LEARNING_RATE
    head_lr: float = 1e-3
    tau: float | None = None
    theta: float | None = None
    share: float | None = None
    edge: float | None = None
    rank: int = 8
    min_rank: int = 1
    max_rank: int | None = None
    budget: int | None = None
    unit: Unit = "ranks"
    update: UpdateRule = "spectral"
    smoothing: float = 0.5
    noise: float = 0.0
    weight_decay: float = 0.0
    coefficient_steps: int = 0
    target_modules: str | tuple[str, ...] = "all-linear"
    alpha: float | Literal["rms"] = "rms"
    dropout: float = 0.0
    fast: bool = True
    name: str = "geolora"

    @classmethod
    def from_data(cls, data: Mapping[str, Any]) -> GeoLoRAMethod:
        """The inverse of ``dataclasses.asdict``, also after JSON has turned tuples into lists."""
        targets = data["target_modules"]
        return cls(
            **dict(data)
            | {"target_modules": targets if isinstance(targets, str) else tuple(targets)}
        )

    def prepare(self, model: Model, generator: torch.Generator, steps: int) -> Prepared:
        """Adapt the encoder; the head stays trainable as it is."""
        from geolora_ref.nn import GeoLoRA

        self.adapt(model, generator)
        optimizer = GeoLoRA(
            model,
            lr=self.lr,
            head_lr=self.head_lr,
            tau=self.tau,
            theta=self.theta,
            share=self.share,
            edge=self.edge,
            min_rank=self.min_rank,
            max_rank=self.max_rank,
            budget=self.budget,
            unit=self.unit,
            update=self.update,
            smoothing=self.smoothing,
            noise=self.noise,
            weight_decay=self.weight_decay,
            coefficient_steps=self.coefficient_steps,
            method="auto" if self.fast else "reference",
        )
        return replace(
            geolora_prepared(model, optimizer),
            truncations=lambda: (optimizer.truncations, optimizer.exact),
        )

    def adapt(self, model: Model, generator: torch.Generator) -> None:
        """Put the adapters into the encoder, in place; "all-linear" leaves out the output layer, as
        in PEFT.
        """
        from geolora_ref.nn import adapt

        output = getattr(model.encoder, "get_output_embeddings", lambda: None)()
        every = self.target_modules == "all-linear"
        targets: Any = (
            self.target_modules
            if isinstance(self.target_modules, str)
            else list(self.target_modules)
        )
        adapt(
            model.encoder,
            target_modules=targets,
            rank=self.rank,
            max_rank=None if self.max_rank is None else max(self.rank, self.max_rank),
            alpha=self.alpha,
            dropout=self.dropout,
            exclude=[
                name for name, module in model.encoder.named_modules() if every and module is output
            ],
            fused="auto" if self.fast else False,
            generator=generator,
        )


def geolora_prepared(model: Model, optimizer: torch.optim.Optimizer) -> Prepared:
    """:class:`Prepared` for a model with GeoLoRA adapters and any optimizer of them."""
    from geolora_ref.nn import adapters, parameter_count

    layers = adapters(model.encoder)
    return Prepared(
        optimizer=optimizer,
        ranks=lambda: {name: int(layer.adapter.rank) for name, layer in layers.items()},
        parameters=lambda: int(parameter_count(model.encoder)),
    )

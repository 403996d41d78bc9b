"""The methods that GeoLoRA is compared with, each as data for the same job; those of PEFT are
PEFT's own.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from geolora_ref.finetune.methods import GeoLoRAMethod, Prepared, geolora_prepared
from geolora_ref.finetune.model import Model

__all__ = [
    "AdaLoRAMethod",
    "DoRAMethod",
    "FullMethod",
    "HeadMethod",
    "LoRAMethod",
    "PreconditionedLoRAMethod",
    "RsLoRAMethod",
    "SimultaneousMethod",
    "orthogonality_defect",
]


def adamw(
    model: Model, lr: float, head_lr: float, parameters: Iterable[torch.nn.Parameter]
) -> torch.optim.AdamW:
    """AdamW without weight decay; the head has a learning rate of its own, as with GeoLoRA."""
    groups = [
        {"params": list(parameters), "lr": lr},
        {"params": list(model.head.parameters()), "lr": head_lr},
    ]
    return torch.optim.AdamW([group for group in groups if group["params"]], weight_decay=0.0)


def trainable(module: torch.nn.Module) -> list[torch.nn.Parameter]:
    """The parameters of a module that are trained."""
    return [parameter for parameter in module.parameters() if parameter.requires_grad]


@dataclass(frozen=True)
class HeadMethod:
    """The pretrained encoder as it is; only the head learns."""

    lr: float = 1e-3
    name: str = "head only"

    def prepare(self, model: Model, generator: torch.Generator, steps: int) -> Prepared:
        """Freeze the encoder."""
        model.encoder.requires_grad_(False)
        return Prepared(adamw(model, self.lr, self.lr, ()), dict, lambda: 0)


@dataclass(frozen=True)
class FullMethod:
    """Full fine-tuning: every parameter of the encoder learns."""

    lr: float
    head_lr: float = 1e-3
    name: str = "full"

    def prepare(self, model: Model, generator: torch.Generator, steps: int) -> Prepared:
        """AdamW on all parameters; nothing is adapted."""
        parameters = trainable(model.encoder)
        count = sum(parameter.numel() for parameter in parameters)
        return Prepared(adamw(model, self.lr, self.head_lr, parameters), dict, lambda: count)


@dataclass(frozen=True)
class LoRAMethod:
    """PEFT's LoRA [H22] on all linear layers, scale lora_alpha/r = 1."""

    lr: float
    head_lr: float = 1e-3
    rank: int = 8
    name: str = "lora"

    def prepare(self, model: Model, generator: torch.Generator, steps: int) -> Prepared:
        """Adapt the encoder; PEFT draws A from torch's global generator, which the job has forked
        and seeded.
        """
        from peft import LoraConfig, get_peft_model

        config = LoraConfig(
            r=self.rank, lora_alpha=self.rank, target_modules="all-linear", **self.options()
        )
        model.encoder = get_peft_model(model.encoder, config)
        parameters = trainable(model.encoder)
        count, layers = (
            sum(parameter.numel() for parameter in parameters),
            _adapted(model.encoder, "lora_A"),
        )
        return Prepared(
            self.optimizer(model), lambda: dict.fromkeys(layers, self.rank), lambda: count
        )

    def options(self) -> dict[str, Any]:
        """Options of PEFT's configuration in addition to rank and scale."""
        return {}

    def optimizer(self, model: Model) -> torch.optim.Optimizer:
        """AdamW on the factors and on the head."""
        return adamw(model, self.lr, self.head_lr, trainable(model.encoder))


@dataclass(frozen=True)
class RsLoRAMethod(LoRAMethod):
    """LoRA with scale lora_alpha/√r, here √r [Kal23]."""

    name: str = "rslora"

    def options(self) -> dict[str, Any]:
        """PEFT's name for this scale."""
        return {"use_rslora": True}


@dataclass(frozen=True)
class DoRAMethod(LoRAMethod):
    """LoRA of the directions of the columns, next to their lengths, which are trained too [Liu24]."""

    name: str = "dora"

    def options(self) -> dict[str, Any]:
        """PEFT's name for this method."""
        return {"use_dora": True}


@dataclass(frozen=True)
class PreconditionedLoRAMethod(LoRAMethod):
    """LoRA whose gradients are multiplied by the inverse Gram matrices of the other factor [ZP24],
    by PEFT's optimizer.
    """

    name: str = "preconditioned lora"

    def optimizer(self, model: Model) -> torch.optim.Optimizer:
        """PEFT's optimizer for a wrapped model, which finds the factors by name; the head is a
        group of its own.
        """
        from peft.optimizers import create_riemannian_optimizer

        made: torch.optim.Optimizer = create_riemannian_optimizer(
            model.encoder, torch.optim.AdamW, lr=self.lr, weight_decay=0.0
        )
        made.add_param_group({"params": list(model.head.parameters()), "lr": self.head_lr})
        return made


def orthogonality_defect(factors: Sequence[torch.Tensor]) -> torch.Tensor:
    """Mean of ‖PᵀP − I‖ and ‖QQᵀ − I‖ over AdaLoRA's factors [Zh23, eq. 4], tall ones and wide ones."""
    grams = [
        factor @ factor.T if factor.shape[0] < factor.shape[1] else factor.T @ factor
        for factor in factors
    ]
    return torch.stack([torch.linalg.norm(gram - torch.eye(len(gram))) for gram in grams]).mean()


@dataclass(frozen=True)
class AdaLoRAMethod:
    """PEFT's AdaLoRA [Zh23] on all linear layers, scale 1: from 3/2 of ``target_rank`` down to it,
    on average over layers.

    The budget falls from an eighth of the training on and is final three eighths before its end.
    """

    lr: float
    head_lr: float = 1e-3
    target_rank: int = 8
    orthogonality: float = 0.5
    name: str = "adalora"

    def prepare(self, model: Model, generator: torch.Generator, steps: int) -> Prepared:
        """Adapt the encoder, with the orthogonality penalty: PEFT adds it only to models that
        compute their own loss.
        """
        from peft import AdaLoraConfig, get_peft_model

        first = self.target_rank * 3 // 2
        config = AdaLoraConfig(
            init_r=first,
            target_r=self.target_rank,
            lora_alpha=first,
            target_modules="all-linear",
            total_step=steps,
            tinit=steps // 8,
            tfinal=steps * 3 // 8,
            orth_reg_weight=self.orthogonality,
        )
        wrapped: Any = get_peft_model(model.encoder, config)
        model.encoder = wrapped
        factors = [
            p for name, p in wrapped.named_parameters() if "lora_A" in name or "lora_B" in name
        ]
        sizes = _adapted(wrapped, "lora_A")

        def ranks() -> dict[str, int]:
            pattern = wrapped.peft_config["default"].rank_pattern or {}
            kept = {name.partition(".lora_E")[0]: sum(mask) for name, mask in pattern.items()}
            return {name: kept.get(name, first) for name in sizes}

        def penalty() -> torch.Tensor:
            return self.orthogonality * orthogonality_defect(factors)

        def parameters() -> int:
            return sum(rank * (sum(sizes[name]) + 1) for name, rank in ranks().items())

        optimizer = adamw(model, self.lr, self.head_lr, trainable(wrapped))
        return Prepared(
            optimizer, ranks, parameters, penalty, wrapped.base_model.update_and_allocate
        )


@dataclass(frozen=True)
class SimultaneousMethod:
    """All of U, S and V by gradient steps at once, at fixed rank: what GeoLoRA replaces (claim
    `simultaneous-descent`).
    """

    lr: float
    head_lr: float = 1e-3
    rank: int = 8
    name: str = "simultaneous"

    def prepare(self, model: Model, generator: torch.Generator, steps: int) -> Prepared:
        """GeoLoRA's adapters under another optimizer."""
        from geolora_ref.nn.optim.baselines import SimultaneousDescent

        GeoLoRAMethod(rank=self.rank, max_rank=self.rank, alpha=1.0).adapt(model, generator)
        return geolora_prepared(model, SimultaneousDescent(model, lr=self.lr, head_lr=self.head_lr))


def _adapted(model: Any, factor: str) -> dict[str, tuple[int, int]]:
    """The (m, n) of every layer that PEFT adapted, by its name as PEFT's rank patterns have it."""
    return {
        name.removeprefix("base_model.model."): (int(module.out_features), int(module.in_features))
        for name, module in model.named_modules()
        if hasattr(module, factor)
    }

"""The methods of the campaign, made of a rate, a rank and a width: the number of parameters of LoRA of rank 1 on the model."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from geolora_ref.finetune.methods import GeoLoRAMethod, Method
from verification.experiments.finetuning.methods import (
    AdaLoRAMethod,
    DoRAMethod,
    FullMethod,
    HeadMethod,
    LoRAMethod,
    PreconditionedLoRAMethod,
    RsLoRAMethod,
    SimultaneousMethod,
)

__all__ = ["MAKE"]

MAKE: Mapping[str, Callable[[float, int, int], Method]] = {
    "lora": lambda lr, r, _: LoRAMethod(lr=lr, rank=r),
    "geolora, uniform": lambda lr, r, _: GeoLoRAMethod(lr=lr, rank=r, min_rank=r, max_rank=r),
    "geolora, budget": lambda lr, r, width: GeoLoRAMethod(
        lr=lr, rank=r, max_rank=4 * r, tau=None, budget=r * width, unit="parameters"
    ),
    "geolora, tolerance": lambda lr, r, _: GeoLoRAMethod(lr=lr, rank=2 * r, max_rank=32),
    "initial rank": lambda lr, r, _: GeoLoRAMethod(lr=lr, rank=r, max_rank=32),
    "published geolora": lambda lr, r, _: GeoLoRAMethod(lr=lr, rank=r, max_rank=r, tau=0.1, update="adam-published"),
    "adalora": lambda lr, r, _: AdaLoRAMethod(lr=lr, target_rank=r),
    "rslora": lambda lr, r, _: RsLoRAMethod(lr=lr, rank=r),
    "dora": lambda lr, r, _: DoRAMethod(lr=lr, rank=r),
    "preconditioned lora": lambda lr, r, _: PreconditionedLoRAMethod(lr=lr, rank=r),
    "simultaneous": lambda lr, r, _: SimultaneousMethod(lr=lr, rank=r),
    "full": lambda lr, *_: FullMethod(lr=lr),
    "head only": lambda lr, *_: HeadMethod(lr=lr),
}

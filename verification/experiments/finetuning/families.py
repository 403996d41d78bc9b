"""The methods of the campaign, made of a rate, a rank and a width: the number of parameters of LoRA
of rank 1 on the model.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from geolora_ref.finetune.methods import GeoLoRAMethod, Method
from geolora_ref.training import DEFAULT_SHARE
from verification.experiments.finetuning import methods

__all__ = ["MAKE"]

ONE = GeoLoRAMethod(alpha=1.0, tau=0.35)
"""The method with alpha = 1 and a relative threshold."""


def _with_budget(lr: float, r: int, width: int) -> Method:
    """With the parameters of LoRA of rank r; for r = 1 rank 1 in every layer, which takes one more
    parameter in each, because fewer are no rank.
    """
    if r == 1:
        return GeoLoRAMethod(lr=lr, rank=1, max_rank=1, tau=0.35, alpha="rms")
    return GeoLoRAMethod(
        lr=lr, rank=r, max_rank=4 * r, budget=r * width, unit="parameters", alpha="rms"
    )


MAKE: Mapping[str, Callable[[float, int, int], Method]] = {
    "lora": lambda lr, r, _: methods.LoRAMethod(lr=lr, rank=r),
    "geolora, uniform": lambda lr, r, _: replace(ONE, lr=lr, rank=r, min_rank=r, max_rank=r),
    "geolora, budget": lambda lr, r, width: replace(
        ONE, lr=lr, rank=r, max_rank=4 * r, tau=None, budget=r * width, unit="parameters"
    ),
    "geolora, tolerance": lambda lr, r, _: replace(ONE, lr=lr, rank=2 * r, max_rank=32),
    "geolora, tolerance, rms": lambda lr, r, _: GeoLoRAMethod(
        lr=lr, rank=2 * r, max_rank=32, tau=0.35, alpha="rms"
    ),
    "geolora, budget, rms": lambda lr, r, width: _with_budget(lr, r, width),
    "geolora": lambda lr, r, _: GeoLoRAMethod(
        lr=lr, rank=2 * r, max_rank=8 * r, share=DEFAULT_SHARE, alpha="rms"
    ),
    "initial rank": lambda lr, r, _: replace(ONE, lr=lr, rank=r, max_rank=32),
    "published geolora": lambda lr, r, _: replace(
        ONE, lr=lr, rank=r, max_rank=r, tau=0.1, update="adam-published"
    ),
    "adalora": lambda lr, r, _: methods.AdaLoRAMethod(lr=lr, target_rank=r),
    "rslora": lambda lr, r, _: methods.RsLoRAMethod(lr=lr, rank=r),
    "dora": lambda lr, r, _: methods.DoRAMethod(lr=lr, rank=r),
    "preconditioned lora": lambda lr, r, _: methods.PreconditionedLoRAMethod(lr=lr, rank=r),
    "simultaneous": lambda lr, r, _: methods.SimultaneousMethod(lr=lr, rank=r),
    "full": lambda lr, *_: methods.FullMethod(lr=lr),
    "head only": lambda lr, *_: methods.HeadMethod(lr=lr),
}

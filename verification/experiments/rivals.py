"""The methods of campaigns: each makes a model trainable at a rank and a rate; PEFT has its own."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from geolora_ref import LowRank
from geolora_ref.nn import GeoLoRA, adapt, adapters
from verification.experiments.campaign import Configuration
from verification.experiments.tasks import Model

__all__ = ["RIVALS", "Prepared", "prepare"]

IN_ADAPT = ("alpha", "max_rank", "dropout", "fused")
"""The options of GeoLoRA that ``adapt`` takes; the optimizer takes the others."""


@dataclass(frozen=True)
class Prepared:
    """A model that is ready to be trained.

    Attributes
    ----------
    optimizer : steps everything that is trainable.
    parameters : how many the adaptation stores now, without the head.
    penalty : is added to the loss, or None.
    after_step : called with the number of steps done.
    """

    optimizer: torch.optim.Optimizer
    parameters: Callable[[], int]
    penalty: Callable[[], Tensor] | None = None
    after_step: Callable[[int], object] = lambda step: None


def prepare(model: Model, run: Configuration, steps: int, *, scratch: bool = False) -> Prepared:
    """Adapt a model in place by the method of a run.

    ``scratch`` : the base weight is dropped, and low-rank methods hold all of the weight.
    Raises ``ValueError`` for an unknown method.
    """
    if run.method not in RIVALS:
        raise ValueError(f"method: expected one of {', '.join(RIVALS)}, found {run.method!r}")
    output = getattr(model.encoder, "get_output_embeddings", lambda: None)()
    layers = [
        name
        for name, layer in model.encoder.named_modules()
        if isinstance(layer, nn.Linear) and layer is not output
    ]
    return RIVALS[run.method](model, run, steps, layers, scratch)


def _adamw(model: Model, run: Configuration, factors: Iterable[nn.Parameter]) -> torch.optim.AdamW:
    """AdamW without weight decay; the head has a rate of its own."""
    groups = [
        {"params": list(factors), "lr": run.rate},
        {"params": list(model.head.parameters()), "lr": run.head_rate},
    ]
    betas = (0.9 if run.momentum is None else run.momentum, 0.999)
    groups = [group for group in groups if group["params"]]
    return torch.optim.AdamW(groups, betas=betas, weight_decay=0.0)


def _trainable(module: nn.Module) -> list[nn.Parameter]:
    return [parameter for parameter in module.parameters() if parameter.requires_grad]


def _count(parameters: Iterable[nn.Parameter]) -> int:
    return sum(parameter.numel() for parameter in parameters)


def _geolora(
    model: Model, run: Configuration, steps: int, layers: list[str], scratch: bool
) -> Prepared:
    options = dict(run.options)
    inside = {name: options.pop(name) for name in IN_ADAPT if name in options}
    chosen = {"momentum": run.momentum, "share": run.share}
    options |= {name: value for name, value in chosen.items() if value is not None}
    dense = {name: model.encoder.get_submodule(name).weight.detach().clone() for name in layers}
    adapt(model.encoder, layers, run.rank, **inside)
    if scratch:
        for name, layer in adapters(model.encoder).items():
            U, sigma, Vt = torch.linalg.svd(dense[name], full_matrices=False)
            r = layer.adapter.rank
            layer.adapter.assign(LowRank(U[:, :r], torch.diag(sigma[:r] / layer.alpha), Vt[:r].mT))
            with torch.no_grad():
                layer.base_weight.zero_()
    optimizer = GeoLoRA(model, lr=run.rate, head_lr=run.head_rate, **options)

    def parameters() -> int:
        sizes = [(layer.adapter.rank, layer.adapter.shape) for layer in adapters(model).values()]
        return sum(r * (m + n) + r * r for r, (m, n) in sizes)

    return Prepared(optimizer, parameters)


def _lora(**fixed: Any) -> Callable[..., Prepared]:
    """PEFT's LoRA with scale lora_alpha/r = 1, and its variants."""

    def prepared(
        model: Model, run: Configuration, steps: int, layers: list[str], scratch: bool
    ) -> Prepared:
        from peft import LoraConfig, get_peft_model

        options = {"lora_alpha": run.rank} | fixed | dict(run.options)
        config = LoraConfig(r=run.rank, target_modules=layers, **options)
        model.encoder = get_peft_model(model.encoder, config)
        factors = _trainable(model.encoder)
        return Prepared(_adamw(model, run, factors), lambda: _count(factors))

    return prepared


def _adalora(
    model: Model, run: Configuration, steps: int, layers: list[str], scratch: bool
) -> Prepared:
    """PEFT's AdaLoRA: from 3/2 of the rank down to it, with its penalty on the factors."""
    from peft import AdaLoraConfig, get_peft_model

    first = run.rank * 3 // 2
    config = AdaLoraConfig(
        init_r=first,
        target_r=run.rank,
        lora_alpha=first,
        target_modules=layers,
        total_step=steps,
        tinit=steps // 8,
        tfinal=steps * 3 // 8,
    )
    wrapped: Any = get_peft_model(model.encoder, config)
    model.encoder = wrapped
    factors = [
        p for name, p in wrapped.named_parameters() if name.split(".")[-2] in ("lora_A", "lora_B")
    ]

    def penalty() -> Tensor:
        grams = [X @ X.mT if X.shape[0] < X.shape[1] else X.mT @ X for X in factors]
        defects = [torch.linalg.norm(gram - torch.eye(len(gram))) for gram in grams]
        return 0.5 * torch.stack(defects).mean()

    def parameters() -> int:
        masks = wrapped.peft_config["default"].rank_pattern or {}
        kept = {name.partition(".lora_E")[0]: sum(mask) for name, mask in masks.items()}
        sizes = {name: wrapped.base_model.model.get_submodule(name) for name in layers}
        return sum(
            kept.get(name, first) * (layer.in_features + layer.out_features + 1)
            for name, layer in sizes.items()
        )

    optimizer = _adamw(model, run, _trainable(wrapped))
    return Prepared(optimizer, parameters, penalty, wrapped.base_model.update_and_allocate)


def _full(
    model: Model, run: Configuration, steps: int, layers: list[str], scratch: bool
) -> Prepared:
    """Every weight of the adapted layers and the rest of the encoder."""
    factors = _trainable(model.encoder)
    return Prepared(_adamw(model, run, factors), lambda: _count(factors))


def _head(
    model: Model, run: Configuration, steps: int, layers: list[str], scratch: bool
) -> Prepared:
    """The head alone; ``rate`` is unused, and ``head_rate`` counts."""
    model.encoder.requires_grad_(False)
    return Prepared(_adamw(model, run, ()), lambda: 0)


class Product(nn.Module):
    """W = A Bᵀ as the parametrization of a weight."""

    def __init__(self, rank: int) -> None:
        super().__init__()
        self.rank = rank

    def forward(self, A: Tensor, B: Tensor) -> Tensor:
        """The weight."""
        return A @ B.mT

    def right_inverse(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Balanced factors of the best approximation of a weight."""
        U, sigma, Vt = torch.linalg.svd(weight, full_matrices=False)
        root = sigma[: self.rank].sqrt()
        return U[:, : self.rank] * root, Vt[: self.rank].mT * root


def _factorised(
    model: Model, run: Configuration, steps: int, layers: list[str], scratch: bool
) -> Prepared:
    """W = A Bᵀ in place of every weight, both factors by AdamW."""
    for name in layers:
        parametrize.register_parametrization(
            model.encoder.get_submodule(name), "weight", Product(run.rank)
        )
    factors = list(model.encoder.parameters())
    return Prepared(_adamw(model, run, factors), lambda: _count(factors))


RIVALS: Mapping[str, Callable[..., Prepared]] = {
    "geolora": _geolora,
    "lora": _lora(),
    "rslora": _lora(use_rslora=True),
    "dora": _lora(use_dora=True),
    "adalora": _adalora,
    "full": _full,
    "head": _head,
    "factorised": _factorised,
}
"""The methods by name; ``options`` go to PEFT's configuration, or to ``adapt`` and GeoLoRA."""

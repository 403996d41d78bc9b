"""The rows of the table: each method as a training step on its own copy of the network."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType, SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from geolora_ref.fast.layer.merging import merging_pays
from geolora_ref.fast.layer.product import input_gradient, product
from geolora_ref.fast.layer.skinny import add_up, down, gradient, row_blocks
from geolora_ref.nn import GeoLoRA, adapt, adapters
from verification.experiments.performance.authors import GLUE, authors_module, checkout
from verification.experiments.performance.networks import Case, chosen_layers

__all__ = ["METHODS", "TimedMethod", "Training"]

RATE = 1e-3


class Training:
    """A network, its batch and its step: :meth:`backward`, then :meth:`update`; ``note`` says what
    the steps did.
    """

    optimizer: torch.optim.Optimizer

    def __init__(self, case: Case, rank: int) -> None:
        self.network, self.batch, self.case, self.rank = (
            case.build().train(),
            case.batch(),
            case,
            rank,
        )
        for module in self.network.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
        self.note = ""

    def freeze(self) -> list[nn.Parameter]:
        """Freeze everything but the head; returns the parameters of the head."""
        for name, parameter in self.network.named_parameters():
            parameter.requires_grad_(name.startswith(self.case.head + "."))
        return [parameter for parameter in self.network.parameters() if parameter.requires_grad]

    def loss(self) -> Tensor:
        """The loss of the batch."""
        loss: Tensor = self.network(**self.batch)
        return loss

    def backward(self) -> None:
        """The forward and the backward pass."""
        torch.autograd.backward(self.loss())

    def update(self) -> None:
        """The step of the optimizer; the gradients are dropped."""
        self.optimizer.step()
        self.optimizer.zero_grad()


class WithAdamW(Training):
    """Everything that is trainable by AdamW, all parameters in one call."""

    def start(self, parameters: Iterable[nn.Parameter]) -> None:
        """Make the optimizer for these parameters."""
        self.optimizer = torch.optim.AdamW(
            [p for p in parameters if p.requires_grad], lr=RATE, foreach=True
        )


class FrozenNetwork(WithAdamW):
    """The floor: the frozen network forward and backward, ∇x down to the first adapted layer; the
    head is trained.
    """

    def __init__(self, case: Case, rank: int) -> None:
        super().__init__(case, rank)
        self.start(self.freeze())
        first, *_ = chosen_layers(self.network, case).values()
        first.register_forward_hook(lambda module, inputs, output: output.requires_grad_())


class PeftLoRA(WithAdamW):
    """LoRA of the PEFT library."""

    def __init__(self, case: Case, rank: int) -> None:
        super().__init__(case, rank)
        from peft import LoraConfig, get_peft_model

        head = self.freeze()
        names = list(chosen_layers(self.network, case))
        config = LoraConfig(r=rank, lora_alpha=rank, target_modules=names)
        self.network = get_peft_model(_Bare(self.network), _inside(config))
        for parameter in head:
            parameter.requires_grad_()
        self.start(self.network.parameters())


class PeftAdaLoRA(WithAdamW):
    """AdaLoRA of the PEFT library: starts at 3r/2, target r, its orthogonality term, an allocation
    at every step.
    """

    def __init__(self, case: Case, rank: int) -> None:
        super().__init__(case, rank)
        from peft import AdaLoraConfig, get_peft_model

        head = self.freeze()
        names = list(chosen_layers(self.network, case))
        config = AdaLoraConfig(
            init_r=3 * rank // 2,
            target_r=rank,
            tinit=0,
            tfinal=1,
            deltaT=1,
            total_step=10**6,
            target_modules=names,
        )
        self.network = get_peft_model(_WithLoss(self.network), _inside(config))
        for parameter in head:
            parameter.requires_grad_()
        self.start(self.network.parameters())
        self.count = 0

    def loss(self) -> Tensor:
        """The loss with the term that PEFT's AdaLoRA adds, which a wrapper around the model would
        leave out.
        """
        model: Any = self.network.base_model
        loss: Tensor = model(**self.batch).loss
        return loss

    def update(self) -> None:
        """The step of AdamW, then the allocation of ranks."""
        self.optimizer.step()
        self.count += 1
        model: Any = self.network.base_model
        model.update_and_allocate(self.count)
        self.optimizer.zero_grad()


class _Bare(nn.Module):
    """A module around the network, for PEFT to wrap."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, **batch: Tensor) -> Any:
        """The loss."""
        return self.network(**batch)


class _WithLoss(_Bare):
    """A network whose output has a loss: PEFT's AdaLoRA adds its orthogonality term only to such an
    output.
    """

    def forward(self, **batch: Tensor) -> Any:
        """The loss by its name."""
        return SimpleNamespace(loss=self.network(**batch))


def _inside(config: Any) -> Any:
    """The configuration for the same layers, which are one level down now."""
    config.target_modules = {f"network.{name}" for name in config.target_modules}
    return config


class _LeanFunction(torch.autograd.Function):
    """LoRA as ``fast/layer/linear.py`` writes it: y = x W₀ᵀ + bias + (x Aᵀ) Bᵀ, accumulated in
    place, layouts transposed, by one merged weight where there are rows enough.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, A: Tensor, Bt: Tensor
    ) -> Tensor:
        rows = row_blocks(x)
        at = down(rows, A.mT)
        ctx.merged = merging_pays(x, weight)
        if ctx.merged:
            weight = torch.addmm(weight, Bt.mT, A)
        y = product(rows, weight, bias)
        if not ctx.merged:
            add_up(y, at, Bt, 1.0)
        ctx.save_for_backward(rows, at, weight, A, Bt)
        ctx.shape = x.shape
        return y.view(*x.shape[:-1], weight.shape[0])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, at, weight, A, Bt = ctx.saved_tensors
        g = row_blocks(dy)
        bt = down(g, Bt.mT)
        dA, dBt, dx = gradient(bt, x), gradient(at, g), None
        if ctx.needs_input_grad[0]:
            dx = (product(g, weight.mT) if ctx.merged else input_gradient(g, weight, bt, A)).view(
                ctx.shape
            )
        return dx, None, None, dA, dBt


class LeanLinear(nn.Module):
    """A frozen layer with a lean LoRA adapter: A (r, n), B = 0 stored transposed (r, m)."""

    def __init__(self, base: nn.Linear, rank: int) -> None:
        super().__init__()
        self.base = base
        self.A = nn.Parameter(torch.randn(rank, base.in_features) / base.in_features**0.5)
        self.Bt = nn.Parameter(torch.zeros(rank, base.out_features))

    def forward(self, x: Tensor) -> Tensor:
        """The adapted output."""
        y: Tensor = _LeanFunction.apply(x, self.base.weight, self.base.bias, self.A, self.Bt)  # type: ignore[no-untyped-call, unused-ignore]
        return y


def _replace(network: nn.Module, case: Case, make: Callable[[nn.Linear], nn.Module]) -> list[Any]:
    """Put adapted layers in the places of the chosen ones."""
    made = []
    for name, layer in chosen_layers(network, case).items():
        parent, _, last = name.rpartition(".")
        made.append(make(layer))
        setattr(network.get_submodule(parent), last, made[-1])
    return made


class Authors(WithAdamW):
    """The public layer of the authors' GLUE experiment, from their checkout: step and truncation to
    r at every iteration.

    The authors' trainer steps once in 31 iterations; a layer has room for 2r columns and is cut
    back to r by the cap.
    """

    def __init__(self, case: Case, rank: int) -> None:
        super().__init__(case, rank)
        self.start(self.freeze())
        layer_class = authors_module(GLUE).LoRAParallelDLRT
        self.layers = _replace(
            self.network,
            case,
            lambda base: layer_class(base, rank, 0.0, alpha=rank, max_rank=2 * rank),
        )

    def update(self) -> None:
        """The authors' step and truncation, AdamW for the head."""
        for layer in self.layers:
            layer.rmax = 2 * self.rank
            layer.step(RATE, 0.0)
            layer.rmax = self.rank
            layer.Truncate()
        super().update()


class LeanLoRA(WithAdamW):
    """LoRA with the fused function: it shows what the implementation gains without the geometry."""

    def __init__(self, case: Case, rank: int) -> None:
        super().__init__(case, rank)
        head = self.freeze()
        layers = _replace(self.network, case, lambda base: LeanLinear(base, rank))
        self.start([*head, *(p for layer in layers for p in (layer.A, layer.Bt))])


class OfGeoLoRA(Training):
    """``adapt`` and the optimizer ``GeoLoRA``, which trains the head as well, with their defaults;
    here at fixed rank.
    """

    options: Mapping[str, Any] = MappingProxyType({"tau": 0.0})
    fixed = True
    fused: Any = "auto"

    def __init__(self, case: Case, rank: int) -> None:
        super().__init__(case, rank)
        most = rank if self.fixed else None
        adapt(self.network, case.targets, rank, max_rank=most, train=[case.head], fused=self.fused)
        self.optimizer = GeoLoRA(self.network, lr=RATE, **self.options)


class OfReference(OfGeoLoRA):
    """GeoLoRA by plain layers and the reference step, layer by layer."""

    options = MappingProxyType({"tau": 0.0, "method": "reference"})
    fused = False


class OfSgd(OfGeoLoRA):
    """GeoLoRA by plain gradients: the least that the step can cost."""

    options = MappingProxyType({"tau": 0.0, "update": "sgd"})


class Adaptive(OfGeoLoRA):
    """GeoLoRA with ranks that follow a low threshold, from r up to 4r."""

    options = MappingProxyType({"tau": 0.1})
    fixed = False

    def update(self) -> None:
        """The step; the note gets the ranks after it."""
        super().update()
        ranks = [layer.adapter.rank for layer in adapters(self.network).values()]
        self.note = f"ranks {min(ranks)} to {max(ranks)}, {sum(ranks) / len(ranks):.1f} on average"


@dataclass(frozen=True)
class TimedMethod:
    """A row: id, what it is, how it is made."""

    id: str
    title: str
    make: Callable[[Case, int], Training]


METHODS = (
    TimedMethod("frozen", "frozen network, forward + backward", FrozenNetwork),
    TimedMethod("lora", "LoRA (PEFT)", PeftLoRA),
    TimedMethod("adalora", "AdaLoRA (PEFT)", PeftAdaLoRA),
    TimedMethod("lean", "LoRA by our fused function", LeanLoRA),
    TimedMethod("reference", "GeoLoRA, reference", OfReference),
    TimedMethod("sgd", "GeoLoRA at fixed rank, plain gradients", OfSgd),
    TimedMethod("geolora", "GeoLoRA at fixed rank", OfGeoLoRA),
    TimedMethod("adaptive", "GeoLoRA, ranks adapt", Adaptive),
    *(
        [TimedMethod("authors", "the authors' layer, stepping at every iteration", Authors)]
        if checkout()
        else []
    ),
)
"""The first method is the floor; the second is the one that the others are compared with."""

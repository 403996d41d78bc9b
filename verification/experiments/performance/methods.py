"""The rows of the table: each method as a training step, a function without arguments, on its own copy of the network."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType, SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from geolora_ref.fast import LayerBank, adapted_linear
from geolora_ref.fast.layer.merging import merging_pays
from geolora_ref.fast.layer.product import frozen_linear, input_gradient, product
from geolora_ref.fast.layer.skinny import add_up, down, gradient, row_blocks
from geolora_ref.nn import GeoLoRA, adapt, adapters
from verification.experiments.performance.authors import authors_layer, checkout
from verification.experiments.performance.networks import Case, chosen_layers

__all__ = ["METHODS", "Method", "Training"]

RANK, RATE = 8, 1e-3


class Training:
    """A network, its batch and its step.  ``step()`` is one whole training step; ``note`` says what a run of them did."""

    def __init__(self, case: Case) -> None:
        self.network, self.batch, self.case = case.build().train(), case.batch(), case
        for module in self.network.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
        self.note = ""

    def freeze(self) -> list[nn.Parameter]:
        """Freeze everything but the head; its parameters."""
        for name, parameter in self.network.named_parameters():
            parameter.requires_grad_(name.startswith(self.case.head + "."))
        return [parameter for parameter in self.network.parameters() if parameter.requires_grad]

    def loss(self) -> Tensor:
        """The loss of the batch."""
        loss: Tensor = self.network(**self.batch)
        return loss

    def backward(self) -> None:
        """Forward and backward."""
        with torch.autocast("cpu", self.case.autocast, enabled=self.case.autocast is not None):
            loss = self.loss()
        torch.autograd.backward(loss)

    def step(self) -> None:
        """One training step."""
        raise NotImplementedError


class WithAdamW(Training):
    """Everything that is trainable by AdamW, all parameters in one call."""

    def start(self, parameters: Iterable[nn.Parameter]) -> None:
        """The optimizer."""
        self.optimizer = torch.optim.AdamW([p for p in parameters if p.requires_grad], lr=RATE, foreach=True)

    def step(self) -> None:
        """Forward, backward, AdamW."""
        self.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()


class FrozenNetwork(WithAdamW):
    """The floor: the frozen network forward and backward, ∇x down to the first adapted layer; the head is trained."""

    layer: Callable[[nn.Linear], nn.Module] = staticmethod(lambda layer: layer)

    def __init__(self, case: Case) -> None:
        super().__init__(case)
        self.start(self.freeze())
        first, *_ = _replace(self.network, case, self.layer)
        first.register_forward_hook(lambda module, inputs, output: output.requires_grad_())


class BareLinear(nn.Module):
    """A frozen layer without an adapter."""

    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        self.base = base

    def forward(self, x: Tensor) -> Tensor:
        """The output of the base."""
        return frozen_linear(x, self.base.weight, self.base.bias)


class FrozenByProduct(FrozenNetwork):
    """The same with the products of the fused function: the adapter's own share of a step is what lies above this."""

    layer = BareLinear


class Full(WithAdamW):
    """Full fine-tuning."""

    def __init__(self, case: Case) -> None:
        super().__init__(case)
        self.start(self.network.parameters())


class PeftLoRA(WithAdamW):
    """LoRA of the PEFT library, r = 8."""

    def __init__(self, case: Case) -> None:
        super().__init__(case)
        from peft import LoraConfig, get_peft_model

        head = self.freeze()
        names = list(chosen_layers(self.network, case))
        config = LoraConfig(r=RANK, lora_alpha=RANK, lora_dropout=case.dropout, target_modules=names)
        self.network = get_peft_model(_Bare(self.network), _inside(config))
        for parameter in head:
            parameter.requires_grad_()
        self.start(self.network.parameters())


class PeftAdaLoRA(WithAdamW):
    """AdaLoRA of the PEFT library: starts at 12, target 8 (its defaults), its orthogonality term, an allocation at every step."""

    def __init__(self, case: Case) -> None:
        super().__init__(case)
        from peft import AdaLoraConfig, get_peft_model

        head = self.freeze()
        names = list(chosen_layers(self.network, case))
        config = AdaLoraConfig(
            init_r=12,
            target_r=RANK,
            lora_dropout=case.dropout,
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
        """With the term that PEFT's AdaLoRA adds; the wrapper around it would leave it out."""
        model: Any = self.network.base_model
        loss: Tensor = model(**self.batch).loss
        return loss

    def step(self) -> None:
        """Forward, backward, AdamW, allocation."""
        self.backward()
        self.optimizer.step()
        self.count += 1
        model: Any = self.network.base_model
        model.update_and_allocate(self.count)
        self.optimizer.zero_grad()


class _Bare(nn.Module):
    """PEFT wraps what it is given."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, **batch: Tensor) -> Any:
        """The loss."""
        return self.network(**batch)


class _WithLoss(_Bare):
    """An output with a loss: to no other does PEFT's AdaLoRA add its orthogonality term."""

    def forward(self, **batch: Tensor) -> Any:
        """The loss by its name."""
        return SimpleNamespace(loss=self.network(**batch))


def _inside(config: Any) -> Any:
    """The same layers, now one level down."""
    config.target_modules = {f"network.{name}" for name in config.target_modules}
    return config


class _LeanFunction(torch.autograd.Function):
    """LoRA as ``fast/layer/linear.py`` writes it: y = x W₀ᵀ + bias + (x Aᵀ) Bᵀ, accumulated in place, layouts transposed, by
    one merged weight where there are rows enough.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, A: Tensor, Bt: Tensor) -> Tensor:
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
            dx = (product(g, weight.mT) if ctx.merged else input_gradient(g, weight, bt, A)).view(ctx.shape)
        return dx, None, None, dA, dBt


class LeanLinear(nn.Module):
    """A frozen layer with a lean LoRA adapter: A (r, n), B = 0 stored transposed (r, m)."""

    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        self.base = base
        self.A = nn.Parameter(torch.randn(RANK, base.in_features) / base.in_features**0.5)
        self.Bt = nn.Parameter(torch.zeros(RANK, base.out_features))

    def forward(self, x: Tensor) -> Tensor:
        """The adapted output."""
        y: Tensor = _LeanFunction.apply(x, self.base.weight, self.base.bias, self.A, self.Bt)  # type: ignore[no-untyped-call, unused-ignore]
        return y


class FastLinear(nn.Module):
    """A frozen layer with a GeoLoRA adapter: U, S = 0, V, computed by the fused function.

    No dS is formed: the step has it from dK.
    """

    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        self.base = base
        U, V = (torch.linalg.qr(torch.randn(k, RANK))[0].mT.contiguous().mT for k in base.weight.shape)
        self.U, self.V = nn.Parameter(U), nn.Parameter(V)
        self.S = nn.Parameter(torch.zeros(RANK, RANK), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        """The adapted output."""
        return adapted_linear(x, self.base.weight, self.base.bias, self.U, self.S, self.V)


def _replace(network: nn.Module, case: Case, make: Callable[[nn.Linear], nn.Module]) -> list[Any]:
    """Put adapted layers in the places of the chosen ones."""
    made = []
    for name, layer in chosen_layers(network, case).items():
        parent, _, last = name.rpartition(".")
        made.append(make(layer))
        setattr(network.get_submodule(parent), last, made[-1])
    return made


class Authors(WithAdamW):
    """The public layer of the authors' GLUE experiment, by path: step and truncation to r = 8 at every iteration.

    Their trainer steps once in 31 iterations; a layer has room for 2r columns and is cut back to r by the cap.
    """

    def __init__(self, case: Case) -> None:
        super().__init__(case)
        self.start(self.freeze())
        layer_class = authors_layer()
        self.layers = _replace(self.network, case, lambda base: layer_class(base, RANK, 0.0, alpha=RANK, max_rank=2 * RANK))

    def step(self) -> None:
        """Forward, backward, their step and truncation, AdamW for the head."""
        self.backward()
        for layer in self.layers:
            layer.rmax = 2 * RANK
            layer.step(RATE, 0.0)
            layer.rmax = RANK
            layer.Truncate()
        self.optimizer.step()
        self.optimizer.zero_grad()


class LeanLoRA(WithAdamW):
    """LoRA with the fused function: what the implementation is worth, without the geometry."""

    def __init__(self, case: Case) -> None:
        super().__init__(case)
        head = self.freeze()
        layers = _replace(self.network, case, LeanLinear)
        self.start([*head, *(p for layer in layers for p in (layer.A, layer.Bt))])


class GeoLoRAOptimizer(Training):
    """``adapt(fused=True)`` and the optimizer ``GeoLoRA``, which trains the head as well; here SGD at fixed rank."""

    max_rank: int | None = RANK
    options: Mapping[str, Any] = MappingProxyType({"method": "fast", "tau": 0.0, "update": "sgd"})

    def __init__(self, case: Case) -> None:
        super().__init__(case)
        adapt(self.network, case.targets, RANK, max_rank=self.max_rank, train=[case.head], dropout=case.dropout, fused=True)
        self.optimizer = GeoLoRA(self.network, lr=RATE, **self.options)

    def step(self) -> None:
        """Forward, backward, step."""
        self.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()


class GeoLoRAReference(GeoLoRAOptimizer):
    """The same with the reference step, layer by layer."""

    options = MappingProxyType({"method": "reference", "tau": 0.0, "update": "sgd"})


class GeoLoRAAdam(GeoLoRAOptimizer):
    """The same with Adam, whose moments move with the bases."""

    options = MappingProxyType({"method": "fast", "tau": 0.0, "update": "adam"})


class GeoLoRAAdaptive(GeoLoRAOptimizer):
    """What a user writes who leaves everything else as it is: Adam, and ranks that follow τ = 0.1 from 8 on, up to 32."""

    max_rank = None
    options = MappingProxyType({"method": "fast"})

    def step(self) -> None:
        """As before; the note has the ranks of the last step."""
        super().step()
        ranks = [layer.adapter.rank for layer in adapters(self.network).values()]
        self.note = f"ranks {min(ranks)} to {max(ranks)}, {sum(ranks) / len(ranks):.1f} on average"


class GeoLoRAFast(WithAdamW):
    """The fused function, and one step for all layers, called directly."""

    def __init__(self, case: Case) -> None:
        super().__init__(case)
        self.start(self.freeze())
        self.layers = _replace(self.network, case, FastLinear)
        self.bank = LayerBank.of([(layer.U.data, layer.S.data, layer.V.data) for layer in self.layers], capacity=RANK)
        for i, layer in enumerate(self.layers):
            layer.U.data, layer.S.data, layer.V.data = self.bank.factors(i)
        self.bases = [[getattr(layer, name) for layer in self.layers] for name in ("U", "V")]
        self.steps, self.exact = 0, 0

    @torch.no_grad()
    def update(self) -> None:
        """SGD, τ = 0, fixed rank."""
        dK, dL = ([X.grad for X in Xs] for Xs in self.bases)
        report = self.bank.update_(dK, dL, learning_rate=RATE, tau=0.0, min_rank=RANK, max_rank=RANK)
        self.steps, self.exact = self.steps + len(self.layers), self.exact + len(report.exact)
        self.note = f"{self.exact} of {self.steps} layer steps went through Householder's QR"

    def step(self) -> None:
        """Forward, backward, the update of the adapters, AdamW for the head."""
        self.backward()
        self.update()
        for X in itertools.chain(*self.bases):
            X.grad = None
        self.optimizer.step()
        self.optimizer.zero_grad()


@dataclass(frozen=True)
class Method:
    """A row: id, what it is, how it is made."""

    id: str
    title: str
    make: Callable[[Case], Training]


METHODS = (
    Method("frozen", "frozen network, forward + backward", FrozenNetwork),
    Method("lora", "LoRA (PEFT)", PeftLoRA),
    Method("bare", "frozen network, with the fused function's products", FrozenByProduct),
    Method("adalora", "AdaLoRA (PEFT)", PeftAdaLoRA),
    Method("full", "full fine-tuning", Full),
    Method("lean", "lean LoRA (our fused function)", LeanLoRA),
    Method("reference", "GeoLoRA, reference step", GeoLoRAReference),
    Method("fast", "GeoLoRA, fast", GeoLoRAFast),
    Method("optimizer", "GeoLoRA, fast, by its optimizer", GeoLoRAOptimizer),
    Method("adam", "GeoLoRA, fast, by its optimizer, Adam", GeoLoRAAdam),
    Method("adaptive", "GeoLoRA, fast, by its optimizer, its defaults (Adam, ranks adapt)", GeoLoRAAdaptive),
    *([Method("authors", "the authors' layer, stepping at every iteration", Authors)] if checkout() else []),
)
"""The first is the floor, the second what the others are compared with."""

"""Factors trained by another optimizer raise at the next training pass or when they are saved; all
other changes are allowed.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector, vector_to_parameters
from torch.utils.checkpoint import checkpoint

from geolora_ref import LowRank
from geolora_ref.nn import GeoLoRA, adapters, foreign_optimizer, merge
from tests.nn.steps import METHODS
from verification.network_defects.models import network, regression

pytestmark = pytest.mark.usefixtures("module_unchecked")

REFUSAL = (
    r"expected orthonormal bases.*; train with GeoLoRA\(model, lr=…\) of geolora_ref\.nn, in transformers as "
    r"Trainer\(…, optimizers=\(GeoLoRA\(model, lr=…\), None\)\) or optimizer_cls_and_kwargs=\(GeoLoRA, \{…\}\); "
    r"average merged weights, not factors; whoever means it writes within geolora_ref\.nn\.foreign_optimizer\(model\)"
)


def trained(model: nn.Module) -> list[nn.Parameter]:
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def factors(model: nn.Module) -> list[nn.Parameter]:
    return [
        parameter for layer in adapters(model).values() for parameter in layer.adapter.parameters()
    ]


def by(
    make: Callable[[list[nn.Parameter]], torch.optim.Optimizer],
) -> Callable[[nn.Module], Callable[[], Any]]:
    """A step of an optimizer of tensors."""
    return lambda model: make(trained(model)).step


def in_place_data(model: nn.Module) -> Callable[[], Any]:
    def step() -> None:
        for p in trained(model):
            p.data -= 0.01 * p.grad  # type: ignore[operator]

    return step


def new_data(model: nn.Module) -> Callable[[], Any]:
    def step() -> None:
        for p in trained(model):
            p.data = p.data - 0.01 * p.grad  # type: ignore[operator]

    return step


def one_vector(model: nn.Module) -> Callable[[], Any]:
    def step() -> None:
        gradient = parameters_to_vector([p.grad for p in trained(model)])  # type: ignore[misc]
        vector_to_parameters(parameters_to_vector(trained(model)) - 0.01 * gradient, trained(model))

    return step


def one_buffer(model: nn.Module) -> Callable[[], Any]:
    """Store parameters as DeepSpeed does, as views of a buffer, which an optimizer that knows no
    others steps.
    """
    buffer = parameters_to_vector(trained(model)).detach().clone()
    where = 0
    for p in trained(model):
        p.data = buffer[where : where + p.numel()].view_as(p)
        where += p.numel()
    optimizer = torch.optim.AdamW([buffer], lr=1e-3)

    def step() -> None:
        buffer.grad = parameters_to_vector([p.grad for p in trained(model)])  # type: ignore[misc]
        optimizer.step()

    return step


def own_kernels(model: nn.Module) -> Callable[[], Any]:
    """Step as bitsandbytes does: another library writes the parameter, and autograd does not count it."""

    def step() -> None:
        for p in trained(model):
            there = p.detach().numpy()
            there -= 1e-3 * p.grad.sign().numpy()  # type: ignore[union-attr]

    return step


def with_ours(model: nn.Module) -> Callable[[], Any]:
    ours, other = GeoLoRA(model, lr=0.02), torch.optim.AdamW(trained(model), lr=1e-4)

    def step() -> None:
        ours.step()
        other.step()

    return step


def average_in_place(
    write: Callable[[Tensor, Tensor], Any],
) -> Callable[[nn.Module], Callable[[], Any]]:
    """Our optimizer, and after it averages that are written into the parameters."""

    def make(model: nn.Module) -> Callable[[], Any]:
        ours = GeoLoRA(model, lr=0.02)
        means = [p.detach().clone() for p in trained(model)]

        def step() -> None:
            ours.step()
            with torch.no_grad():
                for mean, p in zip(means, trained(model), strict=True):
                    write(p, mean.lerp_(p, 0.5))

        return step

    return make


WRONG: dict[str, Callable[[nn.Module], Callable[[], Any]]] = {
    "AdamW": by(lambda ps: torch.optim.AdamW(ps, lr=5e-5)),
    "AdamW, foreach": by(lambda ps: torch.optim.AdamW(ps, lr=5e-5, foreach=True)),
    "AdamW, fused": by(lambda ps: torch.optim.AdamW(ps, lr=5e-5, fused=True)),
    "SGD with momentum": by(lambda ps: torch.optim.SGD(ps, lr=0.01, momentum=0.9)),
    "Adafactor": by(lambda ps: torch.optim.Adafactor(ps, lr=1e-3)),
    "Muon": by(lambda ps: torch.optim.Muon([p for p in ps if p.ndim == 2], lr=1e-3)),
    "a second optimizer with ours": with_ours,
    "p.data -= lr·p.grad": in_place_data,
    "p.data = p.data − lr·p.grad": new_data,
    "vector_to_parameters": one_vector,
    "one buffer of all parameters": one_buffer,
    "kernels of another library": own_kernels,
    "EMA written by copy_": average_in_place(lambda p, mean: p.copy_(mean)),
    "EMA written into .data": average_in_place(lambda p, mean: p.data.copy_(mean)),
}


def loss_of(model: nn.Module, dtype: torch.dtype = torch.float64) -> Tensor:
    x, target = regression()
    loss: Tensor = (model(x.to(dtype)) - target.to(dtype)).square().mean()
    return loss


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["double", "single"])
@pytest.mark.parametrize("way", WRONG)
def test_the_training_pass_after_a_foreign_step_is_an_error_that_names_the_cure(
    way: str, dtype: torch.dtype
) -> None:
    """The negative control is the context that says it is meant: no error is raised, and the loss is
    another one.
    """
    for meant in (True, False):
        model = network().to(dtype)
        if way == "Muon" and not hasattr(torch.optim, "Muon"):
            pytest.skip("torch before 2.9 has no Muon")
        step = WRONG[way](model)
        before = loss_of(model, dtype)
        before.backward()
        step()
        model.zero_grad()
        if meant:
            with foreign_optimizer(model):
                assert not torch.equal(loss_of(model, dtype), before)
        else:
            with pytest.raises(RuntimeError, match=REFUSAL):
                loss_of(model, dtype)


def by_adamw() -> nn.Module:
    model = network()
    loss_of(model).backward()
    torch.optim.AdamW(trained(model), lr=1e-3).step()
    return model.eval()


KEEPING: dict[str, Callable[[nn.Module], Any]] = {
    "state_dict": lambda model: model.state_dict(),
    "merge": merge,
    "AveragedModel": lambda model: torch.optim.swa_utils.AveragedModel(model).state_dict(),
}


@pytest.mark.parametrize("way", KEEPING)
def test_what_a_foreign_optimizer_has_trained_is_not_kept(way: str) -> None:
    """An evaluation does not check; with the context it is kept."""
    model = by_adamw()
    loss_of(model)
    with torch.no_grad():
        loss_of(model.train())
    with pytest.raises(RuntimeError, match=rf"0.*{REFUSAL}"):
        KEEPING[way](model)
    with foreign_optimizer(model):
        pass
    KEEPING[way](model)


def test_peft_and_the_plain_checkpoint_keep_nothing_of_it(tmp_path: Any) -> None:
    peft = pytest.importorskip("peft", reason="the extra peft is not installed")
    from geolora_ref.nn.exchange.export import export_lora
    from geolora_ref.nn.exchange.peft_tuner import GeoLoraConfig

    model = peft.get_peft_model(
        nn.Sequential(nn.Linear(12, 10), nn.Linear(10, 4)), GeoLoraConfig(rank=2)
    )
    loss_of(model, torch.float32).backward()
    torch.optim.AdamW(trained(model), lr=5e-5).step()
    ways: dict[str, Callable[[], Any]] = {
        "adapter": lambda: model.save_pretrained(tmp_path / "adapter"),
        "plain": lambda: export_lora(model, tmp_path / "plain"),
        "merged": model.merge_adapter,
        "unloaded": model.merge_and_unload,
    }
    for keep in ways.values():
        with pytest.raises(RuntimeError, match=rf"^base_model.*0.*{REFUSAL}|^0.*{REFUSAL}"):
            keep()
    assert not list(tmp_path.rglob("*.safetensors"))


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
def test_trainer_without_our_optimizer_is_an_error_at_its_second_step(tmp_path: Any) -> None:
    transformers = pytest.importorskip("transformers", reason="the extra peft is not installed")
    from tests.nn.test_trainer import Sentences, tuned

    for method in ("peft", "adapt"):
        options = {
            "output_dir": str(tmp_path),
            "report_to": [],
            "disable_tqdm": True,
            "use_cpu": True,
        }
        arguments = transformers.TrainingArguments(
            max_steps=4, dataloader_pin_memory=False, **options
        )
        run = transformers.Trainer(model=tuned(method), args=arguments, train_dataset=Sentences())
        with pytest.raises(RuntimeError, match=REFUSAL):
            run.train()
        assert run.state.global_step == 1


def steps_of(model: nn.Module, optimizer: Any, number: int) -> None:
    for _ in range(number):
        optimizer.zero_grad()
        optimizer.step(lambda: loss_of(model).backward())


def loaded(model: nn.Module, **options: Any) -> nn.Module:
    other = network(seed=5)
    other.load_state_dict(model.state_dict(), **options)
    return other


def broadcast(model: nn.Module) -> nn.Module:
    """Write the same values, as data-parallel training and distributed checkpoints do."""
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(p.clone())
    return model


def swapped(model: nn.Module) -> nn.Module:
    """Averages for an evaluation, and what was there before put back."""
    kept = [p.detach().clone() for p in factors(model)]
    for scale in (0.5, 1.0):
        with torch.no_grad():
            for p, X in zip(factors(model), kept, strict=True):
                p.copy_(scale * X)
            loss_of(model.eval())
    return model.train()


def elsewhere(model: nn.Module) -> nn.Module:
    for p in model.parameters():
        p.data = p.data.clone()
    return model


def checkpointed(model: nn.Module) -> nn.Module:
    x, _ = regression()
    checkpoint(model, x, use_reentrant=False).sum().backward()
    model.zero_grad()
    return model


def assigned(model: nn.Module) -> nn.Module:
    for layer in adapters(model).values():
        U, S, V = layer.adapter.factors()
        layer.adapter.assign(LowRank(U, S + torch.eye(len(S)).to(S), V))
    return model


FINE: dict[str, Callable[[nn.Module], nn.Module]] = {
    "loaded": loaded,
    "loaded by assignment": lambda model: loaded(model, assign=True),
    "copied": copy.deepcopy,
    "shared": nn.Module.share_memory,
    "other precision and back": lambda model: model.half().double(),
    "single precision": lambda model: model.float().double(),
    "half precision": lambda model: model.bfloat16(),
    "broadcast": broadcast,
    "swapped for an evaluation": swapped,
    "elsewhere": elsewhere,
    "checkpointed": checkpointed,
    "assigned": assigned,
}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("way", FINE)
def test_nobody_else_is_refused(way: str, method: Any) -> None:
    """After steps of our own; every pass looks here, also where there is no reason to."""
    model: nn.Module = network()
    steps_of(model, GeoLoRA(model, lr=0.05, tau=0.2, method=method), 5)
    model = FINE[way](model)
    dtype = next(model.parameters()).dtype
    for layer in adapters(model).values():
        layer.adapter.watch.passes = 0
    for _ in range(4):
        loss_of(model, dtype).backward()
    model.zero_grad()
    if dtype == torch.float64:
        for layer in adapters(model).values():
            layer.adapter.orthonormalise()
        steps_of(model, GeoLoRA(model, lr=0.05, method=method), 2)
    model.state_dict()
    if way != "half precision":
        merge(model)

"""Trainings by several processes on gloo: ``python -m tests.nn.workers OUT`` runs every way that
``RUNS`` lists.

The processes are forked from this one, which has imported torch and PEFT already; each saves what
it has at the end.  With two processes the model is one of PEFT.
"""

from __future__ import annotations

import inspect
import multiprocessing
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import peft
import torch
import torch.distributed as dist
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    get_state_dict,
    set_model_state_dict,
    set_state_dict,
)
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from geolora_ref.nn import GeoLoRA, adapters
from geolora_ref.nn.exchange.checkpoint import RankPlanner
from geolora_ref.nn.exchange.peft_tuner import GeoLoraConfig
from geolora_ref.nn.layers.adapt import unwrapped
from verification.network_defects.models import network, regression

__all__ = ["CAN_SHARD"]

STEPS, MORE = 25, 3
PATIENCE = timedelta(minutes=5)
"""How long processes wait for one that has died."""
CAN_SHARD = "ignored_params" in inspect.signature(fully_shard).parameters
"""True if this torch can leave the adapters out of sharding."""

Way = Callable[[nn.Module], tuple[nn.Module, Callable[[], None]]]
NAMES = {
    "base_model.model.": "",
    ".geolora_adapter.default.": ".adapter.",
    ".base_layer.": ".base.",
    ".modules_to_save.default.": ".",
}
"""Parts of PEFT's names for the parameters of the network, and the same parts without PEFT."""


def tuned(rank: int = 2, seed: int = 0) -> nn.Module:
    """The network as PEFT adapts it."""
    own, base = (network(rank=rank, seed=seed) for _ in range(2))
    base = nn.Sequential(*(getattr(layer, "base", layer) for layer in base))
    model: nn.Module = peft.get_peft_model(
        base, GeoLoraConfig(rank=rank, max_rank=8, modules_to_save=["4"])
    )
    for theirs, ours in zip(adapters(model).values(), adapters(own).values(), strict=True):
        theirs.adapter.assign(ours.adapter.factors())
    return model


def replicated(model: nn.Module) -> tuple[nn.Module, Callable[[], None]]:
    """Every process has everything; gradients are averaged on the way back."""
    return DistributedDataParallel(model), lambda: None


def sharded(model: nn.Module) -> tuple[nn.Module, Callable[[], None]]:
    """Every process has a part of each frozen weight and all of what is trained, whose gradients it
    averages.
    """
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    layers = [model.get_submodule(name.removesuffix(".geolora_active")) for name in adapters(model)]
    for module in (*layers, model):
        fully_shard(module, mesh=mesh, reshard_after_forward=True, ignored_params=set(trained))

    def average() -> None:
        for parameter in trained:
            assert parameter.grad is not None
            dist.all_reduce(parameter.grad)
            parameter.grad /= dist.get_world_size()

    return model, average


def sharded_alone(model: nn.Module) -> tuple[nn.Module, Callable[[], None]]:
    """The negative control: every process steps with the gradients of its own share."""
    return sharded(model)[0], lambda: None


RUNS: list[tuple[Way, int]] = [(replicated, world) for world in (1, 2, 4)]
RUNS += [(sharded, 2), (sharded, 4), (sharded_alone, 2)] if CAN_SHARD else []


def train_on_a_share(way: Way, rank: int, world: int, out: Path) -> None:
    """Train on every ``world``-th sample; save the parameters, the ranks of every step, and how
    much of each base is here.
    """
    torch.set_num_threads(1)
    name = f"{way.__name__}-{world}"
    store = f"file://{out / f'store-{name}'}"
    dist.init_process_group(
        "gloo", init_method=store, rank=rank, world_size=world, timeout=PATIENCE
    )
    model = tuned() if world == 2 else network(rank=2)
    optimizer, parallel, average = prepared(way, model)
    ranks, held = steps(STEPS, optimizer, parallel, average)
    state = whole(model)
    if world == 2 and way is not sharded_alone:
        state["resumed"] = torch.tensor(
            resumes(way, optimizer, parallel, average, out / f"checkpoint-{name}")
        )
    save_file(
        {**state, "ranks": torch.tensor(ranks), "held": torch.tensor(held)},
        out / f"{name}-{rank}.safetensors",
    )
    dist.destroy_process_group()


def prepared(way: Way, model: nn.Module) -> tuple[GeoLoRA, nn.Module, Callable[[], None]]:
    """The optimizer, the model as it is trained, and what averages gradients."""
    parallel, average = way(model)
    return GeoLoRA(model, lr=0.02, tau=0.25, update="adam"), parallel, average


def steps(
    count: int, optimizer: GeoLoRA, parallel: nn.Module, average: Callable[[], None]
) -> tuple[list[list[int]], ...]:
    """Train on the share of this process; the ranks after every step, and what is held of each base
    before and after it.
    """
    rank, world, layers = dist.get_rank(), dist.get_world_size(), adapters(parallel).values()
    x, target = regression()
    ranks, held = [], []
    for _ in range(count):
        optimizer.zero_grad()
        loss = (parallel(x[rank::world]) - target[rank::world]).square().mean()
        held.append([here(layer.base_weight) for layer in layers])
        loss.backward()
        average()
        optimizer.step()
        ranks.append([layer.adapter.rank for layer in layers])
        held.append([here(layer.base_weight) for layer in layers])
    return ranks, held


def resumes(
    way: Way, optimizer: GeoLoRA, parallel: nn.Module, average: Callable[[], None], folder: Path
) -> list[bool]:
    """Return whether other models resume from a distributed checkpoint like this one: with the
    optimizer's memory, and without it.
    """
    model, memory = get_state_dict(unwrapped(parallel), optimizer)
    save({"model": model, "optimizer": memory}, checkpoint_id=folder)
    others = [loaded(way, folder, remembers=remembers) for remembers in (True, False)]
    steps(MORE, optimizer, parallel, average)
    expected, found = whole(parallel), []
    for its_optimizer, its_parallel, its_average in others:
        steps(MORE, its_optimizer, its_parallel, its_average)
        state = whole(its_parallel)
        found.append(all(torch.equal(state[key], expected[key]) for key in expected))
    return found


def loaded(
    way: Way, folder: Path, *, remembers: bool
) -> tuple[GeoLoRA, nn.Module, Callable[[], None]]:
    """A model at another rank that has loaded a checkpoint."""
    other = tuned(rank=4, seed=3)
    optimizer, parallel, average = prepared(way, other)
    model, memory = get_state_dict(other, optimizer)
    state: dict[str, Any] = {"model": model, **({"optimizer": memory} if remembers else {})}
    load(state, checkpoint_id=folder, planner=RankPlanner())
    if remembers:
        set_state_dict(
            other, optimizer, model_state_dict=state["model"], optim_state_dict=state["optimizer"]
        )
    else:
        set_model_state_dict(other, state["model"])
    return optimizer, parallel, average


def whole(model: nn.Module) -> dict[str, Tensor]:
    """A copy of the state of a model with all parts of its base, under the names that it has
    without PEFT.
    """
    state = {
        key: X.full_tensor() if isinstance(X, DTensor) else X.clone()
        for key, X in model.state_dict().items()
    }
    for theirs, ours in NAMES.items():
        state = {
            key.replace(theirs, ours): X for key, X in state.items() if "original_module" not in key
        }
    return state


def here(weight: Tensor) -> int:
    """How many entries of a weight this process has."""
    return weight.to_local().numel() if isinstance(weight, DTensor) else weight.numel()


def main(out: Path) -> int:
    """Exit status 0 if every process came through."""
    context = multiprocessing.get_context("fork")
    processes = [
        context.Process(target=train_on_a_share, args=(way, rank, world, out))
        for way, world in RUNS
        for rank in range(world)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    return max(abs(process.exitcode or 0) for process in processes)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))

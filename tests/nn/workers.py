"""Trainings by several processes on gloo: ``python -m tests.nn.workers OUT`` runs every way that ``RUNS`` lists.

The processes are forked from this one, which has imported torch already; each saves what it has at the end.
"""

from __future__ import annotations

import inspect
import multiprocessing
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from geolora_ref.nn import GeoLoRA, adapters
from verification.network_defects.models import network, regression

__all__ = ["CAN_SHARD"]

STEPS = 25
PATIENCE = timedelta(minutes=5)
"""How long processes wait for one that has died."""
CAN_SHARD = "ignored_params" in inspect.signature(fully_shard).parameters
"""Whether this torch can leave the adapters out of sharding."""

Way = Callable[[nn.Module], tuple[nn.Module, Callable[[], None]]]


def replicated(model: nn.Module) -> tuple[nn.Module, Callable[[], None]]:
    """Every process has everything; gradients are averaged on the way back."""
    return DistributedDataParallel(model), lambda: None


def sharded(model: nn.Module) -> tuple[nn.Module, Callable[[], None]]:
    """Every process has a part of each frozen weight and all of what is trained, whose gradients it averages."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    for module in (*adapters(model).values(), model):
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
    """Train on every ``world``-th sample; save the parameters, the ranks of every step, and how much of each base is here."""
    torch.set_num_threads(1)
    name = f"{way.__name__}-{world}"
    store = f"file://{out / f'store-{name}'}"
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=world, timeout=PATIENCE)
    model = network(rank=2)
    layers = adapters(model)
    parallel, average = way(model)
    optimizer = GeoLoRA(model, lr=0.02, tau=0.25, update="adam")
    x, target = regression()
    ranks, held = [], []
    for _ in range(STEPS):
        optimizer.zero_grad()
        loss = (parallel(x[rank::world]) - target[rank::world]).square().mean()
        held.append([here(layer.base_weight) for layer in layers.values()])
        loss.backward()
        average()
        optimizer.step()
        ranks.append([layer.adapter.rank for layer in layers.values()])
        held.append([here(layer.base_weight) for layer in layers.values()])
    state = {key: value.full_tensor() if isinstance(value, DTensor) else value for key, value in model.state_dict().items()}
    save_file({**state, "ranks": torch.tensor(ranks), "held": torch.tensor(held)}, out / f"{name}-{rank}.safetensors")
    dist.destroy_process_group()


def here(weight: Tensor) -> int:
    """How many entries of a weight this process has."""
    return weight.to_local().numel() if isinstance(weight, DTensor) else weight.numel()


def main(out: Path) -> int:
    """Exit status 0 if every process came through."""
    context = multiprocessing.get_context("fork")
    processes = [
        context.Process(target=train_on_a_share, args=(way, rank, world, out)) for way, world in RUNS for rank in range(world)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    return max(abs(process.exitcode or 0) for process in processes)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))

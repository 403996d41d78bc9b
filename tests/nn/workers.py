"""Data-parallel trainings on gloo: ``python -m tests.nn.workers OUT`` runs them with 1, 2 and 4 processes.

The processes are forked from this one, which has imported torch already; each saves what it has at the end.
"""

from __future__ import annotations

import multiprocessing
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from safetensors.torch import save_file
from torch.nn.parallel import DistributedDataParallel

from geolora_ref.nn import GeoLoRA, adapters
from tests.nn.models import network, regression

STEPS, WORLDS = 25, (1, 2, 4)


def train_on_a_share(rank: int, world: int, out: Path) -> None:
    """Train on every ``world``-th sample; save the parameters, and the ranks of every step."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{out / f'store-{world}'}", rank=rank, world_size=world)
    model = network(rank=2)
    parallel = DistributedDataParallel(model)
    optimizer = GeoLoRA(model, lr=0.02, tau=0.15, update="adam")
    x, target = regression()
    ranks = []
    for _ in range(STEPS):
        optimizer.zero_grad()
        (parallel(x[rank::world]) - target[rank::world]).square().mean().backward()
        optimizer.step()
        ranks.append([layer.adapter.rank for layer in adapters(model).values()])
    save_file({**model.state_dict(), "ranks": torch.tensor(ranks)}, out / f"{world}-{rank}.safetensors")
    dist.destroy_process_group()


def main(out: Path) -> int:
    """Exit status 0 if every process came through."""
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=train_on_a_share, args=(rank, world, out)) for world in WORLDS for rank in range(world)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    return max(abs(process.exitcode or 0) for process in processes)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))

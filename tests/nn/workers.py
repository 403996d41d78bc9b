"""One process of a data-parallel training on gloo: run as ``python -m tests.nn.workers RANK WORLD STORE OUT``."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
import torch.distributed as dist
from safetensors.torch import save_file
from torch.nn.parallel import DistributedDataParallel

from geolora_ref.nn import GeoLoRA, adapters
from tests.nn.models import network, regression

STEPS = 25


def main(rank: int, world: int, store: str, out: Path) -> None:
    """Train on every ``world``-th sample; save the parameters and the ranks of every step."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=world)
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
    save_file({**model.state_dict(), "ranks": torch.tensor(ranks)}, out / f"{rank}.safetensors")
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], Path(sys.argv[4]))

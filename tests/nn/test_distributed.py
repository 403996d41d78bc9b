"""Data-parallel training on gloo: what is averaged are ∇_K, ∇_L, ∇_S, so it is the training of one process on all data."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

pytest.importorskip("safetensors", reason="safetensors is not installed")
from safetensors.torch import load_file


def trained(world: int, folder: Path) -> list[dict[str, Tensor]]:
    """What each of ``world`` processes has after training."""
    folder.mkdir()
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    command = [sys.executable, "-m", "tests.nn.workers"]
    processes = [
        subprocess.Popen(
            [*command, str(rank), str(world), str(folder / "store"), str(folder)], env=environment, stderr=subprocess.PIPE
        )
        for rank in range(world)
    ]
    errors = [process.communicate(timeout=120)[1].decode() for process in processes]
    assert all(process.returncode == 0 for process in processes), errors
    return [load_file(folder / f"{rank}.safetensors") for rank in range(world)]


@pytest.mark.skipif(not torch.distributed.is_available(), reason="this torch has no torch.distributed")
def test_two_and_four_processes_train_like_one(tmp_path: Path) -> None:
    (alone,) = trained(1, tmp_path / "1")
    assert len(alone["ranks"].unique(dim=0)) >= 2, "ranks must change for this to prove anything"
    for world in (2, 4):
        processes = trained(world, tmp_path / str(world))
        for other in processes[1:]:
            assert all(torch.equal(X, other[name]) for name, X in processes[0].items())
        assert torch.equal(processes[0]["ranks"], alone["ranks"])
        for name in ("0", "2"):
            W, expected = (
                state[f"{name}.adapter.U"] @ state[f"{name}.adapter.S"] @ state[f"{name}.adapter.V"].mT
                for state in (processes[0], alone)
            )
            assert float((W - expected).norm() / expected.norm()) <= 1e-12
        torch.testing.assert_close(processes[0]["4.weight"], alone["4.weight"], rtol=1e-12, atol=1e-13)

"""Data-parallel training on gloo: what is averaged are ∇_K, ∇_L, ∇_S, so it is the training of one process on all data."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

safetensors = pytest.importorskip("safetensors.torch", reason="safetensors is not installed")


def dense(state: dict[str, Tensor], name: str) -> Tensor:
    return state[f"{name}.adapter.U"] @ state[f"{name}.adapter.S"] @ state[f"{name}.adapter.V"].mT


@pytest.mark.skipif(not torch.distributed.is_available(), reason="this torch has no torch.distributed")
@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes cannot be forked here")
def test_two_and_four_processes_train_like_one(tmp_path: Path) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    command = [sys.executable, "-m", "tests.nn.workers", str(tmp_path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-3000:]
    alone = safetensors.load_file(tmp_path / "1-0.safetensors")
    assert len(alone["ranks"].unique(dim=0)) >= 2, "ranks must change for this to prove anything"
    for world in (2, 4):
        first, *others = (safetensors.load_file(tmp_path / f"{world}-{rank}.safetensors") for rank in range(world))
        assert all(torch.equal(X, other[name]) for other in others for name, X in first.items())
        assert torch.equal(first["ranks"], alone["ranks"])
        for name in ("0", "2"):
            W, expected = dense(first, name), dense(alone, name)
            assert float((W - expected).norm() / expected.norm()) <= 1e-12
        torch.testing.assert_close(first["4.weight"], alone["4.weight"], rtol=1e-12, atol=1e-13)

"""Training by several processes on gloo: what is averaged are ∇_K, ∇_L, ∇_S, so it is the training
of one process on all data.

Either everything is in every process (DistributedDataParallel), or the frozen base is spread over
them (fully_shard).  One process and four train the network as ``adapt`` makes it, two the same as
PEFT does.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

safetensors = pytest.importorskip("safetensors.torch", reason="safetensors is not installed")
pytest.importorskip("peft", reason="the extra peft is not installed")
if not torch.distributed.is_available() or not hasattr(os, "fork"):
    pytest.skip("needs torch.distributed and processes that can be forked", allow_module_level=True)

from tests.nn.workers import CAN_SHARD  # noqa: E402  it imports torch.distributed

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
LAYERS = ("0", "2")
can_shard = pytest.mark.skipif(
    not CAN_SHARD, reason=f"fully_shard of torch {torch.__version__} has no ignored_params"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with the files of all trainings."""
    out = tmp_path_factory.mktemp("trainings")
    command = [sys.executable, "-m", "tests.nn.workers", str(out)]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr[-3000:]
    return out


def saved(folder: Path, way: str, world: int) -> list[dict[str, Tensor]]:
    """By rank."""
    return [
        safetensors.load_file(folder / f"{way}-{world}-{rank}.safetensors") for rank in range(world)
    ]


def dense(state: dict[str, Tensor], name: str) -> Tensor:
    return state[f"{name}.adapter.U"] @ state[f"{name}.adapter.S"] @ state[f"{name}.adapter.V"].mT


def alike(states: list[dict[str, Tensor]]) -> bool:
    """Return whether the processes agree bit for bit, apart from their own parts of the base."""
    own = ("held", "resumed")
    return all(
        torch.equal(X, other[name])
        for other in states[1:]
        for name, X in states[0].items()
        if name not in own
    )


def distance(state: dict[str, Tensor], alone: dict[str, Tensor]) -> float:
    """The largest relative distance of what was trained from the training of one process."""
    found = [(dense(state, name), dense(alone, name)) for name in LAYERS]
    found += [(state[name], alone[name]) for name in ("4.weight", "4.bias")]
    return max(float((X - expected).norm() / expected.norm()) for X, expected in found)


@pytest.mark.parametrize(
    ("way", "world"),
    [
        ("replicated", 2),
        ("replicated", 4),
        pytest.param("sharded", 2, marks=can_shard),
        pytest.param("sharded", 4, marks=can_shard),
    ],
)
def test_processes_train_like_one(folder: Path, way: str, world: int) -> None:
    (alone,) = saved(folder, "replicated", 1)
    assert len({tuple(ranks) for ranks in alone["ranks"].tolist()}) >= 2, (
        "ranks must change for this to prove anything"
    )
    states = saved(folder, way, world)
    assert alike(states)
    assert torch.equal(states[0]["ranks"], alone["ranks"])
    assert distance(states[0], alone) <= 1e-12


@pytest.mark.parametrize("way", ["replicated", pytest.param("sharded", marks=can_shard)])
def test_training_goes_on_from_a_distributed_checkpoint(folder: Path, way: str) -> None:
    """At the ranks that were saved, with the memory of the optimizer; bit for bit."""
    states = saved(folder, way, 2)
    assert states[0]["ranks"][-1].tolist() != [4, 4], (
        "the other model must begin at other ranks for this to prove anything"
    )
    assert [state["resumed"].tolist() for state in states] == [[True, False]] * 2, (
        "the second forgets: the control"
    )


@can_shard
def test_without_averages_the_processes_part(folder: Path) -> None:
    """The negative control of the test above."""
    (alone,) = saved(folder, "replicated", 1)
    states = saved(folder, "sharded_alone", 2)
    assert not alike(states)
    assert all(distance(state, alone) > 1e-3 for state in states)


@can_shard
@pytest.mark.parametrize("world", [2, 4])
def test_the_base_is_spread_and_stays_what_it_was(folder: Path, world: int) -> None:
    """After every forward pass and every step a process has its part alone, and the parts make the
    whole.
    """
    (alone,) = saved(folder, "replicated", 1)
    states = saved(folder, "sharded", world)
    parts = torch.stack([state["held"] for state in states])  # (world, 2 times a step, layers)
    whole = torch.tensor([alone[f"{name}.base.weight"].numel() for name in LAYERS])
    assert (parts < whole).all()
    assert (parts.sum(0) == whole).all()
    assert (alone["held"] == whole).all()
    for name in (f"{name}.base.{part}" for name in LAYERS for part in ("weight", "bias")):
        assert torch.equal(states[0][name], alone[name])

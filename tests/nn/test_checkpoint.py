"""Distributed checkpoints of models whose ranks have changed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

if not torch.distributed.is_available():
    pytest.skip("needs torch.distributed", allow_module_level=True)

from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save

from geolora_ref.nn import GeoLoRA
from geolora_ref.nn.exchange.checkpoint import RankPlanner
from verification.network_defects.models import network, regression, train

pytestmark = [
    pytest.mark.filterwarnings(
        "ignore:torch.distributed is disabled:UserWarning"
    ),  # it is; there is one process
    pytest.mark.filterwarnings(
        "ignore:TypedStorage is deprecated:UserWarning"
    ),  # by torch 2.8 about itself
]

UPDATES = ("spectral", "adam")


def prepared(update: Any, seed: int = 0) -> tuple[nn.Module, GeoLoRA]:
    model = network(seed=seed, rank=6)
    return model, GeoLoRA(model, lr=0.05, tau=0.6, update=update)


def state_of(model: nn.Module, optimizer: GeoLoRA) -> dict[str, Any]:
    parameters, memory = get_state_dict(model, optimizer)
    return {"model": parameters, "optimizer": memory}


@pytest.fixture(params=UPDATES)
def saved(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, nn.Module, GeoLoRA, Path]:
    """A model that was trained, and where it was saved."""
    model, optimizer = prepared(request.param)
    assert train(model, optimizer, 4)[-1] != (6, 6)
    save(state_of(model, optimizer), checkpoint_id=tmp_path)
    return request.param, model, optimizer, tmp_path


def test_training_goes_on_from_the_ranks_that_were_saved(
    saved: tuple[str, nn.Module, GeoLoRA, Path],
) -> None:
    """With the memory of the optimizer: bit for bit."""
    update, model, optimizer, folder = saved
    other, its_optimizer = prepared(update, seed=1)
    state = state_of(other, its_optimizer)
    load(state, checkpoint_id=folder, planner=RankPlanner())
    set_state_dict(
        other, its_optimizer, model_state_dict=state["model"], optim_state_dict=state["optimizer"]
    )
    assert train(model, optimizer, 4) == train(other, its_optimizer, 4)
    x, _ = regression()
    assert torch.equal(other(x), model(x))


def test_the_model_alone_is_loaded_on_request(saved: tuple[str, nn.Module, GeoLoRA, Path]) -> None:
    update, model, _, folder = saved
    other, its_optimizer = prepared(update, seed=1)
    state = {"model": state_of(other, its_optimizer)["model"]}
    load(state, checkpoint_id=folder, planner=RankPlanner())
    assert list(state) == ["model"]
    other.load_state_dict(state["model"])
    x, _ = regression()
    assert torch.equal(other(x), model(x))


def test_without_the_planner_other_ranks_are_an_error(
    saved: tuple[str, nn.Module, GeoLoRA, Path],
) -> None:
    """The negative control: torch's own planner."""
    update, _, _, folder = saved
    with pytest.raises(
        CheckpointException, match=r"Size mismatch between saved .* for model\.0\.adapter\.U"
    ):
        load(state_of(*prepared(update, seed=1)), checkpoint_id=folder)

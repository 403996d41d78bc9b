"""The rehearsal of PEFT's method_comparison passes all of its checks, and each check can fail."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

peft = pytest.importorskip("peft", reason="the extra peft is not installed")
transformers = pytest.importorskip("transformers", reason="the extra finetune is not installed")

from safetensors.torch import load_file, save_file  # noqa: E402

from geolora_ref.nn.exchange.peft_tuner import GeoLoraConfig  # noqa: E402
from geolora_ref.support.files import write_atomically  # noqa: E402
from verification.peft_suite.rehearsal import __main__ as rehearsal  # noqa: E402
from verification.peft_suite.rehearsal.checks import Check, checks_of, differences  # noqa: E402
from verification.support.machine import ROOT  # noqa: E402

pytestmark = [
    pytest.mark.usefixtures("module_unchecked"),
    pytest.mark.filterwarnings(
        "ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"
    ),  # PEFT asks transformers so
]
LOSS, LOGITS = "the loss falls", "the saved adapter gives the same logits"
COUNTS, NUMBERS = "trainable: the suite before, after, by formula", "numbers in the file, in use"
RANKS = "ranks move, from 8"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("rehearsal")
    rehearsal.prepared(made)
    return made


def test_all_checks_pass_for_lora_and_ours(folder: Path) -> None:
    checks = rehearsal.rehearsed(folder)
    assert [(method, check) for method, check in checks if not check.passed] == []
    assert [
        [check.name for name, check in checks if name == method][:5]
        for method in ("lora", "geolora")
    ] == [
        [LOSS, LOGITS, COUNTS, NUMBERS, "no warnings"],
        [LOSS, LOGITS, COUNTS, NUMBERS, RANKS],
    ]


def changed(file: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change a file of tensors in place."""
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file)


def flip(tensors: dict[str, Any]) -> None:
    (name, *_) = (name for name in tensors if name.endswith(".S"))
    tensors[name] = -tensors[name]


def add(tensors: dict[str, Any]) -> None:
    tensors["another"] = tensors[next(iter(tensors))].clone()


CONTROLS: dict[
    str, tuple[dict[str, Any], dict[str, Any], Callable[[dict[str, Any]], None] | None, set[str]]
] = {
    "nothing is learned": ({}, {"optimizer_kwargs": {"lr": 0.0}}, None, {LOSS, RANKS}),
    "a fixed rank": (
        {},
        {"optimizer_kwargs": {"lr": 0.0063, "min_rank": 8, "max_rank": 8}},
        None,
        {RANKS},
    ),
    "more layers": ({"target_modules": ["q_proj", "k_proj", "v_proj"]}, {}, None, {COUNTS}),
    "another adapter": ({}, {}, flip, {LOGITS}),
    "another tensor": ({}, {}, add, {NUMBERS}),
}
"""Changes of the two files of an experiment and of the saved adapter, and the checks that fail then."""


@pytest.mark.parametrize("case", CONTROLS)
def test_every_check_can_fail(case: str, folder: Path) -> None:
    config, training, damage, failing = CONTROLS[case]
    ours, name = folder / rehearsal.OURS, Path("experiments") / "geolora" / case
    for file, change in (("adapter_config.json", config), ("training_params.json", training)):
        write_atomically(
            folder / name / file, json.dumps(json.loads((ours / file).read_text("utf-8")) | change)
        )
    result, _ = rehearsal.run_warned(folder, name)
    checkpoint = folder / "checkpoints" / "geolora" / case
    if damage is not None:
        changed(checkpoint / "adapter_model.safetensors", damage)
    assert {
        check.name for check in checks_of(folder / name, checkpoint, result) if not check.passed
    } == failing


def test_a_run_that_was_interrupted_has_failed(folder: Path) -> None:
    checks = checks_of(folder, folder, {"status": "canceled", "error_msg": "no memory"})
    assert checks == [Check("the run ends", "no memory", passed=False)]


def test_another_number_of_the_suite_is_a_difference() -> None:
    ours: dict[str, Any] = {"file_size": 3, "metrics": [{"step": 1, "train loss": 0.5}]}
    theirs: dict[str, Any] = {
        "file_size": 3,
        "time": 1.0,
        "metrics": [{"step": 1, "train loss": 0.5, "time": 1.0}],
    }
    assert differences(ours, theirs) == []
    assert differences(ours, {**theirs, "file_size": 4}) == ["file_size: 3 here, 4 there"]
    assert len(differences(ours, {**theirs, "metrics": [{"step": 1, "train loss": 0.25}]})) == 1


@pytest.mark.parametrize("passed", [True, False])
def test_the_command_fails_where_a_check_does(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    *,
    passed: bool,
) -> None:
    monkeypatch.setattr(rehearsal, "BUILD", tmp_path)
    monkeypatch.setattr(
        rehearsal, "rehearsed", lambda folder, suite: [("lora", Check(LOSS, "2 to 1", passed))]
    )
    assert rehearsal.main([]) == (0 if passed else 1)
    assert f"lora     {LOSS}: 2 to 1" in capsys.readouterr().out


def test_the_files_for_the_suite_are_a_configuration_of_ours() -> None:
    files = Path(rehearsal.__file__).parent / rehearsal.OURS
    config = GeoLoraConfig(task_type="CAUSAL_LM", rank=8, max_rank=32, target_modules=None)
    assert peft.PeftConfig.from_pretrained(str(files)) == config
    assert (
        json.loads((files / "training_params.json").read_text("utf-8"))["optimizer_type"]
        == "geolora"
    )


UTILS = """
import tempfile
import bitsandbytes, datasets
from peft.utils import infer_device
device = infer_device()
assert device == "xpu"
RESULT_PATH = RESULT_PATH_TEST = RESULT_PATH_CANCELLED = "results"
get_base_model_info = get_dataset_info = get_peft_branch = get_peft_worktree_is_dirty = upload_checkpoint_to_bucket = None
"""
RUN = """
import sys
import torch, utils
from data import get_train_valid_test_datasets, get_wiki_small
from peft import PeftConfig, get_peft_model
from peft.utils import infer_device
from transformers import AutoModelForCausalLM
assert utils.device == infer_device() == "cpu"
assert getattr(torch, utils.device).max_memory_reserved() == 0
*_, bucket, experiment = sys.argv
model = get_peft_model(AutoModelForCausalLM.from_pretrained("decoder"), PeftConfig.from_pretrained(experiment))
getattr(torch.optim, "geolora")(model.parameters(), lr=0.01).step()
with utils.tempfile.TemporaryDirectory(delete=True) as folder:
    model.save_pretrained(folder)
utils.upload_checkpoint_to_bucket(model, "name", bucket)
"""
"""The places at which the suite meets the shim."""


def test_the_shim_runs_a_suite_that_wants_an_accelerator_and_the_hub(
    folder: Path, tmp_path: Path
) -> None:
    for name, text in (("utils.py", UTILS), ("run.py", RUN)):
        (tmp_path / name).write_text(text, encoding="utf-8")
    command = [sys.executable, "-m", "verification.peft_suite.rehearsal.shim"]
    command += map(str, (tmp_path, rehearsal.OURS, tmp_path / "kept"))
    done = subprocess.run(
        command,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "kept" / "adapter_model.safetensors").exists()

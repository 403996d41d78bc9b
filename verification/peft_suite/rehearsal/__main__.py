"""``python -m verification.peft_suite.rehearsal``: LoRA and GeoLoRA as PEFT's ``method_comparison`` trains
them, on the CPU and a tiny decoder.

The folder ``experiments`` has the files for the suite.  Without ``--suite`` the training is that of
``contract.py``; with it the suite runs as well, and its numbers have to be the same bit for bit.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import transformers
from peft import LoraConfig

from geolora_ref.support.files import write_atomically
from verification.peft_suite.rehearsal.checks import Check, checks_of, differences
from verification.peft_suite.rehearsal.contract import run
from verification.peft_suite.rehearsal.stand_ins import write_decoder
from verification.support.machine import ROOT

__all__ = ["OURS", "main", "prepared", "rehearsed", "run_warned"]

OURS = Path("experiments/geolora/llama-3.2-3B-max-rank32")
LORA = Path("experiments/lora/llama-3.2-3B-rank32")
NO_OPTIMIZER = Path("experiments/geolora/without-an-optimizer")
NO_RATE = Path("experiments/geolora/without-a-rate")
SHORT = {
    "max_steps": 60,
    "eval_steps": 20,
    "generation_kwargs": {"max_length": 800, "max_new_tokens": 4},
}
BUILD = ROOT / "build" / "peft-rehearsal"


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status 0 if every check passes."""
    parser = argparse.ArgumentParser(
        prog="python -m verification.peft_suite.rehearsal", description=__doc__
    )
    parser.add_argument(
        "--suite",
        type=Path,
        help="the folder method_comparison/MetaMathQA of a checkout of PEFT, which runs as well",
    )
    suite = parser.parse_args(argv).suite
    transformers.utils.logging.disable_progress_bar()
    shutil.rmtree(BUILD, ignore_errors=True)
    prepared(BUILD)
    checks = rehearsed(BUILD, None if suite is None else suite.resolve())
    for method, check in checks:
        print(
            f"{'ok  ' if check.passed else 'FAIL'} {method:8} {check.name}{': ' * bool(check.found)}{check.found}"
        )
    return int(not all(check.passed for _, check in checks))


def prepared(folder: Path) -> None:
    """Write the decoder and the experiments: LoRA's and ours, and two that forget something."""
    short = {"model_id": str(write_decoder(folder / "decoder")), **SHORT}
    ours = Path(__file__).parent / OURS
    training = json.loads((ours / "training_params.json").read_text("utf-8"))
    LoraConfig(r=32, lora_alpha=64, task_type="CAUSAL_LM").save_pretrained(str(folder / LORA))
    for name in (OURS, NO_OPTIMIZER, NO_RATE):
        shutil.copytree(ours, folder / name)
    own: Mapping[Path, dict[str, Any]] = {
        OURS: training,
        LORA: {"optimizer_kwargs": {"lr": 1e-3}},
        NO_OPTIMIZER: {},
        NO_RATE: {"optimizer_type": training["optimizer_type"]},
    }
    for name, options in own.items():
        write_atomically(folder / name / "training_params.json", json.dumps(short | options))


def rehearsed(folder: Path, suite: Path | None = None) -> list[tuple[str, Check]]:
    """Run the experiments of a prepared folder: what was checked, by method."""
    checks: list[tuple[str, Check]] = []
    results = {name: run_warned(folder, name) for name in (LORA, OURS, NO_OPTIMIZER, NO_RATE)}
    for name in (LORA, OURS):
        result, said = results[name]
        found = [
            *checks_of(folder / name, _checkpoint(folder, name), result),
            Check("no warnings", " ".join(said), not said),
        ]
        checks += [(name.parts[1], check) for check in found]
    error, (_, said) = results[NO_OPTIMIZER][0]["error_msg"], results[NO_RATE]
    checks.append(
        (
            "geolora",
            Check("AdamW, the suite's default, is refused", error, "train with GeoLoRA" in error),
        )
    )
    low = [line for line in said if line.startswith("lr = 0.0001")]
    checks.append(
        ("geolora", Check("lr = 1e-4, its default, gets a warning", " ".join(low), len(low) == 1))
    )
    if suite is not None:
        for name, (result, _) in results.items():
            other = differences(result, _of_the_suite(folder, name, suite))
            checks.append(
                (
                    name.parts[1],
                    Check(
                        f"{name.name}: the suite has the same numbers", "; ".join(other), not other
                    ),
                )
            )
    return checks


def run_warned(folder: Path, name: Path) -> tuple[dict[str, Any], list[str]]:
    """The result of an experiment, and the warnings for its user."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        result = run(folder / name, _checkpoint(folder, name))
    return result, [str(one.message) for one in caught if one.category is UserWarning]


def _checkpoint(folder: Path, name: Path) -> Path:
    return folder / "checkpoints" / name.relative_to("experiments")


def _of_the_suite(folder: Path, name: Path, suite: Path) -> dict[str, Any]:
    """The part ``train_info`` of the result that the suite writes, and its ``error_msg``."""
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, "-m", "verification.peft_suite.rehearsal.shim"]
    command += [str(suite), str(name), f"{_checkpoint(folder, name)}-suite"]
    environment = {
        **os.environ,
        "PYTHONPATH": path,
        "CUDA_VISIBLE_DEVICES": "",
        "HF_HUB_OFFLINE": "1",
    }
    with open(folder / f"{name.name}.log", "w", encoding="utf-8") as log:
        subprocess.run(command, cwd=folder, env=environment, check=True, stdout=log, stderr=log)  # noqa: S603  (our own command)
    written = folder / "temporary_results" / f"{'--'.join(name.parts[1:])}.json"
    found = json.loads(written.read_text("utf-8"))
    return {**found["train_info"], "error_msg": found["run_info"]["error_msg"]}


if __name__ == "__main__":
    raise SystemExit(main())

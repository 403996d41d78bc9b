"""What a run has to show: it learns, ranks move, the adapter loads, and the suite counts what is there."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from geolora_ref.nn import adapters, parameter_count
from verification.peft_suite.rehearsal.kept import LOGITS, logits_of

__all__ = ["Check", "checks_of", "differences"]

TARGETS = ("q_proj", "v_proj")
"""The layers that PEFT adapts in a Llama where ``target_modules`` is null."""
FALL = 0.85
"""The last loss has to be below this part of the first.  Both are averages over 20 batches, whose
losses scatter by a ninth: such a fall is four standard errors of their difference.
"""


class Check(NamedTuple):
    """What was checked, what was found, and whether it is right."""

    name: str
    found: str
    passed: bool


def checks_of(experiment: Path, checkpoint: Path, result: Mapping[str, Any]) -> list[Check]:
    """The checks of a run that came to its end, with LoRA or GeoLoRA; of one that did not, the error alone."""
    if result["status"] != "success":
        return [Check("the run ends", result["error_msg"], passed=False)]
    config, training = (
        json.loads((experiment / f"{name}.json").read_text("utf-8"))
        for name in ("adapter_config", "training_params")
    )
    base = AutoModelForCausalLM.from_pretrained(training["model_id"], dtype=torch.bfloat16)
    shapes = [
        tuple(module.weight.shape)
        for name, module in base.named_modules()
        if name.endswith(TARGETS)
    ]
    ours, kept = "max_rank" in config, load_file(checkpoint / LOGITS)
    r = config["max_rank"] if ours else config["r"]
    loaded = PeftModel.from_pretrained(base, checkpoint)
    first, last = (result["metrics"][k]["train loss"] for k in (0, -1))
    counts = [
        result["num_trainable_params"],
        int(kept["trainable"]),
        sum(r * (m + n) + ours * r**2 for m, n in shapes),
    ]
    saved = sum(X.numel() for X in load_file(checkpoint / "adapter_model.safetensors").values())
    used = parameter_count(loaded) if ours else counts[-1]
    checks = [
        Check("the loss falls", f"{first:.3f} to {last:.3f}", last < FALL * first),
        Check(
            "the saved adapter gives the same logits",
            "",
            torch.equal(logits_of(loaded), kept["logits"]),
        ),
        Check(
            "trainable: the suite before, after, by formula",
            ", ".join(map(str, counts)),
            len(set(counts)) == 1,
        ),
        Check("numbers in the file, in use", f"{saved}, {used}", saved == used),
    ]
    if ours:
        ranks = [layer.adapter.rank for layer in adapters(loaded).values()]
        moved = (
            len(set(ranks)) > 1
            and max(ranks) <= r
            and any(rank != config["rank"] for rank in ranks)
        )
        checks.append(Check(f"ranks move, from {config['rank']}", " ".join(map(str, ranks)), moved))
    return checks


def differences(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> list[str]:
    """Where a result of the suite has other values than that of our loop, in all that ours has."""
    found = {name: theirs[name] for name in ours if name != "metrics"}
    rows = [
        {name: row[name] for name in own}
        for own, row in zip(ours["metrics"], theirs["metrics"], strict=True)
    ]
    return [
        f"{name}: {ours[name]} here, {value} there"
        for name, value in {**found, "metrics": rows}.items()
        if value != ours[name]
    ]

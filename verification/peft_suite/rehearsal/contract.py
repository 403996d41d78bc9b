"""The training of PEFT's ``method_comparison/MetaMathQA``, written again: the same calls in the same order.

No package contains the suite, so this stands in for it where there is no checkout of PEFT.  What it
leaves out draws no random numbers and changes no parameter: memory, times, example texts.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from peft import PeftConfig, get_peft_model
from torch import Tensor, nn
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    get_cosine_schedule_with_warmup,
    set_seed,
)

from geolora_ref.nn.exchange.peft_tuner import create_geolora_optimizer
from verification.peft_suite.rehearsal.kept import keep
from verification.peft_suite.rehearsal.stand_ins import (
    Rows,
    get_train_valid_test_datasets,
    get_wiki_small,
)

__all__ = ["DEFAULTS", "run"]

DEFAULTS: dict[str, Any] = {
    "dtype": "bfloat16",
    "max_seq_length": 768,
    "batch_size": 4,
    "batch_size_eval": 50,
    "seed": 0,
    "grad_norm_clip": 1.0,
    "optimizer_type": "AdamW",
    "optimizer_kwargs": {"lr": 1e-4, "weight_decay": 0.1},
    "autocast_adapter_dtype": True,
    "query_template": "Question: {query} Think step by step.\nAnswer:",
}
"""The suite's values where ``training_params.json`` has none, as far as a run on the CPU reads them."""
BUCKET, WARM_UP = 20, 0.1


def run(experiment: Path, checkpoint: Path) -> dict[str, Any]:
    """Train as the files of the folder ``experiment`` say, and keep the adapter; the result as the
    suite writes it, as far as numbers and errors are the same everywhere.
    """
    config, own = PeftConfig.from_pretrained(str(experiment)), experiment / "training_params.json"
    options = DEFAULTS | (json.loads(own.read_text("utf-8")) if own.exists() else {})
    set_seed(options["seed"])
    torch.manual_seed(0)
    nn.Linear(1, 1)  # the suite warms the device up with one, which draws numbers
    tokenizer = AutoTokenizer.from_pretrained(
        options["model_id"], model_max_length=options["max_seq_length"]
    )
    tokenizer.pad_token = tokenizer.eos_token
    base = AutoModelForCausalLM.from_pretrained(
        options["model_id"], dtype=getattr(torch, options["dtype"])
    )
    model = get_peft_model(base, config, autocast_adapter_dtype=options["autocast_adapter_dtype"])
    result: dict[str, Any] = {"status": "success", "error_msg": "", "metrics": []}
    try:
        train(model, tokenizer, options, result)
        keep(model, checkpoint)
    except Exception as problem:  # as the suite does, which writes a result of every run
        result |= {"status": "canceled", "error_msg": str(problem)}
    return result


def optimizer_of(
    model: nn.Module, kind: str, max_steps: int, **options: Any
) -> tuple[torch.optim.Optimizer, Any]:
    """The optimizer by its name, and the cosine schedule with a warm-up."""
    if kind == "geolora":
        optimizer: torch.optim.Optimizer = create_geolora_optimizer(model, **options)
    else:
        optimizer = getattr(torch.optim, kind)(model.parameters(), **options)
    return optimizer, get_cosine_schedule_with_warmup(
        optimizer, int(WARM_UP * max_steps), max_steps
    )


def train(model: Any, tokenizer: Any, options: dict[str, Any], result: dict[str, Any]) -> None:
    """Train, and evaluate by generation, every ``eval_steps`` steps and at the end."""
    steps, every = options["max_steps"], options["eval_steps"]
    optimizer, schedule = optimizer_of(
        model, options["optimizer_type"], steps, **options["optimizer_kwargs"]
    )
    result["num_trainable_params"], result["num_total_params"] = model.get_nb_trainable_parameters()
    model.eval()
    with model.disable_adapter():
        before = loss_per_token(model, tokenizer, options)
    model.train()
    rows, valid, test = get_train_valid_test_datasets(
        tokenizer=tokenizer, query_template=options["query_template"]
    )
    losses: list[float] = []
    for step, batch in zip(range(1, steps + 1), batches(rows, options["batch_size"]), strict=False):
        inputs, lengths = (
            tokenizer.pad(batch, return_tensors="pt"),
            [len(tokens) for tokens in batch["input_ids"]],
        )
        labels = inputs["input_ids"].clone()
        for row, length in enumerate(lengths):
            labels[row, length + 1 :] = -100  # the first padding is the end of the text
        optimizer.zero_grad()
        count = int(inputs["attention_mask"].sum())
        loss = model(**inputs, labels=labels, num_items_in_batch=count).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), options["grad_norm_clip"])
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
        if step % every == 0:
            model.eval()
            found = {"valid accuracy": accuracy(model, tokenizer, valid, options)}
            model.train()
            result["metrics"].append(
                {"step": step, **found, "train loss": sum(losses[-every:]) / every}
            )
    model.eval()
    found = {
        "test accuracy": accuracy(model, tokenizer, test, options),
        "train loss": sum(losses[-every:]) / every,
    }
    forgetting = loss_per_token(model, tokenizer, options) - before
    result["metrics"].append({"step": steps, **found, "forgetting": forgetting})
    with TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        result["file_size"] = (Path(folder) / "adapter_model.safetensors").stat().st_size


def batches(rows: Rows, size: int) -> Iterator[dict[str, list[Any]]]:
    """Batches of similar lengths, the longest first in every bucket."""
    for start in range(0, len(rows), size * BUCKET):
        bucket = rows[start : start + size * BUCKET]
        order = (
            torch.tensor([len(tokens) for tokens in bucket["input_ids"]])
            .argsort(descending=True)
            .tolist()
        )
        for k in range(0, len(order), size):
            yield {
                name: [bucket[name][i] for i in order[k : k + size]]
                for name in ("input_ids", "attention_mask")
            }


@torch.inference_mode()
def accuracy(model: Any, tokenizer: Any, rows: Rows, options: dict[str, Any]) -> float:
    """The share of generated texts that end with the right answer."""
    chosen = rows[0 : len(rows)]
    answers: list[str] = [
        answer.rpartition("The answer is: ")[-1] for answer in chosen.pop("response")
    ]
    inputs, kwargs = (
        tokenizer.pad(chosen, return_tensors="pt", padding_side="left"),
        dict(options["generation_kwargs"]),
    )
    kwargs["max_length"] = min(
        kwargs.pop("max_new_tokens") + inputs["input_ids"].shape[1], kwargs["max_length"]
    )
    config = GenerationConfig(**kwargs, pad_token_id=tokenizer.pad_token_id)
    texts = tokenizer.batch_decode(
        model.generate(**inputs, generation_config=config), skip_special_tokens=True
    )
    found = [text.strip().rpartition("The answer is: ")[-1].strip() for text in texts]
    return sum(bool(one == other) for one, other in zip(found, answers, strict=True)) / len(answers)


@torch.inference_mode()
def loss_per_token(model: Any, tokenizer: Any, options: dict[str, Any]) -> float:
    """The loss of other texts, whose growth in training the suite calls forgetting."""
    losses: list[Tensor] = []
    texts, size = get_wiki_small(), options["batch_size"]
    for k in range(0, len(texts), size):
        inputs = tokenizer.pad(
            tokenizer(texts[k : k + size]), return_tensors="pt", padding_side="left"
        )
        for logits, tokens, mask in zip(
            model(**inputs).logits, inputs["input_ids"], inputs["attention_mask"], strict=True
        ):
            logits, tokens = logits[mask.bool()], tokens[mask.bool()]
            losses.append(nn.functional.cross_entropy(logits[:-1], tokens[1:], reduction="none"))
    return float(torch.cat(losses).float().mean())

"""Train one configuration on its task, and measure it."""

from __future__ import annotations

import argparse
import functools
import json
import math
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from verification.experiments import tasks
from verification.experiments.campaign import DECODER, ENCODER, Configuration, columns
from verification.experiments.rivals import Prepared, prepare
from verification.experiments.tasks import Batch, Model, Task

__all__ = ["execute", "task_of", "work"]


@functools.cache
def task_of(
    name: str, setting: str, path: Path | None, model: str | None, others: Any, cache: Path
) -> Any:
    """Return a task, read once in every process; ``ValueError`` for one without its data."""
    options = json.loads(setting)
    if name in ("digits", "regression"):
        return (tasks.digits if name == "digits" else tasks.regression)(**options)
    if path is None:
        raise ValueError(f"task {name}: expected its data, found none. Use --data {name}=PATH.")
    if path.is_file():
        files = {"others": others, "cache": cache}
        return tasks.decoder(path, model=model or DECODER, **files, **options)
    if (path / "train.zip").is_file():
        return tasks.cifar10(path, **options)
    return tasks.texts(path, model=model or ENCODER, **options)


def work(options: argparse.Namespace, run: Configuration) -> dict[str, Any]:
    """Return the results of one run, on one thread; its curve goes to a file of its own."""
    torch.set_num_threads(1)
    paths = dict(word.split("=", 1) for word in options.data)
    path = Path(paths[run.task]) if run.task in paths else None
    setting = json.dumps(run.setting, sort_keys=True)
    task = task_of(run.task, setting, path, options.model, tuple(options.other), options.cache)
    results = execute(run, task, every=options.every)
    if curve := results.pop("curve", None):
        with options.output.with_suffix(".curves.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(columns(run) | {"curve": curve}) + "\n")
    return results


def execute(run: Configuration, task: Task, *, every: int = 0) -> dict[str, Any]:
    """Return the figures of each part but "train", the parameters and the seconds of a run.

    Figures of a decoder are nats for a token; of its "fixed" part and of other texts the one before
    training has the suffix "_before".  A run that diverges has none, and the step in "diverged".
    ``every`` : a curve of all figures, after so many steps, goes to "curve".
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(run.seed)
        generator = torch.Generator().manual_seed(run.seed)
        model = task.model(generator)
        steps = math.ceil(_size(task.parts["train"]) / run.batch) * run.epochs
        names = [part for part in task.parts if part != "train"]
        before = [part for part in names if part == "fixed" or part.startswith("other")]
        found: dict[str, Any] = {f"{p}_before": _mean(task, model, p) for p in before}
        started = time.monotonic()
        prepared = prepare(model, run, steps, scratch=task.scratch)
        curve, diverged = _train(run, task, model, prepared, steps, names, every)
        for part in names:
            found[part] = "" if diverged else _mean(task, model, part)
        if task.error:
            found["test"] = "" if diverged else task.error(model)
        found |= {"parameters": prepared.parameters(), "diverged": diverged or ""}
        found["seconds"] = round(time.monotonic() - started, 1)
        return found | ({"curve": curve} if every else {})


def _train(
    run: Configuration,
    task: Task,
    model: Model,
    prepared: Prepared,
    steps: int,
    names: list[str],
    every: int,
) -> tuple[list[dict[str, float]], int]:
    """The curve, and the step at which the loss was not finite, or 0."""
    generator = torch.Generator().manual_seed(run.seed)
    scheduler = torch.optim.lr_scheduler.LambdaLR(
        prepared.optimizer, lambda t: _factor(run, t, steps)
    )
    inputs, targets = task.parts["train"]
    curve: list[dict[str, float]] = []
    order: list[Tensor] = []
    for step in range(1, steps + 1):
        if not order:
            order = list(torch.randperm(len(targets), generator=generator).split(run.batch))
        batch = order.pop(0)
        model.train()
        loss = task.loss(model(**{name: x[batch] for name, x in inputs.items()}), targets[batch])
        if not torch.isfinite(loss):
            return curve, step
        prepared.optimizer.zero_grad()
        torch.autograd.backward(loss if prepared.penalty is None else loss + prepared.penalty())
        prepared.optimizer.step()
        prepared.after_step(step)
        scheduler.step()
        if every and (step % every == 0 or step == steps):
            curve.append({"step": step} | {part: _mean(task, model, part) for part in names})
    return curve, 0


def _factor(run: Configuration, step: int, steps: int) -> float:
    """The rate of a step as a share of the largest: a linear rise, then as the schedule says.

    Raises ``ValueError`` for an unknown schedule.
    """
    if run.schedule not in ("linear", "constant"):
        raise ValueError(f"schedule: expected linear or constant, found {run.schedule!r}")
    rise = run.warmup * steps
    if step < rise:
        return (step + 1) / (rise + 1)
    return 1.0 if run.schedule == "constant" else (steps - step) / max(1.0, steps - rise)


def _size(part: Batch) -> int:
    return len(part[1])


@torch.no_grad()
def _mean(task: Task, model: Model, part: str) -> float:
    """The mean figure of a part in evaluation mode."""
    model.eval()
    inputs, targets = task.parts[part]
    total = 0.0
    for batch in torch.arange(len(targets)).split(32):
        outputs = model(**{name: values[batch] for name, values in inputs.items()})
        total += float(task.figure(outputs, targets[batch]).double().sum())
    return total / len(targets)

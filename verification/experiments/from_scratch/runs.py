"""Train one run, attack its network, and store the accuracies."""

from __future__ import annotations

import copy
import time
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from geolora_ref.finetune.job import Data, DivergedError, Job, Plan
from geolora_ref.finetune.model import Model
from geolora_ref.support.files import write_json
from verification.experiments.finetuning.design import Run
from verification.experiments.finetuning.runs import Store
from verification.experiments.from_scratch.design import RANKS, TASKS
from verification.experiments.from_scratch.methods import compressed
from verification.experiments.from_scratch.networks import CLASSES, Pixels, Scratch

__all__ = ["accuracies", "direction", "execute", "perform"]

BATCH = 500


def direction(model: Model, x: Tensor, y: Tensor) -> Tensor:
    """Sign ∇ₓL of the cross entropy L of pictures (B, …) and their classes (B,).

    L = log(1 + eᵍ) with g = log Σ_{j≠y} exp(z_j) − z_y for logits z, so ∇L is a positive multiple of ∇g.
    The sign is taken of ∇g: where a network is certain of its class, 1 − p_y is rounded to 0, ∇L loses
    the part of z_y, and points elsewhere.
    """
    pixels = x.clone().requires_grad_()
    logits, own = model(pixels), torch.nn.functional.one_hot(y, CLASSES).bool()
    margin = logits.masked_fill(own, -torch.inf).logsumexp(dim=1) - logits[own]
    (gradient,) = torch.autograd.grad(margin.sum(), pixels)
    return gradient.sign()


def accuracies(model: Model, examples: Pixels, epsilons: Sequence[float]) -> list[float]:
    """The accuracy on pictures x + ε sign ∇ₓL, clipped to [0, 1], for each ε: the fast gradient sign
    method.  Source: [GSS15].
    """
    model.eval()
    right = torch.zeros(len(epsilons))
    for x, y in zip(examples.pictures.split(BATCH), examples.targets.split(BATCH), strict=True):
        step = direction(model, x, y)
        with torch.no_grad():
            for place, epsilon in enumerate(epsilons):
                right[place] += (
                    model((x + epsilon * step).clamp(0.0, 1.0)).argmax(dim=1) == y
                ).sum()
    return [round(share, 5) for share in (right / len(examples)).tolist()]


def execute(run: Run, corpus: Scratch, plan: Plan | None = None) -> dict[str, Any]:
    """Train and attack; a run that diverges is a result like any other."""
    plan, task = plan or corpus.plan, TASKS[corpus.identity["task"]]
    plan = Plan(plan.metric, plan.epochs, plan.batch_size, plan.schedule, plan.warmup, run.seed)
    parts = {part: corpus.examples[part] for part in ("dev", "test")}
    job = Job(corpus.model, run.method, Data(corpus.examples["train"], {}, corpus.meaning), plan)
    try:
        job.run()
    except DivergedError as error:
        return {"diverged": str(error), "metrics": {}}
    epsilons = (0.0, *task.epsilons)
    found = {
        part: dict(zip(epsilons, accuracies(job.model, examples, epsilons), strict=True))
        for part, examples in parts.items()
    }
    result = {
        "diverged": "",
        "metrics": {part: by_epsilon[0.0] for part, by_epsilon in found.items()},
        "attacked": {
            part: {str(e): by_epsilon[e] for e in task.epsilons}
            for part, by_epsilon in found.items()
        },
        "parameters": job.prepared.parameters(),
        "ranks": list(job.prepared.ranks().values()),
    }
    if run.family == "dense":
        result["svd"] = [truncated(job.model, rank, parts["test"], task.epsilons) for rank in RANKS]
    return result


def truncated(
    model: Model, rank: int, examples: Pixels, epsilons: Sequence[float]
) -> dict[str, Any]:
    """Parameters and test accuracies of the truncated SVD of a network."""
    smaller = copy.deepcopy(model)
    parameters = compressed(smaller, rank)
    test, *attacked = accuracies(smaller, examples, (0.0, *epsilons))
    return {
        "rank": rank,
        "parameters": parameters,
        "test": test,
        "attacked": dict(zip(map(str, epsilons), attacked, strict=True)),
    }


def perform(run: Run, store: Store) -> dict[str, Any]:
    """Do a run and store it, whole or not at all; returns its row."""
    started = time.monotonic()
    assert isinstance(store.corpus, Scratch)
    result = execute(run, store.corpus)
    facts = {name: store.facts[name] for name in ("date", "processor", "torch", "commit")}
    row = {"config": store.config(run), "family": run.family, "budget": run.budget, **result}
    write_json(
        store.path(run), row | {"seconds": round(time.monotonic() - started, 1), "machine": facts}
    )
    return row

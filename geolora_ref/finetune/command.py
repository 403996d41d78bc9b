"""``geolora-ref finetune``: run the job that the options describe, and print and write its results."""

from __future__ import annotations

import errno
import math
import os
import platform
import shutil
import statistics
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from geolora_ref.finetune.adapter_file import ADAPTER
from geolora_ref.finetune.batches import Examples
from geolora_ref.finetune.causal_lm import causal_lm
from geolora_ref.finetune.classification import classification
from geolora_ref.finetune.job import DivergedError, Job
from geolora_ref.finetune.locate import is_hub_name, locate
from geolora_ref.finetune.model import digest_of_model
from geolora_ref.finetune.pictures import draw_run, short_names
from geolora_ref.finetune.plan import TaskName
from geolora_ref.finetune.rehearsal import rehearse
from geolora_ref.finetune.run_options import RunOptions
from geolora_ref.finetune.task import Say, Task
from geolora_ref.nn import adapters
from geolora_ref.nn.exchange.export import ADAPTER_FILES, DRAFT, export_lora
from geolora_ref.support.files import (
    locked,
    remove_parts,
    require_regular,
    require_writable,
    write_json,
)
from geolora_ref.support.terminal import Terminal

__all__ = ["run"]

TASKS: Mapping[TaskName, Callable[[RunOptions, Say], Task]] = {
    "classification": classification,
    "causal-lm": causal_lm,
}
CHECKPOINT, RESULTS, PICTURE, LORA = "checkpoint.safetensors", "results.json", "ranks.png", "lora"
"""The files and the folder that every run writes; a task may add its own."""
LIBRARIES = ("numpy", "transformers", "safetensors")
"""The libraries whose versions may change a number, apart from torch."""


def run(options: RunOptions) -> int:
    """Exit status 0: done; 1: diverged; 130: interrupted, the same command resumes.

    Raises ``ValueError`` or ``OSError`` for bad input, and for an output folder that cannot be used
    or is in use.
    """
    console = Terminal()
    _check_device(options.device)
    checkpoint = options.output / CHECKPOINT
    before = _written(checkpoint)
    try:
        with locked(options.output):
            return _run(options, checkpoint, console)
    except KeyboardInterrupt:
        own = _written(checkpoint) != before
        what = " without --fresh" if options.fresh and own else ""
        kept = own or (before is not None and not options.fresh)
        then = "begins again: it has written no checkpoint yet"
        if kept:
            then = "continues from the last checkpoint" + (
                "" if own else ", if that is one of the same job"
            )
        console.print(f"interrupted; the same command{what} {then}", soft_wrap=True)
        return 130
    except torch.OutOfMemoryError as error:
        room = f"--batch-size {options.plan.batch_size}, --max-length {options.max_length}"
        raise ValueError(
            f"{options.device}: expected memory for a step, found too little with {room}: {error}"
        ) from error


def _written(path: Path) -> int | None:
    """The time when a file was written, None if it does not exist."""
    return path.stat().st_mtime_ns if path.exists() else None


def _check_device(device: str) -> None:
    """Raise ``ValueError`` for a device that torch cannot use, before the model is read."""
    try:
        torch.empty(0, device=device).cpu()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ValueError(
            f"device: expected one that torch can use here, found {device!r}: {error}"
        ) from error


def _run(options: RunOptions, checkpoint: Path, console: Console) -> int:
    """Rehearse the run without weights, load data and model, train, and write the results."""

    def say(line: str, style: str | None = None) -> None:
        console.print(line, style=style, markup=False, soft_wrap=True)

    _make_room(options.output)
    place, method, plan = locate(options.model), options.method, options.plan
    on_hub = options.model if is_hub_name(options.model) else None
    rehearse(place, options.task, method)
    task = TASKS[options.task](options, say)
    pretrained, tokenizer = task.load(place)
    data = task.data(tokenizer)
    task.try_out(pretrained, _longest(data.train, *data.evaluation.values()))
    digests = {"model": digest_of_model(place, tokenizer), **task.digests}
    with _progress(console) as progress:
        bar = progress.add_task("training", total=None)

        def show(done: int, total: int) -> None:
            loss = f"loss {job.history.losses[-1]:.3f}"
            progress.update(bar, completed=done, total=total, description=loss)
            if not console.is_terminal and done % max(1, total // 10) == 0:
                say(f"step {done} of {total}, {loss}")

        job = Job(
            lambda generator: task.model(pretrained, generator).to(options.device),
            method,
            data,
            plan,
            identity={"version": version("geolora-ref"), **digests, **options.identity()},
            checkpoint=checkpoint,
            checkpoint_every=options.checkpoint_every,
            fresh=options.fresh,
            on_step=show,
            on_epoch=lambda *_: say(_epoch_line(job)),
        )
        baseline = task.baseline(job)
        say(f"{' of '.join(task.yardstick)}: {baseline:.4f}")
        if job.history.steps:
            say(f"going on from step {job.history.steps} of {job.steps} ({checkpoint})")
        if len(job.history.metrics) == plan.epochs:
            say(_epoch_line(job))
        try:
            job.run()
        except DivergedError as error:
            console.print(f"[red]diverged[/]: {escape(str(error))}", soft_wrap=True)
            return 1
    console.print(rank_table(job))
    learned = task.reached(job) < baseline
    if not learned:
        what, whose = task.yardstick
        say(
            f"nothing was learned: the {what} is not below {baseline:.4f}, that of {whose}",
            "yellow",
        )
    if method.fast:
        say(
            f"{job.history.exact} of {job.history.truncations} truncations went through Householder's QR"
        )
    written = task.write(options.output, job, tokenizer, method, place)
    if ADAPTER not in written:
        (options.output / ADAPTER).unlink(missing_ok=True)  # left by another run
    write_json(
        options.output / RESULTS,
        _results(
            job,
            on_hub or place.name,
            learned=learned,
            baseline=baseline if math.isfinite(baseline) else None,
        ),
    )
    base = on_hub or str((place.parent if place.is_file() else place).resolve())
    plain = _export_lora(job, base, options.output / LORA, task.peft)
    draw_run(
        job.history, options.output / PICTURE, _epoch_line(job)
    )  # last: a full disk costs only the picture
    say(f"written to {options.output}: {', '.join([*written, RESULTS, plain, PICTURE])}")
    return 0


def _longest(*parts: Examples) -> dict[str, torch.Tensor]:
    """The inputs (1 x tokens) of the longest example."""
    longest = max(parts, key=lambda examples: int(examples.lengths.max()))
    return longest.batch([int(longest.lengths.argmax())], torch.device("cpu"))[0]


def _make_room(output: Path) -> None:
    """Remove temporary files of killed runs; ``OSError`` early for outputs that could not be
    written after the training.
    """
    for name in (CHECKPOINT, ADAPTER, RESULTS, PICTURE):
        remove_parts(output / name)
        require_regular(output / name)
        require_writable(output / name)
    lora = output / LORA
    if os.path.lexists(lora) and not lora.is_dir():  # lexists: a dangling link is in the way, too
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(lora))
    for name in ADAPTER_FILES if lora.exists() else ():
        require_regular(lora / name)
        require_writable(lora / name)


def _progress(console: Console) -> Progress:
    """A progress bar, on a terminal only."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    return Progress(*columns, console=console, disable=not console.is_terminal)


def _epoch_line(job: Job) -> str:
    """The line after an epoch: training loss, metric and the number of adapter parameters."""
    history, per_epoch = job.history, job.batches_per_epoch
    loss = statistics.fmean(history.losses[-per_epoch:])
    metric = ", ".join(
        f"{name} {job.plan.metric} {value:.4f}" for name, value in history.metrics[-1].items()
    )
    epoch = f"epoch {len(history.metrics)} of {job.plan.epochs}"
    return f"{epoch}: training loss {loss:.4f}, {metric}, {job.prepared.parameters()} adapter parameters"


def _results(job: Job, model: str, **outcome: bool | float | None) -> dict[str, Any]:
    """The results of a run as JSON data."""
    history = job.history
    return {
        "metrics": [
            {name: value if math.isfinite(value) else None for name, value in epoch.items()}
            for epoch in history.metrics
        ],
        "ranks": job.prepared.ranks(),
        "parameters": job.prepared.parameters(),
        "truncations": history.truncations,
        "by_householder": history.exact,
        "median_seconds_per_step": statistics.median(history.seconds),
        "losses": history.losses,
        **outcome,
        "classes": list(getattr(job.data.meaning, "classes", ())),
        "examples": {
            "train": len(job.data.train),
            **{name: len(some) for name, some in job.data.evaluation.items()},
        },
        "model": model,
        "job": job.identity,
        "threads": torch.get_num_threads(),
        "versions": {
            "Python": platform.python_version(),
            "torch": torch.__version__,  # names the build too, such as +cu128
            **{library: version(library) for library in LIBRARIES},
        },
    }


def rank_table(job: Job) -> Table:
    """The table of every adapted layer's rank and number of parameters."""
    layers = adapters(job.model.encoder)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("layer", overflow="fold")
    for name in ("m x n", "rank", "parameters"):
        table.add_column(name, justify="right", no_wrap=True)
    for short, layer in zip(short_names(list(layers)), layers.values(), strict=True):
        m, n = layer.adapter.shape
        table.add_row(
            escape(short), f"{m} x {n}", str(layer.adapter.rank), str(layer.adapter.parameter_count)
        )
    ranks = list(job.prepared.ranks().values())
    table.add_section()
    table.add_row("all", "", f"mean {statistics.fmean(ranks):.1f}", str(job.prepared.parameters()))
    return table


def _export_lora(job: Job, base: str, directory: Path, task_type: str) -> str:
    """Write the adapter as a plain LoRA checkpoint; returns what was done, in words."""
    for draft in directory.glob(f"{DRAFT}*"):  # left by a run that was killed here
        shutil.rmtree(draft)
    export_lora(
        job.model.encoder,
        directory,
        base_model_name_or_path=base,
        task_type=task_type,
        overwrite=True,
    )
    return f"{directory.name}/ (plain LoRA, for PEFT)"

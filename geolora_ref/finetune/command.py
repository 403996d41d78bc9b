"""``geolora-ref finetune``: options, and what is printed and written."""

from __future__ import annotations

import argparse
import errno
import importlib.util
import math
import os
import platform
import re
import shutil
import statistics
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, fields
from importlib.metadata import version
from pathlib import Path
from typing import Any, get_args

import torch
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from geolora_ref import checks
from geolora_ref.budget import Unit
from geolora_ref.finetune.adapter_file import FineTuned, save_adapter
from geolora_ref.finetune.batches import encode
from geolora_ref.finetune.data import Columns, Row, digest_of_rows, read_rows, split
from geolora_ref.finetune.job import Data, DivergedError, Job, Plan, Schedule
from geolora_ref.finetune.labels import Kind, Labels, fit_labels, shown, with_sign
from geolora_ref.finetune.methods import GeoLoRAMethod
from geolora_ref.finetune.metrics import METRICS, default_kind
from geolora_ref.finetune.model import Classifier, check_length, digest_of_model, load_encoder, locate, try_out
from geolora_ref.finetune.pictures import draw_run, short_names
from geolora_ref.nn import adapters
from geolora_ref.nn.optim.groups import UpdateRule
from geolora_ref.support.files import locked, remove_parts, require_regular, require_writable, write_json
from geolora_ref.support.options import nonempty_path
from geolora_ref.support.streams import escape_missing_characters
from geolora_ref.support.terminal import Terminal

__all__ = ["add_arguments", "main", "run"]

NAME = re.compile(r"[\w.]+")
"""Of a module, or the end of one; what has other characters is "all-linear", or a regular expression."""
CHECKPOINT, ADAPTER, RESULTS, PICTURE, LORA = "checkpoint.safetensors", "adapter.safetensors", "results.json", "ranks.png", "lora"
"""What a run writes."""
DEFAULT = "(default: %(default)s)"
"""In a help text, which argparse completes."""
ELSEWHERE = {
    "--learning-rate": "--lr",
    "--learning_rate": "--lr",
    "--num-epochs": "--epochs",
    "--num_train_epochs": "--epochs",
    "--model_name_or_path": "--model",
    "--train_file": "--data",
    "--train-file": "--data",
    "--output-dir": "--output",
    "--output_dir": "--output",
}
"""What other programs call these options."""
LIBRARIES = ("numpy", "torch", "transformers", "safetensors")
"""Those whose versions may change a number."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``geolora-ref finetune``."""
    method, plan = GeoLoRAMethod(), Plan("accuracy")
    data = parser.add_argument_group("model and data")
    data.add_argument(
        "--model", required=True, metavar="FOLDER|PACKAGE", help="a pretrained transformer with safetensors weights"
    )
    data.add_argument(
        "--data", required=True, type=nonempty_path, metavar="FILE", help="training examples: tab-separated, nothing quoted"
    )
    data.add_argument("--dev", type=nonempty_path, metavar="FILE", help="examples for the metric (default: a part of --data)")
    data.add_argument("--dev-fraction", type=float, default=0.1, help=f"the part of --data that is set aside {DEFAULT}")
    data.add_argument("--header", action="store_true", help="the first line names the columns")
    data.add_argument("--text-column", default="1", metavar="COLUMN", help=f"number from 1, or name {DEFAULT}")
    data.add_argument("--pair-column", metavar="COLUMN", help="a second text, for tasks on pairs")
    data.add_argument("--label-column", default="2", metavar="COLUMN", help=f"number from 1, or name {DEFAULT}")
    data.add_argument("--metric", required=True, choices=list(METRICS), help="measured after every epoch")
    data.add_argument("--labels", choices=get_args(Kind), help="what labels are (default: what the metric needs)")
    data.add_argument("--max-length", type=int, default=128, help=f"tokens of an example, the rest is cut {DEFAULT}")
    training = parser.add_argument_group("training")
    training.add_argument("--epochs", type=int, default=plan.epochs, help=f"passes over the examples {DEFAULT}")
    training.add_argument("--batch-size", type=int, default=plan.batch_size, help=f"examples of a step {DEFAULT}")
    training.add_argument("--lr", type=float, default=method.lr, help=f"of the adapters {DEFAULT}")
    training.add_argument("--head-lr", type=float, default=method.head_lr, help=f"of the head {DEFAULT}")
    training.add_argument(
        "--schedule", choices=get_args(Schedule), default=plan.schedule, help=f"of both learning rates {DEFAULT}"
    )
    training.add_argument("--warmup", type=float, default=plan.warmup, help=f"fraction of the steps in which they rise {DEFAULT}")
    training.add_argument("--weight-decay", type=float, default=method.weight_decay, help=f"of S and of the head {DEFAULT}")
    training.add_argument("--seed", type=int, default=plan.seed, help=f"of all that is drawn {DEFAULT}")
    training.add_argument("--device", default="cpu", help=f"torch device {DEFAULT}")
    geolora = parser.add_argument_group("GeoLoRA")
    threshold = geolora.add_mutually_exclusive_group()
    threshold.add_argument("--tau", type=float, help=f"relative truncation threshold (default: {method.tau:g})")
    threshold.add_argument("--theta", type=float, help="absolute truncation threshold, in place of --tau")
    geolora.add_argument("--rank", type=int, default=method.rank, help=f"at the start {DEFAULT}")
    geolora.add_argument("--min-rank", type=int, default=method.min_rank, help=f"of every layer {DEFAULT}")
    geolora.add_argument("--max-rank", type=int, default=method.max_rank, help="of every layer (default: 4 times --rank)")
    geolora.add_argument("--budget", type=int, help="of all layers together, in --unit; in place of a threshold")
    geolora.add_argument("--unit", choices=get_args(Unit), default=method.unit, help=f"of --budget {DEFAULT}")
    geolora.add_argument("--update", choices=get_args(UpdateRule), default=method.update, help=f"rule of the optimizer {DEFAULT}")
    geolora.add_argument("--smoothing", type=float, default=method.smoothing, help=f"of the spectral update {DEFAULT}")
    geolora.add_argument(
        "--coefficient-steps", type=int, default=method.coefficient_steps, help=f"on S alone, after every step {DEFAULT}"
    )
    geolora.add_argument(
        "--target-modules",
        nargs="+",
        default=["all-linear"],
        metavar="NAME",
        help="layers by the ends of their names, or one regular expression for whole names (default: all-linear)",
    )
    geolora.add_argument("--alpha", type=float, default=method.alpha, help=f"scale of the adapters {DEFAULT}")
    geolora.add_argument("--reference", action="store_true", help="layer by layer: the same within rounding, in more time")
    geolora.add_argument("--dropout", type=float, default=method.dropout, help=f"on the input of the adapters {DEFAULT}")
    output = parser.add_argument_group("output")
    output.add_argument(
        "--output",
        type=nonempty_path,
        default=Path("build") / "finetune",
        metavar="FOLDER",
        help=f"where all that is written goes {DEFAULT}",
    )
    output.add_argument(
        "--checkpoint-every",
        type=int,
        default=50,
        metavar="STEPS",
        help=f"between two checkpoints {DEFAULT}; there is one after every epoch as well",
    )
    output.add_argument("--fresh", action="store_true", help="forget the checkpoint in --output instead of going on from it")


def main(argv: Sequence[str] | None = None) -> int:
    """Parse, run; exit status 2 for bad input."""
    escape_missing_characters()
    parser = argparse.ArgumentParser(prog="geolora-ref finetune", description="Fine-tune a pretrained transformer with GeoLoRA.")
    add_arguments(parser)
    for name in sys.argv[1:] if argv is None else argv:
        ours = ELSEWHERE.get(name.partition("=")[0])
        if ours:
            parser.error(f"{name.partition('=')[0]} is called {ours} here")
    try:
        return run(parser.parse_args(argv))
    except (ValueError, OSError) as error:
        parser.exit(2, f"geolora-ref finetune: {error}\n")


def run(options: argparse.Namespace) -> int:
    """Exit status 0: done; 1: diverged; 130: interrupted, the same command goes on.

    Raises ``ValueError`` or ``OSError`` for bad input, and for an output folder that cannot be used or is in use.
    """
    console = Terminal()
    _check(options)
    checkpoint = options.output / CHECKPOINT
    before = _written(checkpoint)
    try:
        with locked(options.output):
            return _run(options, checkpoint, console)
    except KeyboardInterrupt:
        own = _written(checkpoint) != before
        what = " without --fresh" if options.fresh and own else ""
        kept = own or (before is not None and not options.fresh)
        then = "goes on from the last checkpoint" if kept else "begins again: it has written no checkpoint yet"
        console.print(f"interrupted; the same command{what} {then}", soft_wrap=True)
        return 130


def _written(path: Path) -> int | None:
    """When a file was written, None if it is not there."""
    return path.stat().st_mtime_ns if path.exists() else None


def _check(options: argparse.Namespace) -> None:
    """Raise ``ValueError`` for options that nobody else would look at before the model is read."""
    checks.integer("checkpoint_every", options.checkpoint_every, 1)
    _plan(options)
    if options.labels is not None and (options.labels == "number") != (default_kind(options.metric) == "number"):
        fitting = "number" if default_kind(options.metric) == "number" else "class or sign"
        raise ValueError(f"labels: expected {fitting} for the metric {options.metric}, found {options.labels}")
    try:
        torch.empty(0, device=options.device).cpu()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ValueError(f"device: expected one that torch can use here, found {options.device!r}: {error}") from error


def _run(options: argparse.Namespace, checkpoint: Path, console: Console) -> int:
    """Load, train, write."""
    _make_room(options.output)
    folder = locate(options.model)
    train, dev, read = _rows(options, console)
    labels = fit_labels(train, options.labels or default_kind(options.metric))
    encoder, tokenizer = load_encoder(folder)
    check_length(tokenizer, options.max_length, pairs=options.pair_column is not None)
    console.print(_data_line(train, dev, labels), markup=False, soft_wrap=True)
    console.print(_first_line(train[0]), markup=False, soft_wrap=True)
    for doubt in _doubts(train, labels):
        console.print(f"[yellow]{doubt}[/]", soft_wrap=True)
    train_examples, dev_examples = (encode(rows, tokenizer, labels, options.max_length) for rows in (train, dev))
    longest = max(train_examples, dev_examples, key=lambda examples: int(examples.lengths.max()))
    try_out(encoder, longest.batch([int(longest.lengths.argmax())], torch.device("cpu"))[0])
    method, plan = _method(options), _plan(options)
    with _progress(console) as progress:
        bar = progress.add_task("training", total=None)

        def show(done: int, total: int) -> None:
            told = f"loss {job.history.losses[-1]:.3f}"
            progress.update(bar, completed=done, total=total, description=told)
            if not console.is_terminal and done % max(1, total // 10) == 0:
                console.print(f"step {done} of {total}, {told}", soft_wrap=True)

        job = Job(
            lambda generator: Classifier(encoder, labels.outputs, generator).to(options.device),
            method,
            Data(train_examples, {"dev": dev_examples}, labels),
            plan,
            identity=_identity(options, {"model": digest_of_model(folder, tokenizer), **read}, method, plan),
            checkpoint=checkpoint,
            checkpoint_every=options.checkpoint_every,
            fresh=options.fresh,
            on_step=show,
            on_epoch=lambda *_: console.print(_epoch_line(job), soft_wrap=True),
        )
        if job.history.steps:
            console.print(f"going on from step {job.history.steps} of {job.steps} ({checkpoint})", markup=False, soft_wrap=True)
        if len(job.history.metrics) == plan.epochs:
            console.print(_epoch_line(job), soft_wrap=True)
        try:
            job.run()
        except DivergedError as error:
            console.print(f"[red]diverged[/]: {escape(str(error))}", soft_wrap=True)
            return 1
    pairs, tried = options.pair_column is not None, int(longest.lengths.max())
    fine_tuned = FineTuned(job.model, tokenizer, labels, options.max_length, pairs, tried)
    _finish(job, fine_tuned, method, folder, options.output, console)
    return 0


def _make_room(output: Path) -> None:
    """Take away what killed runs have left of their writes; ``OSError`` for what cannot be written when the training is done."""
    for name in (CHECKPOINT, ADAPTER, RESULTS, PICTURE):
        remove_parts(output / name)
        require_regular(output / name)
        require_writable(output / name)
    lora = output / LORA
    if os.path.lexists(lora) and not lora.is_dir():  # a link that leads nowhere does not exist
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(lora))


def _data_line(train: Sequence[Row], dev: Sequence[Row], labels: Labels) -> str:
    """How many examples there are, and what their labels were taken for."""
    examples = f"{len(train)} examples for the training, {len(dev)} for the metric"
    if not labels.classes:
        return f"{examples}; labels are numbers, mean {labels.mean:.4g}, standard deviation {labels.scale:.4g}"
    counts = Counter(labels.encode(train).tolist())
    return f"{examples}; classes (and how often): " + checks.first_few(
        [f"{shown(name)} ({counts[i]})" for i, name in enumerate(labels.classes)]
    )


def _first_line(row: Row) -> str:
    """What was taken for texts and label, in one line."""
    given = [row.text] if row.pair is None else [row.text, row.pair]
    texts = " | ".join(shown(text, 80) for text in given)
    return f"first example: {texts} -> {shown(row.label)}"


def _doubts(rows: Sequence[Row], labels: Labels) -> Iterator[str]:
    """Questions about columns that look like others."""
    if all(re.fullmatch(r"[\s\d.,+-]*", row.text) for row in rows):
        yield "all texts are numbers: is --text-column the right one?"
    if labels.classes and len(rows) > 10 and len(labels.classes) > len(rows) // 2:
        yield f"{len(labels.classes)} classes for {len(rows)} examples: is --label-column the right one?"


def _rows(options: argparse.Namespace, console: Console) -> tuple[list[Row], list[Row], dict[str, str | None]]:
    """Training and development rows, and digests of what was read; what has no sign is left out, and said so."""
    columns = Columns(options.text_column, options.label_column, options.pair_column, options.header)

    def read(path: Path) -> list[Row]:
        rows = read_rows(path, columns)
        if options.labels != "sign":
            return rows
        kept, left_out = with_sign(rows)
        if not kept:
            raise ValueError(f"{path}: expected labels with a sign, found 0 in all {len(rows)} examples")
        if left_out:
            console.print(
                f"{path}: {left_out} of {len(rows)} examples have the label 0, which has no sign, and are left out",
                markup=False,
                soft_wrap=True,
            )
        return kept

    data = read(options.data)
    if options.dev is None:
        return *split(data, options.dev_fraction, options.seed), {"data": digest_of_rows(data), "dev": None}
    dev = read(options.dev)
    return data, dev, {"data": digest_of_rows(data), "dev": digest_of_rows(dev)}


def _method(options: argparse.Namespace) -> GeoLoRAMethod:
    targets = options.target_modules
    is_pattern = len(targets) == 1 and not NAME.fullmatch(targets[0])
    chosen = {field.name: getattr(options, field.name) for field in fields(GeoLoRAMethod) if hasattr(options, field.name)}
    chosen["fast"] = not options.reference
    chosen["target_modules"] = targets[0] if is_pattern else tuple(targets)
    if options.tau is None and options.theta is None and options.budget is None:
        chosen["tau"] = GeoLoRAMethod.tau
    return GeoLoRAMethod(**chosen)


def _plan(options: argparse.Namespace) -> Plan:
    return Plan(**{field.name: getattr(options, field.name) for field in fields(Plan)})


def _identity(
    options: argparse.Namespace, digests: Mapping[str, str | None], method: GeoLoRAMethod, plan: Plan
) -> dict[str, Any]:
    """Everything that determines the run, model and data by their digests; a checkpoint with another identity is refused."""
    names = ("text_column", "pair_column", "label_column", "header", "labels", "max_length", "device")
    return {
        "version": version("geolora-ref"),
        **digests,
        "dev_fraction": options.dev_fraction if options.dev is None else None,  # --dev leaves it without a use
        **{name: getattr(options, name) for name in names},
        **asdict(plan),
        **asdict(method),
    }


def _progress(console: Console) -> Progress:
    """A bar, on a terminal only."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    return Progress(*columns, console=console, disable=not console.is_terminal)


def _epoch_line(job: Job) -> str:
    """The metric after an epoch, with what it cost."""
    history, per_epoch = job.history, job.batches_per_epoch
    loss = statistics.fmean(history.losses[-per_epoch:])
    metric = ", ".join(f"{name} {job.plan.metric} {value:.4f}" for name, value in history.metrics[-1].items())
    epoch = f"epoch {len(history.metrics)} of {job.plan.epochs}"
    return f"{epoch}: training loss {loss:.4f}, {metric}, {job.prepared.parameters()} adapter parameters"


def _finish(job: Job, fine_tuned: FineTuned, method: GeoLoRAMethod, folder: Path, output: Path, console: Console) -> None:
    """Table, picture, adapter in both forms, and the figures as JSON."""
    history, baseline = job.history, job.data.labels.baseline
    console.print(rank_table(job))
    if not history.learned(baseline):
        console.print(
            f"[yellow]nothing was learned: the loss is not below {baseline:.4f}, that of a constant prediction[/]", soft_wrap=True
        )
    if method.fast:
        console.print(f"{history.exact} of {history.truncations} truncations went through Householder's QR", soft_wrap=True)
    save_adapter(output / ADAPTER, fine_tuned, method, folder)
    results = {
        "metrics": [
            {name: value if math.isfinite(value) else None for name, value in epoch.items()} for epoch in history.metrics
        ],
        "ranks": job.prepared.ranks(),
        "parameters": job.prepared.parameters(),
        "truncations": history.truncations,
        "by_householder": history.exact,
        "median_seconds_per_step": statistics.median(history.seconds),
        "losses": history.losses,
        "learned": history.learned(baseline),
        "classes": list(job.data.labels.classes),
        "examples": {"train": len(job.data.train), **{name: len(some) for name, some in job.data.evaluation.items()}},
        "model": folder.name,
        "job": job.identity,
        "threads": torch.get_num_threads(),
        "versions": {"Python": platform.python_version(), **{library: version(library) for library in LIBRARIES}},
    }
    write_json(output / RESULTS, results)
    plain = _export_lora(job, folder, output / LORA)
    draw_run(history, output / PICTURE, _epoch_line(job))  # last: the rest is there when a disk is too full for it
    console.print(f"written to {output}: {ADAPTER}, {RESULTS}, {plain}, {PICTURE}", markup=False, soft_wrap=True)


def rank_table(job: Job) -> Table:
    """The rank of every adapted layer and what it stores."""
    layers = adapters(job.model.encoder)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("layer", overflow="fold")
    for name in ("m x n", "rank", "parameters"):
        table.add_column(name, justify="right", no_wrap=True)
    for short, layer in zip(short_names(list(layers)), layers.values(), strict=True):
        m, n = layer.adapter.shape
        table.add_row(escape(short), f"{m} x {n}", str(layer.adapter.rank), str(layer.adapter.parameter_count))
    ranks = list(job.prepared.ranks().values())
    table.add_section()
    table.add_row("all", "", f"mean {statistics.fmean(ranks):.1f}", str(job.prepared.parameters()))
    return table


def _export_lora(job: Job, folder: Path, directory: Path) -> str:
    """Write the adapter as a plain LoRA checkpoint, where PEFT is installed; says what was done."""
    if importlib.util.find_spec("peft") is None:
        return "no plain LoRA checkpoint (PEFT is not installed)"
    from geolora_ref.nn.exchange.export import DRAFT, export_lora

    for draft in directory.glob(f"{DRAFT}*"):  # of a run that was killed here
        shutil.rmtree(draft)
    export_lora(
        job.model.encoder,
        directory,
        base_model_name_or_path=str(folder.resolve()),
        task_type="FEATURE_EXTRACTION",
        overwrite=True,
    )
    return f"{directory.name}/ (plain LoRA, for PEFT)"

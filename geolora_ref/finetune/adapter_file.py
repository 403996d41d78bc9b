"""Save the result of fine-tuning in one file (factors, head, meaning of the outputs), and load it
as a model for prediction.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from geolora_ref import checks
from geolora_ref.finetune.batches import by_length, encode_texts
from geolora_ref.finetune.checkpoint import (
    Stored,
    load_trained_state,
    read_stored,
    trained_state,
    well_formed,
    write_stored,
)
from geolora_ref.finetune.labels import Labels
from geolora_ref.finetune.methods import GeoLoRAMethod
from geolora_ref.finetune.model import (
    Classifier,
    Model,
    digest_of_model,
    load_encoder,
    locate,
    try_out,
)

__all__ = ["ADAPTER", "FineTuned", "load_adapter", "save_adapter"]

ADAPTER = "adapter.safetensors"


@dataclass(frozen=True)
class FineTuned:
    """A pretrained model with its trained adapter and head.

    Attributes
    ----------
    max_length : the number of tokens at which texts are cut.
    pairs : whether the model was trained on pairs of texts.
    tried : a number of tokens that the model is known to take.
    """

    model: Model
    tokenizer: Any
    labels: Labels
    max_length: int
    pairs: bool = False
    tried: int = 0

    @torch.no_grad()
    def outputs(self, texts: Sequence[str], pairs: Sequence[str] | None = None) -> torch.Tensor:
        """Logits, or standardised numbers, one row a text (or pair of texts).

        Raises ``ValueError`` unless ``pairs`` is given exactly if the model was trained on pairs,
        for a text that is too long for the model, and for a text without tokens.
        """
        if isinstance(texts, str) or isinstance(pairs, str):
            raise ValueError(
                "texts: expected a sequence of texts, found a string; put it into a list"
            )
        if (pairs is not None) != self.pairs or len(texts) != len(
            texts if pairs is None else pairs
        ):
            wanted = "as many second texts" if self.pairs else "no second texts"
            found = "none" if pairs is None else str(len(pairs))
            raise ValueError(
                f"pairs: expected {wanted} with {len(texts)} texts, as in training, found {found}"
            )
        if len(texts) == 0:
            return torch.empty(0, self.labels.outputs)
        tokens = encode_texts(texts, pairs, self.tokenizer, self.max_length)
        device = next(self.model.parameters()).device
        self.model.eval()
        longest = int(tokens.lengths.argmax())
        if tokens.lengths[longest] > self.tried:
            try_out(
                _on_the_host(self.model.encoder, device),
                tokens.batch([longest], torch.device("cpu")),
            )
        return by_length(
            tokens.lengths, 64, lambda indices: self.model(**tokens.batch(indices, device)).cpu()
        )

    def predict(
        self, texts: Sequence[str], pairs: Sequence[str] | None = None
    ) -> list[str] | list[float]:
        """The class of every text, or its number in the units of the training labels."""
        return self.labels.decode(self.outputs(texts, pairs))


def _on_the_host(encoder: Any, device: torch.device) -> Any:
    """The encoder, or a copy of it, on the CPU, where inputs that are too long raise an error; a
    GPU would become unusable.
    """
    return encoder if device.type == "cpu" else copy.deepcopy(encoder).cpu()


def save_adapter(path: Path, fine_tuned: FineTuned, method: GeoLoRAMethod, folder: Path) -> None:
    """Write factors and head, and the digest of the pretrained model in ``folder``."""
    job = {
        "model": digest_of_model(folder, fine_tuned.tokenizer),
        "method": asdict(method),
        "labels": asdict(fine_tuned.labels),
        "max_length": fine_tuned.max_length,
        "pairs": fine_tuned.pairs,
        "tried": fine_tuned.tried,
    }
    write_stored(path, Stored("adapter", job, trained_state(fine_tuned.model)))


def load_adapter(path: str | Path, model: str, device: torch.device | None = None) -> FineTuned:
    """The fine-tuned model from an adapter file and the pretrained model (folder or package) that
    it was trained on.

    Raises ``ValueError`` for a file that is no adapter, for another pretrained model, and for
    tensors that do not fit the model.
    """
    path = Path(path)
    stored, folder = read_stored(path, "adapter"), locate(model)
    encoder, tokenizer = load_encoder(folder)
    with well_formed(path):
        fine_tuned = _loaded(path, stored, folder, encoder, tokenizer)
    fine_tuned.model.to(device)  # what a device lacks is no fault of the file
    return fine_tuned


def _loaded(path: Path, stored: Stored, folder: Path, encoder: Any, tokenizer: Any) -> FineTuned:
    if digest_of_model(folder, tokenizer) != stored.job["model"]:
        raise ValueError(
            f"{path}: expected the pretrained model that the adapter was trained on, found other weights or another vocabulary "
            f"in {folder}"
        )
    labels = Labels(**stored.job["labels"] | {"classes": tuple(stored.job["labels"]["classes"])})
    classifier = Classifier(encoder, labels.outputs, torch.Generator())
    GeoLoRAMethod.from_data(stored.job["method"]).adapt(classifier, torch.Generator())
    load_trained_state(classifier, stored.state)
    max_length, tried = (
        checks.integer(name, stored.job[name], least)
        for name, least in (("max_length", 1), ("tried", 0))
    )
    return FineTuned(classifier, tokenizer, labels, max_length, bool(stored.job["pairs"]), tried)

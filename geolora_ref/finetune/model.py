"""A pretrained transformer with mean pooling and a linear head, found in a folder or in an installed package."""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from geolora_ref import checks
from geolora_ref.support.files import require_regular

__all__ = ["Classifier", "check_length", "digest_of_model", "load_encoder", "locate", "try_out"]

FILES = ("config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
"""What the outputs of a pretrained model depend on, beside its weights and what its tokenizer has for a vocabulary."""
READ = ("*.json", "*.safetensors", "*.txt", "*.model")
"""What transformers opens in a folder."""
OFFLINE: Mapping[str, Any] = {"local_files_only": True, "trust_remote_code": False}
"""Left open, the second one asks whoever is there, and runs what the folder brings for a yes."""


class Classifier(torch.nn.Module):
    """outputs = head(mean over the tokens of encoder(inputs)).

    Attributes
    ----------
    encoder : any model of transformers' ``AutoModel``; gives ``last_hidden_state`` (batch x tokens x hidden).
    head : ``nn.Linear(hidden, outputs)``, drawn with ``generator`` as torch draws it.
    """

    def __init__(self, encoder: Any, outputs: int, generator: torch.Generator) -> None:
        super().__init__()
        self.encoder = encoder
        hidden: int = encoder.config.hidden_size
        with torch.random.fork_rng(devices=[]):
            self.head = torch.nn.Linear(hidden, outputs)
        for parameter in self.head.parameters():
            torch.nn.init.uniform_(parameter, -(hidden**-0.5), hidden**-0.5, generator=generator)

    def forward(self, **inputs: torch.Tensor) -> torch.Tensor:
        """Logits or numbers (batch x outputs); padding takes no part in the mean."""
        states = self.encoder(**inputs).last_hidden_state
        mask = inputs["attention_mask"].unsqueeze(-1).to(states.dtype)
        outputs: torch.Tensor = self.head((states * mask).sum(dim=1) / mask.sum(dim=1))
        return outputs


def locate(model: str) -> Path:
    """The folder that holds config.json and safetensors weights: ``model`` itself, or one inside the package of that name.

    A package is found without importing it.  Raises ``ValueError`` if there is no such folder or package, or if a package
    carries no model or more than one.
    """
    path = Path(model)
    if model and path.is_dir():  # an empty name, as an unset variable of a shell gives it, is not the current folder
        if not _holds_model(path):
            raise ValueError(f"model: expected config.json and *.safetensors in {path}, found {_listing(path)}")
        return path
    if not model.isidentifier():
        raise ValueError(f"model: expected a folder or the name of an installed package, found {model!r}, which is neither")
    spec = importlib.util.find_spec(model)
    if spec is None or not spec.submodule_search_locations:
        raise ValueError(f"model: expected a folder or an installed package, found no folder and no package {model!r}")
    roots = [Path(place) for place in spec.submodule_search_locations]
    folders = sorted(config.parent for root in roots for config in root.rglob("config.json") if _holds_model(config.parent))
    if len(folders) != 1:
        found = ", ".join(map(str, folders)) or "none"
        raise ValueError(f"model: expected one folder with config.json and *.safetensors in the package {model}, found {found}")
    return folders[0]


def load_encoder(folder: Path) -> tuple[Any, Any]:
    """The encoder (float32, nothing fetched, no code of the folder run) and its tokenizer.

    Raises ``ValueError`` for a folder that holds none, and for weights that do not fill the model.

    The pooler that some encoders bring is left out: mean pooling does not use it, and an adapter there would never learn.
    """
    import transformers

    try:
        for file in (file for pattern in READ for file in folder.glob(pattern)):
            require_regular(file)  # whoever opens a pipe waits for ever
        with _no_progress_bars():
            encoder, report = transformers.AutoModel.from_pretrained(
                folder, dtype=torch.float32, use_safetensors=True, output_loading_info=True, **OFFLINE
            )
            tokenizer = transformers.AutoTokenizer.from_pretrained(folder, **OFFLINE)
    except (OSError, LookupError, ValueError, TypeError, AttributeError, RuntimeError, SafetensorError) as error:
        raise ValueError(f"model: expected a pretrained model and its tokenizer in {folder}, found: {error}") from error
    if getattr(encoder, "pooler", None) is not None:
        encoder.pooler = None
    missing = sorted(key for key in report["missing_keys"] if not key.startswith("pooler."))
    if missing:
        raise ValueError(f"model: expected weights of the whole model in {folder}, found none for {checks.first_few(missing)}")
    return encoder, tokenizer


@torch.no_grad()
def try_out(encoder: Any, inputs: Mapping[str, torch.Tensor]) -> None:
    """Raise ``ValueError`` unless the encoder makes states of its hidden size out of these inputs, tensors as in training.

    How many tokens a model takes is written in no one place of its configuration: it is asked.
    """
    kind, tokens = type(encoder).__name__, inputs["input_ids"].shape[1]
    wanted = f"model: expected an encoder that turns {tokens} token ids (max_length is the most) into states of its hidden size"
    try:
        states, hidden = encoder(**inputs).last_hidden_state, encoder.config.hidden_size
    except (LookupError, ValueError, TypeError, AttributeError, RuntimeError) as error:
        raise ValueError(f"{wanted}, found {kind}: {error}") from error
    if states.shape[-1] != hidden:
        raise ValueError(f"{wanted}, {hidden}, found {kind} with states of size {states.shape[-1]}")
    if not bool(torch.isfinite(states).all()):
        raise ValueError(f"{wanted}, found {kind} with states that are not finite, before anything was trained")


def check_length(tokenizer: Any, max_length: int, *, pairs: bool) -> None:
    """Raise ``ValueError`` unless so many tokens have room for a word beside the special ones."""
    least = tokenizer.num_special_tokens_to_add(pair=pairs) + (2 if pairs else 1)
    if max_length < least:
        raise ValueError(f"max_length: expected at least {least} tokens for this model, found {max_length}")


@contextmanager
def _no_progress_bars() -> Iterator[None]:
    """Keep transformers from drawing bars of its own; afterwards it may again, if it could."""
    import transformers.utils.logging as bars

    noisy = bars.is_progress_bar_enabled()
    bars.disable_progress_bar()
    try:
        yield
    finally:
        if noisy:
            bars.enable_progress_bar()


def digest_of_model(folder: Path, tokenizer: Any) -> str:
    """SHA-256 over configuration, weights and the files of the tokenizer; what else lies in the folder may change."""
    named = {folder / name for name in (*FILES, *tokenizer.vocab_files_names.values())}
    total = hashlib.sha256()
    for file in sorted(named.union(folder.glob("model*.safetensors"))):
        if file.is_file():
            with file.open("rb") as opened:
                total.update(f"{file.name}\0".encode() + hashlib.file_digest(opened, "sha256").digest())
    return total.hexdigest()


def _holds_model(folder: Path) -> bool:
    return (folder / "config.json").is_file() and any(folder.glob("*.safetensors"))


def _listing(folder: Path) -> str:
    """What is in a folder."""
    return checks.first_few(sorted(path.name for path in folder.iterdir())) or "an empty folder"

"""A pretrained transformer in the form that a job trains: with a linear head on top, or as a
decoder that predicts tokens.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from geolora_ref import checks
from geolora_ref.finetune.locate import READ, locate
from geolora_ref.support.files import require_regular

__all__ = [
    "Classifier",
    "Decoder",
    "Model",
    "bare_decoder",
    "bare_encoder",
    "check_length",
    "digest_of_model",
    "load_decoder",
    "load_encoder",
    "locate",
    "try_out",
    "try_out_decoder",
]

FILES = (
    "config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
)
"""Files that determine the outputs of a pretrained model, apart from its weights and the tokenizer's
vocabulary files.
"""
OFFLINE: Mapping[str, Any] = {"local_files_only": True, "trust_remote_code": False}
"""Options of transformers against downloads and foreign code: without the second, it would ask the
user to run code.
"""
IGNORED = -100
"""The token id that marks a position which the loss does not count."""


class Model(torch.nn.Module):
    """The model that a method gets: ``encoder``, a pretrained model to be adapted, and ``head``,
    which is trained in full.
    """

    encoder: Any
    head: torch.nn.Module


class Classifier(Model):
    """outputs = head(mean over the tokens of encoder(inputs)).

    Attributes
    ----------
    encoder : any model of transformers' ``AutoModel``; gives ``last_hidden_state``
        (batch x tokens x hidden).
    head : ``nn.Linear(hidden, outputs)``, drawn with ``generator`` as torch draws it.
    """

    head: torch.nn.Linear

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


class Decoder(Model):
    """outputs = −Σ log p(token | tokens before it), over the counted tokens of an example.

    Attributes
    ----------
    encoder : any model of transformers' ``AutoModelForCausalLM``; gives ``logits``
        (batch x tokens x vocabulary).
    head : the identity; the output layer is part of the pretrained model and stays frozen.
    """

    def __init__(self, encoder: Any) -> None:
        super().__init__()
        self.encoder, self.head = encoder, torch.nn.Identity()

    def forward(self, next_ids: torch.Tensor, **inputs: torch.Tensor) -> torch.Tensor:
        """Nats (batch,); ``next_ids`` (batch x tokens) is the id after each token, or ``IGNORED``
        where it does not count.
        """
        logits = self.encoder(**inputs, use_cache=False).logits
        nats = torch.nn.functional.cross_entropy(
            logits.flatten(0, 1), next_ids.flatten(), ignore_index=IGNORED, reduction="none"
        )
        total: torch.Tensor = nats.view(next_ids.shape).sum(dim=1)
        return total


def load_encoder(folder: Path) -> tuple[Any, Any]:
    """The encoder (float32, nothing fetched, no code of the folder run) and its tokenizer.

    Raises ``ValueError`` for a folder that holds none, and for weights that do not fill the model.

    The pooler that some encoders bring is left out: mean pooling does not use it, and an adapter
    there would never learn.
    """
    encoder, tokenizer = _load(folder, "AutoModel", unused="pooler.")
    return _without_pooler(encoder), tokenizer


def load_decoder(folder: Path) -> tuple[Any, Any]:
    """Like :func:`load_encoder` for a model that predicts the next token, with its output layer."""
    return _load(folder, "AutoModelForCausalLM")


def bare_encoder(folder: Path) -> Any:
    """The encoder of :func:`load_encoder` as its configuration describes it, with arbitrary weights.

    Raises ``ValueError`` for a folder without such a configuration.
    """
    return _without_pooler(_bare(folder, "AutoModel", _configuration(folder)))


def bare_decoder(folder: Path) -> Any:
    """The decoder of :func:`load_decoder`, as :func:`bare_encoder`; ``ValueError`` also for an encoder."""
    configuration = _configuration(folder)
    _refuse_encoder(configuration)
    return _bare(folder, "AutoModelForCausalLM", configuration)


def _without_pooler(encoder: Any) -> Any:
    if getattr(encoder, "pooler", None) is not None:
        encoder.pooler = None
    return encoder


def _load(place: Path, kind: str, unused: str | None = None) -> tuple[Any, Any]:
    """A model of transformers' class ``kind`` and its tokenizer; weights whose name begins with
    ``unused`` may be missing.
    """
    import transformers

    weights = {"use_safetensors": True} if place.is_dir() else {}
    with _opened(place) as (folder, options), _no_progress_bars():
        model, report = getattr(transformers, kind).from_pretrained(
            folder, dtype=torch.float32, output_loading_info=True, **weights, **options
        )
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder, **options)
    missing = sorted(
        key for key in report["missing_keys"] if unused is None or not key.startswith(unused)
    )
    if missing:
        raise ValueError(
            f"model: expected weights of the whole model in {place}, found none for {checks.first_few(missing)}"
        )
    return model, tokenizer


def _configuration(place: Path) -> Any:
    """The configuration of a pretrained model."""
    import transformers

    with _opened(place) as (folder, options):
        return transformers.AutoConfig.from_pretrained(folder, **options)


def _refuse_encoder(configuration: Any) -> None:
    """Raise ``ValueError`` for a kind of model without next-token prediction, and for one whose tokens
    see all others unless its configuration says that it decodes.
    """
    import transformers

    kind = type(configuration)
    decodes = any(
        getattr(configuration, flag, False)
        for flag in ("is_decoder", "is_encoder_decoder", "causal")
    )
    sees_all = kind in transformers.MODEL_FOR_MASKED_LM_MAPPING and not decodes
    if sees_all or kind not in transformers.MODEL_FOR_CAUSAL_LM_MAPPING:
        raise ValueError(
            "model: expected a decoder that predicts each token by those before it, "
            f"found {'an encoder' if sees_all else 'another kind of model'} ({configuration.model_type})"
        )


def _bare(place: Path, kind: str, configuration: Any) -> Any:
    """A model of transformers' class ``kind`` whose weights have memory and no values."""
    import transformers

    with _opened(place):
        with torch.device("meta"):  # nothing is drawn
            model = getattr(transformers, kind).from_config(configuration, dtype=torch.float32)
        model.to_empty(device="cpu")
        model.tie_weights()  # two parameters took the place of a shared one
    return model


@contextmanager
def _opened(place: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    """The folder of a model and the options to open it with; within this context whatever
    transformers finds wrong is a ``ValueError``.
    """
    folder, options = (
        (place, {**OFFLINE})
        if place.is_dir()
        else (place.parent, {**OFFLINE, "gguf_file": place.name})
    )
    try:
        for file in (file for pattern in READ for file in folder.glob(pattern)):
            require_regular(file)  # opening a pipe would block for ever
        yield folder, options
    except (
        OSError,
        LookupError,
        ValueError,
        TypeError,
        AttributeError,
        RuntimeError,
        ImportError,
        SafetensorError,
    ) as error:
        raise ValueError(
            f"model: expected a pretrained model and its tokenizer in {place}, found: {error}"
        ) from error


@torch.no_grad()
def try_out(encoder: Any, inputs: Mapping[str, torch.Tensor]) -> None:
    """Raise ``ValueError`` unless the encoder turns these inputs (tensors as in training) into
    states of its hidden size.

    Configurations have no common entry for the largest number of tokens, so the model is run once.
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
        raise ValueError(
            f"{wanted}, found {kind} with states that are not finite, before anything was trained"
        )


@torch.no_grad()
def try_out_decoder(decoder: Any, inputs: Mapping[str, torch.Tensor]) -> None:
    """Raise ``ValueError`` unless one example (tensors as in training) has finite logits that no
    later token changes.

    A model that sees later tokens, such as an encoder with a head for masked words, would get
    credit for tokens that it has read.
    """
    kind, ids = type(decoder).__name__, inputs["input_ids"]
    wanted = f"model: expected a decoder that predicts each of {ids.shape[1]} tokens (max_length is the most) by those before it"
    other = torch.where(torch.arange(ids.shape[1]) < ids.shape[1] - 1, ids, (ids == 0).long())
    given = {name: X for name, X in inputs.items() if name != "next_ids"}
    try:
        logits, changed = (
            decoder(**given | {"input_ids": X}, use_cache=False).logits[:, :-1]
            for X in (ids, other)
        )
    except (LookupError, ValueError, TypeError, AttributeError, RuntimeError) as error:
        raise ValueError(f"{wanted}, found {kind}: {error}") from error
    if not bool(torch.isfinite(logits).all()):
        raise ValueError(
            f"{wanted}, found {kind} with logits that are not finite, before anything was trained"
        )
    if float((logits - changed).abs().max()) > 1e-5 * float(
        logits.abs().max()
    ):  # more than single precision rounding
        raise ValueError(f"{wanted}, found {kind}, whose logits change with the last token")


def check_length(tokenizer: Any, max_length: int, *, pairs: bool) -> None:
    """Raise ``ValueError`` unless ``max_length`` tokens have room for a word of each text next to
    the special tokens.
    """
    least = tokenizer.num_special_tokens_to_add(pair=pairs) + (2 if pairs else 1)
    if max_length < least:
        raise ValueError(
            f"max_length: expected at least {least} tokens for this model, found {max_length}"
        )


@contextmanager
def _no_progress_bars() -> Iterator[None]:
    """Within this context transformers draws no progress bars; afterwards its setting is restored."""
    import transformers.utils.logging as bars

    noisy = bars.is_progress_bar_enabled()
    bars.disable_progress_bar()
    try:
        yield
    finally:
        if noisy:
            bars.enable_progress_bar()


def digest_of_model(folder: Path, tokenizer: Any) -> str:
    """SHA-256 over configuration, weights (or the GGUF file) and the files of the tokenizer; other
    files may change.
    """
    home, weights = (
        (folder.parent, {folder})
        if folder.is_file()
        else (folder, set(folder.glob("model*.safetensors")))
    )
    named = {home / name for name in (*FILES, *tokenizer.vocab_files_names.values())}
    total = hashlib.sha256()
    for file in sorted(named | weights):
        if file.is_file():
            with file.open("rb") as opened:
                total.update(
                    f"{file.name}\0".encode() + hashlib.file_digest(opened, "sha256").digest()
                )
    return total.hexdigest()

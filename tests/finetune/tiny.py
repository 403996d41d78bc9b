"""Transformers of two layers of width 32 with random weights, and sentences whose label, or whose
words, they can learn.
"""

from __future__ import annotations

import inspect
import shutil
from pathlib import Path

import numpy as np
import torch

WORDS = (
    "good",
    "fine",
    "great",
    "nice",
    "bad",
    "poor",
    "awful",
    "dull",
    "a",
    "the",
    "film",
    "plot",
    "actor",
    "is",
    "was",
    "very",
)


def write_model(folder: Path, dropout: float = 0.1) -> Path:
    """config.json, safetensors weights and a tokenizer, as ``from_pretrained`` wants them."""
    import transformers

    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = folder / "words.txt"
    vocabulary.write_text(
        "\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]), encoding="utf-8"
    )
    parameters = inspect.signature(transformers.BertTokenizer.__init__).parameters
    name = "vocab" if "vocab" in parameters else "vocab_file"  # before transformers 5
    transformers.BertTokenizer(**{name: str(vocabulary)}).save_pretrained(folder)
    config = transformers.BertConfig(
        vocab_size=len(WORDS) + 5,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=48,
        max_position_embeddings=32,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        transformers.BertModel(config).save_pretrained(folder)
    return folder


def sentences(count: int, seed: int = 0) -> list[tuple[str, int]]:
    """Sentences of 2 to 12 words; the label says whether good words outnumber bad ones."""
    rng = np.random.default_rng(seed)
    rows = []
    for _ in range(count):
        words = list(rng.choice(WORDS[8:], size=int(rng.integers(1, 10))))
        label = int(rng.integers(2))
        words += list(rng.choice(WORDS[:4] if label else WORDS[4:8], size=int(rng.integers(1, 4))))
        rows.append((" ".join(rng.permutation(words)), label))
    return rows


def write_tsv(path: Path, count: int, seed: int = 0) -> Path:
    """Sentence TAB label."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        "".join(f"{text}\t{label}\n" for text, label in sentences(count, seed)), encoding="utf-8"
    )
    return path


def write_decoder(folder: Path) -> Path:
    """A causal model whose output layer is tied to its embedding; its tokenizer has words, and
    begins and ends no text.
    """
    import tokenizers
    import transformers

    vocabulary = {word: number for number, word in enumerate(("[UNK]", "</s>", *WORDS))}
    words = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="[UNK]"))
    words.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=words, unk_token="[UNK]", eos_token="</s>"
    ).save_pretrained(folder)
    config = transformers.LlamaConfig(
        vocab_size=len(vocabulary),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=48,
        max_position_embeddings=64,
        tie_word_embeddings=True,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        transformers.LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def write_text(path: Path, count: int, seed: int = 0) -> Path:
    """Sentences of six words, of which two are drawn."""
    rng = np.random.default_rng(seed)
    drawn = zip(
        rng.choice(("film", "plot", "actor"), count), rng.choice(WORDS[:8], count), strict=True
    )
    path.write_text(
        "".join(f"the {noun} is very {word} a\n" for noun, word in drawn), encoding="utf-8"
    )
    return path


def in_cache(hub: Path, name: str, model: Path, files: str = "*") -> Path:
    """Files of a model in a folder laid out as the cache of the hub."""
    home = hub / f"models--{name.replace('/', '--')}"
    (home / "refs").mkdir(parents=True, exist_ok=True)
    (home / "refs" / "main").write_text("0" * 40, encoding="utf-8")
    snapshot = home / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True, exist_ok=True)
    for file in model.glob(files):
        shutil.copy(file, snapshot)
    return snapshot

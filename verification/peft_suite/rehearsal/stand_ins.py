"""What the suite fetches from the hub, small and random: a decoder with its tokenizer, questions, texts.

The functions of data have the names and arguments of the suite's module ``data``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
import torch
import transformers

__all__ = ["Rows", "get_train_valid_test_datasets", "get_wiki_small", "write_decoder"]

WORDS = ("[UNK]", "</s>", "The answer is: ", "0", "1", "2")
"""Six words: a decoder that knows nothing has the loss ln 6 = 1.79, and the suite expects one between 1 and 2."""
TRAIN, VALID, TEST = 240, 8, 12


def write_decoder(folder: Path) -> Path:
    """A Llama of two layers with random weights, and a tokenizer that knows :data:`WORDS`."""
    words = tokenizers.Tokenizer(
        tokenizers.models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token=WORDS[0])
    )
    words.pre_tokenizer = tokenizers.pre_tokenizers.Split(
        tokenizers.Regex(rf"{WORDS[2]}|\d"), "isolated"
    )
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=words,
        unk_token=WORDS[0],
        eos_token=WORDS[1],
        model_input_names=["input_ids", "attention_mask"],
    ).save_pretrained(folder)
    size = transformers.LlamaConfig(
        vocab_size=len(WORDS),
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=3,
        num_attention_heads=2,
        num_key_value_heads=1,
        eos_token_id=1,
        initializer_range=0.1,
        tie_word_embeddings=True,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        transformers.LlamaForCausalLM(size).save_pretrained(folder)
    return folder


class Rows:
    """Columns of equal lengths; a slice of rows is a dict of lists."""

    def __init__(self, columns: Mapping[str, list[Any]]) -> None:
        self.columns = columns

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))

    def __getitem__(self, rows: slice) -> dict[str, list[Any]]:
        return {name: values[rows] for name, values in self.columns.items()}


def _questions(count: int, seed: int) -> Iterator[tuple[str, str]]:
    """Questions of one to three digits; the answer is the last one."""
    rng = np.random.default_rng(seed)
    for _ in range(count):
        digits = "".join(map(str, rng.integers(3, size=rng.integers(1, 4))))
        yield digits, f" The answer is: {digits[-1]}"


def get_train_valid_test_datasets(
    *, tokenizer: Any, query_template: str, print_fn: Callable[..., None] = print
) -> tuple[Rows, Rows, Rows]:
    """Questions with their answers to train on, and two sets without, whose answers are a column of their own."""
    sets = []
    for seed, (count, answered) in enumerate(((TRAIN, True), (VALID, False), (TEST, False))):
        pairs = [
            (query_template.format(query=query), answer)
            for query, answer in _questions(count, seed)
        ]
        tokens = tokenizer([query + answer * answered for query, answer in pairs])
        names = ("input_ids", "attention_mask")
        sets.append(
            Rows(
                {
                    **{name: tokens[name] for name in names},
                    "response": [answer for _, answer in pairs],
                }
            )
        )
    return sets[0], sets[1], sets[2]


def get_wiki_small(num_samples: int = 4) -> list[str]:
    """Texts to measure how much is forgotten."""
    rng = np.random.default_rng(9)
    return ["".join(map(str, rng.integers(3, size=12 + 4 * k))) for k in range(num_samples)]

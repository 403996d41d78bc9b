"""The texts of the forgetting runs: Shakespeare to train on, and sentences of two other tasks."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from geolora_ref.finetune.batches import Examples
from geolora_ref.finetune.causal_lm import Likelihood, encode_passages
from geolora_ref.finetune.data import read_rows
from geolora_ref.finetune.job import Data
from geolora_ref.finetune.model import load_decoder, locate
from verification.experiments.finetuning.plain_text import read_blocks, whole_blocks
from verification.experiments.finetuning.runs import DECODER
from verification.experiments.finetuning.tasks import PLAIN_TEXT, TEXTS, drawn

__all__ = ["DECODER", "OTHERS", "TRAINING", "Material", "files", "material"]

TRAINING, OTHERS = "training", ("stsb", "sst2")
BLOCKS = {"training": 24, "other": 16}
"""Blocks of each text in a record."""


class Material(NamedTuple):
    """The pretrained decoder, the data of a run, and the texts of the records by name."""

    decoder: Any
    data: Data
    texts: Mapping[str, Examples]


def files(folder: Path) -> dict[str, Path]:
    """The files that are read, by name."""
    return {"shakespeare": folder / "shakespeare" / "input.txt"} | {
        name: folder / name / TEXTS[name].train for name in OTHERS
    }


@functools.cache
def material(folder: Path) -> Material:
    """Read once in every process; ``ValueError`` that names a file which cannot be used."""
    (decoder, tokenizer), paths = load_decoder(locate(DECODER)), files(folder)
    blocks, _ = read_blocks(paths["shakespeare"], tokenizer, PLAIN_TEXT.limits)
    train, count = blocks["train"], BLOCKS[TRAINING]
    fixed = replace(
        train.tokens, inputs={name: some[:count] for name, some in train.tokens.inputs.items()}
    )
    texts = {TRAINING: Examples(fixed, train.targets[:count])}
    for name in OTHERS:
        rows = drawn(read_rows(paths[name], TEXTS[name].columns))
        found = whole_blocks(
            paths[name], "\n".join(dict.fromkeys(row.text for row in rows)), tokenizer
        )
        if len(found) < BLOCKS["other"]:
            raise ValueError(
                f"{paths[name]}: expected {BLOCKS['other']} blocks of text, found {len(found)}"
            )
        texts[name] = encode_passages(found[: BLOCKS["other"]], tokenizer)
    return Material(decoder, Data(train, {"test": blocks["test"]}, Likelihood()), texts)

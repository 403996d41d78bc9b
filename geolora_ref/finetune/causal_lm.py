"""The task "causal-lm": plain texts, or prompts with completions, where the loss counts the
completions alone.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from geolora_ref import checks
from geolora_ref.finetune.batches import Examples, Tokens
from geolora_ref.finetune.data import read_text, shown, split
from geolora_ref.finetune.job import Data, Job
from geolora_ref.finetune.model import IGNORED, Decoder, load_decoder, try_out_decoder
from geolora_ref.finetune.run_options import RunOptions
from geolora_ref.finetune.task import Say, Task
from geolora_ref.nn import disabled
from geolora_ref.support.files import digest

__all__ = [
    "Likelihood",
    "Passage",
    "Text",
    "causal_lm",
    "encode_passages",
    "passages",
    "read_texts",
]


@dataclass(frozen=True)
class Text:
    """A text as it was read: a whole file (with line 0 and an empty prompt), or a line of JSON."""

    path: Path
    line: int
    prompt: str
    completion: str


@dataclass(frozen=True)
class Passage:
    """The tokens of one example; the loss counts tokens from ``start`` ≥ 1 on.  ``cut`` : whether
    the example was shortened.
    """

    path: Path
    ids: list[int]
    start: int
    cut: bool = False


@dataclass(frozen=True)
class Likelihood:
    """The meaning of a decoder's outputs (B,): −Σ log p over the counted tokens; targets (B,) are
    the numbers of these tokens.
    """

    def loss(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Mean over the tokens of the batch, in nats."""
        return outputs.sum() / targets.sum()

    def predictions(self, outputs: torch.Tensor) -> torch.Tensor:
        """The outputs as they are."""
        return outputs


def read_texts(path: Path) -> list[Text]:
    """A UTF-8 file as one text, or, if its name ends in .jsonl, as one prompt with its completion a line.

    Raises ``ValueError`` for a file that cannot be read, is not UTF-8 or holds no text, and, with
    the line number, for a line that is no JSON object with the strings "prompt" and "completion".
    """
    text = read_text(path).replace("\r\n", "\n")
    if not text.strip():
        raise ValueError(f"{path}: expected text, found none")
    if path.suffix != ".jsonl":
        return [Text(path, 0, "", text)]
    return [
        _of_json(path, number, line)
        for number, line in enumerate(text.rstrip("\n").split("\n"), start=1)
    ]


def _of_json(path: Path, number: int, line: str) -> Text:
    try:
        data = json.loads(line)
        prompt, completion = data["prompt"], data["completion"]
        f"{prompt}{completion}".encode()  # a lone surrogate is no text
    except (ValueError, LookupError, TypeError, RecursionError):
        prompt = completion = None
    if not isinstance(prompt, str) or not isinstance(completion, str) or not completion:
        wanted = 'an object {"prompt": a text, "completion": a text that is not empty}'
        raise ValueError(
            f"{path}, line {number}: expected {wanted}, found {shown(line) or 'an empty line'}"
        )
    return Text(path, number, prompt, completion)


def passages(text: Text, tokenizer: Any, max_length: int) -> list[Passage]:
    """The examples of a text: a file is cut into blocks of ``max_length`` tokens, the last one
    shorter; a line is one example.

    If the tokenizer begins texts with a special token, this token comes first; the end token comes
    last and counts in the loss.  Raises ``ValueError`` with the line for a prompt that leaves no
    room for its completion.
    """

    def tokens(words: str) -> list[int]:
        found: list[int] = tokenizer(words, add_special_tokens=False, verbose=False)["input_ids"]
        return found

    first, end = tokenizer.bos_token_id, tokenizer.eos_token_id
    opening = [first] if first is not None and tokenizer("")["input_ids"][:1] == [first] else []
    whole, alone = tokens(text.prompt + text.completion), tokens(text.prompt)
    same = next(
        (i for i, (a, b) in enumerate(zip(whole, alone, strict=False)) if a != b),
        min(len(whole), len(alone)),
    )
    prompt = opening + whole[:same]  # a token across the border counts as completion
    ids = opening + whole + ([] if end is None else [end])
    if not text.line:
        blocks = [ids[i : i + max_length] for i in range(0, len(ids), max_length)]
        return [Passage(text.path, block, 1) for block in blocks if len(block) > 1]
    if len(prompt) >= max_length or len(ids) <= max(1, len(prompt)):
        raise ValueError(
            f"{text.path}, line {text.line}: expected room for a completion within max_length = {max_length} tokens, found "
            f"{len(prompt)} tokens of prompt and {len(ids) - len(prompt)} of completion"
        )
    return [Passage(text.path, ids[:max_length], max(1, len(prompt)), cut=len(ids) > max_length)]


def encode_passages(given: Sequence[Passage], tokenizer: Any) -> Examples:
    """The inputs of a :class:`Decoder`, and as targets the number of counted tokens of each example."""
    inputs = {
        "input_ids": [torch.tensor(one.ids) for one in given],
        "attention_mask": [torch.ones(len(one.ids), dtype=torch.int64) for one in given],
        "next_ids": [
            torch.tensor([*[IGNORED] * (one.start - 1), *one.ids[one.start :], IGNORED])
            for one in given
        ],
    }
    padding = {"input_ids": tokenizer.pad_token_id or 0, "attention_mask": 0, "next_ids": IGNORED}
    return Examples(
        Tokens(inputs, padding), torch.tensor([len(one.ids) - one.start for one in given])
    )


def causal_lm(options: RunOptions, say: Say) -> Task:
    """The task with the texts that the options name; raises like :func:`read_texts`."""
    checks.integer("max_length", options.max_length, 2)
    train = [text for path in options.data for text in read_texts(path)]
    dev = [text for path in options.dev for text in read_texts(path)]
    for text in (*train, *dev):
        if not text.line and text.completion.lstrip().startswith("{"):
            say(
                f"{text.path}: are these lines of JSON?  They are taken for text; the name should end in .jsonl",
                "yellow",
            )
    return Task(
        peft="CAUSAL_LM",
        yardstick=("perplexity", "the pretrained model"),
        digests={"data": _digest(train), "dev": _digest(dev) if dev else None},
        load=load_decoder,
        data=lambda tokenizer: _data(train, dev, options, tokenizer, say),
        try_out=try_out_decoder,
        model=lambda pretrained, generator: Decoder(pretrained),
        baseline=_of_the_pretrained,
        reached=lambda job: job.history.metrics[-1]["dev"],
    )


def _digest(texts: Sequence[Text]) -> str:
    return digest(json.dumps([[text.line > 0, text.prompt, text.completion] for text in texts]))


def _of_the_pretrained(job: Job) -> float:
    with disabled(job.model.encoder):
        return job.evaluate()["dev"]


def _data(
    train: list[Text], dev: list[Text], options: RunOptions, tokenizer: Any, say: Say
) -> Data:
    """The examples for training and for the metric; without ``dev`` texts a part of the training
    texts is set aside.
    """
    length = options.max_length
    given, apart = (
        [one for text in texts for one in passages(text, tokenizer, length)]
        for texts in (train, dev)
    )
    for texts, found, least in ((train, given, 1 if dev else 2), (dev, apart, 1)):
        if texts and len(found) < least:
            raise ValueError(
                f"{texts[0].path}: expected at least {least} examples of at most {length} tokens"
                f"{', one of them for the metric' * (least > 1)}, found {len(found)}; a smaller max_length makes more of a text"
            )
    if not dev:
        given, apart = split(given, options.dev_fraction, options.plan.seed)
    say(
        f"{len(given)} examples for the training, {len(apart)} for the metric, of at most {length} tokens"
    )
    say(
        f"{sum(len(one.ids) - one.start for one in given)} tokens of the training count in the loss"
    )
    if cut := sum(one.cut for one in (*given, *apart)):
        say(f"{cut} examples are longer, and were cut", "yellow")
    first = given[0]
    parts = [first.ids[: first.start], first.ids[first.start :]] if first.start > 1 else [first.ids]
    say("first example: " + " -> ".join(repr(shown(tokenizer.decode(ids), 80)) for ids in parts))
    return Data(
        encode_passages(given, tokenizer), {"dev": encode_passages(apart, tokenizer)}, Likelihood()
    )

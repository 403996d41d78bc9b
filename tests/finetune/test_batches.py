"""Batches: every example once, an order that seed and epoch determine, little padding, and padding
without effect.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("transformers", reason="the extra finetune is not installed")

import torch

from geolora_ref.finetune.batches import by_length, encode, encode_texts, training_order
from geolora_ref.finetune.data import Row
from geolora_ref.finetune.labels import fit_labels
from geolora_ref.finetune.model import Classifier, load_encoder
from tests.finetune.tiny import sentences


def padded_tokens(lengths: np.ndarray, batches: list[list[int]]) -> int:
    return sum(len(batch) * int(lengths[batch].max()) for batch in batches)


@pytest.fixture
def lengths() -> np.ndarray:
    """Geometric, as sentences are."""
    return np.minimum(3 + np.random.default_rng(0).geometric(0.08, size=999), 60)


def test_every_example_is_in_one_batch(lengths: np.ndarray) -> None:
    evaluated: list[list[int]] = []

    def seen(indices: list[int]) -> torch.Tensor:
        evaluated.append(indices)
        return torch.tensor(indices)

    by_length(lengths, 32, seen)
    for batches in (training_order(lengths, 32, 0, 0), evaluated):
        assert sorted(i for batch in batches for i in batch) == list(range(999))
        assert [len(batch) for batch in batches].count(32) == 31


def test_results_stand_where_their_examples_stand(lengths: np.ndarray) -> None:
    """Entries (N,) and rows (N, k) alike, from batches that are sorted by length."""

    def rows(indices: list[int]) -> torch.Tensor:
        assert np.all(np.diff(lengths[indices]) >= 0)
        return torch.tensor(indices)[:, None] * torch.tensor([1, 10])

    assert torch.equal(
        by_length(lengths, 32, rows), torch.arange(999)[:, None] * torch.tensor([1, 10])
    )
    assert torch.equal(by_length(lengths, 32, torch.tensor), torch.arange(999))


def test_examples_of_one_length_keep_their_order(lengths: np.ndarray) -> None:
    """Whatever sorts them, here or elsewhere: what shares a batch decides how its sums are rounded."""
    seen: list[int] = []

    def seeing(indices: list[int]) -> torch.Tensor:
        seen.extend(indices)
        return torch.tensor(indices)

    by_length(lengths, 32, seeing)
    assert seen == sorted(range(999), key=lambda i: (lengths[i], i))


def test_order_is_a_function_of_seed_and_epoch(lengths: np.ndarray) -> None:
    orders = [
        training_order(lengths, 32, seed, epoch) for seed, epoch in ((0, 0), (0, 0), (0, 1), (1, 0))
    ]
    assert orders[0] == orders[1]
    assert orders[0] != orders[2] != orders[3] != orders[0]


def test_bucketing_saves_the_padding(lengths: np.ndarray) -> None:
    """Within 10 % of no padding at all; batches of a mere shuffle (the control) are not within 50 %."""
    shuffled = np.random.default_rng(1).permutation(999)
    plain = [shuffled[i : i + 32].tolist() for i in range(0, 999, 32)]
    assert padded_tokens(lengths, training_order(lengths, 32, 0, 0)) <= 1.1 * lengths.sum()
    assert padded_tokens(lengths, plain) > 1.5 * lengths.sum()


def test_batches_are_not_in_order_of_length(lengths: np.ndarray) -> None:
    longest = [int(lengths[batch].max()) for batch in training_order(lengths, 32, 0, 0)]
    assert abs(np.corrcoef(longest, np.arange(len(longest)))[0, 1]) < 0.5


def test_padding_has_no_effect(model_folder: Path) -> None:
    encoder, tokenizer = load_encoder(model_folder)
    model = Classifier(encoder, 2, torch.Generator().manual_seed(0)).eval()
    tokens = encode_texts([text for text, _ in sentences(6)], None, tokenizer, 16)
    assert len(set(tokens.lengths.tolist())) > 1
    device = torch.device("cpu")
    with torch.no_grad():
        together = model(**tokens.batch(range(6), device))
        alone = torch.cat([model(**tokens.batch([i], device)) for i in range(6)])
    scale = float(alone.norm())
    assert float((together - alone).norm()) <= 100 * torch.finfo(torch.float32).eps * scale


class Plain:
    """A tokenizer without special tokens, which makes nothing of an empty text."""

    pad_token_id = pad_token_type_id = 0

    def __call__(
        self, texts: list[str], second: object, **options: object
    ) -> dict[str, list[list[int]]]:
        return {"input_ids": [[1] * len(text.split()) for text in texts]}


def test_a_text_without_tokens_is_refused_with_its_place(tmp_path: Path) -> None:
    assert encode_texts(["a b"], None, Plain(), 16).inputs["input_ids"][0].tolist() == [1, 1]
    with pytest.raises(
        ValueError,
        match=r"^texts\[1\]: expected a text that has tokens for this model, found none in ''",
    ):
        encode_texts(["a b", ""], None, Plain(), 16)
    rows = [
        Row(tmp_path / "data.tsv", 3, "a", None, "x"),
        Row(tmp_path / "data.tsv", 4, "\u2028", None, "y"),
    ]
    with pytest.raises(
        ValueError, match=r"data\.tsv, line 4: expected a text that has tokens for this model"
    ):
        encode(rows, Plain(), fit_labels(rows, "class"), 16)


def test_pairs_of_texts_differ_from_one_text(model_folder: Path) -> None:
    _, tokenizer = load_encoder(model_folder)
    pair = encode_texts(["good film"], ["bad plot"], tokenizer, 16)
    assert pair.inputs["token_type_ids"][0].tolist() == [0, 0, 0, 0, 1, 1, 1]


def test_the_second_texts_of_rows_are_encoded(model_folder: Path, tmp_path: Path) -> None:
    _, tokenizer = load_encoder(model_folder)
    rows = [
        Row(tmp_path, i, "good film", second, "x" if i else "y")
        for i, second in enumerate(("bad plot", "good plot"))
    ]
    found = encode(rows, tokenizer, fit_labels(rows, "class"), 16).tokens
    expected = encode_texts(["good film", "good film"], ["bad plot", "good plot"], tokenizer, 16)
    for name, inputs in expected.inputs.items():
        assert [X.tolist() for X in found.inputs[name]] == [X.tolist() for X in inputs]
    assert found.inputs["input_ids"][0].tolist() != found.inputs["input_ids"][1].tolist()

"""A tiny pretrained model and data that it can learn, on disk, once a session."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.finetune.tiny import write_decoder, write_model, write_tsv


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A transformer of two layers of width 32."""
    return write_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="session")
def decoder_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A causal model of the same size."""
    return write_decoder(tmp_path_factory.mktemp("decoder"))


@pytest.fixture(scope="session")
def tsv(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """160 sentences with labels 0 and 1."""
    return write_tsv(tmp_path_factory.mktemp("data") / "train.tsv", 160)

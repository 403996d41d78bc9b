"""Where a pretrained model is found, and what is made of it."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

pytest.importorskip("transformers", reason="the extra finetune is not installed")

import torch

from geolora_ref.finetune.model import Classifier, digest, load_encoder, locate


@pytest.fixture
def package(model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package that carries a model, and that cannot be imported."""
    root = tmp_path / "carries_a_model"
    shutil.copytree(model_folder, root / "model")
    (root / "pooling").mkdir()
    (root / "pooling" / "config.json").write_text("{}", encoding="utf-8")
    (root / "__init__.py").write_text("raise RuntimeError('imported')", encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    return root


def test_model_in_a_package_is_found_without_importing_it(package: Path) -> None:
    assert locate(package.name) == package / "model"
    assert package.name not in sys.modules


def test_package_with_two_models_or_none_is_refused(package: Path) -> None:
    shutil.copytree(package / "model", package / "other")
    with pytest.raises(
        ValueError, match=r"expected one folder with config.json .* in the package carries_a_model, found .*other"
    ):
        locate(package.name)
    shutil.rmtree(package / "other")
    (package / "model" / "model.safetensors").unlink()
    with pytest.raises(ValueError, match=r"in the package carries_a_model, found none"):
        locate(package.name)


def test_unknown_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"found no folder and no package 'no_such_package'"):
        locate("no_such_package")
    with pytest.raises(ValueError, match=r"found 'no/such/folder', which is neither"):
        locate("no/such/folder")
    with pytest.raises(ValueError, match=r"expected config.json and \*.safetensors in .*, found an empty folder"):
        locate(str(tmp_path))


def test_broken_model_is_refused(model_folder: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(model_folder, tmp_path / "broken")
    (folder / "config.json").write_text('{"model_type": "no such architecture"}', encoding="utf-8")
    with pytest.raises(ValueError, match=r"expected a pretrained model and its tokenizer in .*broken"):
        load_encoder(folder)


def test_digest_sees_one_changed_weight(model_folder: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(model_folder, tmp_path / "copy")
    assert digest(folder) == digest(model_folder)
    weights = folder / "model.safetensors"
    contents = bytearray(weights.read_bytes())
    contents[-1] ^= 1
    weights.write_bytes(contents)
    assert digest(folder) != digest(model_folder)


def test_head_is_drawn_by_the_generator_alone(model_folder: Path) -> None:
    encoder, _ = load_encoder(model_folder)
    before = torch.get_rng_state()
    heads = [Classifier(encoder, 2, torch.Generator().manual_seed(seed)).head.weight for seed in (0, 0, 1)]
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(heads[0], heads[1])
    assert not torch.equal(heads[0], heads[2])

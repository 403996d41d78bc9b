"""``python -m verification.peft_suite``: fetch the tests that PEFT publishes, run them with our
method, compare with the list.

The list, ``expected.toml``, names the checks that cannot hold here, why, and what they say.  A
check that fails and is not on it, one that fails with other words, and one that passes although it
is on it are errors, and so is an entry that no check needs.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import subprocess
import sys
import tarfile
import tempfile
import tomllib
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from verification.support.machine import ROOT

__all__ = ["BUILD", "LIST", "fetched", "main"]

LIST = Path(__file__).with_name("expected.toml")
BUILD = ROOT / "build" / "peft-suite"


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status 0 if everything is as the list says; further arguments are pytest's (``-k
    merge``, say).
    """
    parser = argparse.ArgumentParser(prog="python -m verification.peft_suite", description=__doc__)
    _, options = parser.parse_known_args(argv)
    pinned = tomllib.loads(LIST.read_text(encoding="utf-8"))["suite"]
    tests, hub = fetched(pinned["version"], pinned["sha256"]), BUILD / "hub"
    hub.mkdir(exist_ok=True)
    setting = {
        "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
        "CUDA_VISIBLE_DEVICES": "",
        "HF_HUB_OFFLINE": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    }
    command: list[str | Path] = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-c",
        os.devnull,
        "--rootdir",
        tests.parent,
    ]
    for plugin in ("verification.peft_suite.exchange", "no:geolora", "no:cacheprovider"):
        command += ["-p", plugin]
    command += [*options, *(tests / name for name in pinned["files"])]
    return subprocess.run(command, cwd=hub, env=os.environ | setting, check=False).returncode  # noqa: S603  (ours)


def fetched(wanted: str, sha256: str) -> Path:
    """The folder of the tests, from the package index unless it is there already.

    Raises ``SystemExit`` unless PEFT is installed in this version, and unless the archive is the
    one that was pinned.
    """
    if (found := version("peft")) != wanted:
        raise SystemExit(f"peft-suite: expected PEFT {wanted}, found {found}. Install that one.")
    archive, folder = BUILD / f"peft-{wanted}.tar.gz", BUILD / f"peft_{wanted.replace('.', '_')}"
    BUILD.mkdir(parents=True, exist_ok=True)
    if not archive.exists():
        pip = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--no-binary", "peft"]
        subprocess.run([*pip, "--dest", BUILD, f"peft=={wanted}"], check=True)  # noqa: S603  (pip)
    if (digest := hashlib.sha256(archive.read_bytes()).hexdigest()) != sha256:
        raise SystemExit(f"peft-suite: expected {archive} with the hash {sha256}, found {digest}")
    if not folder.exists():
        with tempfile.TemporaryDirectory(dir=BUILD) as draft, tarfile.open(archive) as whole:
            whole.extractall(draft, filter="data")
            tests = Path(draft) / f"peft-{wanted}" / "tests"
            (tests / "__init__.py").touch()  # they import each other as a package
            os.replace(tests, folder)
    return folder


if __name__ == "__main__":
    raise SystemExit(main())

"""The surroundings that figures depend on: processor, system, versions, the commit if there is one,
and the sources.
"""

from __future__ import annotations

import datetime
import hashlib
import os
import platform
import subprocess
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from geolora_ref.support.machine import processor

__all__ = ["CODE", "ROOT", "digest_of", "installed", "machine_facts", "provenance", "sources"]

ROOT = Path(__file__).resolve().parent.parent.parent
CODE = ("geolora_ref", "verification")
"""The folders that every figure depends on."""


def provenance(*others: str) -> dict[str, Any]:
    """``machine`` and ``sources``, as results keep them; ``others``: folders in addition to :data:`CODE`
    that the results depend on.
    """
    return {"machine": machine_facts(), "sources": sources(*CODE, *others)}


def sources(*folders: str, root: Path = ROOT) -> dict[str, str]:
    """A digest of the Python files of each folder, by the folder's name: results with another
    digest have other sources.
    """
    return {
        folder: digest_of(
            {path.relative_to(root).as_posix(): path for path in (root / folder).rglob("*.py")}
        )
        for folder in folders
    }


def digest_of(files: Mapping[str, Path]) -> str:
    """A digest of files and of the names that they have."""
    digest = hashlib.sha256()
    for name, path in sorted(files.items(), key=lambda item: Path(item[0])):
        contents = path.read_bytes()
        digest.update(f"{name} {len(contents)} ".encode())  # the length shows where a file ends
        digest.update(contents)
    return digest.hexdigest()[:16]


def machine_facts() -> dict[str, str]:
    """Date, system, processor, versions and commit, by name; unknown ones say so."""
    facts = {
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "system": f"{platform.system()} {platform.machine()}",
        "processor": processor(),
        "cores": str(os.cpu_count()),
        "Python": platform.python_version(),
    }
    for library in ("numpy", "scipy", "torch", "scikit-learn", "geolora-ref"):
        facts[library] = installed(library)
    try:
        commit = subprocess.run(
            ["git", "rev-parse", "--short", "HEAD"],  # noqa: S607  (whatever git this machine has)
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            check=True,
        )
        facts["commit"] = commit.stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        facts["commit"] = "unknown"
    return facts


def installed(library: str) -> str:
    """The version of a library, or "not installed"."""
    try:
        return version(library)
    except PackageNotFoundError:
        return "not installed"

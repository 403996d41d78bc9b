"""What figures depend on: processor, system, versions, and the commit if there is one."""

from __future__ import annotations

import datetime
import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

__all__ = ["machine_facts", "processor"]


def machine_facts() -> dict[str, str]:
    """Date, system, processor, versions and commit, by name; what is not known says so."""
    facts = {
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "system": f"{platform.system()} {platform.machine()}",
        "processor": processor(),
        "cores": str(os.cpu_count()),
        "Python": platform.python_version(),
    }
    for library in ("numpy", "scipy", "torch", "scikit-learn", "geolora-ref"):
        try:
            facts[library] = version(library)
        except PackageNotFoundError:
            facts[library] = "not installed"
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


def processor() -> str:
    """The model name where Linux tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or "unknown"

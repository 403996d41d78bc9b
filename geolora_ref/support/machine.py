"""Facts about the machine: the name of its processor, and the memory that a process may use."""

from __future__ import annotations

import math
import os
import platform
from pathlib import Path

__all__ = ["memory", "processor"]


def processor() -> str:
    """The model name of the processor on Linux, else what the platform module knows."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(
            line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")
        )
    except (OSError, StopIteration):
        return platform.processor() or "unknown"


def memory() -> float:
    """The memory in bytes: of the machine, or of a Linux container if that is less; infinite if
    nothing is known.
    """
    try:
        there = float(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    except (AttributeError, ValueError, OSError):
        there = math.inf
    try:
        return min(there, float(Path("/sys/fs/cgroup/memory.max").read_text(encoding="ascii")))
    except (OSError, ValueError):  # no container, or "max"
        return there

"""Types of the options of commands, for argparse."""

from __future__ import annotations

import argparse
from pathlib import Path

__all__ = ["nonempty_path"]


def nonempty_path(text: str) -> Path:
    """A path; ``argparse.ArgumentTypeError`` for an empty one, as an unset variable of a shell gives it: it does not name the
    current folder.
    """
    if not text:
        raise argparse.ArgumentTypeError("expected a path, found an empty one")
    return Path(text)

"""What the command lines of this package have in common."""

from __future__ import annotations

import argparse
from collections.abc import Callable

__all__ = ["integer_from"]


def integer_from(least: int) -> Callable[[str], int]:
    """A type for argparse: an integer ≥ ``least``.  For others argparse names the option and ends with status 2."""

    def integer(text: str) -> int:
        try:
            number = int(text)
        except ValueError:
            number = least - 1
        if number < least:
            raise argparse.ArgumentTypeError(f"expected an integer >= {least}, found {text!r}")
        return number

    return integer

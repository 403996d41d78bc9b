"""Options of commands: a type for argparse, and the table of the options that describe a backend.

The table serves ``geolora-ref check`` and, with the prefix ``--geolora-``, pytest.

It has no ``choices``, because the kit itself refuses an unknown dtype, precision or library, for
callers from Python too.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

__all__ = ["BACKEND_OPTIONS", "DTYPES", "INTERRUPTED", "LIBRARIES", "nonempty_path"]

INTERRUPTED = 130
"""The exit status by which shells mark a program that Ctrl-C has ended."""


def nonempty_path(text: str) -> Path:
    """A path; ``argparse.ArgumentTypeError`` for an empty text, as an unset shell variable gives
    it: ``Path`` would take that for the current folder.
    """
    if not text:
        raise argparse.ArgumentTypeError("expected a path, found an empty one")
    return Path(text)


DTYPES = ("float64", "float32", "float16", "bfloat16", "complex128", "complex64")
LIBRARIES = ("numpy", "torch", "jax", "cupy")
BACKEND_OPTIONS: Mapping[str, Mapping[str, Any]] = {
    "dtype": {
        "default": "float64",
        "help": f"of the arrays that the backend is given: {', '.join(DTYPES)} (default: float64)",
    },
    "precision": {
        "help": "the precision that it computes in, by the same names (default: the dtype, float32 for 16 bits)"
    },
    "array": {
        "default": "numpy",
        "help": f"the array library: {', '.join(LIBRARIES)} (default: numpy)",
    },
    "device": {"help": "torch device, for example cuda"},
    "dense-core": {"action": "store_true", "help": "S1 is not promised to be diagonal"},
    "whole": {
        "action": "store_true",
        "help": "a whole training step: called with gradients(W) in place of dK, dL, dS",
    },
    "directions": {
        "action": "store_true",
        "help": "it takes directions of an optimizer: dS need not be the product of U and dK",
    },
    "batched": {
        "action": "store_true",
        "help": "the backend takes stacks (leading axis) and returns stacks or a list",
    },
    "threads": {
        "type": int,
        "default": 1,
        "metavar": "N",
        "help": "so many threads call the backend at once (default: 1)",
    },
    "stages": {
        "metavar": "MODULE:FUNCTION",
        "help": "returns K_new, L_new, S_new, U_tilde, V_tilde, S_hat, output",
    },
    "xfail": {
        "type": nonempty_path,
        "metavar": "FILE",
        "help": "ids of cases known to fail, one a line, followed by the reason; one that passes is an error",
    },
}
"""Keywords for argparse and pytest, by the name of the option without leading dashes."""
